"""CVTG-2K: 2,000 English prompts with two to five quoted texts each; reading accuracy, NED and CLIPScore.

``official`` is what the authors' script computes: target words are the lower-cased white-space pieces of every single-quoted
text, punctuation included; a target counts as found when it is anywhere among the words read, so that one reading can serve
several targets; NED is the similarity to the word that difflib finds closest; all words of the set weigh alike; and the columns
"2 regions" to "5 regions" are the prompt files, although nine prompts of the files 3 and 4 quote five texts.

``corrected`` lets each word that was read serve one target, compares texts in one form and without marks at the ends of words
(:mod:`glyphflow.evaluate.metrics.normalise`), finds words that the judge joined or split, takes the closest word by the
distance that is reported, and counts regions in the prompt.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from glyphflow.evaluate.benchmark import Benchmark, Metric, Sample, SampleScore, mean, ratio
from glyphflow.evaluate.benchmarks.shared import chunks, failed_row, good, lines_of, metric, shipped
from glyphflow.evaluate.case import Verdict
from glyphflow.evaluate.metrics.joined import words_found
from glyphflow.evaluate.metrics.normalise import NORMALISATION, words
from glyphflow.evaluate.metrics.text import clip_score, edit_similarity
from glyphflow.evaluate.question import Question

EPSILON = 1e-5


class CVTG2K(Benchmark):
    """Both halves, CVTG and CVTG-Style."""

    name = "cvtg-2k"
    version = "1"
    licence = "Apache-2.0"
    kinds = frozenset({"ocr", "similarity"})
    typeset = True

    def __init__(self) -> None:
        self._samples = tuple(
            self._sample(half, regions, number, prompt)
            for half in ("CVTG", "CVTG-Style")
            for regions in (2, 3, 4, 5)
            for number, prompt in json.loads(
                shipped("cvtg2k", half, f"{regions}_combined.json").read_text(encoding="utf-8")
            ).items()
        )

    def samples(self) -> tuple[Sample, ...]:
        return self._samples

    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        text = f"A photo depicts {sample.prompt}"
        return [
            question
            for path in pictures
            for question in (
                Question(path.stem, "ocr", (path,)),
                Question(f"{path.stem}/clip", "similarity", (path,), {"text": text}),
            )
        ]

    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        rows = []
        for repeat, (read, clip) in enumerate(chunks(verdicts, 2)):
            rows += [self._reading(sample, repeat, read), self._clip(sample, repeat, clip)]
        return rows

    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        read, clip = [row for row in rows if row.part == "text"], [row for row in rows if row.part == "clip"]
        found = "target words found over target words, micro"
        nearest = "mean over target words of similarity to the nearest word read"
        same, alike = (f"{how}; {NORMALISATION}" for how in (found, nearest))
        regions = ("2", "3", "4", "5")
        filed = {n: [row for row in read if row.category.endswith(f"-{n}")] for n in regions}
        counted = {n: [row for row in read if row.values.get("regions", row.category[-1]) == n] for n in regions}
        return [
            metric("word_accuracy", found, _share(read, "official"), read, of={"regions": "all"}),
            *(metric("word_accuracy", found, _share(part, "official"), part, of={"regions": n}) for n, part in filed.items()),
            metric("ned_similarity", nearest, _share(read, "ned"), read, of={"regions": "all"}),
            metric("clip_score", "mean over pictures of 2.5 max(cosine, 0)", mean(r.values["clip"] for r in good(clip)), clip),
            metric("word_accuracy", same, _share(read, "corrected"), read, "corrected", of={"regions": "all"}),
            *(
                metric("word_accuracy", same, _share(part, "corrected"), part, "corrected", of={"regions": n})
                for n, part in counted.items()
            ),
            metric("ned_similarity", alike, _share(read, "corrected_ned"), read, "corrected", of={"regions": "all"}),
        ]

    @staticmethod
    def _sample(half: str, regions: int, number: str, prompt: str) -> Sample:
        targets = quoted(prompt)
        tags = {"half": half, "file": regions, "regions": len(targets)}
        return Sample(f"{half}-{regions}-{int(number):03d}", prompt, tuple(targets), tags)

    @staticmethod
    def _reading(sample: Sample, repeat: int, verdict: Verdict) -> SampleScore:
        category = f"{sample.tags['half']}-{sample.tags['file']}"
        if not verdict.ok:
            return failed_row(sample, repeat, verdict, category, "text")
        targets = words_of(sample.targets)
        read = words_of(lines_of(verdict))
        plain_targets, plain_read = words(" ".join(sample.targets)), words(" ".join(lines_of(verdict)))
        found = words_found(plain_targets, plain_read).hits
        values = {
            "official": [sum(word in (read or [""]) for word in targets), len(targets)],
            "ned": [sum(official_similarity(word, read) for word in targets), len(targets)],
            "corrected": [found, len(plain_targets)],
            "corrected_ned": [
                sum(max((edit_similarity(word, other) for other in plain_read), default=0.0) for word in plain_targets),
                len(plain_targets),
            ],
            "regions": str(sample.tags["regions"]),
            "reading": lines_of(verdict),
        }
        return SampleScore(sample.id, repeat, "ok", "text", category, found / len(plain_targets), values)

    @staticmethod
    def _clip(sample: Sample, repeat: int, verdict: Verdict) -> SampleScore:
        if not verdict.ok:
            return failed_row(sample, repeat, verdict, "", "clip")
        return SampleScore(sample.id, repeat, "ok", "clip", "", None, {"clip": clip_score(float(verdict.value))})


def quoted(prompt: str) -> list[str]:
    """The texts between ASCII single quotes; the prompts' apostrophes are typographic and break none."""
    return re.findall(r"'(.*?)'", prompt)


def words_of(texts: Sequence[str]) -> list[str]:
    """Lower-cased pieces between white space."""
    return [word for text in texts for word in text.lower().split()]


def official_similarity(word: str, read: Sequence[str]) -> float:
    """1 - distance / (longer length + 1e-5) to the word that difflib holds closest; to "" when nothing was read."""
    [closest] = difflib.get_close_matches(word, list(read) or [""], n=1, cutoff=0.0)
    return edit_similarity(word, closest, EPSILON)


def _share(rows: Sequence[SampleScore], key: str) -> float | None:
    return ratio(row.values[key] for row in good(rows))
