"""Whether two pictures whose hashes agree are one picture: what a hash of 64 bits cannot see is looked at.

Pictures with one ground and other words (memes, banners, certificates, dialogs in thirty languages) have one hash, and so have
an edited picture and its original. Both are brought to SIDE x SIDE grey cells and compared place by place. A copy that was
compressed, scaled, brightened or sharpened differs by little everywhere, least where it is flat; other words differ by what a
stroke is darker than its ground. A copy that lost an edge is first laid over the part that it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from glyphflow.core.hardware import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 128  # cells
SMALL = 256  # px of a short side: a smaller copy has lost what the larger one shows, so both are blurred
SAME = 1.05  # of the measure of _difference, for pictures with the same frame
MOVED = 4.5  # for those that had to be laid over one another, which leaves edges some part of a cell apart
_STILL = 0.35  # cells: pictures whose frames lie closer have the same
_NOISE, _EDGES = 5.0, 0.15  # levels of compression, and the part of a step between two cells that scaling may shift
_CHANGED = 0.0006  # of all cells: fewer are no letter
_FARTHEST = 0.13  # of a side that a cut may shift a picture
_GAINS = (0.6, 1.7)


@dataclass(frozen=True)
class _Frame:
    """Where one picture's cells lie in the other: cell * scale + shift, in x and in y."""

    scale_x: float
    shift_x: float
    scale_y: float
    shift_y: float

    @property
    def moved(self) -> bool:
        ends = [self.shift_x, self.shift_y]
        ends += [(self.scale_x - 1) * SIDE + self.shift_x, (self.scale_y - 1) * SIDE + self.shift_y]
        return max(map(abs, ends)) > _STILL

    @property
    def plausible(self) -> bool:
        scales = (self.scale_x, self.scale_y)
        return max(scales) < 1.18 and min(scales) > 0.85 and max(abs(self.shift_x), abs(self.shift_y)) < _FARTHEST * SIDE


def cells_of(gray: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(H, W) grey as SIDE x SIDE cells."""
    from glyphflow.corpus.operators import kernels

    if min(gray.shape) < SIDE:
        gray = np.repeat(np.repeat(gray, -(-SIDE // gray.shape[0]), axis=0), -(-SIDE // gray.shape[1]), axis=1)
    cells = np.empty((SIDE, SIDE), np.float32)
    kernels.shrink(np.ascontiguousarray(gray), cells)
    return cells


def alike(one: NDArray[np.float32], other: NDArray[np.float32], short_side: int = SMALL) -> bool:
    """Whether two pictures, as cells, are one: with the same frame, or one as a part of the other.

    ``short_side`` is the smaller one's, in pixels.
    """
    if short_side < SMALL:
        cv2 = require("cv2", "corpus")
        one, other = cv2.GaussianBlur(one, (0, 0), 1.0), cv2.GaussianBlur(other, (0, 0), 1.0)
    still = _Frame(1.0, 0.0, 1.0, 0.0)
    if _difference(one, other, still) <= SAME:
        return True
    frame = _laid_over(one, other, still)
    if not frame.plausible or not frame.moved:
        return False
    return _difference(one, other, frame) <= MOVED or _difference(other, one, _laid_over(other, one, still)) <= MOVED


def _difference(one: NDArray[np.float32], other: NDArray[np.float32], frame: _Frame) -> float:
    """How much the cells differ beyond what copying explains, at the places where they differ most; 9 for other pictures."""
    cv2 = require("cv2", "corpus")
    warped, inside = _warped(other, frame) if frame.moved else (other, np.ones(one.shape, bool))
    if inside.mean() < 0.7:
        return 9.0
    gain, offset = _tone(warped[inside][::3], one[inside][::3])
    if not _GAINS[0] < gain < _GAINS[1]:
        return 9.0
    # Both ways, since what was brightened is clipped at white.
    there, back = np.clip(warped * gain + offset, 0, 255), np.clip((one - offset) / gain, 0, 255)
    gaps = np.minimum(np.abs(one - there), np.abs(warped - back) * gain)
    steps = np.maximum(_steps(one), _steps(there))
    ratio = cv2.blur(gaps, (3, 3)) / (_NOISE + _EDGES * cv2.blur(steps, (3, 3)))
    sure = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=1 if not frame.moved else 0) > 0
    place = -max(4, int(_CHANGED * SIDE * SIDE))
    return float(np.partition(ratio[sure], place)[place])


def _tone(source: NDArray[np.float32], target: NDArray[np.float32]) -> tuple[float, float]:
    """Gain and offset from ``source`` to ``target``; what differs most counts least, as it may be what was changed."""
    weights = np.ones_like(source)
    gain, offset = 1.0, 0.0
    for _ in range(4):
        total = float(weights.sum())
        mean_s, mean_t = float((weights * source).sum()) / total, float((weights * target).sum()) / total
        spread = float((weights * (source - mean_s) ** 2).sum())
        gain = float((weights * (source - mean_s) * (target - mean_t)).sum()) / spread if spread > total else 1.0
        offset = mean_t - gain * mean_s
        gaps = np.abs(target - gain * source - offset)
        weights = np.minimum(1, (np.median(gaps) + 1) / np.maximum(gaps, 1e-3)).astype(np.float32)
    return gain, offset


def _steps(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """The step from cell to cell."""
    down, right = np.gradient(cells)
    steps: NDArray[np.float32] = np.hypot(down, right)
    return steps


def _warped(cells: NDArray[np.float32], frame: _Frame) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    cv2 = require("cv2", "corpus")
    matrix = np.array([[frame.scale_x, 0, frame.shift_x], [0, frame.scale_y, frame.shift_y]], np.float32)
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(cells, matrix, cells.shape[::-1], flags=how, borderMode=cv2.BORDER_REPLICATE)
    side = cells.shape[0]
    place = np.arange(side)
    x, y = frame.scale_x * place + frame.shift_x, frame.scale_y * place + frame.shift_y
    inside = ((y >= -0.5) & (y <= side - 0.5))[:, None] & ((x >= -0.5) & (x <= side - 0.5))[None]
    return warped, inside


def _laid_over(one: NDArray[np.float32], other: NDArray[np.float32], frame: _Frame) -> _Frame:
    """The frame in which ``other`` lies over ``one`` best, from coarse to fine; one that does not move coarsely is done."""
    cv2 = require("cv2", "corpus")
    found = np.array([frame.scale_x, frame.shift_x, frame.scale_y, frame.shift_y])
    for part, blur in ((4, 1.6), (2, 1.5), (1, 1.5)):
        size = (SIDE // part, SIDE // part)
        left, right = (
            cv2.GaussianBlur(cv2.resize(each, size, interpolation=cv2.INTER_AREA), (0, 0), blur) for each in (one, other)
        )
        # Cells have whole numbers at their middles, whatever their size.
        found[[1, 3]] = (found[[1, 3]] + (found[[0, 2]] - 1) * (part - 1) / 2) / part
        found = _stepped(left, right, found)
        found[[1, 3]] = found[[1, 3]] * part - (found[[0, 2]] - 1) * (part - 1) / 2
        now = _Frame(*(float(each) for each in found))
        if not now.plausible or not now.moved:
            break
    return now


def _stepped(left: NDArray[np.float32], right: NDArray[np.float32], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """``found`` after the Gauss-Newton steps of Lucas and Kanade, at one size of cells."""
    side = left.shape[0]
    y, x = np.mgrid[:side, :side].astype(np.float32)
    for _ in range(10):
        warped, inside = _warped(right, _Frame(*(float(each) for each in found)))
        down, across = np.gradient(warped)
        gaps = left - warped
        limit = max(8.0, 4 * float(np.median(np.abs(gaps[inside])))) if inside.any() else 8.0
        weights = np.where(inside, np.minimum(1, limit / np.maximum(np.abs(gaps), 1e-3)), 0).ravel()
        # The slope of what is seen, over the scale, is that of the picture beneath.
        across, down = across / found[0], down / found[2]
        slopes = np.stack([across * x, across, down * y, down, warped, np.ones_like(warped)], -1).reshape(-1, 6)
        weighted = slopes * weights[:, None].astype(np.float32)
        step = np.linalg.lstsq(weighted.T @ slopes, weighted.T @ gaps.ravel(), rcond=1e-9)[0][:4]
        found = found + np.clip(step, [-0.03, -4, -0.03, -4], [0.03, 4, 0.03, 4])
        if np.abs(step[[1, 3]]).max() < 0.01 or np.abs(found[[1, 3]]).max() > side:
            break
    return found
