"""Materials that text stands on, made of seeded noise: paper, wood, stone, brick, boards, cloth, metal, screens.

Every texture is a function of a random stream, a size in pixels and a colour, and its mean stays near that colour, so that a
caption may name it. ``unit`` is the pixels of the material's finest detail, so that a picture looks alike at every size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphflow.core.hardware import require
from glyphflow.render.palette import RGB

Picture = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]
Texture = Callable[[np.random.Generator, int, int, RGB, float], Picture]


def noise(rng: np.random.Generator, height: int, width: int, cell_y: float, cell_x: float) -> Plane:
    """Smooth noise (height, width) in [-1, 1] whose hills are ``cell_y`` x ``cell_x`` pixels."""
    opencv: Any = require("cv2", "corpus")
    rows, columns = max(2, round(height / max(cell_y, 1)) + 1), max(2, round(width / max(cell_x, 1)) + 1)
    grid = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    smooth: Plane = opencv.resize(grid, (width, height), interpolation=opencv.INTER_CUBIC)
    return np.clip(smooth, -1, 1)


def _lit(rgb: RGB, brightness: Plane) -> Picture:
    """``rgb`` at every pixel, times ``brightness`` (height, width) around 1."""
    lit: Picture = np.clip(np.array(rgb, np.float32) * brightness[..., None], 0, 255).astype(np.uint8)
    return lit


def paper(rng: np.random.Generator, height: int, width: int, rgb: RGB, unit: float) -> Picture:
    """Fine fibres over faint clouds."""
    fibres = noise(rng, height, width, unit, 3 * unit) + noise(rng, height, width, 3 * unit, unit)
    return _lit(rgb, 1 + 0.012 * fibres + 0.02 * noise(rng, height, width, height / 3, width / 3))


def wood(rng: np.random.Generator, height: int, width: int, rgb: RGB, unit: float) -> Picture:
    """Boards with grain along them, bent by slow waves."""
    bend = 10 * unit * noise(rng, height, width, height / 2, width / 2)
    rows = np.arange(height, dtype=np.float32)[:, None] + bend
    rings = np.sin(rows / (3.2 * unit) + 3 * noise(rng, height, width, 12 * unit, 160 * unit))
    streaks = noise(rng, height, width, 1.2 * unit, 60 * unit)
    boards = max(1, round(height / (rng.uniform(60, 120) * unit)))
    edge = np.arange(height, dtype=np.float32) / height * boards % 1 * height / boards
    seam = np.where((edge < 1.5 * unit) & (np.arange(height) > 2 * unit), 0.62, 1.0).astype(np.float32)[:, None]
    grain: Plane = 1 + 0.07 * rings + 0.09 * streaks
    return _lit(rgb, grain * seam if boards > 1 else grain)


def board(rng: np.random.Generator, height: int, width: int, rgb: RGB, unit: float) -> Picture:
    """A writing board with traces of a wipe."""
    wiped = noise(rng, height, width, 10 * unit, 90 * unit)
    dust = noise(rng, height, width, unit, unit)
    mist = 8 * np.clip(wiped, 0, 1) + 3 * dust
    dusty: Picture = np.clip(np.array(rgb, np.float32) + mist[..., None], 0, 255).astype(np.uint8)
    return dusty


def plaster(rng: np.random.Generator, height: int, width: int, rgb: RGB, unit: float) -> Picture:
    """Rough plaster or concrete with stains."""
    rough = noise(rng, height, width, 2 * unit, 2 * unit) + 0.6 * noise(rng, height, width, unit, unit)
    slope = np.diff(rough, axis=1, prepend=rough[:, :1])
    return _lit(rgb, 1 + 0.05 * slope + 0.025 * rough + 0.05 * noise(rng, height, width, height / 4, width / 4))


def stone(rng: np.random.Generator, height: int, width: int, rgb: RGB, unit: float) -> Picture:
    """Speckled stone."""
    grains = sum(noise(rng, height, width, cell * unit, cell * unit) / cell**0.5 for cell in (1, 2.5, 6))
    return _lit(rgb, 1 + 0.055 * np.asarray(grains) + 0.04 * noise(rng, height, width, height / 3, width / 3))


def brick(rng: np.random.Generator, height: int, width: int, rgb: RGB, unit: float) -> Picture:
    """Courses of bricks, each in its own shade, in pale mortar."""
    tall, wide, joint = 22 * unit, 60 * unit, 1.6 * unit
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None, :]
    row = np.floor(y / tall).astype(int)
    shifted = x + (row % 2) * wide / 2
    column = np.floor(shifted / wide).astype(int)
    shades = rng.uniform(-0.09, 0.09, (row.max() + 1, column.max() + 1)).astype(np.float32)
    bricks = _lit(rgb, 1 + shades[row, column] + 0.05 * noise(rng, height, width, unit, 2 * unit))
    mortar = (y % tall < joint) | (shifted % wide < joint)
    light = _lit((176, 170, 162), 1 + 0.05 * noise(rng, height, width, unit, unit))
    return np.where(mortar[..., None], (0.5 * light + 0.5 * bricks).astype(np.uint8), bricks)


def cloth(rng: np.random.Generator, height: int, width: int, rgb: RGB, unit: float) -> Picture:
    """A weave with soft folds."""
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None, :]
    weave = np.sin(x * 1.9 / unit) * np.sin(y * 1.9 / unit)
    folds = noise(rng, height, width, height / 2, width / 5)
    return _lit(rgb, 1 + 0.03 * weave.astype(np.float32) + 0.07 * folds)


def metal(rng: np.random.Generator, height: int, width: int, rgb: RGB, unit: float) -> Picture:
    """Brushed metal with a broad reflection."""
    brushed = noise(rng, height, width, unit, 80 * unit)
    across = np.linspace(0, np.pi, width, dtype=np.float32)[None, :] + rng.uniform(-0.8, 0.8)
    return _lit(rgb, 1 + 0.03 * brushed + 0.06 * np.sin(across))


def enamel(rng: np.random.Generator, height: int, width: int, rgb: RGB, unit: float) -> Picture:
    """An even, slightly glossy coat of paint."""
    gloss = np.linspace(0.03, -0.03, height, dtype=np.float32)[:, None]
    return _lit(rgb, 1 + gloss + 0.01 * noise(rng, height, width, unit, unit))


def screen(rng: np.random.Generator, height: int, width: int, rgb: RGB, unit: float) -> Picture:
    """A display: faint rows of dots, a little brighter in one corner."""
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None, :]
    rows = np.where(y % (2 * unit) < unit, 1.0, 0.93) * np.where(x % (2 * unit) < unit, 1.0, 0.97)
    glare = np.clip(1 - np.hypot(y / height - rng.uniform(0, 0.2), x / width - rng.uniform(0, 1)), 0, 1)
    lit: Picture = np.clip(np.array(rgb, np.float32) * rows[..., None] + 14 * glare[..., None], 0, 255).astype(np.uint8)
    return lit


TEXTURES: dict[str, Texture] = {
    texture.__name__: texture for texture in (paper, wood, board, plaster, stone, brick, cloth, metal, enamel, screen)
}
