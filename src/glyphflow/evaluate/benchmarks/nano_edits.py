"""The nano family's own edits: 150 pairs at 256 px, of which the true result is known.

All that an instruction does not name is equal in source and target, bit by bit, so what a model has touched without being told
to is measured in the pixels outside of the pair's mask. Of edits of a text a judge reads whether the new text is there and the
old one gone. The pictures are drawn from the specifications that ship, which benchmarks/evaluate/nano_prompts.py wrote.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glyphflow.evaluate.benchmark import Benchmark, Metric, Sample, SampleScore, mean, ratio
from glyphflow.evaluate.benchmarks.shared import by, failed_row, field, file_id, good, lines_of, metric, read_lines, shipped
from glyphflow.evaluate.benchmarks.texts import unique
from glyphflow.evaluate.benchmarks.views import similarity_row
from glyphflow.evaluate.case import Verdict
from glyphflow.evaluate.drawing import folder_of, keep_pair
from glyphflow.evaluate.folder import load_picture
from glyphflow.evaluate.metrics.joined import words_found
from glyphflow.evaluate.metrics.normalise import NORMALISATION, words
from glyphflow.evaluate.question import Question, resize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from glyphflow.render import RenderSpec

KEPT_DB = 28.0
"""PSNR outside of the mask from which the rest of a picture counts as untouched."""
TEXTS = {
    "text_read": f"new text read in full ({NORMALISATION})",
    "old_text_gone": f"old text no longer read ({NORMALISATION})",
}


class NanoEdits(Benchmark):
    """One edit a sample; its instruction is English and Chinese in turn."""

    name = "nano-edits"
    version = "1"
    licence = "Apache-2.0"
    kinds = frozenset({"ocr", "pixels"})
    task = "edit"
    drawn = True

    def __init__(self) -> None:
        path = shipped("nano256", "edits.jsonl")
        rows, samples = read_lines(path), []
        self._folder = folder_of(self.name, rows)
        for number, row in enumerate(rows, 1):
            origin = f"{path} row {number}"
            name, spec = file_id(field(row, "id", str, origin)), spec_of(row, origin)
            tags = {key: field(row, key, str, origin) for key in ("category", "old", "new")}
            tags |= {"seed": field(row, "seed", int, origin), "spec": spec.to_json()}
            files = self.files(name)
            keep_pair(spec, *files)
            targets = (tags["new"],) if tags["new"] else ()
            samples.append(Sample(name, field(row, "prompt", str, origin), targets, tags, files[:1]))
        self._samples = unique(samples, str(path))

    def samples(self) -> tuple[Sample, ...]:
        return self._samples

    def files(self, sample: str) -> tuple[Path, Path, Path]:
        """Source, mask (white where source and target may differ) and target of a sample."""
        return (self._folder / f"{sample}.png", self._folder / f"{sample}-mask.png", self._folder / f"{sample}-target.png")

    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        source, mask, target = self.files(sample.id)
        found = []
        for path in pictures:
            compared = {"measure": "similarity", "resize": True}
            found.append(Question(f"{path.stem}/outside", "pixels", (path, source, mask), {"measure": "outside"}))
            found.append(Question(f"{path.stem}/target", "pixels", (path, target), compared))
            found += [Question(f"{path.stem}/read", "ocr", (path,))] if sample.targets else []
        return found

    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        outside, target, *read = verdicts
        category = str(sample.tags["category"])
        rows = [_outside_row(sample, outside, category), similarity_row(sample, 0, target, category, "target")]
        return rows + [_text_row(sample, verdict, category) for verdict in read]

    def worst(self, sample: Sample, question: Question) -> Any:
        """The old text is still there."""
        return [{"text": sample.tags["old"]}] if question.kind == "ocr" else super().worst(sample, question)

    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        parts = by(rows, "part")
        found = []
        for of, members in _groups(parts.get("text", [])):
            for name, how in TEXTS.items():
                value = ratio(row.values[name] for row in good(members))
                found.append(metric(name, f"{how}, over edits of a text", value, members, of=of))
        for of, members in _groups(parts.get("outside", [])):
            decibels = [float(row.values["psnr"]) for row in good(members)]
            how = "mean over pictures of the PSNR of result and source outside the mask, dB"
            found.append(metric("untouched_psnr", how, mean(decibels), members, of=of))
            how = f"pictures with {KEPT_DB:g} dB or more outside the mask, over pictures"
            found.append(metric("untouched", how, mean(float(value >= KEPT_DB) for value in decibels), members, of=of))
        for of, members in _groups(parts.get("target", [])):
            how = "mean over pictures of the PSNR of result and true target, dB"
            found.append(metric("target_psnr", how, mean(row.values["psnr"] for row in good(members)), members, of=of))
        return found

    def perfect(self, sample: Sample, width: int, height: int) -> NDArray[np.uint8]:
        """The true target."""
        return resize(load_picture(self.files(sample.id)[2]), width, height)


def spec_of(row: dict[str, Any], origin: str) -> RenderSpec:
    """The specification of a row."""
    from glyphflow.render import RenderSpec

    return RenderSpec.from_json(json.dumps(field(row, "spec", dict, origin)))


def text_gone(old: str, new: str, reading: str) -> bool:
    """Whether ``old`` is no longer read. What the ``new`` text shares with it is the new text's, where that is read in full."""
    wanted, before, read = words(new), words(old), words(reading)
    found = words_found(wanted, read)
    left = found.rest if found.hits == len(wanted) else read
    return words_found(before, left).hits < len(before)


def _text_row(sample: Sample, verdict: Verdict, category: str) -> SampleScore:
    if not verdict.ok:
        return failed_row(sample, 0, verdict, category, "text")
    reading = lines_of(verdict)
    [new], read = sample.targets, " ".join(reading)
    wanted = words(new)
    hit = int(words_found(wanted, words(read)).hits == len(wanted))
    gone = int(text_gone(str(sample.tags["old"]), new, read))
    values = {"text_read": [hit, 1], "old_text_gone": [gone, 1], "reading": reading}
    return SampleScore(sample.id, 0, "ok", "text", category, (hit + gone) / 2, values)


def _outside_row(sample: Sample, verdict: Verdict, category: str) -> SampleScore:
    if not verdict.ok:
        return failed_row(sample, 0, verdict, category, "outside")
    quality = min(1.0, float(verdict.value["psnr"]) / KEPT_DB)
    return SampleScore(sample.id, 0, "ok", "outside", category, quality, dict(verdict.value))


def _groups(rows: Sequence[SampleScore]) -> list[tuple[dict[str, str], list[SampleScore]]]:
    """All ``rows``, and those of each category, with the dimension that says so."""
    return [({"category": name}, members) for name, members in {"all": list(rows), **by(rows, "category")}.items()]
