"""Named colours: a caption says "dark blue" only of what anyone would call dark blue."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from glyphflow.core.errors import InputError

RGB = tuple[int, int, int]

MIN_CONTRAST = 3.0
"""Least WCAG 2 contrast ratio of text against its ground (3:1 is the rule for large text)."""


@dataclass(frozen=True)
class Colour:
    """A colour with its English name and its Chinese name (as an adjective before a noun)."""

    en: str
    zh: str
    rgb: RGB


PALETTE: tuple[Colour, ...] = (
    Colour("white", "白色", (250, 250, 250)),
    Colour("black", "黑色", (14, 14, 16)),
    Colour("gray", "灰色", (128, 130, 133)),
    Colour("red", "红色", (212, 32, 38)),
    Colour("orange", "橙色", (244, 128, 22)),
    Colour("yellow", "黄色", (250, 212, 40)),
    Colour("green", "绿色", (38, 154, 66)),
    Colour("dark green", "深绿色", (16, 76, 44)),
    Colour("light blue", "浅蓝色", (150, 205, 245)),
    Colour("blue", "蓝色", (30, 96, 220)),
    Colour("dark blue", "深蓝色", (18, 34, 98)),
    Colour("purple", "紫色", (112, 44, 160)),
    Colour("pink", "粉色", (246, 150, 184)),
    Colour("brown", "棕色", (112, 66, 30)),
    Colour("beige", "米色", (240, 228, 202)),
)

_BY_NAME = {colour.en: colour for colour in PALETTE}


@cache
def luminance(rgb: RGB) -> float:
    """WCAG relative luminance in [0, 1] of an 8-bit sRGB colour."""
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: RGB, b: RGB) -> float:
    """WCAG contrast ratio of two colours, 1 (equal) to 21 (black on white)."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def colours(names: Sequence[str] | None) -> tuple[Colour, ...]:
    """The palette, or the part of it that ``names`` (English) lists; an unknown name raises :class:`InputError`."""
    if names is None:
        return PALETTE
    unknown = [name for name in names if name not in _BY_NAME]
    if unknown:
        raise InputError(f"The palette has no colour {unknown[0]!r}; it has {', '.join(_BY_NAME)}.")
    return tuple(_BY_NAME[name] for name in names)


@cache
def _pairs(names: tuple[str, ...] | None, ratio: float) -> tuple[tuple[Colour, Colour], ...]:
    choice = colours(names)
    pairs = tuple((text, ground) for text in choice for ground in choice if contrast(text.rgb, ground.rgb) >= ratio)
    if not pairs:
        raise InputError(
            f"No two of the colours {', '.join(c.en for c in choice)} have the contrast {ratio:g}:1 that text needs; "
            "add black or white."
        )
    return pairs


def pick_pair(rng: random.Random, names: Sequence[str] | None, ratio: float = MIN_CONTRAST) -> tuple[Colour, Colour]:
    """(text colour, ground colour) with a contrast of at least ``ratio``, uniformly over the pairs that have it."""
    return rng.choice(_pairs(None if names is None else tuple(names), ratio))


def shade(rgb: RGB, amount: float) -> RGB:
    """``rgb`` moved towards black (amount < 0) or white (amount > 0) by the share ``abs(amount)``."""
    target = 255 if amount > 0 else 0
    red, green, blue = (round(c + (target - c) * abs(amount)) for c in rgb)
    return red, green, blue
