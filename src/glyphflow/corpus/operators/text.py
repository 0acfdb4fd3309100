"""What is written in a picture: the operator text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from glyphflow.core.hardware import require
from glyphflow.corpus.operator import Operator, Row

if TYPE_CHECKING:
    from glyphflow.perception.ocr import OCRLine

VERSION = 2
WHOLE = 0.9  # of the picture: what takes this much, and was not detected or is a character or two, is no line but a planet
MASK_SIDE = 512  # px: the area under the boxes is counted on a grid of this size

Corners = Sequence[tuple[float, float]]


def text(confidence: float = 0.7, batch: int = 16) -> Operator:
    """Lines read by OCR (exact ones for renders, which know what was written).

    ``count`` of lines, ``characters`` without spaces, ``split`` (english, chinese, other, non-text) and ``language`` (ISO
    639-1, null without letters) of all lines together, ``density``: share of the picture's area under the lines' boxes,
    ``smallest_px`` and ``smallest_share``: height of the smallest line's characters in px of the upright picture and as a share
    of its short side (null without text), ``lines`` as JSON [{"text": ..., "box": [[x, y] x 4], "confidence": c}, ...] in
    reading order. Lines below ``confidence`` are not kept: photographs without text give single characters there.
    """
    from glyphflow.perception import language
    from glyphflow.perception.ocr import OCR

    reader = OCR()

    def compute(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
        photos = [row for row in rows if row.is_photo]
        read = dict(zip([row.number for row in photos], reader.read([row.prepared for row in photos]), strict=True))
        found: list[Mapping[str, Any]] = []
        for row in rows:
            if row.is_photo:
                height, width = row.prepared.shape[:2]
                lines = [
                    (line.text, line.box, round(line.confidence, 4))
                    for line in read[row.number]
                    if line.confidence >= confidence and not is_picture(line, height, width)
                ]
                found.append(columns(lines, height, width))
            else:
                drawn = row.prepared
                exact = [(line.text, line.quad or _corners(line.box), 1.0) for line in drawn.lines]
                sizes = [line.size_px for line in drawn.lines]
                found.append(columns(exact, drawn.image.shape[0], drawn.image.shape[1], sizes))
        return found

    return Operator(
        "text",
        {
            "stage": "text",
            "version": VERSION,
            "confidence": confidence,
            "ocr": reader.identity,
            "language": language.identity(),
        },
        {
            "count": "int32",
            "characters": "int32",
            "split": "string",
            "language": "string",
            "density": "float32",
            "smallest_px": "float32",
            "smallest_share": "float32",
            "lines": "string",
        },
        compute,
        batch,
        prepare=lambda row: row.image if row.is_photo else row.rendered,
        parallel="one",
    )


def columns(
    lines: Sequence[tuple[str, Corners, float]], height: int, width: int, sizes: Sequence[float] | None = None
) -> dict[str, Any]:
    """The columns for ``lines`` (text, four corners in px, confidence) in a picture of this size.

    ``sizes`` are the characters' heights where they are known; else they are taken from the corners.
    """
    from glyphflow.perception.language import language, split_of

    everything = "\n".join(line for line, _, _ in lines)
    sizes = sizes if sizes is not None else [character_height(line, corners) for line, corners, _ in lines]
    return {
        "count": len(lines),
        "characters": sum(not char.isspace() for char in everything),
        "split": split_of(everything),
        "language": language(everything) or None,
        "density": density([corners for _, corners, _ in lines], height, width),
        "smallest_px": min(sizes, default=None),
        "smallest_share": min(sizes) / min(height, width) if sizes else None,
        "lines": json.dumps(
            [
                {"text": line, "box": [[round(x, 1), round(y, 1)] for x, y in corners], "confidence": sure}
                for line, corners, sure in lines
            ],
            ensure_ascii=False,
        ),
    }


def character_height(line: str, corners: Corners) -> float:
    """Height of the characters of a line with these corners (clockwise from the text's top left): across its direction.

    A line taller than wide is vertical, or a single character.
    """
    a, b, c, d = corners
    along, across = (math.dist(a, b) + math.dist(d, c)) / 2, (math.dist(a, d) + math.dist(b, c)) / 2
    return across if len(line.strip()) < 2 else min(along, across)


def is_picture(line: OCRLine, height: int, width: int) -> bool:
    """Whether what was read as ``line`` is the picture itself: a moon is an O."""
    return (line.whole or len(line.text) <= 2) and density([line.box], height, width) > WHOLE


def density(boxes: Sequence[Corners], height: int, width: int) -> float:
    """Share of a picture's area that lies under ``boxes``; where they overlap it counts once."""
    if not boxes:
        return 0.0
    cv2 = require("cv2", "corpus")
    scale = min(1.0, MASK_SIDE / max(height, width))
    mask = np.zeros((max(1, round(height * scale)), max(1, round(width * scale))), np.uint8)
    for corners in boxes:
        quad = np.array(corners) * scale
        # OpenCV fills every pixel that the outline touches: drawn half a pixel smaller all around, the area is right.
        sides = np.roll(quad, -1, axis=0) - quad
        steps = 0.5 * sides / np.maximum(1.0, np.linalg.norm(sides, axis=1, keepdims=True))
        inner = quad + steps - np.roll(steps, 1, axis=0) - 0.5  # pixel centres have whole numbers
        cv2.fillPoly(mask, [np.round(inner * 16).astype(np.int32)], 1, shift=4)
    return float(mask.mean())


def _corners(box: tuple[int, int, int, int]) -> Corners:
    left, top, right, bottom = box
    return ((left, top), (right, top), (right, bottom), (left, bottom))
