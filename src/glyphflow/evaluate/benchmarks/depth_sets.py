"""Zero-shot depth on five sets: KITTI, NYUv2, ScanNet, DIODE, ETH3D, in the user's copies.

AbsRel and delta1, each picture aligned by least squares in scale and shift, then averaged over pictures. Ranges, crops and
units are those that the published tables of diffusion-based depth were made with. Whether a model's map follows depth or its
inverse is not said by those tables: both alignments are measured and are different metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glyphflow.core.errors import InputError
from glyphflow.core.text import read_lines
from glyphflow.evaluate.benchmark import Benchmark, Metric, Sample, SampleScore, mean
from glyphflow.evaluate.benchmarks.shared import failed_row, file_id, good, metric, user_file
from glyphflow.evaluate.benchmarks.texts import unique
from glyphflow.evaluate.case import Verdict
from glyphflow.evaluate.question import Question

if TYPE_CHECKING:  # PyTorch, which a list of benchmarks need not wait for
    from glyphflow.evaluate.metrics.depth import Crop

PROMPT = "Predict the depth map of this picture: near is bright, far is dark."


@dataclass(frozen=True)
class Protocol:
    """How one set is scored: range in metres, window, unit of 16-bit maps, shape of bare float maps, side for the alignment."""

    low: float
    high: float | None
    crop: Crop = "none"
    unit: float = 1.0
    kitti: bool = False
    raw_shape: tuple[int, int] | None = None
    max_side: int | None = None
    masked: bool = False


SETS = {
    "kitti": Protocol(1e-5, 80.0, "eigen", 1 / 256, kitti=True),
    "nyu": Protocol(1e-3, 10.0, "nyu", 1 / 1000),
    "scannet": Protocol(1e-3, 10.0, "none", 1 / 1000),
    "diode": Protocol(0.6, 350.0, masked=True),
    "eth3d": Protocol(1e-5, None, raw_shape=(4032, 6048), max_side=1024),
}


class Depth(Benchmark):
    """One set; ``data`` holds list.txt, one line a picture: its file, the measured map's, and for DIODE the mask's.

    ``garg`` takes Garg's window for KITTI in place of Eigen's. Predictions lie in the folder of pictures under the sample's
    name: a picture (near is bright, or dark: the alignment finds the sign) or an array, .npy.
    """

    version = "1"
    licence = "data of the user"
    kinds = frozenset({"pixels"})
    task = "edit"

    def __init__(self, name: str, data: Path | None = None, *, garg: bool = False) -> None:
        self.name, self._set = f"depth-{name}", name
        protocol = asdict(SETS[name])
        if garg:
            if name != "kitti":
                raise InputError(f"Garg's window belongs to KITTI and has no meaning for {name}.")
            protocol["crop"], self.name = "garg", "depth-kitti-garg"
        self._request: dict[str, Any] = {"measure": "depth", **protocol}
        path = user_file(data, self.name, "list.txt")
        samples, self._files = [], dict[str, tuple[Path, ...]]()
        for number, line in enumerate(read_lines(path), 1):
            names = line.split()
            if not names or "None" in names[:2]:
                continue  # KITTI's list marks pictures without a measured map so
            wanted = 3 if protocol["masked"] else 2
            if len(names) < wanted:
                raise InputError(f"{path} line {number} names {len(names)} files; {self.name} needs {wanted} in a line.")
            key = file_id(names[0].rsplit(".", 1)[0])
            picture, *truth = (user_file(data, self.name, *name.split("/")) for name in names[:wanted])
            self._files[key] = tuple(truth)
            samples.append(Sample(key, PROMPT, (), {"set": name}, (picture,)))
        if not samples:
            raise InputError(f"{path} names no picture.")
        self._samples = unique(samples, str(path))

    def samples(self) -> tuple[Sample, ...]:
        return self._samples

    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        return [Question(path.stem, "pixels", (_prediction(path), *self._files[sample.id]), self._request) for path in pictures]

    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        rows = []
        for repeat, verdict in enumerate(verdicts):
            if not verdict.ok:
                rows.append(failed_row(sample, repeat, verdict))
                continue
            values = dict(verdict.value)
            best = max(values["delta1_depth"], values["delta1_disparity"])
            rows.append(SampleScore(sample.id, repeat, "ok", "", "", best, values))
        return rows

    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        known, found = good(rows), []
        for space in ("depth", "disparity"):
            how = f"mean over pictures, scale and shift by least squares in {space}, {self._request['crop']} window"
            tags = {"set": self._set, "alignment": space}
            rel = mean(row.values[f"abs_rel_{space}"] for row in known)
            found.append(metric("abs_rel", how, rel, rows, higher_is_better=False, of=tags))
            found.append(metric("delta1", how, mean(row.values[f"delta1_{space}"] for row in known), rows, of=tags))
        return found


def _prediction(path: Path) -> Path:
    array = path.with_suffix(".npy")
    return array if array.is_file() else path
