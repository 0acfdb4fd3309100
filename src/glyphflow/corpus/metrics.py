"""Cheap numbers about a picture, all from one small decode, all comparable across picture sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from glyphflow.core.hardware import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHORT_SIDE = 256  # px: blur and texture depend on the scale, so larger pictures are first brought to this one
HASH_SIDE = 32  # px: the perceptual hash looks at this many pixels a side and keeps 8x8 frequencies


def to_fixed_scale(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shrink (H, W, 3) so that its short side is SHORT_SIDE; smaller pictures stay (enlarging would read as blur)."""
    cv2 = require("cv2", "corpus")
    height, width = image.shape[:2]
    short = min(height, width)
    if short <= SHORT_SIDE:
        return image
    size = (max(1, round(width * SHORT_SIDE / short)), max(1, round(height * SHORT_SIDE / short)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def pixel_metrics(image: NDArray[np.uint8]) -> dict[str, float | int]:
    """Measure (H, W, 3) uint8 RGB.

    clarity: variance of the Laplacian (0 flat or blurred, 50 soft, > 300 crisp). luma: mean brightness 0..1. saturation: mean
    HSV saturation 0..1. entropy: of the brightness histogram, 0..8 bits. texture: mean gradient energy (|dx| + |dy| of Sobel,
    per pixel, 0..255 scale; noise is high). phash: 64-bit perceptual hash.
    """
    cv2 = require("cv2", "corpus")
    image = to_fixed_scale(image)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    _, deviation = cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_16S))
    histogram = np.bincount(gray.ravel(), minlength=256) / gray.size
    filled = histogram[histogram > 0]
    across, down = cv2.Sobel(gray, cv2.CV_16S, 1, 0), cv2.Sobel(gray, cv2.CV_16S, 0, 1)
    # A Sobel kernel sums eight weighted neighbours over two pixels: /8 gives grey levels per pixel.
    texture = (cv2.norm(across, cv2.NORM_L1) + cv2.norm(down, cv2.NORM_L1)) / (8.0 * gray.size)
    return {
        "clarity": float(deviation[0, 0]) ** 2,
        "luma": float(gray.mean()) / 255.0,
        "saturation": float(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1].mean()) / 255.0,
        "entropy": float(-(filled * np.log2(filled)).sum()) + 0.0,
        "texture": texture,
        "phash": perceptual_hash(gray),
    }


def perceptual_hash(gray: NDArray[np.uint8]) -> int:
    """64 bits: which of the 8x8 lowest frequencies of the 32x32 picture lie above their median (bit 0 is the mean's)."""
    cv2 = require("cv2", "corpus")
    small = cv2.resize(gray, (HASH_SIDE, HASH_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:8, :8].ravel()
    bits = low > np.median(low[1:])  # the mean is far above the rest and would say nothing
    return int(np.packbits(bits, bitorder="little").view(np.uint64)[0])
