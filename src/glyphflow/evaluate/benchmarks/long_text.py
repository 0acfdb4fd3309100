"""LongText-Bench: prompts whose pictures carry 10 to 111 words or characters, in English and in Chinese; four pictures each.

The published number is the share of target words (English) or characters (Chinese) that are in the reading, each as often as
it was read, over all pictures together: neither order nor extra text is punished. The public code removes the judge's stock
phrases in a loop that keeps only its last step; the ``corrected`` number removes them all, compares texts in one form and finds
words that the judge joined or split (:mod:`glyphflow.evaluate.metrics.normalise`). The edit similarity beside it sees order and
extra text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from glyphflow.evaluate.benchmark import Benchmark, Metric, Sample, SampleScore, ratio
from glyphflow.evaluate.benchmarks.shared import by, failed_row, good, lines_of, metric, read_lines, shipped
from glyphflow.evaluate.case import Verdict
from glyphflow.evaluate.metrics.joined import words_found
from glyphflow.evaluate.metrics.normalise import NORMALISATION, comparable
from glyphflow.evaluate.metrics.strings import levenshtein
from glyphflow.evaluate.metrics.text import multiset_matches
from glyphflow.evaluate.question import Question

_KEPT = "\u4e00-\u9fa5a-zA-Z0-9àâäéèêëîïôöùûüçÀÂÄÉÈÊËÎÏÔÖÙÛÜÇ"
STOCK_PHRASES = ("addCriterion", "No text recognized")


class LongText(Benchmark):
    """One language's 160 prompts."""

    version = "1"
    licence = "Apache-2.0"
    kinds = frozenset({"ocr"})
    repeats = 4
    typeset = True

    def __init__(self, language: Literal["en", "zh"]) -> None:
        self.name, self._language = f"longtext-{language}", language
        file = "text_prompts.jsonl" if language == "en" else "text_prompts_zh.jsonl"
        self._samples = tuple(
            Sample(
                f"{row['prompt_id']:04d}",  # the file's own numbers, which have gaps: a row's position is another prompt's name
                row["prompt"],
                tuple(row["text"]),
                {"language": language, "category": row["category"], "length": row["length"]},
            )
            for row in read_lines(shipped("longtext", file))
        )

    def samples(self) -> tuple[Sample, ...]:
        return self._samples

    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        return [Question(path.stem, "ocr", (path,)) for path in pictures]

    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        wanted, asked = (self._units(text(" ".join(sample.targets))) for text in (str, _one_form))
        category, rows = f"{sample.tags['category']}, {sample.tags['length']}", []
        for repeat, verdict in enumerate(verdicts):
            if not verdict.ok:
                rows.append(failed_row(sample, repeat, verdict, category))
                continue
            reading = "\n".join(lines_of(verdict))
            official, corrected = self._units(official_reading(reading)), self._units(_one_form(corrected_reading(reading)))
            a, b = "".join(asked), "".join(corrected)
            longer = max(len(a), len(b))
            same, found = longer - levenshtein(a, b), words_found(asked, corrected).hits
            values = {
                "official": [multiset_matches(wanted, official), len(wanted)],
                "corrected": [found, len(asked)],
                "edit": [same, longer],
                "reading": lines_of(verdict),
            }
            quality = min(found / len(asked), same / max(1, longer))
            rows.append(SampleScore(sample.id, repeat, "ok", "", category, quality, values))
        return rows

    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        language, unit = self._language, "words" if self._language == "en" else "characters"
        how = f"target {unit} found (multiset) over target {unit}, micro over pictures"

        def share(members: Sequence[SampleScore], key: str) -> float | None:
            return ratio(row.values[key] for row in good(members))

        corrected = f"{how}; {NORMALISATION}"
        edit = f"1 - Levenshtein / longer length of {unit} joined, length-weighted; {NORMALISATION}"
        return [
            metric("text_accuracy", how, share(rows, "official"), rows, of={"language": language}),
            metric("text_accuracy", corrected, share(rows, "corrected"), rows, "corrected", of={"language": language}),
            metric("edit_similarity", edit, share(rows, "edit"), rows, "corrected", of={"language": language}),
            *(
                metric(
                    "text_accuracy",
                    corrected,
                    share(members, "corrected"),
                    members,
                    "corrected",
                    of={"language": language, "part": name},
                )
                for name, members in by(rows, "category").items()
            ),
        ]

    def _units(self, text: str) -> list[str]:
        clean = clean_text(text)
        return clean.lower().split() if self._language == "en" else list("".join(clean.split()))


def clean_text(text: str) -> str:
    """Han characters, ASCII letters and digits, accented French letters and white space; runs of the latter as one space."""
    return re.sub(r"\s+", " ", re.sub(rf"[^{_KEPT}\s]", "", text)).strip()


def _one_form(text: str) -> str:
    return comparable(text, casefold=False)


def official_reading(text: str) -> str:
    """The reading as the public code has it: of two stock phrases only the last is removed, and only with a full stop."""
    return text.replace("No text recognized.", "")


def corrected_reading(text: str) -> str:
    """The reading without the judge's stock phrases, with or without a full stop."""
    for phrase in STOCK_PHRASES:
        text = re.sub(rf"{phrase}\.?", "", text)
    return text
