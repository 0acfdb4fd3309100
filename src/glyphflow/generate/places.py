"""Where weights and pictures lie on this machine, by their hash: what files that are passed on do not say.

A picture's metadata name what it was made from without directories. Whoever wrote it can make it again without saying where
things are, because the places are remembered in the user's cache directory (``GLYPHFLOW_CACHE``, else ~/.cache/glyphflow). A
memory that cannot be written or read costs this convenience only.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TypeGuard

from glyphflow.core.errors import GlyphFlowError
from glyphflow.core.files import kind_of, write_bytes


def remember(what: str, identity: str | None, place: str | Path | None) -> None:
    """Keep ``place`` of the ``what`` (model, lora, picture) whose content has the hash ``identity``, if it lies here."""
    if not _is_hash(identity) or place is None or kind_of(place) is None:
        return
    with contextlib.suppress(GlyphFlowError, OSError, RuntimeError, ValueError):
        file, content = _file(what, identity), os.fsencode(Path(place).absolute())
        if not file.exists() or file.read_bytes() != content:
            write_bytes(file, content)


def recall(what: str, identity: str | None) -> Path | None:
    """Where the ``what`` with the hash ``identity`` lay when it was last used; None where that is not known or it is gone."""
    if not _is_hash(identity):
        return None
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        place = Path(os.fsdecode(_file(what, identity).read_bytes()))
        return place if place.exists() else None
    return None


def _is_hash(identity: str | None) -> TypeGuard[str]:
    return identity is not None and re.fullmatch("[0-9a-f]{8,64}", identity) is not None  # it comes out of foreign files


def _file(what: str, identity: str) -> Path:
    root = os.environ.get("GLYPHFLOW_CACHE")
    folder = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glyphflow"
    return folder / "places" / f"{what}-{identity}"
