"""Decide: rules over columns become a view in which every row is kept or has the first rule that refused it, and why.

Only columns are read. Changing a threshold therefore costs milliseconds and decodes no picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glyphflow.core.config import to_dict
from glyphflow.core.errors import ConfigError
from glyphflow.core.files import write_json
from glyphflow.core.hashing import fingerprint
from glyphflow.corpus.recipe import Rule, Stage
from glyphflow.corpus.store import VIEW_TYPES, Corpus, check_name
from glyphflow.corpus.tables import read_table, write_table


@dataclass(frozen=True)
class ViewSummary:
    """What a view decided: rows in all, rows kept, and rows refused by (stage, filter) in the recipe's order."""

    name: str
    total: int
    kept: int
    refused: dict[tuple[str, str], int]
    skipped: tuple[str, ...]  # optional filters whose columns do not exist yet


def curate(corpus: Corpus, stages: Sequence[Stage], view: str) -> ViewSummary:
    """Write ``view``. A rule over a column that nothing has measured is a :class:`ConfigError`, unless it is optional."""
    check_name(view, "view")
    with corpus.writing(f"curating {view!r}"):
        rules, skipped = _applicable(corpus, stages)
        used = sorted({rule.column.split(".")[0] for _, rule in rules} - {"index"})
        info = {
            "stages": [to_dict(stage) for stage in stages],
            "columns": {stage: corpus.stage_fingerprint(stage) for stage in used},
            "shards": corpus.shards(),
            "skipped": list(skipped),
        }
        mark = fingerprint(info)
        if view not in corpus.views() or corpus.view_info(view).get("fingerprint") != mark:
            # The old description goes first: a run that dies here leaves a view that is missing, not one that lies.
            (corpus.directory / "views" / view / "view.json").unlink(missing_ok=True)
            for shard in corpus.shards():
                _decide_shard(corpus, rules, view, shard)
            write_json(corpus.directory / "views" / view / "view.json", {"fingerprint": mark, **info})
        return summarise(corpus, view)


def summarise(corpus: Corpus, view: str) -> ViewSummary:
    """Count the decisions of an existing view."""
    info = corpus.view_info(view)
    counted: Counter[tuple[str, str]] = Counter()
    total = kept = 0
    for shard in corpus.shards():
        decided = corpus.view(view, shard)
        total += len(decided["kept"])
        kept += sum(decided["kept"])
        counted.update((stage, rule) for stage, rule in zip(decided["stage"], decided["rule"], strict=True) if rule)
    order = [(stage["name"], rule["filter"]) for stage in info["stages"] for rule in stage["rules"]]
    return ViewSummary(view, total, kept, {pair: counted[pair] for pair in order}, tuple(info["skipped"]))


def _applicable(corpus: Corpus, stages: Sequence[Stage]) -> tuple[list[tuple[str, Rule]], tuple[str, ...]]:
    """The rules whose columns exist in every shard, and the optional filters that wait for theirs."""
    shards = corpus.shards()
    known: dict[str, set[str] | None] = {}
    rules: list[tuple[str, Rule]] = []
    skipped: list[str] = []
    for stage in stages:
        for rule in stage.rules:
            source, column = rule.column.split(".")
            if source not in known:
                known[source] = _columns_everywhere(corpus, source, shards)
            names = known[source]
            if names is None and rule.optional:
                skipped.append(rule.filter)
                continue
            if names is None:
                raise ConfigError(
                    f"The filter {rule.filter!r} reads {rule.column}, but the stage {source!r} has not run on every shard of "
                    f"{corpus.directory}; run glyphflow corpus measure first."
                )
            if column not in names:
                raise ConfigError(
                    f"The filter {rule.filter!r} reads {rule.column}; the stage {source!r} has only {', '.join(sorted(names))}."
                )
            rules.append((stage.name, rule))
    return rules, tuple(dict.fromkeys(skipped))


def _columns_everywhere(corpus: Corpus, source: str, shards: Sequence[str]) -> set[str] | None:
    names: set[str] | None = set()
    for shard in shards:
        found = corpus.index(shard) if source == "index" else corpus.columns(source, shard)
        if found is None:
            return None
        names = set(found)
    return names


def _decide_shard(corpus: Corpus, rules: Sequence[tuple[str, Rule]], view: str, shard: str) -> None:
    index = corpus.index(shard, ("id", "kind"))
    tables: dict[str, dict[str, list[Any]]] = {}
    decisions: list[dict[str, Any]] = [dict.fromkeys(VIEW_TYPES) | {"id": each, "kept": True} for each in index["id"]]
    for stage, rule in rules:
        source, column = rule.column.split(".")
        if source not in tables:
            tables[source] = corpus.index(shard) if source == "index" else (corpus.columns(source, shard) or {})
        for decision, kind, value in zip(decisions, index["kind"], tables[source][column], strict=True):
            if decision["kept"] and kind in rule.kinds and not rule.allows(value):
                decision |= {"kept": False, "stage": stage, "rule": rule.filter}
                decision |= {"value": _number(value), "detail": rule.reason.replace("{value}", _shown(value))}
    write_table(corpus.view_path(view, shard), {name: [each[name] for each in decisions] for name in VIEW_TYPES}, VIEW_TYPES)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def decisions(corpus: Corpus, view: str) -> list[dict[str, Any]]:
    """All rows of ``view`` as mappings, with their shard and row number, for pages and tests."""
    rows: list[dict[str, Any]] = []
    for shard in corpus.shards():
        table = read_table(corpus.view_path(view, shard))
        rows += [
            {"shard": shard, "row": number, **{name: table[name][number] for name in VIEW_TYPES}}
            for number in range(len(table["id"]))
        ]
    return rows
