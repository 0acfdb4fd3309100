"""Photographs with known content (scikit-image carries them), and what is done to them."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from skimage import data

Picture = NDArray[np.uint8]
NAMES = ("astronaut", "coffee", "chelsea", "rocket", "camera")


def photo(name: str) -> Picture:
    """(H, W, 3) uint8."""
    image = np.asarray(getattr(data, name)())
    return np.ascontiguousarray(np.stack([image] * 3, -1) if image.ndim == 2 else image[..., :3])


def as_jpeg(image: Picture, quality: int) -> Picture:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def blurred(image: Picture, radius: float) -> Picture:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def noisy(image: Picture, deviation: float) -> Picture:
    grain = np.random.default_rng(0).normal(0, deviation, (*image.shape[:2], 1))
    return np.clip(np.round(image + grain), 0, 255).astype(np.uint8)


def pixelated(image: Picture, left: int, top: int, side: int, cell: int) -> Picture:
    """``image`` with a square of about ``side`` px in cells of ``cell`` px, each its mean colour."""
    image, count = image.copy(), side // cell
    part = image[top : top + count * cell, left : left + count * cell].reshape(count, cell, count, cell, 3)
    means = part.mean(axis=(1, 3), keepdims=True).round().astype(np.uint8)
    image[top : top + count * cell, left : left + count * cell] = np.broadcast_to(means, part.shape).reshape(
        count * cell, count * cell, 3
    )
    return image


def tiled_mark(image: Picture, opacity: float) -> Picture:
    """White words, slanted, again and again over the whole picture."""
    height, width = image.shape[:2]
    side = int(np.hypot(height, width)) + 10
    layer = Image.new("L", (side, side))
    pen, font = ImageDraw.Draw(layer), ImageFont.load_default(22)
    for y in range(0, side, 90):
        for x in range(0, side, 180):
            pen.text((x, y), "SAMPLE PHOTO", fill=255, font=font)
    layer = layer.rotate(30, Image.Resampling.BICUBIC)
    left, top = (side - width) // 2, (side - height) // 2
    share = np.asarray(layer.crop((left, top, left + width, top + height)), np.float64)[..., None] / 255 * opacity
    return np.round(image * (1 - share) + 255 * share).astype(np.uint8)
