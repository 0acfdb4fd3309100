"""Whole paragraphs: shaped once, cut into lines or columns by their advances, drawn as one blob, boxed in one sweep.

Nothing here runs once per glyph in Python, so that a dense page costs little more than its raster.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from glyphflow.render.canvas import Canvas
from glyphflow.render.fonts import Text
from glyphflow.render.layout import CJK, NOT_FIRST, NOT_LAST
from glyphflow.render.palette import RGB
from glyphflow.render.spec import TextLine

Line = tuple[int, int]
"""First character of a line and the one behind its last, without the space at the break."""

_SMALL = 8.0  # pixels of an em below which lines are too close for whole pixels
_SPACE, _WIDE, _CLOSING, _OPENING = 1, 2, 4, 8


@dataclass(frozen=True)
class Block:
    """Where lines go, in pixels: the box (x0, y0, x1, y1), the number of columns and the gap between them.

    A vertical block has one column; its lines run down, the first at the right edge. ``leading`` is the distance of lines
    in em.
    """

    box: tuple[float, float, float, float]
    leading: float
    columns: int = 1
    gap: float = 0.0
    vertical: bool = False

    def reach(self) -> float:
        """Greatest length of a line in pixels."""
        x0, y0, x1, y1 = self.box
        return y1 - y0 if self.vertical else (x1 - x0 - self.gap * (self.columns - 1)) / self.columns

    def rows(self, size: float, depth: float) -> int:
        """How many lines of em size ``size`` each column holds; ``depth`` is a line's own height in em."""
        x0, y0, x1, y1 = self.box
        room = (x1 - x0 if self.vertical else y1 - y0) / size - depth
        return int(room / self.leading + 1e-6) + 1 if room >= 0 else 0


@lru_cache(maxsize=4)  # what does not fit is flowed at its least size once more, to be cut
def flow(text: Text, reach: float) -> list[Line] | None:
    """The lines of ``text`` at most ``reach`` em long, or None when a single piece is longer than that."""
    starts, ends, lengths = _breaks(text)
    ahead, lines, start, piece = text.ahead, [], 0, 0
    while piece < len(starts):
        last = bisect_right(lengths, float(ahead[start]) + reach + 1e-9, piece) - 1
        if last < piece:
            return None
        lines.append((start, ends[last]))
        start, piece = starts[last], last + 1
    return lines


def fit(text: Text, block: Block, sizes: tuple[float, float]) -> tuple[list[Line], float]:
    """(lines, em size in pixels) of the largest size within ``sizes`` at which all of ``text`` fits into ``block``.

    When even the least size is too large, whole sentences are left out at the end; when not one fits, it gets smaller.
    """
    low, high = sizes
    steps: list[float] = [*_whole_sizes(low, high)] or [high, low]
    # The number of lines grows as the size does, so the first size that fits is found by halving.
    first, behind, found = 0, len(steps), None
    while first < behind:
        middle = (first + behind) // 2
        lines = _fitting(text, block, steps[middle])
        if lines is None:
            first = middle + 1
        else:
            behind, found = middle, (lines, steps[middle])
    return found or _cut(text, block, low)


@cache
def _whole_sizes(low: float, high: float) -> list[int]:
    """Sizes in whole pixels, largest first, further apart when larger: pages then share the rasters of their glyphs."""
    return [size for size in range(int(high), int(low - 1e-9), -1) if size % (1 if size < 32 else 2 if size < 64 else 4) == 0]


def _fitting(text: Text, block: Block, size: float) -> list[Line] | None:
    lines = flow(text, block.reach() / size)
    return lines if lines is not None and len(lines) <= block.rows(size, _depth(text)) * block.columns else None


def _cut(text: Text, block: Block, size: float) -> tuple[list[Line], float]:
    sentences = [match.end() for match in re.finditer(r"[.!?。！？]+[”’」』\"']?", text.text)]
    for _ in range(40):
        lines = flow(text, block.reach() / size)
        shown = (lines or [])[: block.rows(size, _depth(text)) * block.columns]
        whole = [end for end in sentences if shown and end <= shown[-1][1]]
        if whole:
            return [(start, min(end, whole[-1])) for start, end in shown if start < whole[-1]], size
        if shown and lines is not None and len(shown) == len(lines):
            return lines, size
        size *= 0.9
    return shown, size


def _depth(text: Text) -> float:
    return 1.0 if text.vertical else text.font.ascent + text.font.descent


def draw_block(canvas: Canvas, text: Text, lines: Sequence[Line], block: Block, size: float, rgb: RGB) -> list[TextLine]:
    """Draw ``lines`` of ``text`` into ``block``, in its middle across the lines, and return them with their ink boxes."""
    font, (x0, y0, x1, y1) = text.font, block.box
    rows = -(-len(lines) // block.columns)
    # Lines begin at whole pixels: Chinese glyphs then all have the same raster, wherever they stand.
    pitch = int(block.leading * size) if size >= _SMALL else block.leading * size
    extent = (rows - 1) * pitch + _depth(text) * size
    number = np.arange(len(lines))
    if block.vertical:
        # HarfBuzz sets a vertical line around its pen: half an em to either side.
        across = round(x1 - max(0.0, (x1 - x0 - extent) / 2)) - size / 2 - number * pitch
        begin = np.full(len(lines), round(y0))
    else:
        top = y0 + max(0.0, (y1 - y0 - extent) / 2)
        across = round(top + font.ascent * size) + number % rows * pitch
        begin = np.round(x0 + number // rows * (block.reach() + block.gap))

    starts, ends = (np.array(part) for part in zip(*lines, strict=True))
    row_of = np.searchsorted(starts, text.clusters, "right") - 1
    shown = text.clusters < ends[row_of]  # not the spaces at the breaks, nor what was left out
    row_of, along, offsets = row_of[shown], text.along[shown], text.offsets[shown] * size
    along = (along - text.ahead[starts][row_of]) * size + begin[row_of]
    if size >= _SMALL:  # a digit before it would give each Chinese glyph another raster
        full = np.diff(text.ahead)[text.clusters[shown]] > 0.99
        along[full] = np.round(along[full])
    x, y = (across[row_of], along) if block.vertical else (along, across[row_of])
    x, y = x + offsets[:, 0], y + offsets[:, 1]
    first = np.searchsorted(row_of, number).tolist()
    canvas.glyphs(font, text.glyphs[shown], x, y, first, size, rgb)

    boxes = text.bounds[shown] * size
    boxes[:, 0::2] += x[:, None]
    boxes[:, 1::2] += y[:, None]
    low = np.floor(np.fmin.reduceat(boxes[:, :2], first) - canvas.PLACING).astype(int).tolist()
    high = np.ceil(np.fmax.reduceat(boxes[:, 2:], first) + canvas.PLACING).astype(int).tolist()
    return [
        TextLine(text.text[a:b], (left, above, right, below), font.name, round(size, 2), rgb, block.vertical)
        for (a, b), (left, above), (right, below) in zip(lines, low, high, strict=True)
    ]


@cache
def _classes() -> npt.NDArray[np.uint8]:
    """What each character of the basic plane means for line breaking."""
    table = np.zeros(65536, np.uint8)
    for code in range(65536):
        char = chr(code)
        table[code] = (
            _SPACE * char.isspace()
            + _WIDE * bool(CJK.match(char))
            + _CLOSING * (char in NOT_FIRST)
            + _OPENING * (char in NOT_LAST)
        )
    return table


@lru_cache(maxsize=16)
def _breaks(text: Text) -> tuple[list[int], list[int], list[float]]:
    """At every place where a line may end: the character after it, the end without the space, the pen at that end."""
    codes = np.frombuffer(text.text.encode("utf-32-le"), np.uint32)
    kinds = _classes()[np.minimum(codes, 65535)]
    before, after = kinds[:-1], kinds[1:]
    space = (before & _SPACE) > 0
    allowed = space | (((before | after) & _WIDE) > 0)
    allowed &= (after & (_SPACE | _CLOSING)) == 0
    allowed &= (before & _OPENING) == 0
    starts = np.append(np.flatnonzero(allowed) + 1, len(codes))
    # The last character that is no space, at or before each place.
    solid = np.maximum.accumulate(np.where(kinds & _SPACE, 0, np.arange(1, len(codes) + 1)))
    ends = solid[starts - 1]
    return starts.tolist(), ends.tolist(), text.ahead[ends].tolist()
