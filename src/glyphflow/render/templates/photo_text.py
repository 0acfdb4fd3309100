"""Compositional rendering: a sign, a sheet of paper or a board with text, set into a photograph in perspective."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from glyphflow.render import captions
from glyphflow.render.canvas import Canvas, outward
from glyphflow.render.layout import draw as draw_lines
from glyphflow.render.layout import fit_size, join_lines, stack
from glyphflow.render.palette import RGB, Colour, colours, contrast, shade
from glyphflow.render.photos import PHOTOS, find_photo, load_photo
from glyphflow.render.scene import Scene
from glyphflow.render.spec import Rendered, TextLine

Corner = tuple[float, float]
_TILE = 128


@dataclass(frozen=True)
class Medium:
    """What the text is on: names, Chinese measure word, colour, share of rounding, strength of the grain."""

    en: str
    zh: str
    unit: str
    rgb: RGB
    radius: float
    grain: float
    frame: RGB | None = None


_MEDIA = (
    Medium("sheet of paper", "纸", "张", (246, 243, 236), 0.0, 0.03),
    Medium("yellow sticky note", "黄色便签", "张", (250, 226, 96), 0.0, 0.02),
    Medium("wooden board", "木板", "块", (186, 136, 84), 0.02, 0.22),
    Medium("blackboard", "黑板", "块", (44, 56, 50), 0.0, 0.05, (150, 104, 60)),
    Medium("metal sign", "金属牌", "块", (196, 200, 206), 0.08, 0.05, (120, 124, 130)),
    Medium("red sign", "红色标牌", "块", (190, 36, 40), 0.10, 0.012, (245, 240, 235)),
    Medium("blue sign", "蓝色标牌", "块", (28, 78, 168), 0.10, 0.012, (240, 244, 250)),
)


def draw(scene: Scene) -> Rendered:
    """One to three lines on a medium that covers a third or more of a packaged photograph (``params.photos``)."""
    rng, canvas = scene.rng, scene.canvas
    photo = find_photo(rng.choice(scene.params.photos or tuple(photo.name for photo in PHOTOS)))
    canvas.picture(load_photo(photo.name))
    medium = rng.choice(_MEDIA)
    ink = _ink(scene, medium)
    lines, faces = scene.sample_lines([rng.choice(("word", "phrase"))] * rng.choices((1, 2, 3), (0.5, 0.35, 0.15))[0])

    # The medium is laid out flat in its own pixels, then everything on it goes through one projective map.
    width, height = rng.uniform(0.62, 0.88) * scene.width, rng.uniform(0.34, 0.6) * scene.height
    corners = _corners(scene, width, height)
    skia = canvas.skia
    matrix = skia.Matrix()
    flat = [skia.Point(x, y) for x, y in ((0, 0), (width, 0), (width, height), (0, height))]
    matrix.setPolyToPoly(flat, [skia.Point(x, y) for x, y in corners])
    _shadow(scene, corners)
    canvas.raw.save()
    canvas.raw.concat(matrix)
    _surface(scene, medium, width, height)
    margin = 0.1 * min(width, height)
    size = fit_size(lines, faces, width - 2 * margin, height - 2 * margin) * rng.uniform(0.78, 1.0)
    placed, block_width, block_height = stack(lines, faces, size)
    drawn = draw_lines(canvas, placed, (width - block_width) / 2, (height - block_height) / 2, ink.rgb)
    canvas.raw.restore()
    _light(scene, corners)
    drawn = [_warped(canvas, line, matrix) for line in drawn]

    text = join_lines(lines)
    result = {}
    for language, patterns in (("en", captions.PHOTO_EN), ("zh", captions.PHOTO_ZH)):
        result[language] = captions.phrase(
            rng,
            patterns,
            q=captions.quote(rng, [text], language)[0],
            fg=getattr(ink, language),
            medium=getattr(medium, language),
            place=getattr(photo, language),
            unit=medium.unit,
        )
    subject = {
        "text": lines,
        "text_colour": ink.en,
        "fonts": [face.name for face in faces],
        "medium": medium.en,
        "photo": photo.name,
        "photo_package": photo.pip,
    }
    return Rendered(canvas.image(), tuple(drawn), result, "photograph", "realistic", subject)


def _ink(scene: Scene, medium: Medium) -> Colour:
    """A colour of the palette that reads on the medium; black or white when the palette has none."""
    choice = [colour for colour in colours(scene.params.palette) if contrast(colour.rgb, medium.rgb) >= 4.0]
    fallback = [colour for colour in colours(("black", "white")) if contrast(colour.rgb, medium.rgb) >= 4.0]
    return scene.rng.choice(choice or fallback)


def _corners(scene: Scene, width: float, height: float) -> list[Corner]:
    """The medium's four corners on the canvas, clockwise from the top left: turned, tilted away, inside the picture."""
    rng = scene.rng
    angle, tilt_x, tilt_y = rng.uniform(-0.12, 0.12), rng.uniform(-0.1, 0.1), rng.uniform(-0.06, 0.06)
    points: list[Corner] = []
    for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        depth = 1 + tilt_x * u + tilt_y * v
        x, y = u * width / 2 / depth, v * height / 2 / depth
        points.append((x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)))
    span_x, span_y = (max(p[k] for p in points) - min(p[k] for p in points) for k in (0, 1))
    shrink = min(1.0, 0.94 * scene.width / span_x, 0.94 * scene.height / span_y)
    points = [(x * shrink, y * shrink) for x, y in points]
    low_x, high_x = -min(p[0] for p in points), scene.width - max(p[0] for p in points)
    low_y, high_y = -min(p[1] for p in points), scene.height - max(p[1] for p in points)
    centre_x, centre_y = (low + (high - low) * rng.uniform(0.2, 0.8) for low, high in ((low_x, high_x), (low_y, high_y)))
    return [(x + centre_x, y + centre_y) for x, y in points]


def _shadow(scene: Scene, corners: list[Corner]) -> None:
    """A soft shadow below and to the right."""
    canvas, side = scene.canvas, min(scene.width, scene.height)
    offset, blur = 0.012 * side, max(0.5, 0.012 * side)
    filter_ = canvas.skia.MaskFilter.MakeBlur(canvas.skia.kNormal_BlurStyle, blur)
    canvas.polygon([(x + offset, y + offset) for x, y in corners], (0, 0, 0), 120, MaskFilter=filter_)


def _surface(scene: Scene, medium: Medium, width: float, height: float) -> None:
    """The medium itself: colour, frame, grain (streaks on wood, specks elsewhere)."""
    rng, canvas = scene.rng, scene.canvas
    radius = medium.radius * min(width, height)
    canvas.rectangle((0, 0, width, height), medium.frame or medium.rgb, radius)
    edge = 0.0
    if medium.frame is not None:
        edge = 0.025 * min(width, height)
        canvas.rectangle((edge, edge, width - edge, height - edge), medium.rgb, max(0.0, radius - edge))
    skia = canvas.skia
    # A tile of random greys, repeated and enlarged; as an overlay of mean 1/2 it leaves the colour's name true.
    grey = np.frombuffer(rng.randbytes(_TILE * _TILE), np.uint8).reshape(_TILE, _TILE)
    tile = skia.Image.fromarray(np.dstack([grey, grey, grey, np.full_like(grey, 255)]), colorType=skia.kRGBA_8888_ColorType)
    unit = max(0.5, min(scene.width, scene.height) / 400)
    scale = (60 * unit, 2 * unit) if medium.en == "wooden board" else (unit, unit)
    noise = tile.makeShader(
        skia.TileMode.kRepeat,
        skia.TileMode.kRepeat,
        skia.SamplingOptions(skia.FilterMode.kLinear),
        skia.Matrix.Scale(*scale),
    )
    paint = skia.Paint(Shader=noise, BlendMode=skia.BlendMode.kOverlay, Alphaf=medium.grain)
    inner = max(0.0, radius - edge)
    canvas.raw.drawRoundRect(skia.Rect(edge, edge, width - edge, height - edge), inner, inner, paint)


def _light(scene: Scene, corners: list[Corner]) -> None:
    """Light that falls off across the medium, over surface and text alike."""
    canvas, rng = scene.canvas, scene.rng
    skia = canvas.skia
    first, second = rng.sample(range(4), 2)
    shader = skia.GradientShader.MakeLinear(
        points=[skia.Point(*corners[first]), skia.Point(*corners[second])],
        colors=[skia.ColorSetRGB(255, 255, 255), skia.ColorSetRGB(*shade((255, 255, 255), -rng.uniform(0.08, 0.3)))],
    )
    canvas.polygon(corners, (0, 0, 0), Shader=shader, BlendMode=skia.BlendMode.kMultiply)


def _warped(canvas: Canvas, line: TextLine, matrix: object) -> TextLine:
    """``line`` with the upright box around its projected ink."""
    x0, y0, x1, y1 = line.box
    points = matrix.mapPoints([canvas.skia.Point(x, y) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))])  # type: ignore[attr-defined]
    xs, ys = [p.x() for p in points], [p.y() for p in points]
    return TextLine(line.text, outward((min(xs), min(ys), max(xs), max(ys))), line.font, line.size_px, line.colour)
