"""How far a number may be from what other samples would have given: the bootstrap over samples.

Pictures of one sample stand or fall together, so samples are drawn, with all their rows; two models are compared on the same
draws, because their pictures answer the same prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from glyphflow.evaluate.benchmark import Benchmark, SampleScore

SEED = 20240
LEVEL = 0.95


def intervals(benchmark: Benchmark, rows: Sequence[SampleScore], resamples: int) -> dict[str, tuple[float, float]]:
    """The 95 % percentile interval of every metric, by its identity."""
    values: dict[str, list[float]] = {}
    for [drawn] in draws([rows], resamples):
        for metric in benchmark.aggregate(drawn):
            if metric.value is not None:
                values.setdefault(str(metric.identity), []).append(metric.value)
    return {name: percentiles(found) for name, found in values.items()}


def draws(tables: Sequence[Sequence[SampleScore]], resamples: int) -> Iterator[list[list[SampleScore]]]:
    """``resamples`` times as many samples as there are, with repetition; the same ones from each of ``tables``."""
    grouped = [_by_sample(rows) for rows in tables]
    names = sorted(set.intersection(*(set(groups) for groups in grouped)))
    random = np.random.default_rng(SEED)
    for _ in range(resamples if names else 0):
        chosen = random.integers(0, len(names), len(names))
        yield [list(_drawn(chosen.tolist(), names, groups)) for groups in grouped]


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of ``values``."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _drawn(chosen: Sequence[int], names: Sequence[str], groups: Mapping[str, Sequence[SampleScore]]) -> Iterator[SampleScore]:
    """The rows of the ``chosen`` samples. A sample that is drawn again has another name: formulas that average a sample's
    pictures first would else see one sample with twice the pictures, which weighs once."""
    seen: set[int] = set()
    for turn, index in enumerate(chosen):
        for row in groups[names[index]]:
            yield replace(row, sample=f"{row.sample} {turn}") if index in seen else row
        seen.add(index)


def _by_sample(rows: Sequence[SampleScore]) -> dict[str, list[SampleScore]]:
    groups: dict[str, list[SampleScore]] = {}
    for row in rows:
        groups.setdefault(row.sample, []).append(row)
    return groups
