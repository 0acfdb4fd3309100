"""Buckets: the nine aspect ratios of the report at one area, and how a picture is brought to one of them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

Size = tuple[int, int]
"""(width, height) in pixels."""

RATIOS: tuple[Size, ...] = ((1, 1), (2, 3), (3, 2), (3, 4), (4, 3), (9, 16), (16, 9), (1, 3), (3, 1))
"""width : height, as the report lists them for its first stage."""

MULTIPLE = 16
"""Sides are multiples of this: 8 by the VAE, 2 by the MMDiT's patches."""


def bucket_sizes(area: int) -> tuple[Size, ...]:
    """The (width, height) of each ratio whose pixels come nearest to ``area``, sides multiples of 16."""
    return tuple(dict.fromkeys(_size(area, wide / high) for wide, high in RATIOS))


def bucket_of(size: Size, buckets: tuple[Size, ...]) -> Size:
    """The bucket whose aspect ratio is nearest to that of ``size`` (on a logarithmic scale, so that 2:1 and 1:2 are alike)."""
    ratio = math.log(size[0] / size[1])
    return min(buckets, key=lambda bucket: abs(math.log(bucket[0] / bucket[1]) - ratio))


def scale_of(size: Size, bucket: Size) -> float:
    """What a picture's sides are multiplied by so that it covers ``bucket``."""
    return max(bucket[0] / size[0], bucket[1] / size[1])


def cut_share(size: Size, bucket: Size) -> float:
    """Share of a picture of ``size`` that :func:`fit` cuts away."""
    scale = scale_of(size, bucket)
    return max(0.0, 1.0 - bucket[0] * bucket[1] / (size[0] * scale * size[1] * scale))


def fit(image: npt.NDArray[np.uint8], size: Size) -> npt.NDArray[np.uint8]:
    """Resize (H, W, 3) ``image`` until it covers ``size`` = (width, height), then cut the centre out.

    A picture that has the size already is returned as it is, byte for byte.
    """
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    scale = max(size[0] / width, size[1] / height)
    covered = (max(size[0], round(width * scale)), max(size[1], round(height * scale)))
    resized = np.asarray(Image.fromarray(image).resize(covered, Image.Resampling.LANCZOS))
    left, top = (covered[0] - size[0]) // 2, (covered[1] - size[1]) // 2
    return np.ascontiguousarray(resized[top : top + size[1], left : left + size[0]])


def _size(area: int, ratio: float) -> Size:
    """Among the sides around the ideal ones, those of the truest ratio and area together; of equals, of that very area."""
    ideal_width, ideal_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
    sides = [
        (max(MULTIPLE, width * MULTIPLE), max(MULTIPLE, height * MULTIPLE))
        for width in _around(ideal_width)
        for height in _around(ideal_height)
    ]

    def distance(size: Size) -> float:
        return abs(math.log(size[0] / size[1] / ratio)) + abs(math.log(size[0] * size[1] / area))

    best = min(sides, key=distance)
    exact = (size for size in sides if size[0] * size[1] == area and math.isclose(distance(size), distance(best)))
    return next(exact, best)


def _around(side: float) -> tuple[int, int]:
    return math.floor(side / MULTIPLE), math.ceil(side / MULTIPLE)
