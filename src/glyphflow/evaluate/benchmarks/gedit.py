"""GEdit-Bench: 606 edits of real pictures, in English and in Chinese, judged by a chat model with VIEScore's prompts.

Two questions an edit: SC (instruction followed, nothing else changed), with source and result, and PQ (natural, no artefacts),
with the result alone; each is the lower of two whole numbers from 0 to 10; O = sqrt(SC PQ) of each edit. ``official`` averages
within each of eleven groups and then over the groups, as the public code does; ``corrected`` averages over all edits, as the
published table says it does. The groups hold 40 to 99 edits, so the two differ.

The public code turns a reply that it cannot read, and any refusal, into a random number. Here both are failures, and both
identities leave them out. It reads any numbers; ``corrected`` accepts a reply only with two whole numbers from 0 to 10.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from glyphflow.core.errors import InputError
from glyphflow.evaluate.benchmark import Benchmark, Metric, Sample, SampleScore, Variant, mean
from glyphflow.evaluate.benchmarks.shared import (
    by,
    chunks,
    failed_row,
    field,
    file_id,
    first_failure,
    good,
    metric,
    read_lines,
    shipped,
    understood,
    unusable,
    user_file,
)
from glyphflow.evaluate.benchmarks.texts import unique
from glyphflow.evaluate.case import Verdict
from glyphflow.evaluate.question import Question

GROUPS = (
    "background_change", "color_alter", "material_alter", "motion_change", "ps_human", "style_change",
    "subject-add", "subject-remove", "subject-replace", "text_change", "tone_transfer",
)  # fmt: skip
WORST = '{"score": [0, 0]}'
SCORES = {"sc": "G_SC", "pq": "G_PQ", "o": "G_O"}


class GEdit(Benchmark):
    """One language; ``data`` holds instructions.jsonl and the source pictures, images/<key>.png."""

    version = "1"
    licence = "MIT (data of the user)"
    kinds = frozenset({"chat"})
    task = "edit"

    def __init__(self, language: Literal["en", "cn"], data: Path | None = None) -> None:
        self.name, self._language = f"gedit-{language}", language
        path = user_file(data, self.name, "instructions.jsonl")
        samples = []
        for number, row in enumerate(read_lines(path), 1):
            origin = f"{path} line {number}"
            if field(row, "instruction_language", str, origin) != language:
                continue
            if (group := field(row, "task_type", str, origin)) not in GROUPS:
                raise InputError(f"{origin}: task_type {group!r} is none of {', '.join(GROUPS)}.")
            key = field(row, "key", str, origin)
            tags = {"group": group, "intersection": field(row, "Intersection_exist", bool, origin)}
            source = user_file(data, self.name, "images", f"{key}.png")
            samples.append(Sample(file_id(key), field(row, "instruction", str, origin), (), tags, (source,)))
        if not samples:
            raise InputError(f"{path} has no row with instruction_language {language!r}.")
        self._samples = unique(samples, str(path))

    def samples(self) -> tuple[Sample, ...]:
        return self._samples

    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        asked_sc, asked_pq = judge_prompts(sample.prompt)
        source = sample.references[0]
        found = []
        for path in pictures:
            request = {"images": "after", "max_tokens": 1400}
            found += [
                Question(f"{path.stem}/sc", "chat", (source, path), {**request, "prompt": asked_sc}, same_size=True),
                # the result alone, but at the source's size as in the first question: the source is no part of this one
                Question(f"{path.stem}/pq", "chat", (path,), {**request, "prompt": asked_pq}, size_of=source),
            ]
        return found

    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        category, rows = str(sample.tags["group"]), []
        part = "intersection" if sample.tags["intersection"] else ""
        for repeat, given in enumerate(chunks(verdicts, 2)):
            if (failure := first_failure(given)) is not None:
                rows.append(failed_row(sample, repeat, failure, category, part))
                continue
            replies = [str(verdict.value) for verdict in given]
            values = {"official": combine(map(numbers_in, replies)), "corrected": combine(map(strict_numbers_in, replies))}
            if values["official"] is None:
                reason = f"No numbers in the reply {replies[0][:80]!r}, {replies[1][:80]!r}."
                rows.append(unusable(sample, repeat, reason, category, part))
                continue
            quality = min(1.0, values["official"]["o"] / 10)
            rows.append(SampleScore(sample.id, repeat, "ok", part, category, quality, values))
        return rows

    def worst(self, sample: Sample, question: Question) -> Any:
        return WORST if question.kind == "chat" else super().worst(sample, question)

    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        return [found for variant in ("official", "corrected") for found in self._numbers(rows, variant)]

    def _numbers(self, rows: Sequence[SampleScore], variant: Variant) -> list[Metric]:
        lost = understood(rows, variant)
        subsets = {"full": lost, "intersection": [row for row in lost if row.part == "intersection"]}
        found = []
        for subset, members in subsets.items():
            for key, name in SCORES.items():
                if variant == "official":
                    groups = by(good(members), "category").values()
                    value = mean(mean(row.values[variant][key] for row in group) for group in groups)
                    how = "mean of groups of the means of their edits"
                else:
                    value, how = mean(row.values[variant][key] for row in good(members)), "mean of edits"
                found.append(metric(name, how, value, members, variant, of={"language": self._language, "subset": subset}))
        return found


def judge_prompts(instruction: str) -> tuple[str, str]:
    """The two messages to the judge: whether the edit succeeded, and whether the result looks right."""
    context, rule, edit, quality = (
        shipped("viescore", name).read_text(encoding="utf-8")
        for name in ("context_no_delimit.txt", "two_image_edit_rule.txt", "tie_rule_SC.txt", "rule_PQ.txt")
    )
    return "\n".join((context, rule, edit)).replace("<instruction>", instruction), "\n".join((context, quality))


def numbers_in(reply: str) -> list[float] | None:
    """The list "score" of the JSON object in a reply, or a bare list or number, as the public parser reads them.

    A bare list must be of two whole numbers, a bare number at most 10; in an object anything goes.
    """
    start, end = reply.find("{"), reply.rfind("}") + 1
    if start != -1 and end > start:
        try:
            found = json.loads(reply[start:end].replace("\n", ""))["score"]
        except (json.JSONDecodeError, KeyError, TypeError):
            return None
    elif re.fullmatch(r"\[\d+, ?\d+\]", bare := reply[reply.find("[") : reply.rfind("]") + 1]):
        found = json.loads(bare)
    elif reply.strip().isdigit() and int(reply) <= 10:
        found = int(reply)
    else:
        return None
    numbers = found if isinstance(found, list) else [found]
    if not numbers or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers):
        return None
    return [float(value) for value in numbers]


def strict_numbers_in(reply: str) -> list[float] | None:
    """The same when it is two whole numbers from 0 to 10, else nothing."""
    numbers = numbers_in(reply)
    if numbers is None or len(numbers) != 2 or not all(value in range(11) for value in numbers):
        return None
    return numbers


def combine(replies: Iterable[list[float] | None]) -> dict[str, float] | None:
    """SC, PQ and O from the numbers of the two replies; None when one is missing or below 0 (there is no root of that)."""
    sc, pq = replies
    if sc is None or pq is None or min(sc) < 0 or min(pq) < 0:
        return None
    return {"sc": min(sc), "pq": min(pq), "o": math.sqrt(min(sc) * min(pq))}
