"""The little pictures that edits are made on: emoji and shapes in cells, lines of text in bands, on a plain or shaded ground.

A :class:`Picture` is a value: an edit replaces one part of it and both are drawn, so whatever the edit does not name is drawn
by the same calls into the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from glyphflow.render import captions
from glyphflow.render.canvas import Box, Canvas, outward
from glyphflow.render.fonts import Font
from glyphflow.render.layout import Placed, fit_size, grid_baseline, stack
from glyphflow.render.layout import draw as draw_lines
from glyphflow.render.palette import Colour, shade
from glyphflow.render.spec import Rendered, TextLine

PixelBox = tuple[int, int, int, int]
_SHADE = 0.07


@dataclass(frozen=True)
class Place:
    """Where something stands: a box in pixels, and what it is called ("on the left", "左边")."""

    box: Box
    en: str
    zh: str


@dataclass(frozen=True)
class Thing:
    """An emoji (``glyph`` and ``font``) or a shape (``font`` is None), as large as ``share`` of its place."""

    en: str
    zh: str
    glyph: str
    font: Font | None
    colour: Colour
    place: Place
    share: float


@dataclass(frozen=True)
class Writing:
    """A line of text in the middle of its place, ``share`` of the largest size that fits.

    With a ``size`` (em, pixels) it has that size instead and begins at ``x``, its middle on a multiple of ``x``.
    """

    text: str
    face: Font
    colour: Colour
    place: Place
    share: float
    size: float | None = None
    x: float = 0.0


@dataclass(frozen=True)
class Picture:
    """Everything that is drawn; ``angle`` is the direction of the shading in radians, None for a plain ground."""

    width: int
    height: int
    ground: Colour
    angle: float | None
    things: tuple[Thing, ...]
    writings: tuple[Writing, ...]


_CROSS = ((1, 0), (2, 0), (2, 1), (3, 1), (3, 2), (2, 2), (2, 3), (1, 3), (1, 2), (0, 2), (0, 1), (1, 1))


def _star(points: int, inner: float) -> Callable[[float], list[tuple[float, float]]]:
    def corners(size: float) -> list[tuple[float, float]]:
        steps = [(k * math.pi / points - math.pi / 2, 1.0 if k % 2 == 0 else inner) for k in range(2 * points)]
        return [(size / 2 * (1 + r * math.cos(a)), size / 2 * (1 + r * math.sin(a))) for a, r in steps]

    return corners


SHAPES: dict[str, tuple[str, Callable[[float], list[tuple[float, float]]] | None]] = {
    "circle": ("圆形", None),
    "square": ("正方形", lambda s: [(0, 0), (s, 0), (s, s), (0, s)]),
    "triangle": ("三角形", lambda s: [(s / 2, 0), (s, s), (0, s)]),
    "star": ("五角星", _star(5, 0.42)),
    "rhombus": ("菱形", lambda s: [(s / 2, 0), (s, s / 2), (s / 2, s), (0, s / 2)]),
    "cross": ("十字", lambda s: [(s * x / 3, s * y / 3) for x, y in _CROSS]),
}  # fmt: skip
"""Shapes by English name: the Chinese name, and corners within a square of a given side (None: a disc)."""


def paint(canvas: Canvas, picture: Picture) -> tuple[list[PixelBox], list[TextLine]]:
    """Draw ``picture``; gives the ink boxes of its things, and its lines."""
    if picture.angle is None:
        canvas.fill(picture.ground.rgb)
    else:
        canvas.fill_gradient(shade(picture.ground.rgb, _SHADE), shade(picture.ground.rgb, -_SHADE), picture.angle)
    boxes = [_thing(canvas, thing) for thing in picture.things]
    return boxes, [_writing(canvas, writing) for writing in picture.writings]


def _thing(canvas: Canvas, thing: Thing) -> PixelBox:
    x0, y0, x1, y1 = thing.place.box
    side = thing.share * min(x1 - x0, y1 - y0)
    left, top = (x0 + x1 - side) / 2, (y0 + y1 - side) / 2
    if thing.font is not None:
        run = thing.font.shape(thing.glyph)
        ink = run.ink
        size = side / max(ink[2] - ink[0], ink[3] - ink[1])
        x, y = (x0 + x1) / 2 - (ink[0] + ink[2]) / 2 * size, (y0 + y1) / 2 - (ink[1] + ink[3]) / 2 * size
        return canvas.run(run, x, y, size, thing.colour.rgb)
    corners = SHAPES[thing.en][1]
    if corners is None:
        canvas.rectangle((left, top, left + side, top + side), thing.colour.rgb, side / 2)
    else:
        canvas.polygon([(left + x, top + y) for x, y in corners(side)], thing.colour.rgb)
    return outward((left, top, left + side, top + side))


def _writing(canvas: Canvas, writing: Writing) -> TextLine:
    x0, y0, x1, y1 = writing.place.box
    if writing.size is not None:
        middle = round((y0 + y1) / 2 / writing.x) * writing.x
        run, y = writing.face.shape(writing.text), grid_baseline(middle, writing.size)
        return draw_lines(canvas, [Placed(writing.text, run, writing.x, y, writing.size)], 0, 0, writing.colour.rgb)[0]
    size = writing.share * fit_size([writing.text], [writing.face], x1 - x0, y1 - y0)
    placed, width, height = stack([writing.text], [writing.face], size)
    return draw_lines(canvas, placed, (x0 + x1 - width) / 2, (y0 + y1 - height) / 2, writing.colour.rgb)[0]


def told(picture: Picture, boxes: Sequence[PixelBox], lines: Sequence[TextLine], canvas: Canvas, rng: Any) -> Rendered:
    """``picture`` as a render: captions that name every thing and quote every line, and the same facts as data."""
    english = [f"{captions.article(f'{thing.colour.en} {thing.en}')} {thing.place.en}" for thing in picture.things]
    chinese = [f"{thing.place.zh}是{thing.colour.zh}{thing.zh}" for thing in picture.things]
    texts = [writing.text for writing in picture.writings]
    for writing, quoted in zip(picture.writings, captions.quote(rng, texts, "en") if texts else (), strict=True):
        english.append(f"the text {quoted} in {writing.colour.en} {writing.place.en}")
    for writing, quoted in zip(picture.writings, captions.quote(rng, texts, "zh") if texts else (), strict=True):
        chinese.append(f"{writing.place.zh}写着{writing.colour.zh}文字{quoted}")
    background = picture.ground
    listed = f"{', '.join(english[:-1])} and {english[-1]}" if len(english) > 1 else "".join(english)
    caption_en = f"{captions.article(background.en)} background" + (f" with {listed}" if listed else "")
    caption_zh = f"{background.zh}背景" + (f"上，{'，'.join(chinese)}" if chinese else "")
    subject = {
        "text": texts,
        "background": background.en,
        "background_kind": "plain" if picture.angle is None else "gradient",
        "things": [
            {"name_en": thing.en, "name_zh": thing.zh, "colour": thing.colour.en, "box": list(box)}
            for thing, box in zip(picture.things, boxes, strict=True)
        ],
        "text_colour": [writing.colour.en for writing in picture.writings],
        "fonts": [writing.face.name for writing in picture.writings],
    }
    kind = "poster" if texts else "icon"
    return Rendered(canvas.image(), tuple(lines), {"en": caption_en, "zh": caption_zh}, kind, "flat", subject)
