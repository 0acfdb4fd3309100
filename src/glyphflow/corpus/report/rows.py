"""All rows of a corpus as arrays, and what its views decided about them: what every section of the page reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import require
from glyphflow.core.hashing import derive_seed
from glyphflow.corpus.recipe import Stage
from glyphflow.corpus.store import PHOTO, Corpus

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("photo", "render")


class Rows:
    """The rows (N) of a corpus in the order of its shards. Columns are read when they are asked for; pictures never are."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.shards = corpus.shards()
        pa, pc = require("pyarrow", "corpus"), require("pyarrow.compute", "corpus")
        tables = [corpus.arrow(shard, ("kind", "size")) for shard in self.shards]
        self.starts = np.cumsum([0, *(len(table) for table in tables)])
        kind = pa.chunked_array([chunk for table in tables for chunk in table["kind"].chunks], "string")
        self.photo: NDArray[np.bool_] = np.asarray(pc.equal(kind, PHOTO).to_numpy(zero_copy_only=False), np.bool_)
        sizes = [table["size"].to_numpy() for table in tables]
        self.has_bytes: NDArray[np.bool_] = np.concatenate([np.zeros(0, np.int64), *sizes]) > 0

    def __len__(self) -> int:
        return len(self.photo)

    @cached_property
    def showable(self) -> NDArray[np.bool_]:
        """(N,) the rows with a picture that can be decoded, as far as that is known."""
        if not self.has("pixels.error"):
            return self.has_bytes
        whole: NDArray[np.bool_] = self.has_bytes & self.read("pixels.error").is_null().to_numpy(zero_copy_only=False)
        return whole

    def place(self, row: int) -> tuple[str, int]:
        """The shard of a row, and its number there."""
        shard = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.shards[shard], row - int(self.starts[shard])

    @cached_property
    def stages(self) -> dict[str, dict[str, Any]]:
        """Stage -> column -> Arrow type, of every stage that has run on at least one shard."""
        found = {stage: self._schema(stage) for stage in self.corpus.stages()}
        return {stage: columns for stage, columns in found.items() if columns}

    def _schema(self, stage: str) -> dict[str, Any]:
        mark = self.corpus.stage_fingerprint(stage) or ""
        path = next((path for shard in self.shards if (path := self.corpus.column_path(stage, mark, shard)).exists()), None)
        if path is None:
            return {}
        return {field.name: field.type for field in require("pyarrow.parquet", "corpus").read_schema(path)}

    def has(self, column: str) -> bool:
        """Whether there is a column "stage.name" or "index.name"."""
        stage, _, name = column.partition(".")
        return stage == "index" or name in self.stages.get(stage, {})

    def read(self, column: str) -> Any:
        """A column "stage.name" of all rows (N,) as one Arrow array; null where its stage has not run."""
        pa = require("pyarrow", "corpus")
        stage, _, name = column.partition(".")
        mark = None if stage == "index" else self.corpus.stage_fingerprint(stage) or ""
        parts, kind = [], pa.string() if stage == "index" else self.stages.get(stage, {}).get(name, pa.null())
        for number, shard in enumerate(self.shards):
            if mark is not None and (pa.types.is_null(kind) or not self.corpus.column_path(stage, mark, shard).exists()):
                parts.append(pa.nulls(int(self.starts[number + 1] - self.starts[number]), kind))
                continue
            parts += self.corpus.arrow(shard, (name,), None if mark is None else stage)[name].chunks
        return pa.chunked_array(parts).combine_chunks() if parts else pa.nulls(0, kind)

    def numbers(self, column: str) -> NDArray[np.float64]:
        """The same of a column of numbers or booleans as (N,) float64; NaN for null."""
        pa = require("pyarrow", "corpus")
        values = self.read(column)
        if pa.types.is_boolean(values.type):
            values = values.cast("int8")
        return np.asarray(values.cast("float64").to_numpy(zero_copy_only=False), np.float64)

    @cached_property
    def _keys(self) -> Any:
        return self.read("index.key")

    def key(self, row: int) -> str:
        """The name under which a row came."""
        return str(self._keys[row].as_py())

    @cached_property
    def ids(self) -> Any:
        """The ids of all rows as an Arrow array."""
        return self.read("index.id")

    def row_of(self, row_id: str) -> int:
        """The number of the row with this id, -1 when there is none."""
        return int(require("pyarrow.compute", "corpus").index(self.ids, row_id).as_py())

    def name_of(self, row_id: str) -> str:
        """The key of the row with this id; the id when there is none."""
        row = self.row_of(row_id)
        return self.key(row) if row >= 0 else row_id

    def cell(self, column: str, row: int) -> Any:
        """One value, read from the shard of its row alone; None where the stage has not run on it."""
        shard, number = self.place(row)
        stage, _, name = column.partition(".")
        if not self.has(column):
            return None
        if stage != "index":
            mark = self.corpus.stage_fingerprint(stage) or ""
            if not self.corpus.column_path(stage, mark, shard).exists():
                return None
        return self.corpus.arrow(shard, (name,), None if stage == "index" else stage)[name][number].as_py()


def sample(rows: NDArray[np.int64], count: int, name: str) -> list[int]:
    """Up to ``count`` of ``rows``, drawn with a seed that follows from ``name``, in their order."""
    if len(rows) <= count:
        return [int(row) for row in rows]
    chosen = np.random.default_rng(derive_seed("corpus page", name)).choice(len(rows), count, replace=False)
    return [int(rows[place]) for place in np.sort(chosen)]


# -- decisions ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filter:
    """A filter of a stage, as views name it."""

    stage: str
    name: str


class Decided:
    """What one view decided about every row.

    ``kept`` (N,); ``by`` (N,): number in ``filters`` of the filter that refused the row, -1 for kept rows; ``value`` (N,): what
    that filter saw, NaN where it is not a number; ``split`` (N,): number in ``splits``, -1 without one; ``weight`` (N,).
    """

    def __init__(self, corpus: Corpus, view: str) -> None:
        info = corpus.view_info(view)
        self.name, self._corpus = view, corpus
        self.stages = [Stage.model_validate(stage) for stage in info["stages"]]
        self.skipped: frozenset[str] = frozenset(info["skipped"])
        self.filters = [Filter(stage.name, name) for stage in self.stages for name in stage.filters]
        pa = require("pyarrow", "corpus")
        columns = ("kept", "stage", "rule", "value", "split", "weight")
        tables = [corpus.view_arrow(view, shard, columns) for shard in corpus.shards()]
        table = pa.concat_tables([_same_types(each) for each in tables]) if tables else None
        self.kept: NDArray[np.bool_] = _array(table, "kept", np.bool_, False)
        self.value: NDArray[np.float64] = _array(table, "value", np.float64, None)
        weight = _array(table, "weight", np.float64, None)
        self.weight: NDArray[np.float64] = np.where(np.isnan(weight), 1.0, weight)
        self.by = self._codes(table)
        self.splits, self.split = self._in_order(*_coded(table, "split"))

    def _codes(self, table: Any) -> NDArray[np.int16]:
        stage_names, stages = _coded(table, "stage")
        rule_names, rules = _coded(table, "rule")
        by = np.full(len(stages), -1, np.int16)
        for number, each in enumerate(self.filters):
            if each.stage in stage_names and each.name in rule_names:
                by[(stages == stage_names.index(each.stage)) & (rules == rule_names.index(each.name))] = number
        return by

    def _in_order(self, names: list[str], codes: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
        """The splits in the order of the last stage that splits, also those without rows."""
        stated = next((list(stage.splits) for stage in reversed(self.stages) if stage.splits), [])
        ordered = list(dict.fromkeys([*(split.name for split in stated), *names]))
        place = np.array([*(ordered.index(name) for name in names), -1], np.int64)  # the last is for -1
        return ordered, place[codes]

    def details(self) -> Any:
        """(N,) Arrow array: the sentence about every refused row, and about rows that a patch brought back."""
        pa = require("pyarrow", "corpus")
        parts = [
            chunk
            for shard in self._corpus.shards()
            for chunk in self._corpus.view_arrow(self.name, shard, ("detail",))["detail"].chunks
        ]
        return pa.chunked_array(parts, "string").combine_chunks()


def _same_types(table: Any) -> Any:
    """A view of an older version has no weights or splits, which then have no type."""
    pa = require("pyarrow", "corpus")
    for name, kind in (("split", pa.string()), ("weight", pa.float32())):
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    return table


def _array(table: Any, name: str, kind: type, blank: Any) -> Any:
    if table is None:
        return np.zeros(0, kind)
    column = table[name] if blank is None else table[name].fill_null(blank)
    return np.asarray(column.to_numpy(), kind)


def _coded(table: Any, name: str) -> tuple[list[str], NDArray[np.int64]]:
    """The names in a column, and (N,) the number of each row's name, -1 for null."""
    if table is None:
        return [], np.zeros(0, np.int64)
    encoded = table[name].combine_chunks().dictionary_encode()
    if hasattr(encoded, "combine_chunks"):
        encoded = encoded.combine_chunks()
    return encoded.dictionary.to_pylist(), np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def encode(values: Any) -> tuple[list[str], NDArray[np.int64]]:
    """The names in an Arrow array of strings, and (N,) the number of each row's name; null counts as ""."""
    encoded = values.fill_null("").dictionary_encode()
    return encoded.dictionary.to_pylist(), np.asarray(encoded.indices.to_numpy(zero_copy_only=False), np.int64)


# -- the views of a recipe -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Passage:
    """What a view adds to the one before it: ``filters`` are the numbers of its own filters in ``view.filters``.

    ``came`` (N,): the rows that reach it, ``back`` (N,): those that a patch returned before its own filters, ``changed``: how
    many rows it decides otherwise than the view before, because that one is older than what is measured now.
    """

    view: Decided
    stages: tuple[Stage, ...]
    filters: tuple[int, ...]
    came: NDArray[np.bool_]
    back: NDArray[np.bool_]
    changed: int


def passages(corpus: Corpus, rows: int, view: str) -> list[Passage]:
    """The views of the recipe that wrote ``view``, as far as they exist, up to ``view``; at least that one."""
    last = Decided(corpus, view)
    found: list[Passage] = []
    kept, begun = np.ones(rows, np.bool_), 0
    for end, name in _chain(corpus, last):
        decided = last if name == view else Decided(corpus, name)
        stages = tuple(decided.stages[begun:end])
        names = {stage.name for stage in stages}
        own = tuple(number for number, each in enumerate(decided.filters) if each.stage in names)
        refused = np.isin(decided.by, own)
        back = ~kept & (decided.kept | refused)
        changed = int((kept & ~decided.kept & ~refused).sum())
        found.append(Passage(decided, stages, own, kept, back, changed))
        kept, begun = decided.kept, end
    return found


def _chain(corpus: Corpus, last: Decided) -> Iterable[tuple[int, str]]:
    """(stages, view) for every view before ``last`` that was decided with the same first stages, and for ``last``."""
    described = corpus.view_info(last.name)["stages"]
    for end, stage in enumerate(last.stages[:-1], 1):
        if stage.view and stage.view in corpus.views() and stage.view != last.name:
            before = corpus.view_info(stage.view)
            if before["stages"] == described[:end] and set(corpus.shards()) <= set(before["shards"]):
                yield end, stage.view
    yield len(last.stages), last.name


def longest_view(corpus: Corpus) -> str | None:
    """The view that most stages decided, of equal ones the last by name; None without any."""
    views = corpus.views()
    return max(views, key=lambda view: (len(corpus.view_info(view)["stages"]), view)) if views else None


def view_of_recipe(corpus: Corpus, stages: Sequence[Stage]) -> str:
    """The last view of a recipe that the corpus has; an :class:`InputError` when it has none of them."""
    names = [stage.view for stage in stages if stage.view]
    there = [name for name in names if name in corpus.views()]
    if not there:
        raise InputError(
            f"{corpus.directory} has none of the recipe's views ({', '.join(names) or 'it names none'}), only "
            f"{', '.join(corpus.views()) or 'none'}; run glyphflow corpus run with the recipe first."
        )
    return there[-1]
