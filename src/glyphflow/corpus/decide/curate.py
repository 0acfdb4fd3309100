"""Decide: rules over columns become views in which every row is kept or has the first rule that refused it, and why.

Only columns are read, each whole and none more than once for a stage. Changing a threshold therefore decodes no picture.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glyphflow.core.config import to_dict
from glyphflow.core.errors import ConfigError
from glyphflow.core.files import read_json, write_json
from glyphflow.core.hardware import require
from glyphflow.core.hashing import fingerprint, sha256_file
from glyphflow.corpus.decide.balance import apply_best, apply_patch, balance_weights, text_weights
from glyphflow.corpus.decide.scan import Scan, slots_of
from glyphflow.corpus.recipe import VARIANTS, Rule, Stage
from glyphflow.corpus.store import INDEX_TYPES, METADATA, VIEW_TYPES, Corpus, check_name
from glyphflow.corpus.tables import write_table
from glyphflow.corpus.variants import VARIANT_COLUMNS

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ViewSummary:
    """What a view decided: rows in all, rows kept, and rows refused by (stage, filter) in the recipe's order."""

    name: str
    total: int
    kept: int
    refused: dict[tuple[str, str], int]
    skipped: tuple[str, ...]  # optional filters whose columns do not exist yet
    splits: dict[str, int]  # kept rows by split; empty where the recipe splits nothing
    patched: int = 0  # kept rows that a patch brought back


def curate(corpus: Corpus, stages: Sequence[Stage], view: str) -> ViewSummary:
    """Write ``view``: what all of ``stages`` keep.

    A rule over a column that nothing has measured is a :class:`ConfigError`, unless it is optional, and so is one whose column
    lacks rows that the rules before it keep.
    """
    return _curate(corpus, stages, {len(stages): view})[0]


def curate_all(corpus: Corpus, stages: Sequence[Stage]) -> list[ViewSummary]:
    """Write the view that each of ``stages`` names, in one pass over the columns."""
    return _curate(corpus, stages, {number: stage.view for number, stage in enumerate(stages, 1) if stage.view})


def _curate(corpus: Corpus, stages: Sequence[Stage], views: dict[int, str]) -> list[ViewSummary]:
    """``views``: number of stages -> the view that they make."""
    for view in views.values():
        check_name(view, "view")
    with corpus.deciding(f"curating {', '.join(views.values())}"):
        known = _Known(corpus)
        wanted = {count: known.description(stages[:count]) for count in views}
        stale = {count: view for count, view in views.items() if not known.is_current(view, wanted[count])}
        if stale:
            times = {count: known.measured_at(wanted[count]) for count in stale}
            scan = Scan(corpus, known.shards, slots_of(stages))
            for count in range(1, max(stale) + 1):
                _apply(scan, stages, count - 1, known)
                if count in stale:
                    _write_view(scan, stale[count], wanted[count], [stage.name for stage in stages], times[count])
        return [summarise(corpus, view) for view in views.values()]


def _apply(scan: Scan, stages: Sequence[Stage], number: int, known: _Known) -> None:
    """What stage ``number`` decides, in the order that :class:`Stage` states."""
    stage = stages[number]
    slots = [slot for slot, each in enumerate(scan.slots) if each.stage == number]
    rules = {slot: rule for slot, rule in zip(slots, stage.rules, strict=False) if known.applies(rule)}
    variants = [column for columns in VARIANT_COLUMNS.values() for column in columns if known.has(column)]
    scan.apply_rules(stage, rules, variants)
    if stage.patch is not None:
        apply_patch(scan, stage.patch, [each.name for each in stages], known.shares)
    if stage.best is not None:
        apply_best(scan, stage.best, slots[-1])
    if stage.balance is not None or stage.resample is not None:
        weight = np.ones(len(scan.failed))
        if stage.balance is not None:
            weight *= balance_weights(scan, stage.balance, known.shares)
        if stage.resample is not None:
            weight *= text_weights(scan, stage.resample)
        scan.weight = weight.astype(np.float32)
    scan.recaption = np.isin(scan.split, [scan.split_names.index(name) for name in stage.recaption])


class _Known:
    """Which columns exist in every shard, and which rules can be applied."""

    def __init__(self, corpus: Corpus) -> None:
        self.shards = corpus.shards()
        self._corpus = corpus
        self._columns: dict[str, set[str] | None] = {}

    @property
    def shares(self) -> dict[str, float]:
        """The share of every branch of the taxonomy that the rows were classified with."""
        told = read_json(self._corpus.directory / "columns" / "categories.json")["operator"]["shares"]
        return {branch: float(share) for branch, share in told.items()}

    def columns(self, source: str) -> set[str] | None:
        """The columns of a stage (or of "index"); None when a shard has not got them."""
        if source not in self._columns:
            self._columns[source] = self._look(source)
        return self._columns[source]

    def _look(self, source: str) -> set[str] | None:
        if source == "index":
            return set(INDEX_TYPES)
        mark = self._corpus.stage_fingerprint(source)
        schema = require("pyarrow.parquet", "corpus").read_schema
        if source == METADATA and mark is not None:
            tables = [self._corpus.column_path(source, mark, shard) for shard in self.shards]
            return {name for table in tables if table.exists() for name in schema(table).names}
        if mark is None or self._corpus.missing(source, mark):
            return None
        if not self.shards:
            return set()
        # Equal fingerprints have equal columns, so one shard speaks for all.
        path = self._corpus.column_path(source, mark, self.shards[0])
        return set(schema(path).names)

    def has(self, column: str) -> bool:
        """Whether every shard has the column."""
        source, _, name = column.partition(".")
        return name in (self.columns(source) or ())

    def applies(self, rule: Rule) -> bool:
        """Whether the rule's column is there; False for an optional one that waits for its stage."""
        if rule.optional and self.columns(rule.source) is None:
            return False
        self.require(rule.column, f"filter {rule.filter!r}")
        return True

    def require(self, column: str, who: str) -> None:
        """A :class:`ConfigError` unless every shard has the column."""
        source, _, name = column.partition(".")
        names = self.columns(source)
        if names is None:
            raise ConfigError(
                f"The {who} reads {column}, but the stage {source!r} has not run on every shard of "
                f"{self._corpus.directory}; run glyphflow corpus measure first."
            )
        if self.shards and name not in names:
            raise ConfigError(f"The {who} reads {column}; the stage {source!r} has only {', '.join(sorted(names))}.")

    def description(self, stages: Sequence[Stage]) -> dict[str, Any]:
        """What decides a view, with the fingerprint of it all."""
        rules = [(rule, self.applies(rule)) for stage in stages for rule in stage.rules]
        for stage in stages:
            for column, part in stage.reads.items():
                self.require(column, f"{part} of stage {stage.name}")
        used = {rule.source for rule, applies in rules if applies}
        used |= {column.split(".")[0] for stage in stages for column in stage.reads}
        if any(rule.captions for rule, _ in rules):
            used |= {column.split(".")[0] for columns in VARIANT_COLUMNS.values() for column in columns if self.has(column)}
        scores = [stage.patch.scores for stage in stages if stage.patch and stage.patch.scores]
        info = {
            "stages": [to_dict(stage) for stage in stages],
            "columns": {stage: self._corpus.stage_fingerprint(stage) for stage in sorted(used - {"index"})},
            "shards": self.shards,
            "skipped": list(dict.fromkeys(rule.filter for rule, applies in rules if not applies)),
            "scores": [sha256_file(path) if path.is_file() else "" for path in scores],
        }
        return {"fingerprint": fingerprint(info), **info}

    def is_current(self, view: str, wanted: dict[str, Any]) -> bool:
        """Whether the view was decided like this, from the rows that are measured now."""
        path = description_path(self._corpus, view)
        if not path.exists() or self._corpus.view_info(view).get("fingerprint") != wanted["fingerprint"]:
            return False
        return self.measured_at(wanted) == path.stat().st_mtime_ns

    def measured_at(self, wanted: dict[str, Any]) -> int:
        """When the last file came into the folders of the columns: further rows that are measured come by rename, which sets
        the folder's time."""
        folders = [self._corpus.column_path(stage, mark, "x").parent for stage, mark in wanted["columns"].items()]
        return max((folder.stat().st_mtime_ns for folder in folders), default=0)


# -- the table of a view --------------------------------------------------------------------------------------------------


def description_path(corpus: Corpus, view: str) -> Path:
    """Where it is written what decided a view."""
    return corpus.directory / "views" / view / "view.json"


def _write_view(scan: Scan, view: str, info: dict[str, Any], names: Sequence[str], measured_at: int) -> None:
    """``names``: of all stages of the scan; ``measured_at``: see _Known."""
    corpus, description = scan.corpus, description_path(scan.corpus, view)
    # The old description goes first: a run that dies here leaves a view that is missing, not one that lies.
    description.unlink(missing_ok=True)
    for shard, here in scan.each_shard():
        write_table(corpus.view_path(view, shard), _table(scan, shard, here, names), VIEW_TYPES)
    write_json(description, info)
    # Its time is that of what it was decided from, read before: what is measured meanwhile is younger, and asks for a new one.
    os.utime(description, ns=(measured_at, measured_at))


def _table(scan: Scan, shard: str, here: slice, stages: Sequence[str]) -> dict[str, Any]:
    arrow = require("pyarrow", "corpus")
    failed, rows = scan.failed[here], here.stop - here.start
    first = np.where(failed == 0, -1, np.bitwise_count((failed & (~failed + np.uint64(1))) - np.uint64(1)).astype(np.int64))
    told = [failing for failing in scan.failing[shard] if len(failing.rows)]
    told += [scan.notes_of(here)]
    source, starts = np.full(rows, -1, np.int64), np.cumsum([0, *(len(failing.rows) for failing in told)])
    for failing, start in zip(told, starts.tolist(), strict=False):
        decides = np.flatnonzero(first[failing.rows] == failing.slot)
        source[failing.rows[decides]] = start + decides
    place = arrow.array(source, mask=source < 0)
    numbers = np.append(np.concatenate([failing.numbers for failing in told]), np.nan)[source]  # the last is for -1
    lost = scan.gone[here].astype(np.int64)
    return {
        "id": scan.read(shard, ("index.id",))["index.id"],
        "kept": arrow.array(first < 0),
        "stage": _named([stages[slot.stage] for slot in scan.slots], first),
        "rule": _named([slot.filter for slot in scan.slots], first),
        "value": arrow.array(numbers, mask=np.isnan(numbers)),
        "detail": arrow.concat_arrays([failing.sentences for failing in told]).take(place),
        "split": _named(scan.split_names, scan.split[here]),
        "weight": arrow.array(scan.weight[here]),
        "refused_captions": _named(_LOST, np.where(lost == 0, -1, lost)),
        "recaption": arrow.array(scan.recaption[here] & (first < 0)),
    }


# What a set of bits of refused variants is called: index 5 is "raw,fused".
_LOST = [",".join(name for bit, name in enumerate(VARIANTS) if bits >> bit & 1) for bits in range(1 << len(VARIANTS))]


def _named(names: Sequence[str], numbers: NDArray[Any]) -> Any:
    """``names`` by number as an Arrow array of strings; null for negative numbers."""
    arrow = require("pyarrow", "corpus")
    return arrow.array(names, "string").take(arrow.array(numbers, "int64", mask=numbers < 0))


# -- reading views --------------------------------------------------------------------------------------------------------


def summarise(corpus: Corpus, view: str) -> ViewSummary:
    """Count the decisions of an existing view."""
    info = corpus.view_info(view)
    refused: Counter[tuple[str, ...]] = Counter()
    splits: Counter[tuple[str, ...]] = Counter()
    total = kept = patched = 0
    for shard in corpus.shards():
        table = corpus.view_arrow(view, shard, ("kept", "stage", "rule", "detail", "split"))
        staying = table.filter(table["kept"])
        total, kept = total + len(table), kept + len(staying)
        patched += len(staying) - int(staying["detail"].null_count)
        splits.update(_counted(staying, "split"))
        refused.update(_counted(table, "stage", "rule"))
    order = [(stage["name"], name) for stage in info["stages"] for name in Stage.model_validate(stage).filters]
    counts = {pair: refused[pair] for pair in dict.fromkeys(order)}
    by_split = {split: count for (split,), count in splits.items()}
    return ViewSummary(view, total, kept, counts, tuple(info["skipped"]), by_split, patched)


def _counted(table: Any, *columns: str) -> dict[tuple[str, ...], int]:
    """How many rows have each combination of values, rows with a null left out."""
    pc = require("pyarrow.compute", "corpus")
    table = table.select(columns).drop_null()
    joined = pc.binary_join_element_wise(*(table[name] for name in columns), "\x1f")
    counted = pc.value_counts(joined).to_pylist()
    return {tuple(each["values"].split("\x1f")): each["counts"] for each in counted}


def decisions(corpus: Corpus, view: str) -> list[dict[str, Any]]:
    """All rows of ``view`` as mappings, with their shard and row number, for pages and tests."""
    rows: list[dict[str, Any]] = []
    for shard in corpus.shards():
        table = corpus.view(view, shard)
        rows += [
            {"shard": shard, "row": number, **{name: table[name][number] for name in VIEW_TYPES}}
            for number in range(len(table["id"]))
        ]
    return rows
