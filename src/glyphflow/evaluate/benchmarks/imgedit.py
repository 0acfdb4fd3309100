"""ImgEdit-Bench (basic): 737 edits of nine types, each judged by a chat model on three criteria from 1 to 5.

``official``: every line "name: digits" of a reply is a score, however many there are; an edit is their mean rounded to two
digits, a type the mean of its edits rounded to two digits, the whole the mean of the nine types. ``corrected`` asks for exactly
three scores from 1 to 5, holds the second and third to "no higher than the first", which the judge is told and nobody checks,
and rounds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.files import read_json_object
from glyphflow.evaluate.benchmark import Benchmark, Metric, Sample, SampleScore, Variant, mean
from glyphflow.evaluate.benchmarks.shared import by, failed_row, field, file_id, good, metric, understood, unusable, user_file
from glyphflow.evaluate.benchmarks.texts import unique
from glyphflow.evaluate.case import Verdict
from glyphflow.evaluate.question import Question

TYPES = ("add", "adjust", "extract", "replace", "remove", "background", "style", "compose", "action")
"""In the order of published tables, where "compose" is called "Hybrid"."""
WORST = "one: 1\ntwo: 1\nthree: 1"


class ImgEdit(Benchmark):
    """``data`` holds basic_edit.json and prompts.json of the benchmark's repository and its pictures in images/."""

    name = "imgedit"
    version = "1"
    licence = "none given (data of the user)"
    kinds = frozenset({"chat"})
    task = "edit"

    def __init__(self, data: Path | None = None) -> None:
        edits = read_json_object(user_file(data, self.name, "basic_edit.json"))
        self._prompts = read_json_object(user_file(data, self.name, "prompts.json"))
        samples = []
        for key, row in edits.items():
            origin = f"basic_edit.json, {key}"
            kind = field(row, "edit_type", str, origin)
            if kind not in TYPES or kind not in self._prompts:
                raise InputError(f"{origin}: the edit_type {kind!r} has no judge prompt, or is none of {', '.join(TYPES)}.")
            source = user_file(data, self.name, "images", *field(row, "id", str, origin).split("/"))
            samples.append(Sample(file_id(key), field(row, "prompt", str, origin), (), {"type": kind}, (source,)))
        self._samples = unique(samples, "basic_edit.json")

    def samples(self) -> tuple[Sample, ...]:
        return self._samples

    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        prompt = str(self._prompts[sample.tags["type"]]).replace("<edit_prompt>", sample.prompt)
        request = {"prompt": prompt, "images": "after"}
        return [Question(path.stem, "chat", (sample.references[0], path), request) for path in pictures]

    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        category, rows = str(sample.tags["type"]), []
        for repeat, verdict in enumerate(verdicts):
            if not verdict.ok:
                rows.append(failed_row(sample, repeat, verdict, category))
                continue
            reply = str(verdict.value)
            values = {"official": official_score(reply), "corrected": corrected_score(reply)}
            if values["official"] is None and values["corrected"] is None:
                rows.append(unusable(sample, repeat, f"No scores in the reply {reply[:80]!r}.", category))
                continue
            best = next(value for value in (values["corrected"], values["official"]) if value is not None)
            rows.append(SampleScore(sample.id, repeat, "ok", "", category, min(1.0, (best - 1) / 4), values))
        return rows

    def worst(self, sample: Sample, question: Question) -> Any:
        return WORST if question.kind == "chat" else super().worst(sample, question)

    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        return [found for variant in ("official", "corrected") for found in self._numbers(rows, variant)]

    @staticmethod
    def _numbers(rows: Sequence[SampleScore], variant: Variant) -> list[Metric]:
        lost = understood(rows, variant)
        groups = by(lost, "category")
        digits = 2 if variant == "official" else None
        rounded = " rounded to 2 digits" if variant == "official" else ""
        kinds = [kind for kind in TYPES if kind in groups]
        values = {kind: _rounded(mean(row.values[variant] for row in good(groups[kind])), digits) for kind in kinds}
        whole = metric(
            "edit_rating", f"mean of types' means{rounded}", mean(values.values()), lost, variant, of={"type": "all"}
        )
        parts = [
            metric("edit_rating", f"mean of edits{rounded}", values[kind], groups[kind], variant, of={"type": kind})
            for kind in kinds
        ]
        return [whole, *parts]


def official_score(reply: str) -> float | None:
    """The mean, rounded to two digits, of the numbers in all lines of the form "name: digits"."""
    parts = [line.strip().split(": ") for line in reply.splitlines()]
    numbers = [int(part[1]) for part in parts if len(part) == 2 and part[1].isdigit()]
    return round(sum(numbers) / len(numbers), 2) if numbers else None


def corrected_score(reply: str) -> float | None:
    """The mean of exactly three scores from 1 to 5, the second and third cut to the first; None for any other reply."""
    found = [re.fullmatch(r"[\s*#-]*[^:：\d]+[:：]\W*(\d+)(?:\s*/\s*5)?\W*", line) for line in reply.splitlines()]
    numbers = [int(match[1]) for match in found if match]
    if len(numbers) != 3 or not all(1 <= number <= 5 for number in numbers):
        return None
    first = numbers[0]
    return (first + min(numbers[1], first) + min(numbers[2], first)) / 3


def _rounded(value: float | None, digits: int | None) -> float | None:
    return value if value is None or digits is None else round(value, digits)
