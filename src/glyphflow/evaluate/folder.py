"""The folder in which making pictures and scoring them meet.

manifest.json      what was asked for, of which model, with which settings
<prompt id>.png    the pictures
ceiling/           the same texts perfectly typeset (written by scoring)
verdicts.jsonl     every verdict ever given, by picture and judge
scores.json        the result
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import read_json, write_json
from glyphflow.evaluate.prompts import Prompt, prompts_identity, unique

FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What a folder of pictures claims to be. ``model`` is the hash of the weights or any name of who made the pictures."""

    benchmark: str
    prompts: tuple[Prompt, ...]
    model: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def prompts_identity(self) -> str:
        """Fingerprint of the prompts."""
        return prompts_identity(self.prompts)

    def to_json(self) -> dict[str, Any]:
        """The content of manifest.json."""
        return {
            "format": FORMAT,
            "benchmark": self.benchmark,
            "model": self.model,
            "settings": self.settings,
            "prompts_identity": self.prompts_identity,
            "prompts": [prompt.to_json() for prompt in self.prompts],
        }

    def check_same(self, other: Manifest, path: Path) -> None:
        """Refuse to mix two runs in one folder: :class:`ConfigError` names the first setting that differs, with both values."""
        old, new = self._claims(), other._claims()
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                raise ConfigError(
                    f"{path} was begun with {name} = {old.get(name)}, now it is {new.get(name)}; "
                    "keep the setting or choose another folder."
                )

    def _claims(self) -> dict[str, Any]:
        own = {"benchmark": self.benchmark, "prompts": self.prompts_identity, "model": self.model}
        return {**own, **self.settings}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json, or check that the one already there says the same."""
    path = folder / "manifest.json"
    if path.exists():
        read_manifest(folder).check_same(manifest, folder)
    else:
        write_json(path, manifest.to_json())


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json; ``settings`` may be absent when somebody else made the pictures."""
    path = folder / "manifest.json"
    data = read_json(path)
    if not isinstance(data, dict) or not isinstance(data.get("prompts"), list):
        raise InputError(f"{path} has no list of prompts; it needs benchmark, model and prompts (id, prompt, language, ...).")
    if data.get("format") != FORMAT:
        raise InputError(f"{path} has format {data.get('format')!r}, this version reads {FORMAT}.")
    prompts = [Prompt.from_json(row, f"{path} prompt {number}") for number, row in enumerate(data["prompts"], 1)]
    return Manifest(
        benchmark=str(data.get("benchmark", "unnamed")),
        prompts=unique(prompts, str(path)),
        model=str(data.get("model", "unknown")),
        settings=dict(data.get("settings") or {}),
    )


def picture_path(folder: Path, prompt: Prompt) -> Path:
    """Where the picture of ``prompt`` lies."""
    return folder / f"{prompt.id}.png"


def load_picture(path: Path) -> NDArray[np.uint8]:
    """The picture as (H, W, 3) uint8 RGB; a missing or broken file is an :class:`InputError`."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; run `glyphflow evaluate sample` again to make it.") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} is not a picture that can be read ({error}).") from error
