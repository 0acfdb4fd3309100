"""TIIF-Bench testmini: 39 dimensions of instruction following, each item with a short and a long prompt and yes/no questions.

A dimension's number is the share of its questions whose answer is the expected one; a group's is the mean of its dimensions;
the whole is the mean of nine groups, for short and for long prompts apart, in per cent. The dimension "text" also has GNED
(the cheapest matching of words asked for and words read, every word without partner costs 1, over the larger number; lower is
better) and the recall of words within a normalised distance of 0.3.

``official`` asks all questions of a picture in one message and pairs the lines that begin with yes or no with the questions;
the public runner picks one of three wordings by chance, at temperature 1, and asks again until the number of lines fits. Here
the wording is one and our own, and a reply that does not fit is a failure. ``corrected`` recall matches words as well as
possible, where the official one takes the first that fits, so that a target can lose its word to an earlier one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.evaluate.benchmark import Benchmark, Metric, Sample, SampleScore, mean, ratio
from glyphflow.evaluate.benchmarks.shared import (
    failed_row,
    field,
    file_id,
    good,
    lines_of,
    metric,
    read_lines,
    unusable,
    user_file,
)
from glyphflow.evaluate.case import Verdict
from glyphflow.evaluate.metrics.strings import assign, levenshtein
from glyphflow.evaluate.question import Question

GROUPS: dict[str, tuple[str, ...]] = {
    "attribute": ("shape+color", "color+texture", "texture+color", "shape+texture"),
    "relation": ("2d_spatial_relation", "3d_spatial_relation", "action+2d", "action+3d"),
    "reasoning": ("numeracy", "negation", "differentiation", "comparison"),
    "attribute+relation": tuple(
        f"{a}+{b}"
        for a, b in (
            ("action", "color"), ("action", "texture"), ("color", "2d"), ("color", "3d"),
            ("shape", "2d"), ("shape", "3d"), ("texture", "2d"), ("texture", "3d"),
        )
    ),
    "attribute+reasoning": tuple(
        f"{a}+{b}" for a in ("numeracy", "comparison", "differentiation", "negation") for b in ("color", "texture")
    ),
    "relation+reasoning": tuple(
        f"{a}+{b}" for a in ("numeracy", "comparison", "differentiation", "negation") for b in ("2d", "3d")
    ),
    "text": ("text",),
    "style": ("style",),
    "real_world": ("real_world",),
}  # fmt: skip
"""The nine groups of the overall number and their dimensions (color+texture and texture+color are two)."""
LENGTHS = ("short", "long")
RECALL_DISTANCE = 0.3
INSTRUCTION = (
    "Look at the picture and answer every question below. Give one line for each question, in the same order, that begins with "
    "yes or no and then says why in a few words. Write nothing else.\n\nQuestions:\n{}"
)


class TIIF(Benchmark):
    """``data`` is the folder ``data`` of the benchmark's repository, with testmini_prompts and testmini_eval_prompts."""

    name = "tiif"
    version = "1"
    licence = "none given (data of the user)"
    kinds = frozenset({"ocr", "chat"})

    def __init__(self, data: Path | None = None) -> None:
        prompts = user_file(data, self.name, "testmini_prompts")
        questions = user_file(data, self.name, "testmini_eval_prompts")
        samples: list[Sample] = []
        for path in sorted(prompts.glob("*_prompts.jsonl")):
            dimension = path.name.removesuffix("_prompts.jsonl")
            samples += self._dimension(path, user_file(questions, self.name, f"{dimension}_eval_prompts.jsonl"), dimension)
        known = {name for members in GROUPS.values() for name in members}
        missing = sorted({sample.tags["dimension"] for sample in samples} - known)
        if not samples or missing:
            raise InputError(
                f"{prompts} holds {f'the unknown dimension {missing[0]!r}' if missing else 'no *_prompts.jsonl file'}."
            )
        self._samples = tuple(samples)

    def samples(self) -> tuple[Sample, ...]:
        return self._samples

    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        asked = INSTRUCTION.format("\n".join(sample.tags["questions"]))
        found = []
        for path in pictures:
            found.append(Question(path.stem, "chat", (path,), {"prompt": asked}))
            if sample.targets:
                found.append(Question(f"{path.stem}/text", "ocr", (path,)))
        return found

    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        size = 2 if sample.targets else 1
        rows = []
        for repeat in range(len(verdicts) // size):
            given = verdicts[repeat * size : (repeat + 1) * size]
            rows.append(answers_row(sample, repeat, given[0]))
            if sample.targets:
                rows.append(words_row(sample, repeat, given[1]))
        return rows

    def worst(self, sample: Sample, question: Question) -> Any:
        wrong = "\n".join("no" if answer == "yes" else "yes" for answer in sample.tags["answers"])
        return wrong if question.kind == "chat" else super().worst(sample, question)

    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        return [found for length in LENGTHS for found in self._length(rows, length)]

    def _length(self, rows: Sequence[SampleScore], length: str) -> list[Metric]:
        answers = [row for row in rows if row.part == f"answers {length}"]
        words = good(row for row in rows if row.part == f"words {length}")
        groups = {}
        for group, dimensions in GROUPS.items():
            shares = [_share([row for row in answers if row.category == name]) for name in dimensions]
            groups[group] = mean(share for share in shares if share is not None)
        present = {name: value for name, value in groups.items() if value is not None}
        how = "100 x mean of groups of the means of their dimensions' shares of questions"
        found = [
            metric("questions_right", how, _percent(mean(present.values())), answers, of={"group": "all", "length": length}),
            *(
                metric(
                    "questions_right",
                    "100 x mean of dimensions' shares of questions",
                    _percent(value),
                    [row for row in answers if row.category in GROUPS[name]],
                    of={"group": name, "length": length},
                )
                for name, value in present.items()
            ),
        ]
        if words:
            all_words = [row for row in rows if row.part == f"words {length}"]
            gned = mean(row.values["gned"] for row in words)
            found += [
                metric("gned", "mean of pictures", gned, all_words, higher_is_better=False, of={"length": length}),
                metric(
                    "word_recall", "mean of pictures", mean(r.values["recall"] for r in words), all_words, of={"length": length}
                ),
                metric(
                    "word_recall",
                    "mean of pictures, best matching",
                    mean(row.values["best_recall"] for row in words),
                    all_words,
                    "corrected",
                    of={"length": length},
                ),
            ]
        return found

    @staticmethod
    def _dimension(prompts: Path, questions: Path, dimension: str) -> list[Sample]:
        asked = read_lines(questions)
        items = read_lines(prompts)
        if len(asked) != len(items):
            raise InputError(f"{prompts} has {len(items)} items and {questions} has {len(asked)}; they must be of one version.")
        found = []
        for number, (item, row) in enumerate(zip(items, asked, strict=True)):
            origin = f"{questions} line {number + 1}"
            questions_, answers = field(row, "yn_question_list", list, origin), field(row, "yn_answer_list", list, origin)
            if len(questions_) != len(answers):
                raise InputError(f"{origin} has {len(questions_)} questions and {len(answers)} answers.")
            targets = re.findall(r'"(.*?)"', item["short_description"]) if dimension == "text" else []
            for length in LENGTHS:
                tags = {
                    "dimension": dimension,
                    "length": length,
                    "questions": [text.strip() for text in questions_],
                    "answers": [str(answer).strip().lower() for answer in answers],
                }
                name = f"{file_id(dimension)}_{number}_{length}"
                found.append(Sample(name, item[f"{length}_description"], tuple(targets), tags))
        return found


def answers_row(sample: Sample, repeat: int, verdict: Verdict) -> SampleScore:
    """[questions answered as expected, questions] of one picture."""
    category, part = str(sample.tags["dimension"]), f"answers {sample.tags['length']}"
    if not verdict.ok:
        return failed_row(sample, repeat, verdict, category, part)
    expected = sample.tags["answers"]
    replies = answers_in(str(verdict.value))
    if len(replies) != len(expected):
        reason = f"The judge gave {len(replies)} answers to {len(expected)} questions."
        return unusable(sample, repeat, reason, category, part)
    right = sum(reply == wanted for reply, wanted in zip(replies, expected, strict=True))
    return SampleScore(sample.id, repeat, "ok", part, category, right / len(expected), {"counts": [right, len(expected)]})


def answers_in(reply: str) -> list[str]:
    """The "yes" and "no" that begin a line of a reply."""
    found = (re.match(r"(yes|no)\b", line.strip(), re.IGNORECASE) for line in reply.splitlines())
    return [match[1].lower() for match in found if match]


def words_row(sample: Sample, repeat: int, verdict: Verdict) -> SampleScore:
    """GNED and recall of the words of one picture."""
    category, part = str(sample.tags["dimension"]), f"words {sample.tags['length']}"
    if not verdict.ok:
        return failed_row(sample, repeat, verdict, category, part)
    targets = [target.lower() for target in sample.targets]
    read = [word for line in lines_of(verdict) or [""] for word in line.lower().split(" ")]
    values = {
        "gned": gned(targets, read),
        "recall": recall(targets, read),
        "best_recall": best_recall(targets, read),
        "reading": lines_of(verdict),
    }
    return SampleScore(sample.id, repeat, "ok", part, category, 1 - float(values["gned"]), values)  # type: ignore[arg-type]


def distance(a: str, b: str) -> float:
    """Levenshtein distance over the longer length; 0 for two empty texts."""
    return levenshtein(a, b) / max(len(a), len(b)) if a or b else 0.0


def gned(targets: Sequence[str], read: Sequence[str]) -> float:
    """The cheapest matching of words, each without partner costs 1, over the larger number of words; in [0, 1]."""
    if not targets and not read:
        return 0.0
    costs = [[distance(word, target) for target in targets] for word in read]
    matched = sum(costs[i][j] for i, j in assign(costs))
    return (matched + abs(len(read) - len(targets))) / max(len(read), len(targets))


def recall(targets: Sequence[str], read: Sequence[str]) -> float:
    """Share of targets that find a word within 0.3, taken one after the other, each word once."""
    free = list(read)
    found = 0
    for target in targets:
        near = next((i for i, word in enumerate(free) if distance(target, word) <= RECALL_DISTANCE), None)
        if near is not None:
            del free[near]
            found += 1
    return found / len(targets)


def best_recall(targets: Sequence[str], read: Sequence[str]) -> float:
    """Share of targets that find a word within 0.3 in the matching that has most of them."""
    costs = [[float(distance(target, word) > RECALL_DISTANCE) for word in read] for target in targets]
    return sum(costs[i][j] == 0.0 for i, j in assign(costs)) / len(targets)


def _share(rows: Sequence[SampleScore]) -> float | None:
    return ratio(row.values["counts"] for row in good(rows))


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
