"""The nano family's own prompts at 256 px: held-out texts, and emoji in stated colours.

``nano-text``: 100 English and 100 Chinese texts and 60 of two lines, with the formulas of :mod:`.texts`. ``nano-subjects``: 100
emoji that the family is taught, in a stated colour on a stated ground; right is a picture that is nearer to a clean drawing of
its emoji than to those of a hundred others. Of both, the colours are measured where the prompt states them. The prompts are
written by benchmarks/evaluate/nano_prompts.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glyphflow.evaluate.benchmark import Benchmark, Metric, Sample, SampleScore, ratio
from glyphflow.evaluate.benchmarks.shared import by, failed_row, field, file_id, good, metric, read_lines, shipped
from glyphflow.evaluate.benchmarks.texts import TextBenchmark, sample_of, text_row, unique
from glyphflow.evaluate.case import Verdict
from glyphflow.evaluate.question import Question

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from glyphflow.render import RenderSpec

OTHERS = 100
"""Emoji that a picture's own is told apart from."""
COLOURS = ("foreground", "background")
NO_COLOURS = {"ground": "", "ink": ""}


class NanoText(TextBenchmark):
    """Rows of :class:`TextBenchmark`, and in them foreground and background where the prompt states both colours."""

    name = "nano-text"
    drawn = True
    kinds = frozenset({"ocr", "pixels"})

    def __init__(self, path: Path | None = None) -> None:
        path = path or shipped("nano256", "text.jsonl")
        samples = []
        for number, row in enumerate(read_lines(path), 1):
            colours = {name: row.pop(name) for name in COLOURS if name in row}
            sample = sample_of(row, f"{path} prompt {number}")
            samples.append(Sample(sample.id, sample.prompt, sample.targets, {**sample.tags, **colours}))
        self._samples = unique(samples, str(path))

    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        found = []
        for path in pictures:
            found.append(Question(path.stem, "ocr", (path,)))
            found += [colours_of(path)] if "foreground" in sample.tags else []
        return found

    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        language = str(sample.tags["language"])
        return [self.main_row(sample, verdicts[0])] + [colours_row(sample, verdict, language) for verdict in verdicts[1:]]

    def main_row(self, sample: Sample, verdict: Verdict) -> SampleScore:
        """The row of what was read."""
        return text_row(sample, 0, verdict, str(sample.tags["language"]), "text")

    def main_metrics(self, rows: Sequence[SampleScore]) -> list[Metric]:
        """The metrics of what was read."""
        return super().aggregate(rows)

    def worst(self, sample: Sample, question: Question) -> Any:
        return NO_COLOURS if question.kind == "pixels" else super().worst(sample, question)

    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        return self.main_metrics([row for row in rows if row.part == "text"]) + colour_metrics(rows)

    def perfect(self, sample: Sample, width: int, height: int) -> NDArray[np.uint8]:
        """The texts one below the other on a plain ground, in the stated colours, in a typeface and of a size by the seed."""
        from glyphflow.evaluate.drawing import library
        from glyphflow.render import RenderSpec, render

        spec = RenderSpec("word", sample.seed(), width, height, {"text": "\n".join(sample.targets), "background": "plain"})
        return as_stated(spec, sample) if "foreground" in sample.tags else render(spec, library()).image


class NanoSubjects(Benchmark):
    """One emoji a prompt."""

    name = "nano-subjects"
    version = "1"
    licence = "Apache-2.0"
    kinds = frozenset({"subject", "pixels"})
    drawn = True

    def __init__(self, path: Path | None = None) -> None:
        path, samples = path or shipped("nano256", "subjects.jsonl"), []
        for number, row in enumerate(read_lines(path), 1):
            origin = f"{path} prompt {number}"
            tags = {name: field(row, name, str, origin) for name in ("language", "emoji", *COLOURS)}
            tags["seed"] = field(row, "seed", int, origin)
            samples.append(Sample(file_id(field(row, "id", str, origin)), field(row, "prompt", str, origin), (), tags))
        self._samples = unique(samples, str(path))
        self._others = shipped("nano256", "others.txt").read_text(encoding="utf-8").split()

    def samples(self) -> tuple[Sample, ...]:
        return self._samples

    def choice(self, emoji: str) -> list[str]:
        """The code points that ``emoji`` is told apart from, and its own, in an order that says nothing."""
        return sorted([emoji, *[other for other in self._others if other != emoji][:OTHERS]])

    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        request = {"emoji": self.choice(str(sample.tags["emoji"])), **{name: sample.tags[name] for name in COLOURS}}
        return [
            question
            for path in pictures
            for question in (Question(f"{path.stem}/subject", "subject", (path,), request), colours_of(path))
        ]

    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        subject, colours = verdicts
        return [self.main_row(sample, subject), colours_row(sample, colours, str(sample.tags["language"]))]

    def main_row(self, sample: Sample, verdict: Verdict) -> SampleScore:
        """The row of the emoji that the picture is nearest to."""
        category = str(sample.tags["language"])
        if not verdict.ok:
            return failed_row(sample, 0, verdict, category, "subject")
        hit = int(verdict.value["emoji"] == sample.tags["emoji"])
        values = {"subject": [hit, 1], "nearest": verdict.value["emoji"]}
        return SampleScore(sample.id, 0, "ok", "subject", category, float(hit), values)

    def worst(self, sample: Sample, question: Question) -> Any:
        return NO_COLOURS if question.kind == "pixels" else super().worst(sample, question)

    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        return self.main_metrics([row for row in rows if row.part == "subject"]) + colour_metrics(rows)

    def main_metrics(self, rows: Sequence[SampleScore]) -> list[Metric]:
        """The shares of pictures, over all and by the prompt's language, that are nearest to their emoji."""
        found = []
        for language, members in {"all": list(rows), **by(rows, "category")}.items():
            value = ratio(row.values["subject"] for row in good(members))
            how = f"pictures nearer to their emoji than to {OTHERS} others, over pictures; prompts in that language"
            found.append(metric("subject_right", how, value, members, of={"language": language}))
        return found

    def perfect(self, sample: Sample, width: int, height: int) -> NDArray[np.uint8]:
        """The emoji in another layout than those that it is compared with: any size and place, a plain or shaded ground."""
        from glyphflow.render import RenderSpec

        return as_stated(RenderSpec("emoji", sample.seed(), width, height, {"emoji": [sample.tags["emoji"]]}), sample)


def as_stated(spec: RenderSpec, sample: Sample) -> NDArray[np.uint8]:
    """``spec`` drawn in the colours that the prompt states."""
    from glyphflow.evaluate.drawing import in_colours

    return in_colours(spec, *(str(sample.tags[name]) for name in COLOURS)).image


def colours_of(path: Path) -> Question:
    """Which colours the picture has."""
    return Question(f"{path.stem}/colours", "pixels", (path,), {"measure": "colours"})


def colours_row(sample: Sample, verdict: Verdict, category: str) -> SampleScore:
    """Whether ground and ink have the stated colours, and both, as [hits, total]."""
    if not verdict.ok:
        return failed_row(sample, 0, verdict, category, "colours")
    ink, ground = (
        int(verdict.value[seen] == sample.tags[stated]) for seen, stated in zip(("ink", "ground"), COLOURS, strict=True)
    )
    values = {"colours": [ink * ground, 1], "ground": [ground, 1], "ink": [ink, 1]}
    return SampleScore(sample.id, 0, "ok", "colours", category, (ink + ground) / 2, values)


def colour_metrics(rows: Sequence[SampleScore]) -> list[Metric]:
    """The shares of pictures, among those whose prompt states two colours, that have both, the ground's, and the ink's."""
    from glyphflow.evaluate.metrics.colours import COLOURS_IDENTITY

    measured = [row for row in rows if row.part == "colours"]
    how = f"share of the pictures whose prompt states both; {COLOURS_IDENTITY}"
    return [
        metric(f"{name}_right", how, ratio(row.values[name] for row in good(measured)), measured)
        for name in ("colours", "ground", "ink")
    ]
