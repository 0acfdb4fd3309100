"""ChineseWord: one Chinese character a picture, over the 8,105 of the Table of General Standard Chinese Characters.

Three tiers of 3,500, 3,000 and 1,605 characters; a tier's accuracy is the share of its pictures in which the judge reads that
character and nothing else; the whole is the mean weighted by the tiers' sizes, which gives all published rows. The authors'
templates and judge are not published: the templates here are our own, in both languages, one a character in turn.

A judge that does not know a character cannot find it. Read every number beside the judge's ceiling, and over the readable
characters (``glyphflow.evaluate.benchmark.readable``), whose hash names the set.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from glyphflow.core.hashing import derive_seed
from glyphflow.evaluate.benchmark import Benchmark, Metric, Sample, SampleScore
from glyphflow.evaluate.benchmarks.shared import failed_row, good, lines_of, metric
from glyphflow.evaluate.case import Verdict
from glyphflow.evaluate.metrics.normalise import letters
from glyphflow.evaluate.question import Question

TIERS = (3500, 3000, 1605)
"""Characters in tiers 1, 2 and 3, in the table's order; the weights of the mean."""

TEMPLATES = (
    ("zh", "白色背景的中央写着一个大大的黑色汉字“{}”，除此之外没有任何文字。"),
    ("en", "A large black Chinese character “{}” in the middle of a plain white background, with no other text."),
    ("zh", "一张米色宣纸，上面用毛笔工整地写着一个楷体汉字“{}”。"),
    ("en", "A wooden plaque carved with the single Chinese character “{}”."),
    ("zh", "一块蓝色的方形招牌，正中间是一个白色的汉字“{}”。"),
    ("en", "A flash card for learners that shows one Chinese character, “{}”, printed large and clear."),
)


class ChineseWord(Benchmark):
    """All 8,105 characters, or with ``per_tier`` that many of each tier (chosen once and for all)."""

    version = "1"
    licence = "table: official document, not under copyright; compilation MIT; templates Apache-2.0"
    kinds = frozenset({"ocr"})
    typeset = True

    def __init__(self, per_tier: int | None = None) -> None:
        self.name = "chineseword" if per_tier is None else f"chineseword-{per_tier * len(TIERS)}"
        from glyphflow.render.schedule import (
            standard_characters,  # fonts and shaping, which a list of benchmarks can do without
        )

        characters = standard_characters()
        samples, start = [], 0
        for tier, size in enumerate(TIERS, 1):
            members = list(enumerate(characters[start : start + size], start + 1))
            if per_tier is not None:
                members = sorted(random.Random(derive_seed("chineseword", tier)).sample(members, per_tier))
            samples += [self._sample(number, char, tier) for number, char in members]
            start += size
        self._samples = tuple(samples)

    def samples(self) -> tuple[Sample, ...]:
        return self._samples

    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        return [Question(path.stem, "ocr", (path,)) for path in pictures]

    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        category, rows = f"level {sample.tags['tier']}", []
        for repeat, verdict in enumerate(verdicts):
            if not verdict.ok:
                rows.append(failed_row(sample, repeat, verdict, category))
                continue
            reading = lines_of(verdict)
            hit = int(letters("".join(reading), casefold=False) == sample.targets[0])
            values = {"hit": hit, "tier": sample.tags["tier"], "reading": reading}
            rows.append(SampleScore(sample.id, repeat, "ok", "", category, float(hit), values))
        return rows

    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        tiers = [[row for row in rows if row.category == f"level {tier}"] for tier in (1, 2, 3)]
        values = [_percent(members) for members in tiers]
        whole = metric(
            "character_accuracy", "mean of tiers weighted 3500 : 3000 : 1605", weighted(values), rows, of={"level": "all"}
        )
        parts = [
            metric("character_accuracy", "share of pictures, in per cent", value, members, of={"level": str(tier)})
            for tier, (value, members) in enumerate(zip(values, tiers, strict=True), 1)
        ]
        return [whole, *parts]

    @staticmethod
    def _sample(number: int, char: str, tier: int) -> Sample:
        language, template = TEMPLATES[number % len(TEMPLATES)]
        tags = {"tier": tier, "language": language, "template": number % len(TEMPLATES)}
        return Sample(f"{number:04d}", template.format(char), (char,), tags)


def weighted(tiers: Sequence[float | None]) -> float | None:
    """The mean of the three tiers' accuracies by their sizes; None when one is not known."""
    known = [value for value in tiers if value is not None]
    if len(known) != len(TIERS):
        return None
    return sum(size * value for size, value in zip(TIERS, known, strict=True)) / sum(TIERS)


def _percent(rows: Sequence[SampleScore]) -> float | None:
    hits = [row.values["hit"] for row in good(rows)]
    return 100 * sum(hits) / len(hits) if hits else None
