"""Pure rendering, small: one to three short lines on a clean ground."""

from __future__ import annotations

import re

from glyphflow.render import captions
from glyphflow.render.fonts import Font
from glyphflow.render.layout import draw as draw_lines
from glyphflow.render.layout import fit_size, has_cjk, join_lines, pick_fonts, split_scripts, stack
from glyphflow.render.palette import pick_pair
from glyphflow.render.scene import Scene
from glyphflow.render.spec import Rendered

_MARGIN = 0.05
_LEADING = 1.15
_BASELINE = 0.36  # of a grid line below the middle, in em: capitals and Chinese characters then stand in the middle


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
        run = placed[0].run
        x, y = scene.params.grid * scene.width + run.ink[0] * size, scene.height / 2 + (_BASELINE + run.ink[1]) * size
    drawn = draw_lines(canvas, placed, x, y, text_colour.rgb)

    text, style = join_lines(lines), faces[0].entry.style
    chance = {"text-first": 0.0, "styled": 1.0, "any": 0.5 if style == "script" else 0.15}[scene.params.phrasing]
    named_style = not has_cjk(text) and style in captions.STYLES and rng.random() < chance
    result = {}
    for language in ("en", "zh"):
        patterns = _PATTERNS[language, named_style]
        if scene.params.phrasing == "text-first":
            patterns = tuple((weight, text) for weight, text in patterns if text.startswith("{q}") and "{bg}" in text)
        result[language] = captions.phrase(
            rng,
            patterns,
            q=captions.quote(rng, [text], language)[0],
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
    count = min(rng.choices((1, 2, 3), (0.68, 0.25, 0.07))[0], scene.params.max_lines)
    for attempt in range(12):
        lines, faces = scene.sample_lines(["word"] * max(1, count - attempt // 3))
        lines, faces = _split_mixed(scene, lines, faces)
        fitting = fit_size(lines, faces, inner_width, inner_height, _LEADING)
        if fitting >= low or scene.params.text is not None:
            break
    size = min(fitting, high) * rng.uniform(0.72, 1.0)
    return lines, faces, min(fitting, max(size, low))


def _choose_grid(scene: Scene, left: float) -> tuple[list[str], list[Font], float]:
    """One line of the largest size, sampled until it fits the canvas by its advance."""
    _, size = (share * scene.height for share in scene.params.sizes(0.2, 0.2))
    for _ in range(40):
        lines, faces = scene.sample_lines(["word"])
        if faces[0].shape(lines[0]).advance * size <= scene.width * (1 - left):
            break
    return lines, faces, size


def _split_mixed(scene: Scene, lines: list[str], faces: list[Font]) -> tuple[list[str], list[Font]]:
    """A sampled line of both languages mostly becomes two lines, so that each has a typeface of its own script."""
    both = [line for line in lines if has_cjk(line) and re.search("[A-Za-z]", line)]
    pieces = [piece for line in lines for piece in split_scripts(line)][:3]
    if scene.params.text is not None or not both or scene.rng.random() < 0.35 or len(pieces) > scene.params.max_lines:
        return lines, faces
    found = pick_fonts(scene.rng, scene.fonts, scene.params.fonts, pieces)
    return (pieces, found) if found is not None else (lines, faces)
