"""Reading a corpus: records by number, from any number of threads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from glyphflow.core.errors import InputError
from glyphflow.corpus.decode import PictureError, decode_rgb, upright_size
from glyphflow.corpus.specs import Renderer
from glyphflow.corpus.store import PHOTO, Corpus

if TYPE_CHECKING:
    from numpy.typing import NDArray

_INDEX = (
    "id",
    "kind",
    "offset",
    "size",
    "width",
    "height",
    "format",
    "orientation",
    "source",
    "licence",
    "captions",
    "references",
)


@dataclass(frozen=True)
class Record:
    """One picture with its captions."""

    id: str
    image: NDArray[np.uint8]  # (H, W, 3) RGB, upright
    captions: dict[str, str]  # language ("en", "zh") -> caption; may be empty
    source: str
    references: tuple[str, ...] = ()  # ids of the pictures that an edit starts from, in order


@dataclass(frozen=True)
class Row:
    """Where a record is and what is known about it without opening it."""

    id: str
    shard: str
    kind: str
    offset: int
    size: int
    width: int  # upright
    height: int
    source: str
    captions: dict[str, str]
    format: str = ""
    licence: str = ""
    references: tuple[str, ...] = ()


class Selection:
    """An ordered set of rows of a corpus; the order is that of the shards and never depends on when it was asked."""

    def __init__(self, corpus: Corpus, rows: Sequence[Row], view: str | None = None) -> None:
        self.corpus = corpus
        self.view = view
        self.rows = list(rows)
        self._renderer = Renderer()
        self._everything: dict[str, Row] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> list[str]:
        """Record ids, in order."""
        return [row.id for row in self.rows]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(width, height) of every record, upright, from the index: nothing is opened."""
        return [(row.width, row.height) for row in self.rows]

    def load(self, number: int) -> Record:
        """Read (or draw) record ``number``. Safe to call from many threads. A damaged picture is an :class:`InputError`."""
        return self._load(self.rows[number])

    def load_references(self, number: int) -> list[Record]:
        """The pictures that record ``number`` starts from, in order, kept by the view or not; [] if it is no edit."""
        wanted = self.rows[number].references
        if wanted and self._everything is None:
            self._everything = {row.id: row for row in select(self.corpus, None).rows}
        lacking = [each for each in wanted if each not in (self._everything or {})]
        if lacking:
            raise InputError(
                f"Record {self.rows[number].id} of {self.corpus.directory} starts from {lacking[0]}, which is damaged or was "
                "forgotten; curate the record away."
            )
        return [self._load((self._everything or {})[each]) for each in wanted]

    def draw(self, specification: bytes) -> NDArray[np.uint8]:
        """The picture (H, W, 3) of a render's payload."""
        return self._renderer.draw(specification).image

    def _load(self, row: Row) -> Record:
        data = self.corpus.payload(row.shard, row.kind, row.offset, row.size)
        if row.kind == PHOTO:
            try:
                return Record(row.id, decode_rgb(data), row.captions, row.source, row.references)
            except PictureError as error:
                raise InputError(
                    f"Record {row.id} of {self.corpus.directory} cannot be decoded ({error}); curate it away."
                ) from error
        drawn = self._renderer.draw(data)
        return Record(row.id, drawn.image, dict(drawn.captions), row.source, row.references)


def select(corpus: Corpus, view: str | None) -> Selection:
    """The rows of ``view``, or all rows that hold a picture."""
    rows: list[Row] = []
    for shard in corpus.shards():
        index = corpus.index(shard, _INDEX)
        if view is None:
            kept = [size > 0 and width > 0 for size, width in zip(index["size"], index["width"], strict=True)]
        else:
            decided = corpus.view(view, shard)["kept"]
            kept = [keep and size > 0 for keep, size in zip(decided, index["size"], strict=True)]
        annotated = corpus.columns("annotate", shard, ("caption_en", "caption_zh")) or {}
        rows += [_row(index, annotated, shard, number) for number, keep in enumerate(kept) if keep]
    if view is not None:
        corpus.view_info(view)  # an unknown name must be an error in an empty corpus, too
    return Selection(corpus, rows, view)


def _row(index: dict[str, list[Any]], annotated: dict[str, list[Any]], shard: str, number: int) -> Row:
    width, height = upright_size(index["width"][number], index["height"][number], index["orientation"][number])
    return Row(
        id=index["id"][number],
        shard=shard,
        kind=index["kind"][number],
        offset=index["offset"][number],
        size=index["size"][number],
        width=width,
        height=height,
        source=index["source"][number],
        captions=_captions(index["captions"][number], annotated, number),
        format=index["format"][number],
        licence=index["licence"][number],
        references=tuple(json.loads(index["references"][number] or "[]")),
    )


def _captions(raw: str | None, annotated: dict[str, list[Any]], number: int) -> dict[str, str]:
    """The annotation where there is one (it quotes the text in the picture), else what came with the file."""
    captions: dict[str, str] = json.loads(raw) if raw else {}
    for language in ("en", "zh"):
        caption = annotated.get(f"caption_{language}", [None] * (number + 1))[number]
        if caption:
            captions[language] = caption
    return captions
