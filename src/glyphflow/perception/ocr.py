"""Reading text in pictures: one wrapper for the packaged PP-OCRv6 small models of rapidocr (English and Chinese).

The models ship inside the rapidocr package and are named by path, so nothing is ever downloaded. What this wrapper adds to
the engine: RGB input, small pictures enlarged before they are read, a reading order that follows rows, a recogniser-only second
look at pictures in which no line was found, and an identity that changes when anything that can change a reading changes.
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.hardware import require
from glyphflow.core.hashing import sha256_file

MODELS = {
    "Det": "PP-OCRv6_det_small.onnx",
    "Rec": "PP-OCRv6_rec_small.onnx",
    "Cls": "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
}
MIN_CONFIDENCE = 0.5  # the engine's own default: lines below it are dropped
FAST_SIDE = 512  # px; see OCR for the measurement behind it


@dataclass(frozen=True)
class OCRLine:
    """One line of text as it was read.

    ``box`` holds four (x, y) corners in pixels of the picture, clockwise from the top left of the text; ``confidence`` is the
    recogniser's mean, in [0, 1]; ``whole`` marks a reading of the whole picture as one line, without detection.
    """

    text: str
    box: tuple[tuple[float, float], ...]
    confidence: float
    whole: bool = False


class OCR:
    """Reads English and Chinese text in pictures.

    ``OCR()`` reads pages: the engine's defaults (detection at 736 px on the short side at least, orientation classifier on).
    ``OCR(fast=True)`` is for generated pictures, whose text stands upright: no orientation classifier, and pictures whose
    short side is below 512 px are enlarged by a whole factor (bicubic) until they reach it, so that the recogniser sees smooth
    strokes. Measured on 128 px pictures of perfectly typeset words, 520 in each language at em sizes from 13 to 58 px: all
    are read but one "Ill" (as "III"). At 10 px 97 % are; enlarging to 256 px only is twice as fast and loses one Chinese
    picture in ten there. A narrow letter alone (I, l, 1) is beyond the engine, which takes it for a rotated line.
    ``threads`` for the inference engine: None takes every core.
    """

    def __init__(self, *, fast: bool = False, threads: int | None = None) -> None:
        rapidocr = require("rapidocr", "corpus")
        require("onnxruntime", "corpus")
        if threads is not None and threads < 1:
            raise InputError(f"OCR cannot run on {threads} threads; give a number from 1 to {os.cpu_count()}.")
        directory = Path(str(rapidocr.__file__)).parent / "models"
        parameters: dict[str, Any] = {
            "Global.log_level": "critical",
            "Global.text_score": MIN_CONFIDENCE,
            "Global.use_cls": not fast,
            # -1 lets the engine take what the process may use; a number above the cores is ignored by rapidocr
            "EngineConfig.onnxruntime.intra_op_num_threads": -1 if threads is None else min(threads, os.cpu_count() or 1),
        }
        if fast:
            parameters["Det.limit_side_len"] = FAST_SIDE
        for section, name in MODELS.items():
            if not (directory / name).is_file():
                raise MissingError(
                    f"rapidocr {metadata.version('rapidocr')} does not carry {name}; run: pip install rapidocr==3.10.0"
                )
            parameters[f"{section}.model_path"] = str(directory / name)
        self._fast = fast
        self._files = {section: directory / name for section, name in MODELS.items() if not (fast and section == "Cls")}
        self._engine = rapidocr.RapidOCR(params=parameters)
        self._identity = ""

    @property
    def identity(self) -> str:
        """Names the package version, the model files by hash, and the mode: equal identities read equally."""
        if not self._identity:
            files = "+".join(f"{section.lower()}-{sha256_file(path)[:8]}" for section, path in self._files.items())
            mode = f"fast{FAST_SIDE}" if self._fast else "page"
            self._identity = f"rapidocr-{metadata.version('rapidocr')}+{files}/{mode}"
        return self._identity

    def read(self, images: Sequence[NDArray[np.uint8]]) -> list[list[OCRLine]]:
        """The lines of each picture ((H, W, 3) uint8 RGB) in reading order; an empty list where nothing is written."""
        return [self._read(image) for image in images]

    def _read(self, image: NDArray[np.uint8]) -> list[OCRLine]:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise InputError(f"OCR reads (H, W, 3) uint8 pictures, not {image.dtype} of shape {tuple(image.shape)}.")
        bgr = np.ascontiguousarray(image[..., ::-1])
        factor = math.ceil(FAST_SIDE / min(image.shape[:2])) if self._fast else 1
        if factor > 1:
            cv2 = require("cv2", "corpus")
            bgr = cv2.resize(bgr, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        found = self._engine(bgr, use_det=True, use_cls=not self._fast, use_rec=True)
        if not found.txts:
            return self._read_whole(bgr, image.shape[1], image.shape[0])
        lines = [
            OCRLine(text, tuple((float(x) / factor, float(y) / factor) for x, y in box), float(confidence))
            for text, box, confidence in zip(found.txts, found.boxes, found.scores, strict=True)
        ]
        return reading_order(lines)

    def _read_whole(self, bgr: NDArray[np.uint8], width: int, height: int) -> list[OCRLine]:
        """The whole picture as one line: a single large glyph often escapes the detector."""
        found = self._engine(bgr, use_det=False, use_cls=False, use_rec=True)
        if not found.txts or not found.txts[0].strip() or found.scores[0] < MIN_CONFIDENCE:
            return []
        box = ((0.0, 0.0), (float(width), 0.0), (float(width), float(height)), (0.0, float(height)))
        return [OCRLine(found.txts[0], box, float(found.scores[0]), whole=True)]


def reading_order(lines: Sequence[OCRLine]) -> list[OCRLine]:
    """``lines`` row by row from the top, each row from the left.

    Two boxes share a row when they overlap by more than half of the lower one's height. (The engine's own order compares upper
    edges with a fixed 10 px, which swaps a tall and a low word that stand on one baseline.)
    """

    def span(line: OCRLine) -> tuple[float, float]:
        ys = [y for _, y in line.box]
        return min(ys), max(ys)

    rows: list[list[OCRLine]] = []
    for line in sorted(lines, key=lambda line: sum(span(line))):
        top, bottom = span(line)
        if rows:
            first_top, first_bottom = span(rows[-1][0])
            overlap = min(bottom, first_bottom) - max(top, first_top)
            if overlap > 0.5 * min(bottom - top, first_bottom - first_top):
                rows[-1].append(line)
                continue
        rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: min(x for x, _ in line.box))]


def normalise_text(text: str, *, casefold: bool = False) -> str:
    """``text`` as NFKC (full-width forms become plain ones), every run of white space one space, none at the ends.

    ``casefold`` also removes the difference of upper and lower case.
    """
    plain = unicodedata.normalize("NFKC", text)
    if casefold:
        plain = plain.casefold()
    return " ".join(plain.split())
