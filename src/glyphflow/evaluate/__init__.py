"""The ruler: benchmarks, pictures made for them, judges that look at the pictures, and what they add up to.

Making pictures (:func:`glyphflow.evaluate.sample.sample`) and scoring them (:func:`score`) are separate and meet in a folder
with a manifest, so that anybody's pictures can be scored.
"""

from glyphflow.evaluate.benchmark import Benchmark, Metric, MetricIdentity, Sample, SampleScore
from glyphflow.evaluate.benchmarks import load_benchmark
from glyphflow.evaluate.case import Case, Judge, Verdict
from glyphflow.evaluate.judges import ChatJudge, Endpoint, FunctionJudge, OCRJudge, Panel, Replay
from glyphflow.evaluate.score import find_metric, read_scores, score

__all__ = [
    "Benchmark",
    "Case",
    "ChatJudge",
    "Endpoint",
    "FunctionJudge",
    "Judge",
    "Metric",
    "MetricIdentity",
    "OCRJudge",
    "Panel",
    "Replay",
    "Sample",
    "SampleScore",
    "Verdict",
    "find_metric",
    "load_benchmark",
    "read_scores",
    "score",
]
