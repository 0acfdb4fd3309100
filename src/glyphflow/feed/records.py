"""What a feed knows about the records of a source before it opens one: ids, sizes, labels, captions, weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from glyphflow.core.errors import ConfigError
from glyphflow.feed.buckets import Size
from glyphflow.feed.cache import LatentCache, Shard
from glyphflow.feed.order import Keys, record_keys
from glyphflow.feed.settings import Source

Picture = npt.NDArray[np.uint8]
"""(height, width, 3) RGB."""
_RENDER = "render"
LabelKind = Literal["domain", "split", "text"]


class Record(Protocol):
    """What a feed reads of a corpus record."""

    @property
    def id(self) -> str: ...
    @property
    def image(self) -> Picture: ...
    @property
    def captions(self) -> dict[str, str]: ...


class Selection(Protocol):
    """The records of a corpus view, in a fixed order; ``load`` decodes (or renders) one picture.

    A selection of edits also has ``rows`` (with ``references``) and ``load_references(index)``, and one that is filtered or
    weighed has ``labels(kind)`` and ``weights``: see :class:`glyphflow.corpus.Selection`.
    """

    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def sizes(self) -> Sequence[Size]: ...
    def __len__(self) -> int: ...
    def load(self, index: int) -> Record: ...


@dataclass(frozen=True)
class Records:
    """The records of one source, in the order of its selection or cache."""

    title: str
    ids: Sequence[str]
    keys: Keys
    pictures: Sequence[tuple[Size, ...]]
    """(width, height) of the target and of each reference, in order: as stored, or already of a bucket."""
    captions: Sequence[Mapping[str, str] | None]
    """Variant -> caption; None where captions are known only once the record is opened (renders)."""
    variants: frozenset[str] | None
    """All caption variants; None where that is not known."""
    lengths: Mapping[str, npt.NDArray[np.int64]] | None = None
    """Variant -> tokens of each record's caption, where a cache knows them."""
    selection: Selection | None = None

    def name(self, place: int) -> str:
        """What a person calls a record: its file, where the corpus knows it, and its id."""
        rows = getattr(self.selection, "rows", None)
        key = getattr(rows[place], "key", "") if rows else ""
        return f"{key} ({self.ids[place]})" if key else self.ids[place]

    def labels(self, kind: LabelKind) -> Sequence[str]:
        """The label of each record; ConfigError when nothing here knows labels."""
        known = getattr(self.selection, "labels", None)
        if known is None:
            raise ConfigError(
                f"The feed asks for the {kind} of each record, and the source {self.title!r} has no corpus that says it; give "
                "the source its corpus:."
            )
        found: Sequence[str] = known(kind)
        return found

    @property
    def weights(self) -> npt.NDArray[np.float64]:
        """How often each record shall be drawn, relative to the others."""
        return np.asarray(getattr(self.selection, "weights", None) or [1.0] * len(self.ids), dtype=np.float64)


def open_selection(source: Source, view: str | None) -> Selection:
    """The corpus view of ``source``; ``view`` goes before the source's own."""
    from glyphflow.corpus import Corpus

    if source.corpus is None:
        raise ConfigError(
            f"The source {source.title!r} names no corpus; add corpus: with a directory made by glyphflow corpus."
        )
    found: Selection = Corpus.open(source.corpus).records(view or source.view)
    return found


def selection_records(title: str, selection: Selection) -> Records:
    """What ``selection`` tells without opening a picture."""
    rows: Sequence[Any] = getattr(selection, "rows", None) or [None] * len(selection)
    captions = [None if row is None or (row.kind == _RENDER and not row.captions) else row.captions for row in rows]
    open_ended = any(row is None or row.kind == _RENDER for row in rows)  # drawing may bring captions that no row names
    variants = None if open_ended else frozenset(variant for caption in captions if caption for variant in caption)
    ids = list(selection.ids)
    return Records(title, ids, record_keys(ids), _sizes(selection, rows), captions, variants, selection=selection)


def cache_records(title: str, cache: LatentCache) -> Records:
    """The records of a complete cache whose corpus is not at hand."""
    ids = cache.complete
    pictures = [tuple((8 * w, 8 * h) for h, w in cache.places[one][0].pictures(cache.places[one][1])) for one in ids]
    spans = [_caption_lengths(*cache.places[one]) for one in ids]
    variants = frozenset(name for one in spans for name in one)
    lengths = {name: np.asarray([one.get(name, 0) for one in spans], dtype=np.int64) for name in variants}
    return Records(title, ids, record_keys(ids), pictures, [None] * len(ids), variants, lengths)


def _caption_lengths(shard: Shard, row: int) -> dict[str, int]:
    names = [name for name in shard.names(row) if ":" not in name]
    return {name: int(np.diff(shard.spans[row, shard.texts.index(name)])[0]) for name in names}


def _sizes(selection: Selection, rows: Sequence[Any]) -> list[tuple[Size, ...]]:
    targets = list(selection.sizes)
    if not any(row is not None and row.references for row in rows):
        return [(size,) for size in targets]
    everything = {row.id: (row.width, row.height) for row in selection.corpus.records().rows}  # type: ignore[attr-defined]
    # A reference that is gone is told when its record is opened; until then any size will do.
    return [(size, *(everything.get(one, size) for one in row.references)) for size, row in zip(targets, rows, strict=True)]
