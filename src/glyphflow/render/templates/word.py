"""Pure rendering, small: one to three short lines on a clean ground."""

from __future__ import annotations

import re

from glyphflow.render import captions
from glyphflow.render.fonts import Font
from glyphflow.render.layout import (
    Placed,
    fit_size,
    grid_baseline,
    grid_size,
    has_cjk,
    join_lines,
    pick_fonts,
    split_scripts,
    stack,
)
from glyphflow.render.layout import draw as draw_lines
from glyphflow.render.palette import pick_pair
from glyphflow.render.scene import Scene
from glyphflow.render.spec import Rendered

_MARGIN = 0.05
_LEADING = 1.15


def draw(scene: Scene) -> Rendered:
    """Text in one colour on a plain or shaded ground, as large as a random share of the canvas, near the middle."""
    rng, canvas = scene.rng, scene.canvas
    text_colour, ground = pick_pair(rng, scene.params.palette)
    lines, faces, size = _choose(scene) if scene.params.grid is None else _choose_grid(scene, scene.params.grid)
    facts = scene.paint_ground(ground, text_colour.rgb)
    placed, width, height = stack(lines, faces, size, rng.choice(("centre", "centre", "centre", "left")), _LEADING)
    slack_x, slack_y = scene.width * (1 - 2 * _MARGIN) - width, scene.height * (1 - 2 * _MARGIN) - height
    # Near the middle most of the time: the square of a uniform number in [-1, 1] keeps its sign.
    along_x, along_y = (scene.params.jitter * u * abs(u) for u in (rng.uniform(-1, 1), rng.uniform(-1, 1)))
    x = scene.width * _MARGIN + max(slack_x, 0) * (0.5 + 0.5 * along_x)
    y = scene.height * _MARGIN + max(slack_y, 0) * (0.5 + 0.5 * along_y)
    if scene.params.grid is not None:
        placed, x, y = _grid_lines(scene, lines, faces, size, scene.params.grid), 0.0, 0.0
    drawn = draw_lines(canvas, placed, x, y, text_colour.rgb)

    text, style = join_lines(lines), faces[0].entry.style
    apart = scene.params.phrasing == "lines" and len(lines) == 2
    chance = 0.0 if apart else {"text-first": 0.0, "styled": 1.0}.get(scene.params.phrasing, 0.5 if style == "script" else 0.15)
    named_style = not has_cjk(text) and style in captions.STYLES and rng.random() < chance
    result = {}
    for language in ("en", "zh"):
        patterns = captions.LINES[language] if apart else _PATTERNS[language, named_style]
        if scene.params.phrasing == "text-first":
            patterns = tuple((weight, text) for weight, text in patterns if text.startswith("{q}") and "{bg}" in text)
        quoted = captions.quote(rng, lines if apart else [text], language)
        result[language] = captions.phrase(
            rng,
            patterns,
            q=quoted[0],
            q2=quoted[-1],
            fg=getattr(text_colour, language),
            bg=getattr(ground, language),
            style=captions.STYLES.get(style, ("", ""))[language == "zh"],
        )
    subject = {
        "text": lines,
        "text_colour": text_colour.en,
        "fonts": [face.name for face in faces],
        "font_style": style,
        **facts,
    }
    return Rendered(canvas.image(), tuple(drawn), result, "poster", "flat", subject)


_PATTERNS = {
    ("en", False): captions.WORD_EN,
    ("zh", False): captions.WORD_ZH,
    ("en", True): captions.STYLED_EN,
    ("zh", True): captions.STYLED_ZH,
}


def _choose(scene: Scene) -> tuple[list[str], list[Font], float]:
    """Lines, fonts and em size: texts that would be smaller than the least size are sampled again, fewer lines each time.

    An explicit text is shrunk to fit instead.
    """
    rng = scene.rng
    low, high = (share * scene.height for share in scene.params.sizes(0.18, 0.6))
    inner_width, inner_height = scene.width * (1 - 2 * _MARGIN), scene.height * (1 - 2 * _MARGIN)
    count = max(scene.params.min_lines, min(rng.choices((1, 2, 3), (0.68, 0.25, 0.07))[0], scene.params.max_lines))
    for attempt in range(12):
        lines, faces = scene.sample_lines(["word"] * max(1, count - attempt // 3))
        lines, faces = _split_mixed(scene, lines, faces)
        fitting = fit_size(lines, faces, inner_width, inner_height, _LEADING)
        if fitting >= low or scene.params.text is not None:
            break
    size = min(fitting, high) * rng.uniform(0.72, 1.0)
    return lines, faces, min(fitting, max(size, low))


def _choose_grid(scene: Scene, left: float) -> tuple[list[str], list[Font], float]:
    """As many lines as ``params.min_lines`` says, of the largest size, sampled until they fit the canvas by their advance."""
    _, size = (share * scene.height for share in scene.params.sizes(0.2, 0.2))
    count = scene.params.min_lines
    for _ in range(40):
        lines, faces = scene.sample_lines(["word"] if scene.params.languages == ("mixed",) else ["word"] * count)
        if count > 1 and any(has_cjk(line) and re.search("[A-Za-z0-9]", line) for line in lines):
            lines = [piece for line in lines for piece in split_scripts(line)]
            faces = pick_fonts(scene.rng, scene.fonts, scene.params.fonts, lines) or faces
        sizes = _grid_sizes(scene, lines, faces, size, left)
        ends = [face.shape(line).advance * em for line, face, em in zip(lines, faces, sizes, strict=False)]
        if len(lines) == len(faces) == count and max(ends) <= scene.width * (1 - left):
            break
    return lines, faces, size


def _grid_sizes(scene: Scene, lines: list[str], faces: list[Font], size: float, left: float) -> list[float]:
    """Em size of each line: all alike when there is one; of several, Latin ones have letters as wide as the grid."""
    if len(lines) == 1:
        return [size]
    return [size if has_cjk(line) else grid_size(face, left * scene.width) for line, face in zip(lines, faces, strict=True)]


def _grid_lines(scene: Scene, lines: list[str], faces: list[Font], size: float, left: float) -> list[Placed]:
    """The lines from ``left`` on, around the middle of the canvas, three letters' widths from one to the next."""
    unit, middle = left * scene.width, scene.height / 2
    middles = [middle] if len(lines) == 1 else [middle + (3 * number - 1) * unit for number in range(len(lines))]
    sizes = _grid_sizes(scene, lines, faces, size, left)
    return [
        Placed(line, face.shape(line), unit, grid_baseline(y, em), em)
        for line, face, em, y in zip(lines, faces, sizes, middles, strict=True)
    ]


def _split_mixed(scene: Scene, lines: list[str], faces: list[Font]) -> tuple[list[str], list[Font]]:
    """A sampled line of both languages mostly becomes two lines, so that each has a typeface of its own script."""
    both = [line for line in lines if has_cjk(line) and re.search("[A-Za-z]", line)]
    pieces = [piece for line in lines for piece in split_scripts(line)][:3]
    if scene.params.text is not None or not both or scene.rng.random() < 0.35 or len(pieces) > scene.params.max_lines:
        return lines, faces
    found = pick_fonts(scene.rng, scene.fonts, scene.params.fonts, pieces)
    return (pieces, found) if found is not None else (lines, faces)
