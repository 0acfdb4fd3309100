"""OneIG-Bench, English and Chinese: the text number, the alignment number, and the mean of the five published dimensions.

The data is for non-commercial use only and does not ship; name a copy of the benchmark's repository. Reasoning, style and
diversity need embeddings that no judge here gives; :func:`overall` puts numbers from elsewhere together.

Text: ED is the mean edit distance between cleaned reading and cleaned target, CR the share of pictures without any, WAC the
share of target words read (of characters, where the target has Chinese). The number is 1 - min(M, ED) (1 - CR) (1 - WAC) / M
with M = 100 in English and 50 in Chinese, so that one perfect reading in ten lifts it by more than any reading that is nearly
right. Alignment: the mean over questions with dependencies, over pictures, over prompts.

``official`` compares with the printed form of a list of texts, in which a line break is the letter n between two words, drops
pictures that are all black, so that a model whose failures are black pictures gains by them, takes only the reply "Yes" for
yes, and lets a dependency act over one step only. ``corrected`` counts black pictures as pictures without text and with every
answer no, understands "yes.", and lets a "no" act on everything below it.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from glyphflow.core.errors import InputError
from glyphflow.core.files import read_json_object
from glyphflow.evaluate.benchmark import Benchmark, Metric, Sample, SampleScore, Variant, mean
from glyphflow.evaluate.benchmarks.graph import all_above, one_step
from glyphflow.evaluate.benchmarks.long_text import clean_text
from glyphflow.evaluate.benchmarks.shared import (
    failed_row,
    first_failure,
    good,
    lines_of,
    metric,
    read_table,
    unusable,
    user_file,
    yes_or_no,
)
from glyphflow.evaluate.case import Verdict
from glyphflow.evaluate.metrics.normalise import NORMALISATION, comparable
from glyphflow.evaluate.metrics.strings import levenshtein
from glyphflow.evaluate.metrics.text import multiset_matches
from glyphflow.evaluate.question import Question

LARGEST_DISTANCE = {"en": 100, "zh": 50}
DIMENSIONS = ("alignment", "text", "reasoning", "style", "diversity")
INSTRUCTION = "Answer with one word, Yes or No."
_GRAPHS = {"anime": "Anime_Stylization", "human": "Portrait", "object": "General_Object", "multilingualism": "Multilingualism"}
_CHINESE = re.compile("[\u4e00-\u9fff]")


class OneIG(Benchmark):
    """One language; ``data`` is a copy of the benchmark's repository."""

    version = "1"
    licence = "CC-BY-NC-4.0 (data of the user)"
    kinds = frozenset({"ocr", "chat", "pixels"})
    repeats = 4
    typeset = True

    def __init__(self, language: Literal["en", "zh"], data: Path | None = None) -> None:
        self.name, self._language = f"oneig-{language}", language
        self._samples = (*self._aligned(data), *self._texts(data))

    def samples(self) -> tuple[Sample, ...]:
        return self._samples

    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        questions = []
        for path in pictures:
            questions.append(Question(f"{path.stem}/black", "pixels", (path,), {"measure": "black"}))
            if sample.targets:
                questions.append(Question(path.stem, "ocr", (path,)))
            for number, text in sample.tags.get("questions", {}).items():
                request = {"prompt": f"{text}\n{INSTRUCTION}", "max_tokens": 16}
                questions.append(Question(f"{path.stem}/{number}", "chat", (path,), request))
        return questions

    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        part = "text" if sample.targets else "alignment"
        size = 1 + (1 if sample.targets else len(sample.tags["questions"]))
        rows = []
        for repeat in range(len(verdicts) // size):
            black, *given = verdicts[repeat * size : (repeat + 1) * size]
            if (failure := first_failure([black, *given])) is not None:
                rows.append(failed_row(sample, repeat, failure, part=part))
            elif part == "text":
                rows.append(text_row(sample, repeat, lines_of(given[0]), bool(black.value["black"])))
            else:
                replies = {number: str(v.value) for number, v in zip(sample.tags["questions"], given, strict=True)}
                rows.append(alignment_row(sample, repeat, replies, bool(black.value["black"])))
        return rows

    def worst(self, sample: Sample, question: Question) -> Any:
        long = [{"text": "x" * 1000}]  # worse than nothing: a distance beyond the largest one that counts
        return {"chat": "no", "pixels": {"black": False}, "ocr": long}[question.kind]

    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        texts, aligned = [row for row in rows if row.part == "text"], [row for row in rows if row.part == "alignment"]
        found = []
        for variant in ("official", "corrected"):
            found += self._numbers(texts, aligned, variant)
        return found

    def _numbers(self, texts: Sequence[SampleScore], aligned: Sequence[SampleScore], variant: Variant) -> list[Metric]:
        def counted(rows: Sequence[SampleScore]) -> list[SampleScore]:
            return [row for row in good(rows) if variant == "corrected" or not row.values["black"]]

        read = [row.values[variant] for row in counted(texts)]
        form = f"; {NORMALISATION}" if variant == "corrected" else ""
        limit, language = LARGEST_DISTANCE[self._language], self._language
        prompts: dict[str, list[float]] = {}
        for row in counted(aligned):
            prompts.setdefault(row.sample, []).append(row.values[variant])
        return [
            metric(
                "oneig_text",
                f"1 - min({limit}, ED) (1 - CR) (1 - WAC) / {limit}, micro over pictures{form}",
                text_number(read, limit),
                texts,
                variant,
                of={"language": language},
            ),
            metric(
                "oneig_alignment",
                "mean of questions, pictures, prompts",
                mean(mean(values) for values in prompts.values()),
                aligned,
                variant,
                of={"language": language},
            ),
        ]

    def _aligned(self, data: Path | None) -> list[Sample]:
        ending = "" if self._language == "en" else "_zh"
        names = [name for name in _GRAPHS if self._language == "zh" or name != "multilingualism"]
        prompts = _prompts(data, self._language, self.name)
        samples = []
        for name in names:
            path = user_file(data, self.name, "scripts", "alignment", "Q_D", f"{name}{ending}.json")
            for key, item in read_json_object(path).items():
                origin = f"{path}, {key}"
                questions = {str(number): text for number, text in _object(item, "question", origin).items()}
                parents = {str(number): list(above) for number, above in _object(item, "dependency", origin).items()}
                if (prompt := prompts.get((_GRAPHS[name], key))) is None:
                    raise InputError(f"{origin} has no prompt in the table of prompts.")
                tags = {"class": name, "questions": questions, "parents": parents}
                samples.append(Sample(f"{name}_{key}", prompt, (), tags))
        return samples

    def _texts(self, data: Path | None) -> list[Sample]:
        file = "text_content.csv" if self._language == "en" else "text_content_zh.csv"
        path = user_file(data, self.name, "scripts", "text", file)
        prompt = "prompt_en" if self._language == "en" else "prompt_cn"
        return [
            Sample(
                f"text_{row['id']}",
                row[prompt],
                targets_of(row["text_content"]),
                {"class": "text", "printed": row["text_content"]},
            )
            for row in read_table(path, ("id", prompt, "text_content"))
        ]


def text_row(sample: Sample, repeat: int, reading: Sequence[str], black: bool) -> SampleScore:
    """ED, exactness and words of one picture, against the printed list (official) and against its texts (corrected)."""
    read = clean("\n".join(reading))
    official = compare(clean(str(sample.tags["printed"])), read)
    wanted, seen = (clean(comparable(" ".join(texts), casefold=False)) for texts in (sample.targets, reading))
    corrected = compare(wanted, "" if black else seen)
    quality = corrected["matched"] / max(1, corrected["words"])
    values = {"official": official, "corrected": corrected, "black": black, "reading": list(reading)}
    return SampleScore(sample.id, repeat, "ok", "text", "text", min(quality, 1.0 if corrected["exact"] else 0.999), values)


def alignment_row(sample: Sample, repeat: int, replies: Mapping[str, str], black: bool) -> SampleScore:
    """The share of questions answered yes after dependencies, of one picture."""
    category = str(sample.tags["class"])
    unclear = [reply for reply in replies.values() if yes_or_no(reply) is None]
    if unclear:
        reason = f"The judge was asked for yes or no and replied {unclear[0][:80]!r}."
        return unusable(sample, repeat, reason, category, "alignment")
    parents = {int(number): above for number, above in sample.tags["parents"].items()}
    exact = {int(number): reply == "Yes" for number, reply in replies.items()}
    meant = {int(number): bool(yes_or_no(reply)) and not black for number, reply in replies.items()}
    official = _share(one_step(exact, parents))
    corrected = _share(all_above(meant, parents))
    values = {"official": official, "corrected": corrected, "black": black}
    return SampleScore(sample.id, repeat, "ok", "alignment", category, corrected, values)


def compare(target: str, read: str) -> dict[str, float]:
    """Edit distance, whether there is none, and words (characters of a target with Chinese) found, of cleaned texts."""
    wanted, got = (list(target), list(read)) if _CHINESE.search(target) else (target.split(), read.split())
    distance = levenshtein(read, target)
    return {"distance": distance, "exact": int(distance == 0), "matched": multiset_matches(wanted, got), "words": len(wanted)}


def text_number(pictures: Sequence[Mapping[str, float]], limit: float) -> float | None:
    """1 - min(limit, ED) (1 - CR) (1 - WAC) / limit over all pictures."""
    words = sum(one["words"] for one in pictures)
    if not pictures or not words:
        return None
    ed = sum(one["distance"] for one in pictures) / len(pictures)
    cr = sum(one["exact"] for one in pictures) / len(pictures)
    wac = sum(one["matched"] for one in pictures) / words
    return 1 - min(limit, ed) * (1 - cr) * (1 - wac) / limit


def overall(parts: Mapping[str, float]) -> float | None:
    """The plain mean of the five dimensions; None when one is missing."""
    return mean(parts.get(name) for name in DIMENSIONS)


def clean(text: str) -> str:
    """The kept characters; without any white space where there is a Chinese one."""
    plain = clean_text(text)
    return "".join(plain.split()) if _CHINESE.search(plain) else plain


def targets_of(printed: str) -> tuple[str, ...]:
    """The texts in a cell, which holds the printed form of a Python list; a cell that is none is one text.

    Line breaks and quotes are printed as escapes, formulas are not: the backslash of ``\\times`` begins no tab.
    """
    try:
        found = ast.literal_eval(re.sub(r"\\(?![nr'\"\\])", r"\\\\", printed))
    except (SyntaxError, ValueError):
        return (printed,)
    return tuple(map(str, found)) if isinstance(found, list) else (printed,)


def _share(answers: Mapping[int, bool]) -> float:
    return sum(answers.values()) / len(answers)


def _object(item: Mapping[str, Any], name: str, origin: str) -> dict[str, Any]:
    """A field that holds an object, or an object printed as a string."""
    value = item.get(name) if isinstance(item, dict) else item
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{origin}: {name} must be an object of numbered entries, not {value!r}.")
    return found


def _prompts(data: Path | None, language: str, benchmark: str) -> dict[tuple[str, str], str]:
    file, column = ("OneIG-Bench.csv", "prompt_en") if language == "en" else ("OneIG-Bench-ZH.csv", "prompt_cn")
    table = read_table(user_file(data, benchmark, file), ("category", "id", column))
    return {(row["category"], row["id"]): row[column] for row in table}
