"""The seam to the raster library: everything that draws goes through one :class:`Canvas`."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphflow.core.hardware import require
from glyphflow.render.fonts import Font, Run
from glyphflow.render.palette import RGB

Box = tuple[float, float, float, float]


_SPARE: deque[npt.NDArray[np.uint8]] = deque(maxlen=4)
"""Pixels of canvases that are gone: to get new memory from the system costs a third of a page of text."""


def _spare(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Memory for a canvas, with anything in it."""
    with contextlib.suppress(IndexError):  # another thread may have taken it
        for _ in range(len(_SPARE)):
            pixels = _SPARE.popleft()
            if pixels.shape == (height, width, 4):
                return pixels
            _SPARE.append(pixels)
    return np.empty((height, width, 4), dtype=np.uint8)


class Canvas:
    """An opaque RGB canvas of width x height pixels, origin at the top left, y downwards, antialiased."""

    PLACING = 0.125
    """Skia draws a glyph at the nearest quarter of a pixel, so that it can reuse the raster of the last one."""

    def __init__(self, width: int, height: int) -> None:
        self.skia: Any = require("skia", "corpus")
        self.width, self.height = width, height
        self._pixels = _spare(height, width)
        self._pixels.fill(255)
        weakref.finalize(self, _SPARE.append, self._pixels).atexit = False
        # The alpha type must be premultiplied: Skia's raster backend refuses the numpy default.
        self._surface = self.skia.Surface(self._pixels, self.skia.kRGBA_8888_ColorType, self.skia.kPremul_AlphaType)
        self.raw: Any = self._surface.getCanvas()
        # Given as the bounds of text, it keeps Skia from measuring every glyph once more.
        self._everywhere: Any = self.skia.Rect(-1e6, -1e6, 1e6, 1e6)

    def paint(self, rgb: RGB, alpha: int = 255, **settings: Any) -> Any:
        """A fill paint; ``settings`` are Skia's Paint keywords (Shader, MaskFilter, Style, StrokeWidth, ...)."""
        return self.skia.Paint(AntiAlias=True, Color=self.skia.ColorSetARGB(alpha, *rgb), **settings)

    def fill(self, rgb: RGB) -> None:
        """Cover everything with one colour."""
        self.raw.clear(self.skia.ColorSetRGB(*rgb))

    def fill_gradient(self, first: RGB, second: RGB, angle: float, box: Box | None = None) -> None:
        """Cover ``box`` (default: everything) with a linear gradient running in direction ``angle`` (radians, 0 = right)."""
        x0, y0, x1, y1 = box or (0, 0, self.width, self.height)
        dx, dy = math.cos(angle), math.sin(angle)
        reach = (abs(dx) * (x1 - x0) + abs(dy) * (y1 - y0)) / 2
        middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
        shader = self.skia.GradientShader.MakeLinear(
            points=[
                self.skia.Point(middle_x - dx * reach, middle_y - dy * reach),
                self.skia.Point(middle_x + dx * reach, middle_y + dy * reach),
            ],
            colors=[self.skia.ColorSetRGB(*first), self.skia.ColorSetRGB(*second)],
        )
        self.raw.drawRect(self.skia.Rect(x0, y0, x1, y1), self.skia.Paint(Shader=shader))

    def rectangle(self, box: Box, rgb: RGB, radius: float = 0.0, alpha: int = 255, **settings: Any) -> None:
        """Fill ``box``, its corners rounded by ``radius`` pixels."""
        self.raw.drawRoundRect(self.skia.Rect(*box), radius, radius, self.paint(rgb, alpha, **settings))

    def polygon(self, corners: Sequence[tuple[float, float]], rgb: RGB, alpha: int = 255, **settings: Any) -> None:
        """Fill the polygon with these corners."""
        path = self.skia.Path()
        path.addPoly([self.skia.Point(x, y) for x, y in corners], True)
        self.raw.drawPath(path, self.paint(rgb, alpha, **settings))

    def picture(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Cover everything with the middle of a picture (height, width, 3) uint8 RGB, scaled smoothly without distortion."""
        skia = self.skia
        height, width = pixels.shape[:2]
        scale = max(self.width / width, self.height / height)
        part_width, part_height = self.width / scale, self.height / scale
        left, top = (width - part_width) / 2, (height - part_height) / 2
        opaque = np.dstack([pixels, np.full((height, width), 255, np.uint8)])
        image = skia.Image.fromarray(opaque, colorType=skia.kRGBA_8888_ColorType)
        smooth = skia.SamplingOptions(skia.FilterMode.kLinear, skia.MipmapMode.kLinear)
        if scale > 1:
            smooth = skia.SamplingOptions(skia.CubicResampler.Mitchell())
        source = skia.Rect.MakeXYWH(left, top, part_width, part_height)
        self.raw.drawImageRect(image, source, skia.Rect.MakeWH(self.width, self.height), smooth)

    def run(self, run: Run, x: float, y: float, size_px: float, rgb: RGB, **settings: Any) -> tuple[int, int, int, int]:
        """Draw shaped glyphs with the origin of their baseline at (x, y) and return the ink box, rounded outwards."""
        skia = self.skia
        if run.glyphs:
            font = self.font(run.font, size_px)
            # Advances come from HarfBuzz at full precision, so that a page scales like its outlines.
            builder = skia.TextBlobBuilder()
            points = [skia.Point(px * size_px, py * size_px) for px, py in run.positions]
            builder.allocRunPos(font, run.glyphs, points, self._everywhere)
            self.raw.drawTextBlob(builder.make(), x, y, self.paint(rgb, **settings))
        x0, y0, x1, y1 = shifted(run.ink, x, y, size_px)
        return outward((x0 - self.PLACING, y0 - self.PLACING, x1 + self.PLACING, y1 + self.PLACING))

    def glyphs(
        self,
        face: Font,
        glyphs: npt.NDArray[np.int64],
        x: npt.NDArray[np.float64],
        y: npt.NDArray[np.float64],
        first: Sequence[int],
        size_px: float,
        rgb: RGB,
    ) -> None:
        """Draw N glyphs (N,) with their origins at (x, y) (N,) pixels, all at once; ``first`` are where the lines begin."""
        skia, font = self.skia, self.font(face, size_px)
        builder = skia.TextBlobBuilder()
        ids, xs, ys = glyphs.tolist(), x.tolist(), y.tolist()
        bounds = [*first, len(ids)]
        if all(ys[a] == ys[b - 1] for a, b in pairwise(bounds)) and (np.diff(y) != 0).sum() < len(first):
            # Lines without marks above or below share a height: less than half the cost of points.
            for a, b in pairwise(bounds):
                builder.allocRunPosH(font, ids[a:b], xs[a:b], ys[a], self._everywhere)
        else:
            builder.allocRunPos(font, ids, [skia.Point(px, py) for px, py in zip(xs, ys, strict=True)], self._everywhere)
        self.raw.drawTextBlob(builder.make(), 0, 0, self.paint(rgb))

    def font(self, face: Font, size_px: float) -> Any:
        """A Skia font of unhinted outlines at fractional positions."""
        skia = self.skia
        font = skia.Font(face.typeface, size_px)
        font.setSubpixel(True)
        font.setBaselineSnap(False)
        font.setHinting(skia.FontHinting.kNone)
        font.setEdging(skia.Font.Edging.kAntiAlias)
        return font

    def image(self) -> npt.NDArray[np.uint8]:
        """A copy of the pixels, (height, width, 3) uint8 RGB."""
        self._surface.flushAndSubmit()
        opencv: Any = require("cv2", "corpus")  # numpy needs ten times as long to drop a channel
        picture: npt.NDArray[np.uint8] = opencv.cvtColor(self._pixels, opencv.COLOR_RGBA2RGB)
        return picture


def shifted(ink: Box, x: float, y: float, size_px: float) -> Box:
    """An ink box in em units moved to (x, y) pixels at ``size_px``."""
    return x + ink[0] * size_px, y + ink[1] * size_px, x + ink[2] * size_px, y + ink[3] * size_px


def outward(box: Sequence[float]) -> tuple[int, int, int, int]:
    """The smallest box of whole pixels around ``box``."""
    return math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
