"""Deciding over columns: `python -m benchmarks.corpus.curate [--rows 1000000] [--per-shard 10000] [--rounds 3]`.

A corpus of columns without pictures, as the seven stages leave it: random values around each threshold, so that every filter
refuses some rows, 18 branches of the taxonomy, 64-number embeddings (real ones have 1,280; only patches read them), and text in
every fifth row. Measured: all seven views in one pass, the last three again after a threshold of the fifth stage changed, and
finding that nothing changed. Beside it, what the same rules cost row by row in Python, on the first shard, times the shards.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.common import machine, table
from glyphflow.core.hashing import derive_seed
from glyphflow.corpus import Corpus
from glyphflow.corpus.decide.curate import ViewSummary, curate_all
from glyphflow.corpus.operators.categories import TYPES as CATEGORY_TYPES
from glyphflow.corpus.operators.categories import load_taxonomy
from glyphflow.corpus.recipe import Rule, Stage, load_recipe
from glyphflow.corpus.store import INDEX_TYPES, VIEW_TYPES
from glyphflow.corpus.tables import write_table

REFUSED = 0.03  # of the rows, by each rule
TEXT = 0.2
WIDTH = 64


def make(place: Path, rows: int, per_shard: int, stages: tuple[Stage, ...]) -> Corpus:
    """A corpus with every column that ``stages`` read."""
    corpus = Corpus.create(place)
    taxonomy = load_taxonomy()
    rules: dict[str, list[Rule]] = {}
    for rule in (rule for stage in stages for rule in stage.rules):
        rules.setdefault(rule.column, []).append(rule)
    sources = sorted({column.split(".")[0] for column in rules} | {"embedding", "categories", "text", "annotate"} - {"index"})
    marks = {
        stage: corpus.begin_stage(stage, {"stage": stage} | ({"shares": taxonomy.shares} if stage == "categories" else {}))
        for stage in sources
        if stage != "index"
    }
    for number, start in enumerate(range(0, rows, per_shard)):
        count, shard = min(per_shard, rows - start), f"rows-{number:05d}"
        random = np.random.default_rng(derive_seed("curate", number))
        ids = pa.array([f"{start + row:032x}" for row in range(count)])
        columns = {column: _values(group, count, random) for column, group in rules.items()}
        columns |= _others(taxonomy.shares, count, random)
        index = {name: pa.nulls(count, _arrow(kind)) for name, kind in INDEX_TYPES.items()}
        index |= {"id": ids, "kind": pa.array(["photo"] * count), "captions": pa.array(['{"en": "a red barn"}'] * count)}
        index["error"] = columns["index.error"]
        write_table(corpus.index_path(shard), index, INDEX_TYPES)
        for stage, mark in marks.items():
            own = {name.split(".")[1]: value for name, value in columns.items() if name.startswith(f"{stage}.")}
            everything = {"id": ids, "measured": pa.array(np.ones(count, bool)), **own}
            write_table(corpus.column_path(stage, mark, shard), everything, dict.fromkeys(everything, ""))
    return corpus


def _arrow(kind: str) -> pa.DataType:
    return pa.type_for_alias(kind)


def _values(rules: list[Rule], count: int, random: np.random.Generator) -> pa.Array:
    """Values of which each of the ``rules`` refuses REFUSED."""
    rule = rules[0]
    refused = random.random(count) < REFUSED
    if rule.empty is not None:
        return pa.array(np.where(refused, "for a reason", None))
    if rule.equals is not None:
        return pa.array(refused if rule.equals is False else ~refused)
    least = max((each.min for each in rules if each.min is not None), default=None)
    most = next((each.max for each in rules if each.max is not None), None)
    low = least if least is not None else 0.0
    high = most if most is not None else 3 * low + 1
    inside = random.uniform(low, high, count)
    outside = high * 1.1 + 0.01 if most is not None else low - 0.5
    return pa.array(np.where(refused, outside, inside).astype(np.float32))


def _others(shares: Mapping[str, float], count: int, random: np.random.Generator) -> dict[str, Any]:
    chances = np.array(list(shares.values())) ** 2  # further from the shares than from chance, so that some branches are weak
    branches = np.array(list(shares))[random.choice(len(shares), count, p=chances / chances.sum())]
    vectors = random.standard_normal((count, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    written = random.random(count) < TEXT
    frequency = 1 / np.arange(1, 3001)
    characters = random.choice(3000, (count, 12), p=frequency / frequency.sum()) + 0x4E00
    lines = [
        json.dumps([{"text": "".join(map(chr, row))}], ensure_ascii=False) if has else "[]"
        for row, has in zip(characters.tolist(), written.tolist(), strict=True)
    ]
    domains = [branch.partition("/")[0] for branch in branches.tolist()]
    category = {
        "domain": pa.array(domains), "branch": pa.array(branches), "node": pa.array(branches),
        "score": pa.array(random.random(count).astype(np.float32)),
        "mentions": pa.array([f" {branch} " for branch in branches.tolist()]),
    }  # fmt: skip
    assert set(category) == set(CATEGORY_TYPES)
    return {
        **{f"categories.{name}": value for name, value in category.items()},
        "text.split": pa.array(np.where(written, "chinese", "non-text")),
        "text.characters": pa.array(np.where(written, 12, 0).astype(np.int32)),
        "text.lines": pa.array(lines),
        "embedding.vector": pa.array([row.tobytes() for row in vectors.astype("<f2")]),
        **{
            f"annotate.{name}_{code}": pa.array(["a red barn"] * count)
            for name in ("recaption", "fused")
            for code in ("en", "zh")
        },
    }


def row_by_row(corpus: Corpus, stages: tuple[Stage, ...], shard: str) -> int:
    """The rules alone over one shard, a row at a time; gives the rows kept."""
    rules = [rule for stage in stages for rule in stage.rules]
    tables: dict[str, dict[str, list[Any]]] = {}
    for rule in rules:
        if rule.source not in tables:
            tables[rule.source] = corpus.index(shard) if rule.source == "index" else corpus.columns(rule.source, shard) or {}
    kept = 0
    for number in range(len(corpus.index(shard, ("id",))["id"])):
        decision: dict[str, Any] = dict.fromkeys(VIEW_TYPES)
        for rule in rules:
            value = tables[rule.source][rule.column.split(".")[1]][number]
            if not _passes(rule, value):
                decision |= {"rule": rule.filter, "detail": rule.reason.replace("{value}", str(value))}
                break
        kept += decision["rule"] is None
    return kept


def _passes(rule: Rule, value: Any) -> bool:
    if rule.empty is not None and (value is None or value == "") != rule.empty:
        return False
    if value is None or (rule.equals is not None and value != rule.equals):
        return value is None
    return not (rule.min is not None and value < rule.min) and not (rule.max is not None and value > rule.max)


def timed(work: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def changed(stages: tuple[Stage, ...], least: float) -> tuple[Stage, ...]:
    """The recipe with another aesthetic threshold."""
    rules = tuple(
        rule.model_copy(update={"min": least}) if rule.column == "aesthetics.hand" else rule for rule in stages[4].rules
    )
    return (*stages[:4], stages[4].model_copy(update={"rules": rules}), *stages[5:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--per-shard", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    stages = load_recipe("seven-stages-corpus").stages
    with tempfile.TemporaryDirectory() as place:
        making, corpus = timed(lambda: make(Path(place) / "corpus", options.rows, options.per_shard, stages))
        shards = corpus.shards()
        thresholds: Iterator[float] = itertools.count(3.0, 0.01)
        times: dict[str, list[float]] = {"all": [], "three": [], "none": [], "python": []}
        summaries: list[ViewSummary] = []
        for _ in range(options.rounds):
            for view in corpus.views():
                (corpus.directory / "views" / view / "view.json").unlink()
            recipe = changed(stages, next(thresholds))
            seconds, _ = timed(lambda recipe=recipe: curate_all(corpus, recipe))
            times["all"].append(seconds)
            recipe = changed(stages, next(thresholds))
            seconds, summaries = timed(lambda recipe=recipe: curate_all(corpus, recipe))
            times["three"].append(seconds)
            times["none"].append(timed(lambda recipe=recipe: curate_all(corpus, recipe))[0])
            times["python"].append(timed(lambda: row_by_row(corpus, stages, shards[0]))[0] * len(shards))
    median = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    print(f"{machine('pyarrow', 'numpy')}; {options.rows:,} rows in {len(shards)} shards, made in {making:.0f} s\n")
    says = {
        "all": "seven views, with patches, the best and weights",
        "three": "the last three again after a threshold changed",
        "none": "finding that nothing changed",
        "python": "the rules alone, row by row in Python (first shard times the shards)",
    }
    print(
        table(
            ("what", "s", "rows/s"),
            [(says[name], f"{median[name]:.2f}", f"{options.rows / median[name]:,.0f}") for name in says],
        )
    )
    print()
    print(table(("view", "kept", "brought back"), [(each.name, f"{each.kept:,}", f"{each.patched:,}") for each in summaries]))


if __name__ == "__main__":
    main()
