"""The packaged OCR engine as a judge."""

from __future__ import annotations

from collections.abc import Sequence

from glyphflow.evaluate.case import Case, Line, Verdict
from glyphflow.perception import OCR, OCRLine


class OCRJudge:
    """Reads the first picture of every case (kind "ocr"); all cases of a call are read together."""

    kinds = frozenset({"ocr"})
    batch = 16  # pictures that are read together, and that a killed run may have to read again

    def __init__(self, ocr: OCR) -> None:
        self._ocr = ocr

    @property
    def identity(self) -> str:
        return f"ocr/2 {self._ocr.identity}"

    def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
        readings = self._ocr.read([case.images[0] for case in cases])
        return [Verdict("ok", [_line(line) for line in lines], {}, self.identity) for lines in readings]


def _line(line: OCRLine) -> Line:
    return {
        "text": line.text,
        "box": [[round(x, 1), round(y, 1)] for x, y in line.box],
        "confidence": round(line.confidence, 4),
        "whole": line.whole,
    }
