"""WebDataset tars, plain or compressed: which members are one sample, which of them is a picture, and what is said of it.

A sample is what shares its name up to the first dot, as webdataset and Hugging Face datasets read tars. Beyond that nothing is
lost: of several pictures each is a row (``a.left.jpg``, ``photo.2021.00.jpg``), with the caption of its own name or else that
of the sample; only maps of another picture (``a.mask.png``) are left, and told. Members of a sample that lie apart are brought
together. Links inside the archive are followed, archives that were joined (``cat a.tar b.tar``) are read to the
end, and after a damaged header reading goes on at the next good one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from glyphflow.corpus.ingest.captions import MAX_CAPTION_BYTES, NOTHING, Said, from_json, from_text
from glyphflow.corpus.ingest.members import ENDINGS, Damage, Member, NewArchive, members, unpacked
from glyphflow.corpus.ingest.shards import MAX_FILE_BYTES, Item, extension_of
from glyphflow.corpus.ingest.tally import Kinds
from glyphflow.corpus.ingest.tree import is_counted, picture_endings

__all__ = ["ENDINGS", "Tars"]

# What says more comes last and goes over the others.
_TEXTS = {".tags": from_text, ".cap": from_text, ".caption": from_text, ".text": from_text, ".txt": from_text,
          ".jsn": from_json, ".json": from_json}  # fmt: skip
_LANGUAGES = {"en": "en", "eng": "en", "english": "en", "zh": "zh", "cn": "zh", "chs": "zh", "chinese": "zh"}
_META = re.compile(r"__[^/]*__($|/)")  # members that webdataset keeps for itself
# Words in the name of a second picture by which it is a map of the first and shows nothing itself.
_MAPS = frozenset((
    "mask", "masks", "depth", "seg", "segm", "segmentation", "semantic", "instance", "normal", "normals", "canny", "edge",
    "edges", "hed", "lineart", "pose", "openpose", "alpha", "matte", "conditioning", "control", "heatmap", "saliency",
))  # fmt: skip


@dataclass
class _Sample:
    base: str
    key: str
    members: dict[str, Member] = field(default_factory=dict)  # by what follows the first dot, in small letters


@dataclass(frozen=True)
class _Row:
    """A picture of a sample and the texts that speak of it, the weightiest last."""

    key: str
    picture: Member | None
    texts: Sequence[tuple[str, Member]] = ()  # what follows the first dot
    error: str | None = None
    notes: tuple[str, ...] = ()


@dataclass
class _Scan:
    file: IO[bytes]
    size: int
    rows: list[_Row]


class Tars:
    """Reads tars; what was found in the last one is remembered. Compressed ones are unpacked into ``room``."""

    def __init__(self, room: Path) -> None:
        self.left_out = Kinds()
        self._room = room
        self._last: tuple[Path, _Scan] | None = None

    def count(self, path: Path) -> int:
        return len(self._scan(path).rows)

    def read(self, path: Path, name: str, first: int, count: int) -> Iterator[Item]:
        scan = self._scan(path)
        for row in scan.rows[first : first + count]:
            yield _item(scan, name, row)

    def _scan(self, path: Path) -> _Scan:
        if self._last is None or self._last[0] != path:
            if self._last is not None:
                self._last[1].file.close()
            file, told = unpacked(path, self._room)
            entries = members(file)
            if told:
                entries.append(Damage(told))
            left_out = Kinds()
            rows = [row for each in _samples(entries) for row in _rows(each, left_out)]
            for kind, (number, first) in left_out.counts.items():
                known = self.left_out.counts.get(kind, (0, f"{path.name}/{first}"))
                self.left_out.counts[kind] = known[0] + number, known[1]
            self._last = path, _Scan(file, file.seek(0, 2), rows)
        return self._last[1]


def _samples(entries: Sequence[Member | Damage | NewArchive]) -> Iterator[_Sample | _Row]:
    """The samples in their order; a damaged place is a row of its own."""
    found: list[_Sample | _Row] = []
    last: dict[str, _Sample] = {}  # of this archive, by their common name
    seen: set[str] = set()
    for entry in entries:
        if isinstance(entry, NewArchive):  # samples of joined archives do not mix
            last = {}
        elif isinstance(entry, Damage):
            found.append(_Row(f"#{len(found)}", None, error=f"the archive is damaged here: {entry.told}"))
        elif is_counted(entry.name) and not _META.match(entry.name):
            folder, _, name = entry.name.rpartition("/")
            stem, _, ending = name.partition(".")
            base = f"{folder}/{stem}" if folder else stem
            sample = last.get(base)
            if sample is None or ending.lower() in sample.members:
                number = f"#{len(found)}" if base in seen else ""  # a name that came before would be no name
                seen.add(base)
                sample = last[base] = _Sample(base, f"/{base}{number}")
                found.append(sample)
            sample.members[ending.lower()] = entry
    yield from found


def _rows(sample: _Sample | _Row, left_out: Kinds) -> Iterator[_Row]:
    """A row for every picture of a sample; what is neither picture nor text is counted in ``left_out``."""
    if isinstance(sample, _Row):
        yield sample
        return
    endings = picture_endings()
    pictures = [each for each in sample.members if _ending(each) in endings]
    texts = sorted((each for each in sample.members if _ending(each) in _TEXTS), key=lambda each: _ORDER[_ending(each)])
    if not pictures and not texts:
        for name, member in sample.members.items():
            left_out.add(_ending(name) if name else "without an ending", member.name)
        return
    if not pictures:
        yield _Row(sample.key, None, [(each, sample.members[each]) for each in texts], "the sample holds no picture")
        return
    shown = [each for each in pictures if not _MAPS.intersection(re.split(r"[._-]", _stem(each)))] or pictures
    notes = tuple(f"maps of another picture are not taken (.{each})" for each in pictures if each not in shown)
    stems = {_stem(each) for each in pictures}
    keys: set[str] = set()
    for each in shown:
        stem = _stem(each)
        key = sample.key + (f".{stem}" if stem and len(shown) > 1 else "")
        key = f"{sample.key}.{each}" if key in keys else key
        keys.add(key)
        own = [text for text in texts if _stem(text) in (stem, each)]  # a.left.txt or a.left.jpg.txt
        common = [text for text in texts if _stem(text) not in stems and _stem(text) not in pictures]
        spoken = texts if len(pictures) == 1 else (common + own if stem == "" or "" not in stems else own)
        spoken = sorted(spoken, key=lambda text: (text in own, _ORDER[_ending(text)]))
        yield _Row(key, sample.members[each], [(text, sample.members[text]) for text in spoken], None, notes)
        notes = ()


def _ending(field: str) -> str:
    return "." + field.rpartition(".")[2]


def _stem(field: str) -> str:
    """ "left" of "left.jpg", nothing of "jpg"."""
    return field.rpartition(".")[0]


_ORDER = {ending: number for number, ending in enumerate(_TEXTS)}


def _item(scan: _Scan, name: str, row: _Row) -> Item:
    key, picture = name + row.key, row.picture
    said = Said(notes=row.notes)
    for text, member in row.texts:
        said = _said(scan, text, member).over(said)
    if picture is None:
        return Item(key, None, row.error, *said)
    error = picture.error
    if error is None and (picture.size == 0 or picture.size > MAX_FILE_BYTES):
        error = "the file is empty" if not picture.size else f"the file has {picture.size} bytes"
    if error is None and picture.offset + picture.size > scan.size:
        error = "the archive ends in the middle of the file"
    if error is not None:
        return Item(key, None, error, *said)
    return Item(key, _bytes(scan.file, picture), None, *said, extension=extension_of(picture.name))


def _said(scan: _Scan, text: str, member: Member) -> Said:
    if member.error or member.offset + member.size > scan.size:
        return Said(notes=(f"a caption cannot be read: {member.error or 'the archive ends in it'}",))
    if member.size > MAX_CAPTION_BYTES:
        return Said(notes=(f"a file of over {MAX_CAPTION_BYTES // 1000} kB is no caption",))
    if not member.size:
        return NOTHING
    said = _TEXTS[_ending(text)](_bytes(scan.file, member))
    language = _LANGUAGES.get(_stem(text).rpartition(".")[2])
    if language and len(said.captions) == 1:  # a.zh.txt says it itself
        return said._replace(captions={language: next(iter(said.captions.values()))})
    return said


def _bytes(file: IO[bytes], member: Member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)
