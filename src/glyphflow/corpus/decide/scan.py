"""What is decided about every row of a corpus while the stages of a recipe pass over its columns.

A few bytes a row stay in memory (all rows of the corpus, in the order of the shards); the columns are read shard by shard. Each
filter has a bit: a row is refused by the lowest one that is set, so one pass gives the view of every stage, and taking a
refusal back is clearing its bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from glyphflow.core.errors import ConfigError
from glyphflow.core.hardware import require
from glyphflow.corpus.recipe import VARIANTS, Rule, Stage
from glyphflow.corpus.store import METADATA, PHOTO, Corpus
from glyphflow.corpus.tables import read_arrow
from glyphflow.corpus.variants import VARIANT_COLUMNS

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_FILTERS = 64  # bits of a row


@dataclass(frozen=True)
class Slot:
    """A filter at its place in the recipe: number of its stage, and the sentence for what it refuses."""

    stage: int
    filter: str
    reason: str


@dataclass(frozen=True)
class Failing:
    """The rows (M,) of one shard that one filter refuses, numbered in the shard.

    ``numbers`` (M,) are the values it saw, NaN where they are not numbers; ``sentences`` (M,), an Arrow array, say why.
    """

    slot: int
    rows: NDArray[np.int64]
    numbers: NDArray[np.float64]
    sentences: Any

    @classmethod
    def of(cls, slot: int, reason: str, rows: NDArray[np.int64], values: Any) -> Failing:
        """From the values as an Arrow array (M,)."""
        arrow = require("pyarrow", "corpus")
        numeric = not arrow.types.is_string(values.type) and not arrow.types.is_null(values.type)
        numbers = values.cast("float64").to_numpy(zero_copy_only=False) if numeric else np.full(len(rows), np.nan)
        return cls(slot, rows, numbers, arrow.array(_sentences(reason, values), "string"))


def _sentences(reason: str, values: Any) -> list[str]:
    """``reason`` with each of the Arrow array's values in the place of {value}; numbers that are not whole with four digits."""
    if "{value}" not in reason:
        return [reason] * len(values)
    before, _, after = (part.replace("{", "{{").replace("}", "}}") for part in reason.partition("{value}"))
    floating = require("pyarrow", "corpus").types.is_floating(values.type)
    form = before + ("{:.4g}" if floating else "{}") + after
    return [form.format(value) if value is not None else form.replace("{:.4g}", "None") for value in values.to_pylist()]


def slots_of(stages: Sequence[Stage]) -> list[Slot]:
    """The filters of ``stages`` in order: the rules, and behind them the choice of the best."""
    slots = []
    for number, stage in enumerate(stages):
        slots += [Slot(number, rule.filter, rule.reason) for rule in stage.rules]
        slots += [Slot(number, stage.best.filter, stage.best.reason)] if stage.best else []
    if len(slots) > MAX_FILTERS:
        raise ConfigError(f"The recipe has {len(slots)} rules and {MAX_FILTERS} are possible; join some or make two recipes.")
    return slots


@dataclass
class Scan:
    """The rows (N) of all shards and what is decided about them so far."""

    corpus: Corpus
    shards: Sequence[str]
    slots: Sequence[Slot]
    starts: NDArray[np.int64] = field(init=False)  # of each shard, and the end of the last
    photo: NDArray[np.bool_] = field(init=False)
    failed: NDArray[np.uint64] = field(init=False)  # one bit for each filter that refuses the row
    gone: NDArray[np.uint8] = field(init=False)  # one bit for each caption variant that was refused
    split: NDArray[np.int8] = field(init=False)  # number in split_names, -1 without one
    split_names: tuple[str, ...] = ()
    weight: NDArray[np.float32] = field(init=False)
    recaption: NDArray[np.bool_] = field(init=False)
    notes: dict[int, str] = field(default_factory=dict)  # of rows that a patch brought back
    failing: dict[str, list[Failing]] = field(default_factory=dict)  # by shard
    _marks: dict[str, str] = field(default_factory=dict)
    _note_rows: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        kinds = [self.read(shard, ("index.kind",))["index.kind"] for shard in self.shards]
        self.starts = np.concatenate([[0], np.cumsum([len(kind) for kind in kinds], dtype=np.int64)]).astype(np.int64)
        pc = require("pyarrow.compute", "corpus")
        photos = [pc.equal(kind, PHOTO).to_numpy(zero_copy_only=False) for kind in kinds]
        self.photo = np.concatenate(photos) if photos else np.zeros(0, np.bool_)
        rows = len(self.photo)
        self.failed, self.gone = np.zeros(rows, np.uint64), np.zeros(rows, np.uint8)
        self.split, self.weight = np.full(rows, -1, np.int8), np.ones(rows, np.float32)
        self.recaption = np.zeros(rows, np.bool_)
        self.failing = {shard: [] for shard in self.shards}

    @property
    def kept(self) -> NDArray[np.bool_]:
        """(N,) the rows that no filter refuses so far."""
        kept: NDArray[np.bool_] = self.failed == 0
        return kept

    def each_shard(self) -> Iterator[tuple[str, slice]]:
        """The shards with the rows that are theirs."""
        for number, shard in enumerate(self.shards):
            yield shard, slice(int(self.starts[number]), int(self.starts[number + 1]))

    def read(self, shard: str, columns: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Any]:
        """Columns ("stage.column") of one shard as Arrow arrays, each table opened once; ``optional`` ones may be nulls."""
        wanted: dict[str, list[str]] = {}
        for column in dict.fromkeys((*columns, *optional)):
            source, _, name = column.partition(".")
            wanted.setdefault(source, []).append(name)
        found: dict[str, Any] = {}
        for source, names in wanted.items():
            if source == "index":
                path = self.corpus.index_path(shard)
            else:
                if source not in self._marks:
                    self._marks[source] = self.corpus.stage_fingerprint(source) or ""
                path = self.corpus.column_path(source, self._marks[source], shard)
            if source == METADATA and not path.exists():
                rows = require("pyarrow.parquet", "corpus").read_metadata(self.corpus.index_path(shard)).num_rows
                nulls = require("pyarrow", "corpus").nulls(rows)
                found |= {f"{source}.{name}": nulls for name in names}
                continue
            lacking = names if source == METADATA else [name for name in names if f"{source}.{name}" in optional]
            table = read_arrow(path, names, lacking)
            found |= {f"{source}.{name}": table.column(name).combine_chunks() for name in names}
        return found

    def gather(self, column: str) -> Any:
        """A column of the whole corpus as one Arrow array (N,)."""
        pa = require("pyarrow", "corpus")
        parts = [self.read(shard, (column,))[column] for shard in self.shards]
        return pa.concat_arrays(parts) if parts else pa.nulls(0)

    def notes_of(self, here: slice) -> Failing:
        """What is told about rows of a shard that a patch brought back; the slot of the rows that nothing refuses."""
        if self._note_rows is None or len(self._note_rows) != len(self.notes):
            self._note_rows = np.array(sorted(self.notes), np.int64)
        rows = self._note_rows
        rows = rows[np.searchsorted(rows, here.start) : np.searchsorted(rows, here.stop)]
        sentences = require("pyarrow", "corpus").array([self.notes[row] for row in rows.tolist()], "string")
        return Failing(-1, rows - here.start, np.full(len(rows), np.nan), sentences)

    # -- rules --------------------------------------------------------------------------------------------------------

    def apply_rules(self, stage: Stage, rules: Mapping[int, Rule], variants: Sequence[str]) -> None:
        """Splits and rules of ``stage``; ``rules``: slot -> rule. ``variants``: the columns of captions that exist."""
        if stage.splits:
            self.split_names = tuple(split.name for split in stage.splits)
        columns = [rule.column for rule in rules.values()]
        columns += [condition.column for split in stage.splits for condition in split.when]
        judged = any(rule.captions for rule in rules.values())
        columns += ["index.captions", *variants] if judged else []
        flags = sorted({f"{column.split('.')[0]}.measured" for column in columns} - {"index.measured"})
        if not columns and not stage.splits:
            return
        for shard, here in self.each_shard():
            values = self.read(shard, columns, optional=flags)
            if stage.splits:
                self.split[here] = _splits(stage, values, here.stop - here.start)
            has = _variants(values, here.stop - here.start) if judged else None
            for slot, rule in rules.items():
                self._apply_rule(shard, here, slot, rule, values, has)

    def _apply_rule(
        self, shard: str, here: slice, slot: int, rule: Rule, values: Mapping[str, Any], has: NDArray[np.uint8] | None
    ) -> None:
        photo = self.photo[here]
        asked = np.isin(photo, [kind == PHOTO for kind in rule.kinds])
        if rule.splits:
            asked &= np.isin(self.split[here], [self.split_names.index(name) for name in rule.splits])
        self._must_be_measured(shard, here, rule, values, asked)
        fails = asked & ~rule.passes(values[rule.column])
        if rule.captions and has is not None:
            gone, bits = self.gone[here], sum(1 << VARIANTS.index(name) for name in rule.captions)
            fails &= (has & bits & ~gone) != 0
            gone[fails] |= np.uint8(bits)
            fails &= (has & ~gone) == 0  # the last variant was taken
        rows = np.flatnonzero(fails)
        if len(rows):
            self.failed[here][rows] |= np.uint64(1 << slot)
            self.failing[shard].append(Failing.of(slot, rule.reason, rows, values[rule.column].take(_int64(rows))))

    def _must_be_measured(
        self, shard: str, here: slice, rule: Rule, values: Mapping[str, Any], asked: NDArray[np.bool_]
    ) -> None:
        measured = values.get(f"{rule.source}.measured")
        if measured is None or rule.optional or measured.null_count == len(measured):
            return
        lacking = int((asked & (self.failed[here] == 0) & ~_bool(measured)).sum())
        if lacking:
            raise ConfigError(
                f"The filter {rule.filter!r} reads {rule.column}, which is not measured for {lacking} rows of the shard "
                f"{shard!r} that the filters before keep; run glyphflow corpus measure --stages {rule.source} for them first."
            )


def _bool(values: Any) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = values.fill_null(False).to_numpy(zero_copy_only=False)
    return found


def _int64(rows: NDArray[np.int64]) -> Any:
    return require("pyarrow", "corpus").array(rows, "int64")


def _splits(stage: Stage, values: Mapping[str, Any], rows: int) -> NDArray[np.int8]:
    found = np.full(rows, -1, np.int8)
    for number, split in enumerate(stage.splits):
        belongs = found < 0
        for condition in split.when:
            belongs &= condition.met(values[condition.column], null=False)
        found[belongs] = number
    return found


def _variants(values: Mapping[str, Any], rows: int) -> NDArray[np.uint8]:
    """(rows,) one bit for each caption variant that a row has."""
    pc = require("pyarrow.compute", "corpus")
    has = np.zeros(rows, np.uint8)
    for bit, variant in enumerate(VARIANTS):
        for column, blank in VARIANT_COLUMNS[variant].items():
            if column in values:
                told = pc.fill_null(pc.not_equal(values[column], blank), False).to_numpy(zero_copy_only=False)
                has |= told.astype(np.uint8) << np.uint8(bit)
    return has
