"""Paths that a table or a list names, below the folder in which it lies."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from glyphflow.corpus.ingest.shards import read_picture

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # of two letters at least: C:/ is a drive


def read_below(folder: Path, path: str) -> tuple[bytes | None, str | None]:
    """The bytes of the file at ``path`` below ``folder``, or why there are none. No path is an exception."""
    if _ADDRESS.match(path):
        return None, f"{path[:200]} is an address and no file; download the pictures first, for example with img2dataset"
    if "\0" in path:
        return None, "the path holds a character that no path can hold (NUL)"
    try:
        top, inside = folder.resolve(), (folder / path).resolve()
        if "\\" in path and not inside.exists():  # written by Windows
            inside = (folder / path.replace("\\", "/")).resolve()
        if not path.isascii() and not inside.exists():  # another system composed the characters of the name in another way
            forms = [(folder / unicodedata.normalize(form, path)).resolve() for form in ("NFC", "NFD")]
            inside = next((each for each in forms if each.exists()), inside)
        if not inside.is_relative_to(top):
            return None, "the path leads out of the folder"
        return read_picture(inside)
    except RuntimeError:  # how pathlib calls a circle
        return None, "the path leads through symbolic links that go in a circle"
    except OSError as error:
        return None, f"the file cannot be read: {error.strerror}"
    except ValueError as error:  # a name that the system cannot encode
        return None, f"the path cannot be read: {error}"
