"""The ruler: prompts, pictures made from them, judges that look at the pictures, and what they add up to.

Making pictures (:func:`sample`) and scoring them (:func:`score`) are separate and meet in a folder with a manifest, so that
anybody's pictures can be scored.
"""

from glyphflow.evaluate.judge import Case, Judge, OCRJudge, Verdict
from glyphflow.evaluate.prompts import Benchmark, Prompt, load_benchmark
from glyphflow.evaluate.score import read_scores, score

__all__ = ["Benchmark", "Case", "Judge", "OCRJudge", "Prompt", "Verdict", "load_benchmark", "read_scores", "score"]
