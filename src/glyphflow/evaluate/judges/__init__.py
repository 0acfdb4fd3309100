"""Judges: who looks at the pictures. Each has an identity that changes when anything that can change a verdict does."""

from glyphflow.evaluate.judges.chat import ChatJudge
from glyphflow.evaluate.judges.function import FunctionJudge
from glyphflow.evaluate.judges.ocr import OCRJudge
from glyphflow.evaluate.judges.panel import Panel
from glyphflow.evaluate.judges.replay import Replay
from glyphflow.perception.chat import Endpoint

__all__ = ["ChatJudge", "Endpoint", "FunctionJudge", "OCRJudge", "Panel", "Replay"]
