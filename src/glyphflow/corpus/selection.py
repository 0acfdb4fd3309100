"""Reading a corpus: records by number, from any number of threads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from glyphflow.core.errors import InputError
from glyphflow.core.pictures import PictureError
from glyphflow.corpus.decode import decode_rgb, upright_size
from glyphflow.corpus.specs import Renderer
from glyphflow.corpus.store import PHOTO, RENDER, Corpus
from glyphflow.corpus.tables import read_table
from glyphflow.corpus.variants import VARIANT_COLUMNS, text_level

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from glyphflow.render import Rendered

_INDEX = (
    "id",
    "key",
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
    captions: dict[str, str]  # "raw_en", "recaption_zh", ...; of renders and edits "en" and "zh"; may be empty
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
    split: str = ""  # of the view
    weight: float = 1.0  # how often the view wants the row drawn beside one of weight 1
    domain: str = ""  # nature, design, people, synthetic, or "" where nothing has classified the row
    lines: str | None = None  # what was read in the picture, JSON of the stage text; None: it has not run
    text: str | None = None  # the same by the annotator, lines joined by line breaks
    key: str = ""  # path below the ingested folder, or the number of the specification


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

    @property
    def weights(self) -> list[float]:
        """How often each record wants to be drawn beside one of weight 1, from the view."""
        return [row.weight for row in self.rows]

    def labels(self, kind: Literal["domain", "split", "text", "task"]) -> list[str]:
        """What each record is, in order.

        "domain": nature, design, people or synthetic (every render); "" where nothing has classified the row. "split": the
        view's split (english, portrait, ...), "" where it has none. "text": how much is written in the picture, none, word,
        line or paragraph; of a render that was never read it is found by drawing it; "" for a photograph nobody has read.
        "task": ti2i for a record with references, else t2i.
        """
        if kind == "domain":
            return [row.domain for row in self.rows]
        if kind == "split":
            return [row.split for row in self.rows]
        if kind == "task":
            return ["ti2i" if row.references else "t2i" for row in self.rows]
        return [self._text_level(row) for row in self.rows]

    def _text_level(self, row: Row) -> str:
        if row.lines is not None:
            return text_level("\n".join(line["text"] for line in json.loads(row.lines)))
        if row.text is not None:
            return text_level(row.text)
        if row.kind == PHOTO:
            return ""
        drawn = self._renderer.draw(self.corpus.payload(row.shard, row.kind, row.offset, row.size))
        return text_level("\n".join(line.text for line in drawn.lines))

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

    def draw(self, specification: bytes) -> Rendered:
        """What a render's payload shows: the picture, its captions and the text in it."""
        return self._renderer.draw(specification)

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
        return Record(row.id, drawn.image, drawn.captions | row.captions, row.source, row.references)


def select(corpus: Corpus, view: str | None) -> Selection:
    """The rows of ``view``, or all rows that hold a picture."""
    rows: list[Row] = []
    for shard in corpus.shards():
        index = corpus.index(shard, _INDEX)
        if view is None:
            decided: dict[str, list[Any]] = {}
            kept = [size > 0 and width > 0 for size, width in zip(index["size"], index["width"], strict=True)]
        else:
            decided = corpus.view(view, shard)
            kept = [keep and size > 0 for keep, size in zip(decided["kept"], index["size"], strict=True)]
        known = _Known(corpus, shard, decided)
        rows += [_row(index, known, shard, number) for number, keep in enumerate(kept) if keep]
    if view is not None:
        corpus.view_info(view)  # an unknown name must be an error in an empty corpus, too
    return Selection(corpus, rows, view)


class _Known:
    """What a view and the stages say about the rows of one shard beside the index."""

    def __init__(self, corpus: Corpus, shard: str, decided: dict[str, list[Any]]) -> None:
        path = corpus.column_path("annotate", corpus.stage_fingerprint("annotate") or "", shard)
        self.annotated = read_table(path, _ANNOTATION, optional=_ANNOTATION) if path.exists() else {}
        self._read = corpus.columns("text", shard, ("lines",)) or {}
        self._categories = corpus.columns("categories", shard, ("domain",)) or {}
        self._decided = decided

    def view(self, name: str, number: int) -> Any:
        """A column of the view, None without one."""
        return self._decided[name][number] if name in self._decided else None

    def domain(self, number: int, kind: str) -> str:
        if kind == RENDER:
            return "synthetic"
        return (self._categories["domain"][number] or "") if self._categories else ""

    def lines(self, number: int) -> str | None:
        """What the stage text read, as JSON."""
        told: str | None = self._read["lines"][number] if self._read else None
        return told

    def text(self, number: int) -> str | None:
        """What the annotator read."""
        told: str | None = self.annotated["text"][number] if "text" in self.annotated else None
        return told


def _row(index: dict[str, list[Any]], known: _Known, shard: str, number: int) -> Row:
    width, height = upright_size(index["width"][number], index["height"][number], index["orientation"][number])
    kind, weight = index["kind"][number], known.view("weight", number)
    refused = (known.view("refused_captions", number) or "").split(",")
    if kind == RENDER:
        captions = _render_captions(known.annotated, number)
    elif index["references"][number]:
        captions = json.loads(index["captions"][number] or "{}")  # an instruction, which no captioner can see in the picture
    else:
        captions = captions_of(index["captions"][number], known.annotated, number, refused)
    return Row(
        id=index["id"][number],
        shard=shard,
        kind=kind,
        offset=index["offset"][number],
        size=index["size"][number],
        width=width,
        height=height,
        source=index["source"][number],
        captions=captions,
        format=index["format"][number],
        licence=index["licence"][number],
        references=tuple(json.loads(index["references"][number])) if index["references"][number] else (),
        split=known.view("split", number) or "",
        weight=1.0 if weight is None else weight,
        domain=known.domain(number, kind),
        lines=known.lines(number),
        text=known.text(number),
        key=index["key"][number] or "",
    )


def captions_of(raw: str | None, annotated: dict[str, list[Any]], number: int, refused: Sequence[str] = ()) -> dict[str, str]:
    """The captions of a photograph by variant and language, without the variants that its view ``refused``.

    "raw_en", "raw_zh" as they came with the picture, "recaption_en", "fused_zh", … as the annotator wrote them.
    """
    came: dict[str, str] = json.loads(raw) if raw and "raw" not in refused else {}
    captions = {f"raw_{language}": text for language, text in came.items()}
    for name, variant in _ANNOTATED.items():
        if variant not in refused and name in annotated and annotated[name][number]:
            captions[name] = annotated[name][number]
    return captions


_ANNOTATED = {
    column.removeprefix("annotate."): variant for variant in ("recaption", "fused") for column in VARIANT_COLUMNS[variant]
}
_ANNOTATION = (*_ANNOTATED, "caption_en", "caption_zh", "text")


def _render_captions(annotated: dict[str, list[Any]], number: int) -> dict[str, str]:
    """The annotator's captions of a render, "en" and "zh"; those it lacks are known once the render is drawn."""
    found = {language: annotated.get(f"caption_{language}") for language in ("en", "zh")}
    return {language: column[number] for language, column in found.items() if column and column[number]}
