"""Text along arcs and waves: every glyph turned to the curve, with the outline of each known."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import require
from glyphflow.render.canvas import Canvas
from glyphflow.render.fonts import Text
from glyphflow.render.palette import RGB

PATHS = ("straight", "arch", "bowl", "wave", "vertical")
"""Names that a spec's ``path`` may have: level lines, an arc open below, one open above, a wave, columns."""

Corners = tuple[tuple[float, float], ...]
_TIGHTEST = 2.4  # em; on a smaller radius neighbouring glyphs would touch
_HEAD = 0.8  # em; how far heads stand above the baseline


@dataclass(frozen=True)
class Curved:
    """A text along a curve, in em units: ``places`` (N, 4), cosine, sine, x and y of each glyph's origin; ``corners``
    (N, 4, 2), its outline's box turned with it, NaN where there is no ink."""

    text: Text
    places: npt.NDArray[np.float64]
    corners: npt.NDArray[np.float64]

    def bounds(self) -> tuple[float, float, float, float]:
        """The upright box around all ink, in em."""
        low, high = np.nanmin(self.corners, axis=(0, 1)), np.nanmax(self.corners, axis=(0, 1))
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def bend(text: Text, path: str, rng: random.Random) -> Curved:
    """``text`` (shaped horizontally) along an "arch", a "bowl" or a "wave" of random curvature, centred on the origin."""
    length = float(text.ahead[-1])
    advances = np.diff(text.along, append=length)
    middle = text.along + advances / 2
    if path == "wave":
        turn = 2 * math.pi * min(rng.uniform(0.8, 1.6) / length, 1 / 7)
        # The bend at a crest is rise * turn^2: no tighter than the tightest arc, and no steeper than one in two.
        rise = min(rng.uniform(0.3, 0.7), 1 / (_TIGHTEST * turn**2), 0.5 / turn)
        phase = rng.uniform(0, 2 * math.pi)
        wider = 1 + _HEAD * rise * turn**2  # as in a bowl
        middle, length, turn, rise = middle * wider, length * wider, turn / wider, rise * wider
        x, y = _along_wave(middle, length, rise, turn, phase)
        angle = np.arctan(rise * turn * np.cos(turn * x + phase))
        x = x - length / 2
    elif path in ("arch", "bowl"):
        side = 1 if path == "arch" else -1
        sweep = min(rng.uniform(0.7, 2.2), length / (_TIGHTEST if path == "arch" else 1.6 * _TIGHTEST))
        radius = length / sweep + (0.0 if path == "arch" else _HEAD)  # in a bowl heads lean together: set wider
        turned = (middle / length - 0.5) * sweep
        x, y, angle = radius * np.sin(turned), side * radius * (1 - np.cos(turned)), side * turned
    else:
        raise InputError(f"There is no path {path!r}; there are {', '.join(PATHS)}.")
    cos, sin = np.cos(angle), np.sin(angle)
    # From the middle of the glyph's advance on the curve back to its origin.
    back, up = text.offsets[:, 0] - advances / 2, text.offsets[:, 1]
    x, y = x + back * cos - up * sin, y + back * sin + up * cos
    x0, y0, x1, y1 = text.bounds.T
    flat = np.stack([np.stack([x0, y0], 1), np.stack([x1, y0], 1), np.stack([x1, y1], 1), np.stack([x0, y1], 1)], 1)
    turn_x = flat[..., 0] * cos[:, None] - flat[..., 1] * sin[:, None] + x[:, None]
    turn_y = flat[..., 0] * sin[:, None] + flat[..., 1] * cos[:, None] + y[:, None]
    return Curved(text, np.stack([cos, sin, x, y], 1), np.stack([turn_x, turn_y], 2))


def _along_wave(
    middle: npt.NDArray[np.float64], length: float, rise: float, turn: float, phase: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Points of y = rise sin(turn x + phase) at the distances ``middle`` along it."""
    x = np.linspace(0, length, 256)
    y = rise * np.sin(turn * x + phase)
    distance = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    at = np.interp(middle, distance, x)
    return at, rise * np.sin(turn * at + phase)


def draw_curved(canvas: Canvas, curved: Curved, x: float, y: float, size: float, rgb: RGB) -> Corners:
    """Draw with the origin of the curve at (x, y); gives the four corners of the smallest turned box around the ink."""
    skia = canvas.skia
    forms = [skia.RSXform(cos, sin, px * size + x, py * size + y) for cos, sin, px, py in curved.places.tolist()]
    builder = skia.TextBlobBuilder()
    builder.allocRunRSXform(canvas.font(curved.text.font, size), curved.text.glyphs.tolist(), forms)
    canvas.raw.drawTextBlob(builder.make(), 0, 0, canvas.paint(rgb))
    points = curved.corners.reshape(-1, 2)
    return around(points[~np.isnan(points[:, 0])] * size + (x, y))


def around(points: npt.NDArray[np.float64]) -> Corners:
    """The smallest turned rectangle around ``points`` (N, 2), clockwise from the corner nearest the top left."""
    opencv: Any = require("cv2", "corpus")
    corners = opencv.boxPoints(opencv.minAreaRect(points.astype(np.float32)))  # clockwise
    first = int(corners.sum(axis=1).argmin())
    return tuple((float(px), float(py)) for px, py in np.roll(corners, -first, axis=0))
