"""Reading text in pictures: one wrapper for the packaged PP-OCRv6 small models of rapidocr (English and Chinese).

The models ship inside the rapidocr package and are named by path, so nothing is ever downloaded. The models, and the steps
before and after them, are the package's own; the order of work is ours. One worker per core runs single-threaded inference:
first every picture is searched for lines, then the lines of all pictures are recognised, those of one width together. Each
line is given the very pixels that the package gives it, so the readings are the package's. What this wrapper adds: RGB input,
small pictures enlarged before they are read, a reading order that follows rows, a second look at pictures in which no letter,
digit or character was found, and an identity that changes when anything that can change a reading changes.
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.hardware import require
from glyphflow.core.hashing import sha256_file
from glyphflow.perception.strips import find_boxes, is_strip

MODELS = {
    "Det": "PP-OCRv6_det_small.onnx",
    "Rec": "PP-OCRv6_rec_small.onnx",
    "Cls": "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
}
MIN_CONFIDENCE = 0.5  # the engine's own default: lines below it are dropped
FAST_SIDE = 512  # px; see OCR for the measurement behind it
LINE_HEIGHT = 48  # px of a line before the recogniser, which is given
GROUP = 6  # lines of a picture that the package reads together
LINE_WIDTH = 320  # px; shorter lines are padded to it
INK = 48  # of 255, in any channel
LEAST = 6  # px: no letter stands in less
LONGEST_LINE = 100  # width of a line by its height; ink beyond it is a rule, not a glyph
BATCH_WIDTH = 6 * LINE_WIDTH  # px of lines in one call of the recogniser; more do not fit a core's cache

_Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class OCRLine:
    """One line of text as it was read.

    ``box`` holds four (x, y) corners in pixels of the picture, clockwise from the top left of the text; ``confidence`` is the
    recogniser's mean, in [0, 1]; ``whole`` marks a reading without detection: all ink of the picture taken as one line.
    """

    text: str
    box: tuple[tuple[float, float], ...]
    confidence: float
    whole: bool = False


@dataclass(frozen=True)
class _Found:
    """The lines of one picture before they are read: crops (h, w, 3) BGR with the width in pixels that each is padded to when
    it is 48 px high, and corners (4, 2) in the picture's pixels."""

    crops: list[_Picture]
    widths: list[int]
    boxes: list[NDArray[np.float32]]
    whole: bool


class OCR:
    """Reads English and Chinese text in pictures.

    ``OCR()`` reads pages: the engine's defaults (detection at 736 px on the short side at least, orientation classifier on).
    ``OCR(fast=True)`` is for generated pictures, whose text stands upright: no orientation classifier, and pictures whose
    short side is below 512 px are enlarged by a whole factor (bicubic) until they reach it, so that the recogniser sees smooth
    strokes. Measured on 128 px pictures of perfectly typeset words, 520 in each language at em sizes from 13 to 58 px: all
    are read but one "Ill" (as "III"). At 10 px 97 % are; enlarging to 256 px only is twice as fast and loses one Chinese
    picture in ten there. A narrow letter alone (I, l, 1) is beyond the engine, which takes it for a rotated line.
    ``threads`` is the number of workers: None takes every core that this process may use. The more pictures a call of
    :meth:`read` is given, the better they are used.
    """

    def __init__(self, *, fast: bool = False, threads: int | None = None) -> None:
        rapidocr = require("rapidocr", "corpus")
        require("onnxruntime", "corpus")
        if threads is not None and threads < 1:
            raise InputError(f"OCR cannot run on {threads} threads; give a number from 1 to {os.cpu_count()}.")
        directory = Path(str(rapidocr.__file__)).parent / "models"
        parameters: dict[str, Any] = {
            "Global.log_level": "critical",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.enable_cpu_mem_arena": True,  # reuses memory between calls: a fifth of the time
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
        self._recogniser = self._engine._load_rec_model()
        self._workers = threads or _cores()
        self._identity = ""

    @property
    def identity(self) -> str:
        """Names the package version, the model files by hash, and the mode: equal identities read equally."""
        if not self._identity:
            files = "+".join(f"{section.lower()}-{sha256_file(path)[:8]}" for section, path in self._files.items())
            mode = f"fast{FAST_SIDE}" if self._fast else "page"
            self._identity = f"rapidocr-{metadata.version('rapidocr')}+{files}/{mode}+ink2+strips1"
        return self._identity

    def read(self, images: Sequence[_Picture]) -> list[list[OCRLine]]:
        """The lines of each picture ((H, W, 3) uint8 RGB) in reading order; an empty list where nothing is written.

        What is read in a picture does not depend on the others. The crops of all lines are held until they are recognised: give
        large sets in pieces of a few dozen pictures.
        """
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
                raise InputError(f"OCR reads (H, W, 3) uint8 pictures, not {image.dtype} of shape {tuple(image.shape)}.")
        with ThreadPoolExecutor(self._workers) as pool:
            found = list(pool.map(self._detect, images))
            read = self._read_found(found, pool)
            blank = [index for index, lines in enumerate(read) if not any(map(str.isalnum, _text(lines)))]
            looks = list(pool.map(lambda index: _all_ink(images[index]), blank))
            for index, lines in zip(blank, self._read_found(looks, pool), strict=True):
                read[index] = lines or read[index]
        return [reading_order(lines) for lines in read]

    def _detect(self, image: _Picture) -> _Found:
        """Where the lines of ``image`` are, each cut out upright."""
        from rapidocr.main import RapidOCRError
        from rapidocr.utils.process_img import map_boxes_to_original

        if min(image.shape[:2]) < LEAST:
            return _Found([], [], [], whole=False)
        bgr = np.ascontiguousarray(image[..., ::-1])
        if is_strip(*bgr.shape[:2]):
            return self._detect_strip(bgr)
        factor = math.ceil(FAST_SIDE / min(image.shape[:2])) if self._fast else 1
        if factor > 1:
            bgr = _enlarge(bgr, factor)
        bounded, record = self._engine.preprocess_img(bgr)
        try:
            crops, detected = self._engine.detect_and_crop(bounded, record)
        except RapidOCRError:  # no line
            return _Found([], [], [], whole=False)
        if not self._fast:
            crops, _ = self._engine.cls_and_rotate(crops)
        boxes = map_boxes_to_original(detected.boxes, record, *bgr.shape[:2]) / factor
        return _Found(list(crops), _padded_widths(crops), list(boxes), whole=False)

    def _detect_strip(self, bgr: _Picture) -> _Found:
        """The same of a strip; its lines are cut out of the picture as it is."""
        from rapidocr.main import RapidOCRError
        from rapidocr.utils.process_img import map_boxes_to_original

        def find(tile: _Picture) -> NDArray[np.float32]:
            bounded, record = self._engine.preprocess_img(tile)
            try:
                _, detected = self._engine.detect_and_crop(bounded, record)
            except RapidOCRError:
                return np.empty((0, 4, 2), np.float32)
            return np.asarray(map_boxes_to_original(detected.boxes, record, *tile.shape[:2]), np.float32)

        boxes = [box for box in find_boxes(bgr, find) if np.ptp(box, axis=0).min() >= 2]
        if not boxes:
            return _Found([], [], [], whole=False)
        crops = [_bounded(crop) for crop in self._engine.crop_text_regions(bgr, np.array(boxes))]
        if not self._fast:
            crops, _ = self._engine.cls_and_rotate(crops)
        return _Found(list(crops), _padded_widths(crops), boxes, whole=False)

    def _read_found(self, found: Sequence[_Found], pool: ThreadPoolExecutor) -> list[list[OCRLine]]:
        """Recognise the lines of all pictures in batches of one width."""
        crops = [crop for picture in found for crop in picture.crops]
        widths = [width for picture in found for width in picture.widths]
        batches = _batches(widths)
        texts = pool.map(lambda batch: self._recognise([crops[index] for index in batch], widths[batch[0]]), batches)
        answers = [("", 0.0)] * len(crops)
        for batch, read in zip(batches, texts, strict=True):
            for index, answer in zip(batch, read, strict=True):
                answers[index] = answer
        result, start = [], 0
        for picture in found:
            pairs = zip(picture.boxes, answers[start : start + len(picture.crops)], strict=True)
            start += len(picture.crops)
            result.append([_line(text, box, sure, picture.whole) for box, (text, sure) in pairs if _counts(text, sure)])
        return result

    def _recognise(self, crops: Sequence[_Picture], width: int) -> list[tuple[str, float]]:
        """Text and confidence of crops that are padded to one width."""
        ratio = (width + 0.5) / LINE_HEIGHT  # the package takes the whole part of ratio x height
        lines = np.stack([self._recogniser.resize_norm_img(crop, ratio) for crop in crops]).astype(np.float32)
        texts, _ = self._recogniser.postprocess_op(self._recogniser.session(lines))
        return [(str(text), float(sure)) for text, sure in texts]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _enlarge(bgr: _Picture, factor: int) -> _Picture:
    cv2 = require("cv2", "corpus")
    larger: _Picture = cv2.resize(bgr, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    return larger


def _bounded(crop: _Picture) -> _Picture:
    """A line of a strip, squeezed where it is longer than the recogniser's memory should follow."""
    height, width = crop.shape[:2]
    if width <= LONGEST_LINE * height:
        return crop
    squeezed: _Picture = require("cv2", "corpus").resize(crop, (LONGEST_LINE * height, height))
    return squeezed


def _padded_widths(crops: Sequence[_Picture]) -> list[int]:
    """The width that the package pads each line of a picture to: of the widest in its group of six, sorted by shape.

    The recogniser sees the padding, and reads a space or a narrow letter differently with another one; therefore this is kept
    as it is, and only lines that happen to have one width share a batch.
    """
    ratios = [crop.shape[1] / crop.shape[0] for crop in crops]
    widths = [0] * len(crops)
    order = np.argsort(np.array(ratios))
    for start in range(0, len(crops), GROUP):
        group = order[start : start + GROUP]
        widest = max([LINE_WIDTH / LINE_HEIGHT, *(ratios[index] for index in group)])
        for index in group:
            widths[index] = int(LINE_HEIGHT * widest)
    return widths


def _batches(widths: Sequence[int]) -> list[list[int]]:
    """Indices of lines of equal width together, the widest first so that the last worker to finish has little left."""
    batches: list[list[int]] = []
    for index in sorted(range(len(widths)), key=lambda index: -widths[index]):
        width = widths[index]
        if batches and widths[batches[-1][0]] == width and (len(batches[-1]) + 1) * width <= BATCH_WIDTH:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _text(lines: Sequence[OCRLine]) -> str:
    return "".join(line.text for line in lines)


def _counts(text: str, confidence: float) -> bool:
    return bool(text.strip()) and confidence >= MIN_CONFIDENCE


def _line(text: str, box: NDArray[np.float32], confidence: float, whole: bool) -> OCRLine:
    return OCRLine(text, tuple((float(x), float(y)) for x, y in box), confidence, whole)


def _all_ink(image: _Picture) -> _Found:
    """All ink of ``image`` as one line: a single large glyph often escapes the detector.

    Ink is what differs from the border's median colour. A picture without ink has no line; one whose ink is everywhere (a
    photograph) is taken whole, unless it is a rule: its height would be taken for a letter's.
    """
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    ink = (np.abs(image.astype(np.int16) - np.median(border, axis=0)) > INK).any(axis=2)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not len(rows):
        return _Found([], [], [], whole=True)
    margin = max(2, round(0.1 * max(rows[-1] - rows[0], columns[-1] - columns[0])))
    top, bottom = max(0, rows[0] - margin), min(image.shape[0], rows[-1] + 1 + margin)
    left, right = max(0, columns[0] - margin), min(image.shape[1], columns[-1] + 1 + margin)
    if right - left > LONGEST_LINE * (bottom - top):
        return _Found([], [], [], whole=True)
    box = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)
    crop = np.ascontiguousarray(image[top:bottom, left:right, ::-1])
    return _Found([crop], _padded_widths([crop]), [box], whole=True)


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
