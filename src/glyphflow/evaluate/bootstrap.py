"""How far a number may be from what other samples would have given: the bootstrap over samples.

Pictures of one sample stand or fall together, so samples are drawn, with all their rows; two models are compared on the same
draws, because their pictures answer the same prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    copies = [[[groups[name]] for name in names] for groups in grouped]
    random = np.random.default_rng(SEED)
    for _ in range(resamples if names else 0):
        chosen = random.integers(0, len(names), len(names)).tolist()
        yield [_drawn(chosen, found) for found in copies]


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The middle 95 % of ``values``."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _drawn(chosen: Sequence[int], copies: Sequence[list[list[SampleScore]]]) -> list[SampleScore]:
    """The rows of the ``chosen`` samples, where ``copies`` holds each sample's rows and grows with what is drawn twice.

    A sample that is drawn again has another name: formulas that average a sample's pictures first would else see one sample
    with twice the pictures, which weighs once. To copy a row costs as much as to count it, so copies are kept.
    """
    rows: list[SampleScore] = []
    drawn = [0] * len(copies)
    for index in chosen:
        known, turn = copies[index], drawn[index]
        if turn == len(known):
            known.append([replace(row, sample=f"{row.sample} {turn}") for row in known[0]])
        rows += known[turn]
        drawn[index] += 1
    return rows


def _by_sample(rows: Sequence[SampleScore]) -> dict[str, list[SampleScore]]:
    groups: dict[str, list[SampleScore]] = {}
    for row in rows:
        groups.setdefault(row.sample, []).append(row)
    return groups
