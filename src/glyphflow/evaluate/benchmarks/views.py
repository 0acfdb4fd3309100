"""Novel views of scanned objects: the front view goes in, a prompt asks for another, and the true view is known.

PSNR, SSIM and (with files for it) LPIPS, one value a picture, averaged; a picture of another size is brought to that of the
true view first (bicubic), because editing models choose their own. Which objects, views, size and background the published
table used is not known: compare models on your own set with each other, not with that table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glyphflow.evaluate.benchmark import Benchmark, Metric, Sample, SampleScore, mean
from glyphflow.evaluate.benchmarks.shared import failed_row, field, file_id, good, metric, read_lines, user_file
from glyphflow.evaluate.benchmarks.texts import unique
from glyphflow.evaluate.case import Verdict
from glyphflow.evaluate.question import Question

LPIPS_AGGREGATION = "mean over pictures of lpips/0.1 alex (RGB in [0, 1])"


class NovelViews(Benchmark):
    """``data`` holds views.jsonl (id, object, prompt, input, target) and the pictures it names."""

    name = "gso"
    version = "1"
    licence = "data of the user"
    kinds = frozenset({"pixels"})
    task = "edit"

    def __init__(self, data: Path | None = None) -> None:
        path = user_file(data, self.name, "views.jsonl")
        samples, self._targets = [], dict[str, Path]()
        for number, row in enumerate(read_lines(path), 1):
            origin = f"{path} line {number}"
            name, prompt = file_id(field(row, "id", str, origin)), field(row, "prompt", str, origin)
            source = user_file(data, self.name, field(row, "input", str, origin))
            self._targets[name] = user_file(data, self.name, field(row, "target", str, origin))
            samples.append(Sample(name, prompt, (), {"object": field(row, "object", str, origin)}, (source,)))
        self._samples = unique(samples, str(path))

    def samples(self) -> tuple[Sample, ...]:
        return self._samples

    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        target = self._targets[sample.id]
        return [Question(path.stem, "pixels", (path, target), {"measure": "similarity", "resize": True}) for path in pictures]

    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        return [similarity_row(sample, repeat, verdict, str(sample.tags["object"])) for repeat, verdict in enumerate(verdicts)]

    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        return similarity_metrics(rows)


def similarity_row(sample: Sample, repeat: int, verdict: Verdict, category: str, part: str = "") -> SampleScore:
    """PSNR, SSIM and LPIPS (where measured) of one picture."""
    if not verdict.ok:
        return failed_row(sample, repeat, verdict, category, part)
    values = dict(verdict.value)
    return SampleScore(sample.id, repeat, "ok", part, category, max(0.0, float(values["ssim"])), values)


def similarity_metrics(rows: Sequence[SampleScore], **dimensions: str) -> list[Metric]:
    """The means over pictures."""
    from glyphflow.evaluate.metrics.pixels import PSNR_IDENTITY, SSIM_IDENTITY  # PyTorch: a list of benchmarks can do without

    known = good(rows)
    found = [
        metric("psnr", f"mean over pictures of {PSNR_IDENTITY}", mean(r.values["psnr"] for r in known), rows, of=dimensions),
        metric("ssim", f"mean over pictures of {SSIM_IDENTITY}", mean(r.values["ssim"] for r in known), rows, of=dimensions),
    ]
    if any("lpips" in row.values for row in known):
        value = mean(row.values.get("lpips") for row in known)
        found.append(metric("lpips", LPIPS_AGGREGATION, value, rows, higher_is_better=False, of=dimensions))
    return found
