"""What an ingest says at its end: what it took, what of it cannot be read and why, what has no caption, what was left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_MOST = 8  # kinds of a sort that are told one by one


@dataclass
class Kinds:
    """How many things there are of each kind, with the first of them by name."""

    counts: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        """Count one more of ``kind``, which is called ``name``."""
        count, first = self.counts.get(kind, (0, name))
        self.counts[kind] = count + 1, first

    def __len__(self) -> int:
        return sum(count for count, _ in self.counts.values())

    def ranked(self) -> Iterable[tuple[str, int, str]]:
        """(kind, how many, the first), the commonest first; what is rare beyond the limit is one kind, "other"."""
        ranked = sorted(((kind, *told) for kind, told in self.counts.items()), key=lambda each: (-each[1], each[0]))
        yield from ranked[:_MOST]
        if rest := ranked[_MOST:]:
            yield f"of {len(rest)} other kinds", sum(count for _, count, _ in rest), rest[0][2]

    def listed(self) -> str:
        """ "3 .heic (a.heic), 1 .psd (b.psd)"."""
        return ", ".join(f"{count} {kind} ({name})" for kind, count, name in self.ranked())


@dataclass
class Tally:
    """Counts over the rows that one call adds, and over what it passed over."""

    captioned: int = 0
    bare: Kinds = field(default_factory=Kinds)  # rows with a picture and without caption
    unreadable: Kinds = field(default_factory=Kinds)  # by reason
    cut: Kinds = field(default_factory=Kinds)
    notes: Kinds = field(default_factory=Kinds)
    left_out: Kinds = field(default_factory=Kinds)  # files that became no row, by ending
    sentences: list[str] = field(default_factory=list)  # what else is to be told

    def row(self, key: str, captions: Mapping[str, str], error: str | None, cut: bool, notes: Iterable[str]) -> None:
        """Count a new row."""
        if error is not None:
            self.unreadable.add(error, key)
        elif captions:
            self.captioned += 1
        else:
            self.bare.add("", key)
        if cut and error is None:
            self.cut.add("", key)
        for note in notes:
            self.notes.add(note, key)

    def told(self) -> list[str]:
        """The sentences, without the count of rows."""
        said = []
        if self.captioned or len(self.bare):
            bare = f", {len(self.bare)} without ({_first(self.bare)})" if len(self.bare) else ""
            said.append(f"{self.captioned} with a caption{bare}.")
        said += [f"{count} cannot be read: {reason} ({name})." for reason, count, name in self.unreadable.ranked()]
        if len(self.cut):
            said.append(
                f"Seemingly cut off: {len(self.cut)} ({_first(self.cut)}); glyphflow corpus measure says which are damaged."
            )
        said += [f"{note[:1].upper()}{note[1:]}: {count} ({name})." for note, count, name in self.notes.ranked()]
        said += self.sentences
        if len(self.left_out):
            said.append(f"Left out: {self.left_out.listed()}.{advice(self.left_out.counts)}")
        return said


def _first(kinds: Kinds) -> str:
    return next(iter(kinds.counts.values()))[1]


def advice(endings: Mapping[str, object]) -> str:
    """What to do about endings that hold pictures which nothing here opens."""
    said = ""
    if not {".heic", ".heif"}.isdisjoint(endings):
        said += " HEIC is read where pillow-heif is installed (pip install pillow-heif); or save such pictures as JPEG."
    if not RAW.isdisjoint(endings):
        said += " Raw photographs are to be developed to JPEG, PNG or TIFF first."
    return said


RAW = frozenset((".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".psd"))
