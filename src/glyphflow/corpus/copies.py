"""Where pictures of a corpus were written to by us: exports, encoded caches, pages. ``forget`` names them.

One small file each in ``copies/``, so that any number of processes may write at once; a corpus that may not be written to keeps
no record.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from glyphflow.core.errors import StorageError
from glyphflow.core.files import read_json, write_json
from glyphflow.core.hashing import fingerprint
from glyphflow.corpus.store import Corpus


def remember(corpus: Corpus, kind: str, place: Path) -> None:
    """Keep that a copy of rows (an "export", a "cache", a "page") is at ``place``."""
    told = {"kind": kind, "place": str(place.resolve())}
    path = corpus.directory / "copies" / f"{fingerprint(told)}.json"
    with contextlib.suppress(StorageError, OSError):
        if not path.exists():
            write_json(path, told)


def copies(corpus: Corpus) -> list[tuple[str, str]]:
    """(kind, place) of every copy that is still there, in order."""
    files = (path for path in (corpus.directory / "copies").glob("*.json") if not path.name.startswith("."))
    found = [(told["kind"], told["place"]) for told in map(read_json, files)]
    return sorted(each for each in found if Path(each[1]).exists())
