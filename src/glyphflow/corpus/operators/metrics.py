"""Cheap numbers about a picture, all from one small decode, all comparable across picture sizes."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHORT_SIDE = 256  # px: blur and texture depend on the scale, so larger pictures are first brought to this one
HASH_SIDE = 32  # px: the perceptual hash looks at this many pixels a side and keeps 8x8 frequencies
CROP_CELLS = 50  # a side: each is 2 % of the picture
CROP_SIZE = 46  # cells: the windows are 92 % wide and high, as what is left of a picture whose edges were cut off
CROPS = (CROP_CELLS - CROP_SIZE + 1) ** 2  # windows of a picture, from the upper left one row by row


def pixel_metrics(image: NDArray[np.uint8]) -> dict[str, Any]:
    """Measure (H, W, 3) uint8 RGB.

    clarity: variance of the Laplacian (0 flat or blurred, 50 soft, > 300 crisp). luma: mean brightness 0..1. saturation: mean
    HSV saturation 0..1. entropy: of the brightness histogram, 0..8 bits. texture: mean gradient energy (|dx| + |dy| of Sobel,
    per pixel, 0..255 scale; noise is high). phash: 64-bit perceptual hash. crop_phashes: those of CROPS windows, as
    little-endian bytes (see :func:`crop_hashes`). Saturation is measured as the picture comes, the rest at SHORT_SIDE.
    """
    from glyphflow.corpus.operators import kernels

    gray = np.empty(image.shape[:2], np.uint8)
    saturation = kernels.gray_and_saturation(image, gray)
    gray = kernels.fixed_scale(gray, SHORT_SIDE)
    histogram = np.zeros(256, np.int64)
    total, squares, gradient = kernels.structure(gray, histogram)
    share = histogram / gray.size
    filled = share[histogram > 0]
    return {
        "clarity": squares / gray.size - (total / gray.size) ** 2,
        "luma": float(share @ np.arange(256)) / 255.0,
        "saturation": saturation,
        "entropy": float(-(filled * np.log2(filled)).sum()) + 0.0,
        # A Sobel kernel sums eight weighted neighbours over two pixels: /8 gives grey levels per pixel.
        "texture": gradient / (8.0 * gray.size),
        "phash": perceptual_hash(gray),
        "crop_phashes": crop_hashes(gray).tobytes(),
    }


def perceptual_hash(gray: NDArray[np.uint8]) -> int:
    """64 bits about (H, W): which of the 8x8 lowest frequencies lie above their median (bit 0, the mean's, is always 0)."""
    return int(_hashes(gray, HASH_SIDE, HASH_SIDE)[0])


def crop_hashes(gray: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The perceptual hashes of the windows that are left when 8 % of the width and height of (H, W) are cut off, CROPS of them.

    A cut copy has nearly the hash of the window that it was, however it was cut; no two windows are closer than 2 % of a side.
    """
    return _hashes(gray, CROP_CELLS, CROP_SIZE)


def _hashes(gray: NDArray[np.uint8], cells: int, size: int) -> NDArray[np.uint64]:
    from glyphflow.corpus.operators import kernels

    if min(gray.shape) < cells:  # too small to be averaged: each pixel is repeated instead
        gray = np.repeat(np.repeat(gray, -(-cells // gray.shape[0]), axis=0), -(-cells // gray.shape[1]), axis=1)
    small = np.empty((cells, cells), np.float32)
    kernels.shrink(gray, small)
    hashes = np.empty((cells - size + 1) ** 2, np.uint64)
    kernels.window_hashes(small, size, _waves(size), hashes)
    return hashes


@functools.cache
def _waves(size: int) -> NDArray[np.float32]:
    """(8, size): the lowest frequencies of the cosine transform (type II, orthonormal but for the mean)."""
    frequency, place = np.arange(8)[:, None], np.arange(size)[None, :]
    return np.cos(np.pi * frequency * (place + 0.5) / size).astype(np.float32)
