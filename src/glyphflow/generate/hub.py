"""Names on the Hugging Face hub, told from paths of this machine, and downloads with errors in a sentence.

A path that was mistyped must not be asked from the hub: the answer would blame the hub, and names of local files would leave
the machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from glyphflow.core.errors import GlyphFlowError, MissingError

T = TypeVar("T")
_PART = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
_FILES = (
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".json", ".yaml", ".yml", ".txt"),
    *(".png", ".jpg", ".jpeg", ".webp", ".zip", ".tar"),
)
_FOLDER = re.compile(
    r"adapters?|checkpoints?|controlnets?|data|diffusion_models|dist|home|loras?|mnt|models?|out(puts?)?|runs?|tmp|"
    r"transformer|weights"
)
"""What people call folders; nobody on the hub is asked for these."""


class HubName(NamedTuple):
    """``owner/name``, and the path of a file inside that repository, or nothing."""

    repository: str
    inside: str


def hub_name(source: str | Path) -> HubName | None:
    """``source`` as a name on the hub: OWNER/NAME, or OWNER/NAME/FILE.safetensors; None where it looks like a path.

    It does when it begins with ``.``, ``~``, ``/`` or a drive, holds a backslash, ends in a slash or like a file, or when its
    first folder is here or is called as only folders are.
    """
    text = str(source)
    owner, *rest = parts = text.split("/")
    if len(parts) < 2 or not all(_PART.fullmatch(part) for part in parts[:2]) or not all(part.strip(".") for part in parts):
        return None
    if any(mark in text for mark in "\\:~") or _FOLDER.fullmatch(owner.lower()) or Path(owner).exists():
        return None
    if len(parts) == 2:
        return None if text.lower().endswith(_FILES) else HubName(text, "")
    return HubName(f"{owner}/{rest[0]}", "/".join(rest[1:])) if text.endswith(".safetensors") else None


def from_hub(name: str, what: str, ask: Callable[[], T]) -> T:
    """What ``ask`` gets from the hub; every refusal and every failure of the network is one MissingError about ``name``."""
    try:
        return ask()
    except GlyphFlowError:
        raise
    except Exception as error:  # of the hub's client, of the network below it, of the disk
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise MissingError(f"{name} is no {what} here and the Hugging Face hub does not give it: {reason}") from error
