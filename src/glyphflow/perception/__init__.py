"""Models that look at pictures, one wrapper each; all run offline from files that ship inside packages."""

from glyphflow.perception.ocr import OCR, OCRLine, normalise_text

__all__ = ["OCR", "OCRLine", "normalise_text"]
