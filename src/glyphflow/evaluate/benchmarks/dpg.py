"""DPG-Bench: 1,065 dense prompts, questions with dependencies about each, four pictures a prompt.

A question counts 1 when it is answered yes and so are the questions that it depends on; a picture's number is the mean over its
questions, a prompt's the mean over its pictures, and DPG is 100 times the mean over the prompts.

``official`` keeps what the public script does beside that: it skips the first question of the table, so that one prompt is
scored without it or, when another question depends on it, is lost; it takes the first reply for yes only when it is the
string "yes"; and its category numbers count the answers before the dependencies, of the last of the four pictures only, which
is why every category is above the whole. ``corrected`` skips nothing, understands "Yes.", and counts categories over all
pictures after the dependencies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.evaluate.benchmark import Benchmark, Metric, Sample, SampleScore, Variant, mean
from glyphflow.evaluate.benchmarks.graph import all_above, in_order
from glyphflow.evaluate.benchmarks.shared import (
    chunks,
    failed_row,
    first_failure,
    good,
    metric,
    read_lines,
    read_table,
    shipped,
    unusable,
    user_file,
    yes_or_no,
)
from glyphflow.evaluate.case import Verdict
from glyphflow.evaluate.question import Question

CATEGORIES = ("global", "entity", "attribute", "relation", "other")
INSTRUCTION = "Answer with one word, yes or no."
_COLUMNS = ("item_id", "proposition_id", "dependency", "tuple", "question_natural_language")


class DPG(Benchmark):
    """``data`` is the folder with the question table, dpg_bench.csv."""

    name = "dpg"
    version = "1"
    licence = "Apache-2.0"
    kinds = frozenset({"chat"})
    repeats = 4

    def __init__(self, data: Path | None = None) -> None:
        path = user_file(data, "dpg", "dpg_bench.csv")
        table: dict[str, list[dict[str, Any]]] = {}
        for number, row in enumerate(read_table(path, _COLUMNS), 1):
            table.setdefault(row["item_id"], []).append(_question(row, number == 1, f"{path} row {number}"))
        prompts = {row["item_id"]: row["prompt"] for row in read_lines(shipped("dpg", "prompts.jsonl"))}
        unknown = sorted(table.keys() - prompts.keys())
        if unknown:
            raise InputError(f"{path} has questions about {unknown[0]!r}, which is none of the {len(prompts)} prompts.")
        self._samples = tuple(
            Sample(item, prompts[item], (), {"questions": questions}) for item, questions in sorted(table.items())
        )

    def samples(self) -> tuple[Sample, ...]:
        return self._samples

    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        return [
            Question(
                f"{path.stem}/{row['number']}", "chat", (path,), {"prompt": f"{row['text']}\n{INSTRUCTION}", "max_tokens": 16}
            )
            for path in pictures
            for row in sample.tags["questions"]
        ]

    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        questions = sample.tags["questions"]
        rows = []
        for repeat, given in enumerate(chunks(verdicts, len(questions))):
            if (failure := first_failure(given)) is not None:
                rows.append(failed_row(sample, repeat, failure))
                continue
            replies = {row["number"]: str(verdict.value) for row, verdict in zip(questions, given, strict=True)}
            unclear = [reply for reply in replies.values() if yes_or_no(reply) is None]
            if unclear:
                rows.append(unusable(sample, repeat, f"The judge was asked for yes or no and replied {unclear[0][:80]!r}."))
                continue
            corrected = corrected_scores(questions, replies)
            values = {"official": official_scores(questions, replies), "corrected": corrected}
            rows.append(SampleScore(sample.id, repeat, "ok", "", "", corrected["whole"], values))
        return rows

    def worst(self, sample: Sample, question: Question) -> Any:
        return "no" if question.kind == "chat" else super().worst(sample, question)

    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        return [*self._numbers(rows, "official"), *self._numbers(rows, "corrected")]

    @staticmethod
    def _numbers(rows: Sequence[SampleScore], variant: Variant) -> list[Metric]:
        usable = [row for row in good(rows) if row.values[variant] is not None]
        prompts: dict[str, list[SampleScore]] = {}
        for row in usable:
            prompts.setdefault(row.sample, []).append(row)
        whole = mean(mean(row.values[variant]["whole"] for row in pictures) for pictures in prompts.values())
        counted = (
            usable if variant == "corrected" else [max(pictures, key=lambda row: row.repeat) for pictures in prompts.values()]
        )
        how = "of the last picture, before dependencies" if variant == "official" else "of all pictures, after dependencies"
        lost = [SampleScore(row.sample, row.repeat, "lost") if row.ok and row.values[variant] is None else row for row in rows]
        found = [
            metric(
                "dpg", "100 x mean of prompts", None if whole is None else 100 * whole, lost, variant, of={"category": "all"}
            )
        ]
        for category in CATEGORIES:
            answers = [value for row in counted for value in row.values[variant]["categories"].get(category, [])]
            value = 100 * sum(answers) / len(answers) if answers else None
            found.append(metric("dpg", f"100 x mean of questions {how}", value, lost, variant, of={"category": category}))
        return found


def official_scores(questions: Sequence[Mapping[str, Any]], replies: Mapping[int, str]) -> dict[str, Any] | None:
    """What the public script has for one picture; None where it loses the prompt."""
    asked = [row for row in questions if not row["first_of_table"]]
    answers = {row["number"]: replies[row["number"]] == "yes" for row in asked}
    try:
        after = in_order(answers, _parents(asked))
    except KeyError:
        return None
    if not after:
        return None
    return {"whole": sum(after.values()) / len(after), "categories": _categories(asked, answers)}


def corrected_scores(questions: Sequence[Mapping[str, Any]], replies: Mapping[int, str]) -> dict[str, Any]:
    """The numbers of one picture as the benchmark's paper describes them."""
    answers = {number: bool(yes_or_no(reply)) for number, reply in replies.items()}
    after = all_above(answers, _parents(questions))
    return {"whole": sum(after.values()) / len(after), "categories": _categories(questions, after)}


def _categories(questions: Sequence[Mapping[str, Any]], answers: Mapping[int, bool]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for row in questions:
        found.setdefault(row["category"], []).append(int(answers[row["number"]]))
    return found


def _parents(questions: Sequence[Mapping[str, Any]]) -> dict[int, Sequence[int]]:
    return {row["number"]: row["parents"] for row in questions}


def _question(row: Mapping[str, str], first: bool, origin: str) -> dict[str, Any]:
    """One row of the table; the category is the first word of the tuple, such as "entity" of "entity - whole (cat)"."""
    try:
        number = int(row["proposition_id"])
        parents = [int(part) for part in row["dependency"].split(",")]
    except ValueError as error:
        raise InputError(f"{origin}: numbers are needed in proposition_id and dependency ({error}).") from error
    category = row["tuple"].split("(")[0].split("-")[0].strip()
    return {
        "number": number,
        "parents": parents,
        "category": category,
        "text": row["question_natural_language"],
        "first_of_table": first,
    }
