"""Prompts with texts that must appear: nano16, nano64, and any file of such prompts.

One JSON object a line: id, prompt, language, targets (the texts, in reading order), seed. The formulas are those of
:mod:`glyphflow.evaluate.metrics.text`; every number is a micro average, over all prompts and by language.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.evaluate.benchmark import Benchmark, Metric, Sample, SampleScore
from glyphflow.evaluate.benchmarks.shared import by, failed_row, good, lines_of, metric, read_lines
from glyphflow.evaluate.case import Verdict
from glyphflow.evaluate.metrics.text import IDENTITIES, Count, TextScore, aggregate, score_text
from glyphflow.evaluate.question import Question


class TextBenchmark(Benchmark):
    """The prompts of one ``.jsonl`` file."""

    version = "1"
    licence = "Apache-2.0"
    kinds = frozenset({"ocr"})
    typeset = True

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.name = name or path.stem
        rows = read_lines(path)
        self._samples = unique([sample_of(row, f"{path} prompt {number}") for number, row in enumerate(rows, 1)], str(path))

    def samples(self) -> tuple[Sample, ...]:
        return self._samples

    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        return [Question(path.stem, "ocr", (path,)) for path in pictures]

    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        return [text_row(sample, repeat, verdict, str(sample.tags["language"])) for repeat, verdict in enumerate(verdicts)]

    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        groups = {"all": list(rows), **by(rows, "category")}
        return [found for language, members in groups.items() for found in text_metrics(members, language=language)]


def text_row(sample: Sample, repeat: int, verdict: Verdict, category: str, part: str = "") -> SampleScore:
    """The four text metrics of one picture as [hits, total], and what was read."""
    if not verdict.ok:
        return failed_row(sample, repeat, verdict, category, part)
    reading = lines_of(verdict)
    counts = score_text(sample.targets, reading)
    values: dict[str, Any] = {name: list(getattr(counts, name)) for name in IDENTITIES}
    values["reading"] = reading
    quality = counts.edit_similarity.hits / max(1, counts.edit_similarity.total)
    return SampleScore(sample.id, repeat, "ok", part, category, quality, values)


def text_metrics(rows: Sequence[SampleScore], **dimensions: str) -> list[Metric]:
    """The four text metrics of ``rows``."""
    scores = [TextScore(**{name: Count(*row.values[name]) for name in IDENTITIES}) for row in good(rows)]
    values = aggregate(scores)
    return [metric(name, IDENTITIES[name], values[name], rows, of=dimensions) for name in IDENTITIES]


def sample_of(row: dict[str, Any], origin: str) -> Sample:
    """Read one row; a missing, unknown or wrongly typed field is an :class:`InputError` that names ``origin``."""
    kinds: dict[str, type] = {"id": str, "prompt": str, "language": str, "targets": list, "seed": int}
    if set(row) != set(kinds):
        raise InputError(f"{origin}: a prompt has the fields {sorted(kinds)}, but this one has {sorted(row)}.")
    for name, kind in kinds.items():
        if not isinstance(row[name], kind):
            raise InputError(f"{origin}: the field {name!r} must be a {kind.__name__}, not {row[name]!r}.")
    if not row["id"] or not all(char.isalnum() or char in "-_." for char in row["id"]) or row["id"].startswith("."):
        raise InputError(f"{origin}: the id {row['id']!r} names a file; use letters, digits, '-', '_' and '.' only.")
    targets = tuple(row["targets"])
    if not targets or not all(isinstance(target, str) and target.strip() for target in targets):
        raise InputError(f"{origin}: targets must be a list of texts that are not empty, not {row['targets']!r}.")
    return Sample(row["id"], row["prompt"], targets, {"language": row["language"], "seed": row["seed"]})


def unique(samples: Sequence[Sample], origin: str) -> tuple[Sample, ...]:
    """``samples`` when there is at least one and no two share an id (also on disks that ignore case)."""
    if not samples:
        raise InputError(f"{origin} holds no prompt; every line is one JSON object.")
    seen: set[str] = set()
    for sample in samples:
        if sample.id.casefold() in seen:
            raise InputError(f"{origin} holds the id {sample.id!r} twice; every picture needs its own.")
        seen.add(sample.id.casefold())
    return tuple(samples)
