"""Text on a medium, the medium in a picture: laid out flat, inked and worn, then set in perspective, lit and photographed.

The text stays legible by measurement: effects are weakened until the finished picture has the least contrast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import require
from glyphflow.render.canvas import Canvas, outward
from glyphflow.render.curves import PATHS, bend, draw_curved
from glyphflow.render.effects import INKS, LENSES, WEARS, Mask, parse_effects
from glyphflow.render.fonts import Font
from glyphflow.render.layout import CJK, fit_size, has_cjk, stack
from glyphflow.render.layout import draw as draw_lines
from glyphflow.render.media import MANNERS, Medium
from glyphflow.render.palette import MIN_CONTRAST, RGB, Colour, colours, contrast
from glyphflow.render.paragraphs import Block, draw_block, fit
from glyphflow.render.scene import ATTEMPTS, Scene
from glyphflow.render.spec import TextLine
from glyphflow.render.textures import TEXTURES, Picture

Point = tuple[float, float]
Matrix = npt.NDArray[np.float64]
_INK_CONTRAST = 4.5
_LEAST = 10.0  # pixels of an em; sampled text that would be smaller is sampled again, fewer lines each time
_OFTEN = {"scratches": 0.2, "stains": 0.15, "shading": 0.6, "shadow": 0.2, "blur": 0.15, "grain": 0.3, "jpeg": 0.2}
_TRIES = 6


@dataclass(frozen=True)
class Composed:
    """The finished picture with its lines, the colour of the text, how it got there (English, Chinese), the effects with
    their strengths, and the contrast of text and surroundings as measured on the picture."""

    image: Picture
    text: list[str]
    lines: tuple[TextLine, ...]
    colour: Colour
    manner: tuple[str, str]
    path: str
    effects: dict[str, float]
    contrast: float


@dataclass(frozen=True)
class _Effect:
    name: str
    strength: float
    seed: int

    def stream(self) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(self.seed))


def compose(scene: Scene, medium: Medium, backdrop: Picture | None) -> Composed:
    """Text of the scene on ``medium`` in front of ``backdrop`` (height, width, 3); without one the medium fills the picture."""
    rng = scene.rng
    effects = _choose(scene, medium, backdrop is not None)
    ink = _colour(scene, medium)
    path = _path(scene)
    least = scene.params.min_size * scene.height if scene.params.min_size is not None else _LEAST
    for most in (3, 2, 1, 1, 1):
        texts, faces, path = _texts(scene, path, min(most, scene.params.max_lines))
        width, height = _extent(scene, path, backdrop is None)
        inner = _inner(width, height, backdrop is None)
        mask, flat = _lay(scene, texts, faces, path, (width, height), inner)
        if scene.params.text is not None or min(line.size_px for line in flat) >= least:
            break
    tilted = sum(effect.strength for effect in effects if effect.name == "perspective")
    matrix = _matrix(scene, (width, height), backdrop is None, tilted, flat)
    seed = rng.getrandbits(63)
    em = float(np.median([line.size_px for line in flat]))
    warped = _warp(mask, matrix, scene.width, scene.height)
    for trial in range(_TRIES):
        weaker = [one if one.name == "perspective" else replace(one, strength=one.strength * 0.6**trial) for one in effects]
        if trial == _TRIES - 1:  # plain print in even light is legible by the choice of the colour
            weaker = [one for one in effects if one.name == "perspective"]
        surface = _surface(medium, mask, ink.rgb, weaker, seed, em)
        picture = _set(surface, matrix, medium, backdrop, scene)
        picture = _change(picture, weaker, LENSES)
        measured = legibility(picture, warped)
        if measured >= MIN_CONTRAST:
            break
    lines = tuple(replace(_moved(line, matrix), colour=ink.rgb) for line in flat)
    inks = [one.name for one in weaker if one.name in INKS]
    manner = MANNERS.get(inks[0] if inks else "print", medium.printed)
    strengths = {one.name: round(one.strength, 3) for one in weaker}
    return Composed(picture, texts, lines, ink, manner, path, strengths, round(measured, 2))


def legibility(picture: Picture, mask: Mask) -> float:
    """Contrast (WCAG, 1 to 21) of the median colour where ``mask`` (height, width) is full and of that around it."""
    opencv: Any = require("cv2", "corpus")
    near = np.ones((3, 3), np.uint8)
    core = mask > min(200, int(mask.max() * 0.8))
    grown = opencv.dilate(mask, near, iterations=2) > 16
    around = (opencv.dilate(mask, near, iterations=6) > 16) & ~grown
    if not core.any() or not around.any():
        return 1.0
    text, ground = (tuple(int(c) for c in np.median(picture[where], axis=0)) for where in (core, around))
    return contrast((text[0], text[1], text[2]), (ground[0], ground[1], ground[2]))


def _choose(scene: Scene, medium: Medium, loose: bool) -> list[_Effect]:
    """The effects of the spec, or a sample that suits the medium, each with its strength and a stream of its own."""
    rng = scene.rng
    if scene.params.effects is not None:
        asked = parse_effects(scene.params.effects)
    else:
        asked = {rng.choice(medium.inks): None}
        asked.update({name: None for name, chance in _OFTEN.items() if rng.random() < chance})
        if rng.random() < (0.85 if loose else 0.4):
            asked["perspective"] = None
    return [
        _Effect(name, rng.uniform(0.25, 0.9) if strength is None else strength, rng.getrandbits(63))
        for name, strength in asked.items()
    ]


def _colour(scene: Scene, medium: Medium) -> Colour:
    """A colour of the palette that reads on the medium; black or white when the palette has none."""
    choice = [colour for colour in colours(scene.params.palette) if contrast(colour.rgb, medium.rgb) >= _INK_CONTRAST]
    fallback = sorted(colours(("black", "white")), key=lambda colour: -contrast(colour.rgb, medium.rgb))
    return scene.rng.choice(choice or fallback[:1])


def _path(scene: Scene) -> str:
    asked = scene.params.path
    if asked is not None and asked not in PATHS:
        raise InputError(f"There is no path {asked!r}; there are {', '.join(PATHS)}.")
    sampled = scene.rng.choices(PATHS, (0.6, 0.1, 0.06, 0.1, 0.14))[0]
    if scene.params.direction is not None:
        sampled = "vertical" if scene.params.direction == "vertical" else "straight"
    return asked or sampled


def _extent(scene: Scene, path: str, whole: bool) -> tuple[int, int]:
    """The surface's own size in pixels."""
    rng = scene.rng
    if whole:
        return round(1.3 * scene.width), round(1.3 * scene.height)
    if path == "vertical":
        return round(rng.uniform(0.3, 0.5) * scene.width), round(rng.uniform(0.62, 0.86) * scene.height)
    return round(rng.uniform(0.62, 0.88) * scene.width), round(rng.uniform(0.36, 0.62) * scene.height)


def _inner(width: int, height: int, whole: bool) -> tuple[float, float, float, float]:
    """The part of the surface that text may cover."""
    if whole:
        return 0.2 * width, 0.24 * height, 0.8 * width, 0.76 * height
    margin = 0.1 * min(width, height)
    return margin, margin, width - margin, height - margin


def _texts(scene: Scene, path: str, most: int) -> tuple[list[str], list[Font], str]:
    """At most ``most`` lines, their fonts, and the path, which falls back to level lines for text that cannot take it."""
    rng = scene.rng
    count = rng.choices((1, 2, 3), (0.5, 0.35, 0.15))[0] if path in ("straight", "vertical") else 1
    asked = scene.params.path is not None or scene.params.direction is not None
    for _ in range(ATTEMPTS if asked and scene.params.text is None else 1):
        lines, faces = scene.sample_lines([rng.choice(("word", "phrase"))] * min(count, most))
        if _can_follow(lines, path):
            return lines, faces, path
    if asked:
        raise InputError(f"The text {lines[0][:40]!r} cannot follow the path {path!r}; leave path and direction out.")
    return lines, faces, "straight"


def _can_follow(lines: list[str], path: str) -> bool:
    """Columns are for Chinese text; a curve is for one line that is long enough to show it."""
    if path == "vertical":
        return all(has_cjk(line) and all(CJK.match(char) or char.isdigit() for char in line) for line in lines)
    return path == "straight" or (len(lines) == 1 and len(lines[0]) >= 3)


def _lay(
    scene: Scene,
    texts: list[str],
    faces: list[Font],
    path: str,
    extent: tuple[int, int],
    inner: tuple[float, float, float, float],
) -> tuple[Mask, list[TextLine]]:
    """The text's coverage on the flat surface, and its lines there."""
    white: RGB = (255, 255, 255)
    canvas = Canvas(*extent)
    canvas.fill((0, 0, 0))
    x0, y0, x1, y1 = inner
    scale = scene.rng.uniform(0.8, 1.0)
    if path == "vertical":
        drawn = _columns(canvas, texts, faces, inner, scale)
    elif path == "straight":
        size = fit_size(texts, faces, x1 - x0, y1 - y0) * scale
        placed, width, height = stack(texts, faces, size)
        drawn = draw_lines(canvas, placed, (x0 + x1 - width) / 2, (y0 + y1 - height) / 2, white)
    else:
        curved = bend(faces[0].shape_text(texts[0], False), path, scene.rng)
        left, top, right, bottom = curved.bounds()
        size = min((x1 - x0) / (right - left), (y1 - y0) / (bottom - top)) * scale
        x, y = (x0 + x1 - (left + right) * size) / 2, (y0 + y1 - (top + bottom) * size) / 2
        quad = draw_curved(canvas, curved, x, y, size, white)
        box = outward((left * size + x, top * size + y, right * size + x, bottom * size + y))
        drawn = [TextLine(texts[0], box, faces[0].name, round(size, 2), white, quad=quad)]
    return np.ascontiguousarray(canvas.image()[..., 0]), drawn


def _columns(
    canvas: Canvas, texts: list[str], faces: list[Font], inner: tuple[float, float, float, float], scale: float
) -> list[TextLine]:
    """Each text as one column, the first at the right."""
    x0, y0, x1, y1 = inner
    size = scale * min((x1 - x0) / (1.25 * len(texts)), *((y1 - y0) / len(text) for text in texts))
    drawn, right = [], (x0 + x1 + 1.25 * size * len(texts)) / 2
    top = (y0 + y1 - max(map(len, texts)) * size) / 2
    for number, (text, face) in enumerate(zip(texts, faces, strict=True)):
        shaped = face.shape_text(text, True)
        length = float(shaped.ahead[-1]) * size
        side = right - 1.25 * size * number
        block = Block((side - 1.25 * size, top, side, top + length + 1), 1.0, vertical=True)
        lines, fitted = fit(shaped, block, (0.9 * size, size))
        drawn += draw_block(canvas, shaped, lines, block, fitted, (255, 255, 255))
    return drawn


def _surface(medium: Medium, mask: Mask, rgb: RGB, effects: list[_Effect], seed: int, em: float) -> Picture:
    """The flat medium with its text, worn."""
    height, width = mask.shape
    unit = max(1.0, min(height, width) / 300)
    stream = np.random.Generator(np.random.PCG64(seed))
    surface = TEXTURES[medium.texture](stream, height, width, medium.rgb, unit)
    inks = [one for one in effects if one.name in INKS] or [_Effect("print", 0.5, seed)]
    surface = INKS[inks[0].name](surface, mask, rgb, inks[0].strength, inks[0].stream(), em)
    if medium.frame is not None:
        edge = max(1, round(0.03 * min(height, width)))
        framed = np.empty_like(surface)
        framed[:] = medium.frame
        framed[edge:-edge, edge:-edge] = surface[edge:-edge, edge:-edge]
        surface = framed
    return _change(surface, effects, WEARS)


def _change(picture: Picture, effects: list[_Effect], known: dict[str, Any]) -> Picture:
    # In the order of the table and not of the spec: light falls before the lens blurs, and a file is written last.
    for name, effect in known.items():
        for one in effects:
            if one.name == name:
                picture = effect(picture, one.strength, one.stream())
    return picture


def _matrix(scene: Scene, extent: tuple[int, int], whole: bool, tilted: float, flat: list[TextLine]) -> Matrix:
    """The projective map from the surface onto the picture."""
    opencv: Any = require("cv2", "corpus")
    width, height = extent
    source = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    if whole:
        left, top = (scene.width - width) / 2, (scene.height - height) / 2
        plain = np.array([[1, 0, left], [0, 1, top], [0, 0, 1]], np.float64)
        reach = 0.09 * tilted
        moved = [
            (x + left + scene.rng.uniform(-reach, reach) * width, y + top + scene.rng.uniform(-reach, reach) * height)
            for x, y in source.tolist()
        ]
        matrix: Matrix = opencv.getPerspectiveTransform(source, np.array(moved, np.float32))
        inside = all(
            0 <= x <= scene.width and 0 <= y <= scene.height for line in flat for x, y in _moved(line, matrix).quad or ()
        )
        return matrix if tilted and inside else plain
    corners = np.array(_corners(scene, width, height, tilted), np.float32)
    return np.asarray(opencv.getPerspectiveTransform(source, corners), np.float64)


def _corners(scene: Scene, width: float, height: float, tilted: float) -> list[Point]:
    """The medium's four corners in the picture, clockwise from the top left: turned, tilted away, inside the picture."""
    rng = scene.rng
    angle, tilt_x, tilt_y = (tilted * rng.uniform(-most, most) for most in (0.22, 0.2, 0.12))
    points: list[Point] = []
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


def _set(surface: Picture, matrix: Matrix, medium: Medium, backdrop: Picture | None, scene: Scene) -> Picture:
    """The surface in its place: over the backdrop with a soft shadow, or as the whole picture."""
    opencv: Any = require("cv2", "corpus")
    width, height = scene.width, scene.height
    if backdrop is None:
        whole: Picture = opencv.warpPerspective(
            surface, matrix, (width, height), flags=opencv.INTER_LINEAR, borderMode=opencv.BORDER_REFLECT_101
        )
        return whole
    shape = _warp(_outline(surface.shape[0], surface.shape[1], medium.radius), matrix, width, height)
    side = min(width, height)
    fall = opencv.warpAffine(shape, np.array([[1, 0, 0.012 * side], [0, 1, 0.014 * side]], np.float32), (width, height))
    # A blur this wide looks the same from a quarter of the pixels.
    small = opencv.resize(fall, (max(1, width // 4), max(1, height // 4)), interpolation=opencv.INTER_AREA)
    dark = opencv.resize(opencv.GaussianBlur(small, (0, 0), max(0.4, 0.0035 * side)), (width, height))
    ground = backdrop * (1 - np.float32(0.5 / 255) * dark[..., None])
    placed = opencv.warpPerspective(
        surface, matrix, (width, height), flags=opencv.INTER_LINEAR, borderMode=opencv.BORDER_REPLICATE
    )
    cover = shape.astype(np.float32)[..., None] / 255
    joined: Picture = (ground * (1 - cover) + placed * cover + 0.5).astype(np.uint8)
    return joined


def _outline(height: int, width: int, radius: float) -> Mask:
    canvas = Canvas(width, height)
    canvas.fill((0, 0, 0))
    canvas.rectangle((0, 0, width, height), (255, 255, 255), radius * min(height, width))
    return np.ascontiguousarray(canvas.image()[..., 0])


def _warp(mask: Mask, matrix: Matrix, width: int, height: int) -> Mask:
    opencv: Any = require("cv2", "corpus")
    warped: Mask = opencv.warpPerspective(mask, matrix, (width, height), flags=opencv.INTER_LINEAR)
    return warped


def _moved(line: TextLine, matrix: Matrix) -> TextLine:
    """``line`` where the map takes it: four corners, and the upright box around them."""
    x0, y0, x1, y1 = line.box
    quad = np.array(line.quad or ((x0, y0), (x1, y0), (x1, y1), (x0, y1)))
    points = np.c_[quad, np.ones(4)] @ matrix.T
    points = points[:, :2] / points[:, 2:]
    box = outward((*points.min(axis=0).tolist(), *points.max(axis=0).tolist()))
    return replace(line, box=box, quad=tuple((round(float(x), 2), round(float(y), 2)) for x, y in points))
