"""Pixelated parts: censored faces and plates, screenshots of tiny pictures blown up.

A pixelated part is a grid of square cells of one colour each: grey levels step at every n-th column and row, not between.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from glyphflow.core.hardware import require
from glyphflow.perception.packaged import check_picture

VERSION = 1
SMALLEST, LARGEST = 5, 40  # px of a cell
LINES = 4  # grid lines side by side that must all be there
REACH = 8  # px: rows (or columns) that are averaged, so that one shape does not make a grid
STEP = 3.0  # grey levels: a grid line is at least this strong
QUIET = 0.3  # of the lines' mean strength: between them the steps have no more on average (nor twice that of the weakest's)
RIVAL = 0.6  # of the lines' strength: no grid that begins elsewhere has more
LEVELS = 6  # different grey levels (of 16) in a part; a code, a keyboard or a table has fewer
BLOCK = 8  # px, of JPEG
JPEG_STEP = 16.0  # for cells of 8 px from the picture's corner, which is where JPEG has its own blocks


@dataclass(frozen=True)
class Mosaic:
    """share: of the picture's area that is pixelated. cell: side of the most frequent cell in px, 0 where there is none."""

    share: float
    cell: int


def find_mosaic(image: NDArray[np.uint8]) -> Mosaic:
    """Look for pixelated parts in (H, W, 3) uint8 RGB; at least 4 x 4 cells of 5 to 40 px are seen.

    Not seen: cells that were scaled afterwards by a factor that blurs their borders, blurred censoring, black bars. A heavily
    compressed JPEG in itself is not pixelated.
    """
    check_picture(image)
    cv2 = require("cv2", "corpus")
    gray = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    height, width = gray.shape
    if min(height, width) < SMALLEST * LINES:
        return Mosaic(0.0, 0)
    signed = gray.astype(np.float32)
    across = cv2.blur(np.abs(np.diff(signed, axis=1, append=signed[:, -1:])), (1, REACH))[::REACH]  # (H / 8, W)
    down = cv2.blur(np.abs(np.diff(signed, axis=0, append=signed[-1:])), (REACH, 1))[:, ::REACH].T  # (W / 8, H)
    shape = (-(-height // REACH), -(-width // REACH))
    covered, areas = np.zeros(shape, bool), {0: 0}
    for cell in range(SMALLEST, min(LARGEST, min(height, width) // LINES) + 1):
        wide = _grid(cv2, across, cell)
        tall = _grid(cv2, down, cell) if wide is not None else None
        if wide is None or tall is None:
            continue
        both = _cells(wide, shape) & _cells(tall, shape[::-1]).T
        both &= _many_levels(cv2, gray, both, cell)
        areas[cell] = int(both.sum())
        covered |= both
    # Lines at every 10th column are also lines at every 20th: the smallest cell that explains most of it is the cell.
    return Mosaic(float(covered.mean()), min(cell for cell, area in areas.items() if 2 * area >= max(areas.values())))


def _grid(cv2: ModuleType, steps: NDArray[np.float32], cell: int) -> NDArray[np.bool_] | None:
    """Where (rows, N) step sizes are those of LINES + 1 lines ``cell`` apart with quiet between, marked over all their cells.

    One line may be missing, where neighbours happen to be alike.
    """
    count = steps.shape[1] - LINES * cell
    if count <= 0:
        return None
    if 2 * cell > REACH:  # over two cells, of which one may be like its neighbour
        steps = cv2.blur(steps, (1, max(1, round(2 * cell / REACH))))
    lowest = total = steps[:, :count]
    weakest = np.full_like(lowest, np.inf)  # but one
    for number in range(1, LINES + 1):
        line = steps[:, number * cell : number * cell + count]
        total = total + line
        weakest = np.minimum(weakest, np.maximum(lowest, line))
        lowest = np.minimum(lowest, line)
    sums = np.pad(np.cumsum(steps, axis=1, dtype=np.float64), ((0, 0), (1, 0)))
    between = (sums[:, LINES * cell + 1 :][:, :count] - sums[:, :count] - total) / (LINES * (cell - 1))
    found = (weakest > STEP) & (between < QUIET * total / (LINES + 1)) & (between < 2 * QUIET * weakest)
    # The strongest of the grids that begin 2 to cell - 2 px later: where the true cells are smaller, one is as strong.
    later = np.zeros_like(total)
    later[:, :-2] = cv2.dilate(total, np.ones((1, cell - 3), np.uint8), anchor=(0, 0))[:, 2:]
    found &= later < RIVAL * total
    if cell % BLOCK == 0:
        on_jpeg = (np.arange(count) + 1) % BLOCK == 0
        found &= ~on_jpeg[None] | (weakest > JPEG_STEP)
    if not found.any():
        return None
    covered = np.zeros(steps.shape, np.int32)
    covered[:, :count] += found
    covered[:, LINES * cell :] -= found[:, : steps.shape[1] - LINES * cell]
    marked: NDArray[np.bool_] = np.cumsum(covered, axis=1) > 0
    return marked


def _cells(marked: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(rows, N) brought to one value for every 8 px."""
    whole = np.zeros((marked.shape[0], shape[1] * REACH), bool)
    whole[:, : marked.shape[1]] = marked
    few: NDArray[np.bool_] = whole.reshape(marked.shape[0], shape[1], REACH).mean(2) >= 0.5
    return few[: shape[0]]


def _many_levels(cv2: ModuleType, gray: NDArray[np.uint8], both: NDArray[np.bool_], cell: int) -> NDArray[np.bool_]:
    """``both`` without the connected parts that are too small or show too few grey levels for a picture."""
    count, labels = cv2.connectedComponents(both.astype(np.uint8))
    kept = np.zeros_like(both)
    for number in range(1, count):
        part = labels == number
        if part.sum() * REACH * REACH < (LINES * cell) ** 2 / 2:
            continue
        rows, columns = np.nonzero(part)
        levels = gray[
            np.minimum(rows * REACH + REACH // 2, gray.shape[0] - 1),
            np.minimum(columns * REACH + REACH // 2, gray.shape[1] - 1),
        ]
        shares = np.bincount(levels >> 4, minlength=16) / len(levels)
        if (shares > 0.02).sum() >= LEVELS:
            kept |= part
    return kept
