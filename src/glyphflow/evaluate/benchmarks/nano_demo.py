"""What the demo teaches, and what it must not lose: its dozen emoji, which the nano weights have not seen, and twelve texts.

``nano-demo``: each emoji with an English and a Chinese prompt, judged as in ``nano-subjects``; and six English words and six
Chinese texts of ``nano-text``, read. The prompts are written by benchmarks/evaluate/nano_prompts.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from glyphflow.evaluate.benchmark import Benchmark, Metric, Sample, SampleScore
from glyphflow.evaluate.benchmarks.nano import NanoSubjects, NanoText
from glyphflow.evaluate.benchmarks.shared import shipped
from glyphflow.evaluate.case import Verdict
from glyphflow.evaluate.question import Question

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class NanoDemo(Benchmark):
    """Samples with an emoji are as in :class:`NanoSubjects`, the others as in :class:`NanoText`; colours are not asked."""

    name = "nano-demo"
    version = "1"
    licence = "Apache-2.0"
    drawn = True
    kinds = frozenset({"subject", "ocr"})

    def __init__(self) -> None:
        self._subjects = NanoSubjects(shipped("nano256", "demo-subjects.jsonl"))
        self._texts = NanoText(shipped("nano256", "demo-text.jsonl"))

    def samples(self) -> tuple[Sample, ...]:
        return (*self._subjects.samples(), *self._texts.samples())

    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        return [question for question in self._of(sample).cases(sample, pictures) if question.kind != "pixels"]

    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        return [self._of(sample).main_row(sample, verdicts[0])]

    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        return [
            *self._subjects.main_metrics([row for row in rows if row.part == "subject"]),
            *self._texts.main_metrics([row for row in rows if row.part == "text"]),
        ]

    def perfect(self, sample: Sample, width: int, height: int) -> NDArray[np.uint8]:
        return self._of(sample).perfect(sample, width, height)

    def _of(self, sample: Sample) -> NanoSubjects | NanoText:
        return self._subjects if "emoji" in sample.tags else self._texts
