"""Which colours a drawn picture has: that of its ground and that of its ink, each by the nearest name of the palette.

The ground is the median colour of a frame around the picture. Ink is what is far from the ground: at least 60 % of the distance
that one pixel in a thousand reaches, so that neither soft edges nor a noisy ground count, while a single character, half a per
cent of a picture, still does. Its colour is the median of those pixels. Distances are those of CIELAB (1976).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glyphflow.render.palette import PALETTE

FRAME = 0.04  # of the sides
FAR = 99.9  # percentile of the distances from the ground, and
SHARE = 0.6  # of that distance from which a pixel is ink

COLOURS_IDENTITY = f"colours/1 (frame {FRAME:.0%}, ink {SHARE:.0%} of percentile {FAR}, {len(PALETTE)} names, CIELAB)"

# sRGB to XYZ (D65, 2 degrees); each row's sum is the white, so that greys have no colour.
_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
_EDGE = 6 / 29


def lab(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """CIELAB (..., 3) of sRGB (..., 3) from 0 to 255: L from 0 to 100, a and b around 0."""
    encoded = np.asarray(rgb, np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    shares = linear @ _XYZ.T / _XYZ.sum(axis=1)
    x, y, z = np.moveaxis(np.where(shares > _EDGE**3, np.cbrt(shares), shares / (3 * _EDGE**2) + 4 / 29), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def nearest_name(rgb: NDArray[Any]) -> str:
    """The English name of the palette's colour that is nearest to sRGB (3,)."""
    return PALETTE[int(np.linalg.norm(_palette() - lab(rgb), axis=1).argmin())].en


def name_colours(image: NDArray[np.uint8]) -> dict[str, Any]:
    """Names of ``ground`` and ``ink`` of a (H, W, 3) picture, and beside them what they are the names of, as [R, G, B].

    A picture of one colour has that of its ground as its ink.
    """
    height, width = image.shape[:2]
    frame = max(1, round(FRAME * height)), max(1, round(FRAME * width))
    inside = np.zeros((height, width), bool)
    inside[frame[0] : height - frame[0], frame[1] : width - frame[1]] = True
    ground = np.median(image[~inside], axis=0)
    distance = np.linalg.norm(lab(image) - lab(ground), axis=2)
    ink = np.median(image[distance >= SHARE * np.percentile(distance, FAR)], axis=0)
    return {
        "ground": nearest_name(ground),
        "ink": nearest_name(ink),
        "ground_rgb": [round(float(value)) for value in ground],
        "ink_rgb": [round(float(value)) for value in ink],
    }


@cache
def _palette() -> NDArray[np.float64]:
    return lab(np.array([colour.rgb for colour in PALETTE]))
