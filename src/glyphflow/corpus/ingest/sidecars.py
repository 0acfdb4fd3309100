"""Captions in files beside the pictures, under the names that other tools give them.

``x.txt``, ``x.caption`` and ``x.json`` for ``x.jpg`` (img2dataset, kohya's trainers), ``x.jpg.txt`` and ``x.jpg.json``
(gallery-dl), with endings in capitals, and with names that one system composed and another did not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from glyphflow.corpus.ingest.captions import MAX_CAPTION_BYTES, NOTHING, Said, from_json, from_text
from glyphflow.corpus.ingest.shards import extension_of
from glyphflow.corpus.ingest.tree import Tree, loosely, same

# What says more comes last and goes over the others.
_READERS: dict[str, Callable[[bytes], Said]] = {
    ".tags": from_text,
    ".caption": from_text,
    ".txt": from_text,
    ".json": from_json,
}
ENDINGS = frozenset(_READERS)
_REPEATS = re.compile(r"(\d{1,3})_(.*[^\W\d_].*)")  # a folder of kohya's trainers: 10_sks dog


class Sidecars:
    """The caption files of a tree."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._files: dict[str, list[str]] = {}  # what they lie beside, a picture's name or one without ending, loosely
        for name in tree.names:
            if extension_of(name) in ENDINGS:
                self._files.setdefault(loosely(_base(name)), []).append(name)

    def of(self, picture: str) -> list[str]:
        """The caption files of ``picture``, what says most last."""
        if not self._files:
            return []
        found: dict[str, str] = {}
        for base in (_base(picture), picture):
            there = self._files.get(loosely(base), ())
            if len(there) > 1:
                there = [
                    name for name in there if same(_base(name)) == same(base)
                ] or there  # not X.txt for x.jpg where x.txt is
            found |= {extension_of(name): name for name in reversed(there)}
        return [found[ending] for ending in _READERS if ending in found]

    def said(self, picture: str, said: Said = NOTHING) -> Said:
        """What the files beside ``picture`` say, over what a list ``said``; without a caption, its folder's name."""
        for name in self.of(picture):
            said = self._read(name).over(said)
        return named_by_folder(picture, said)

    def _read(self, name: str) -> Said:
        data, error = self._tree.read(name)
        if data is None:
            empty = error == "the file is empty"
            return NOTHING if empty else Said(notes=(f"a caption file is none: {error}",))
        if len(data) > MAX_CAPTION_BYTES:
            return Said(notes=(f"a file of over {MAX_CAPTION_BYTES // 1000} kB is no caption",))
        return _READERS[extension_of(name)](data)


def _base(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122 - the name may be any bytes


def named_by_folder(picture: str, said: Said) -> Said:
    """``said``, with what a folder such as ``10_sks dog`` says: the caption of pictures that have none, and ``repeats``."""
    told = _REPEATS.fullmatch(f"/{picture}".rsplit("/", 2)[-2])
    if told is None:
        return said
    said = said._replace(metadata={"repeats": int(told[1]), **said.metadata})
    if said.captions:
        return said
    note = "without a caption of its own, a picture got that of its folder, as kohya's trainers read NUMBER_WORDS"
    return from_text(told[2].encode("utf-8", "replace")).over(said)._replace(notes=(*said.notes, note))
