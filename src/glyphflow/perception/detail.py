"""What only the full resolution shows: sharp and blurred parts, compression blocks, grain, clipped light.

Measured on tiles, because a good photograph may be blurred nearly everywhere (a portrait before a soft ground): what counts is
whether something in it is sharp.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glyphflow.core.hardware import require
from glyphflow.perception.packaged import check_picture

VERSION = 1
TILE = 128  # px
SHARP = 30.0  # Laplacian variance from which a tile counts as sharp (see Detail)
LIT = (4, 251)  # levels from which on nothing can be told apart any more: black, white
BLOCK = 8  # px, of JPEG


@dataclass(frozen=True)
class Detail:
    """Measures of the picture as it is, nothing scaled.

    sharpness: variance of the Laplacian of the sharpest tenth of the 128 px tiles (0 nothing there; 30 soft but usable; above
    300 crisp). sharp_share: share of tiles above 30. blockiness: how much larger steps across a grid of 8 px are than steps
    elsewhere, whatever the grid's origin (below 0.1 none; a photograph as JPEG of quality 80 about 0.4, of 40 above 1, of 10
    above 4; a drawing whose own parts lie on such a grid has it, too). noise: standard deviation of the grain in grey levels,
    in the quietest fifth of the tiles. dark_clipped, bright_clipped: share of pixels at black and at white.
    """

    sharpness: float
    sharp_share: float
    blockiness: float
    noise: float
    dark_clipped: float
    bright_clipped: float


def measure_detail(image: NDArray[np.uint8]) -> Detail:
    """Measure (H, W, 3) uint8 RGB."""
    check_picture(image)
    cv2 = require("cv2", "corpus")
    gray = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    tiles = np.array([float(tile.var(dtype=np.float64)) for tile in _tiles(cv2.Laplacian(gray, cv2.CV_16S))])
    counts = cv2.calcHist([gray], [0], None, [256], [0, 256]).ravel()
    return Detail(
        sharpness=float(np.quantile(tiles, 0.9)),
        sharp_share=float((tiles > SHARP).mean()),
        blockiness=max(0.0, _blockiness(gray)),
        noise=_noise(cv2.filter2D(gray, cv2.CV_16S, _GRAIN)),
        dark_clipped=float(counts[: LIT[0] + 1].sum() / gray.size),
        bright_clipped=float(counts[LIT[1] :].sum() / gray.size),
    )


# The difference of two Laplacians: blind to edges and slopes, not to grain (Immerkaer 1996).
_GRAIN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


def _noise(grain: NDArray[np.int16]) -> float:
    means = [float(np.abs(tile).mean()) for tile in _tiles(grain)]
    return float(np.quantile(means, 0.2)) * math.sqrt(math.pi / 2) / 6  # the filter multiplies the deviation by 6


def _tiles(values_HW: NDArray[np.int16]) -> list[NDArray[np.int16]]:
    """Tiles of about 128 px, spread evenly so that none is a sliver."""
    rows, columns = (np.linspace(0, size, max(1, round(size / TILE)) + 1).astype(int) for size in values_HW.shape)
    return [
        values_HW[top:bottom, left:right]
        for top, bottom in itertools.pairwise(rows)
        for left, right in itertools.pairwise(columns)
    ]


def _blockiness(gray: NDArray[np.uint8]) -> float:
    """How much the steps across one grid of 8 px stand out, the mean of both directions; cut pictures have another origin."""
    found = []
    for values in (gray, gray.T):
        if values.shape[1] < 3 * BLOCK:
            continue
        signed = values.astype(np.int16)
        steps = np.abs(np.diff(signed, axis=1))
        # A step larger than its neighbours is a border; an edge of the picture is as steep one pixel further on.
        extra = np.maximum(0, 2 * steps[:, 1:-1] - steps[:, :-2] - steps[:, 2:]).mean(axis=0)
        whole = len(extra) // BLOCK * BLOCK
        phases = extra[:whole].reshape(-1, BLOCK).mean(axis=0)
        best = int(phases.argmax())
        others = float(np.delete(phases, best).mean())
        found.append((float(phases[best]) - others) / (others + 1.0))  # + 1 level: a flat drawing has no steps to compare with
    return float(np.mean(found)) if found else 0.0
