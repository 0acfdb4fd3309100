"""Pure rendering, large: paragraphs on a clean ground, dropped as a whole when one glyph is missing."""

from __future__ import annotations

import re

from glyphflow.core.errors import InputError
from glyphflow.core.text import split_lines
from glyphflow.render import captions
from glyphflow.render.fonts import Font
from glyphflow.render.layout import has_cjk, join_lines, pick_fonts, require_fonts
from glyphflow.render.palette import pick_pair
from glyphflow.render.paragraphs import Block, draw_block, fit
from glyphflow.render.scene import ATTEMPTS, Scene
from glyphflow.render.spec import Rendered
from glyphflow.render.texts import sample_text, weave

_LEAST = 11.0
"""Pixels of an em below which small print is not legible."""


def draw(scene: Scene) -> Rendered:
    """Wrapped text of one font and colour in a block in the middle; the canvas decides size, columns and direction.

    Chinese text may run down in columns from the right (``params.direction``). Text that does not fit at ``min_size`` is cut
    after a whole sentence.
    """
    rng, canvas = scene.rng, scene.canvas
    text_colour, ground = pick_pair(rng, scene.params.palette, ratio=4.5)
    low, high = _sizes(scene)
    text, face = _text(scene, low)
    facts = scene.paint_ground(ground, text_colour.rgb)
    block = _block(scene, text, low)
    shaped = face.shape_text(text, block.vertical)
    lines, size = fit(shaped, block, (low, high))
    drawn = draw_block(canvas, shaped, lines, block, size, text_colour.rgb)
    shown = [line.text for line in drawn]
    quoted = join_lines(shown)
    style = face.entry.style
    kind = "vertical" if block.vertical else "handwritten" if style == "script" else "printed"
    result = {}
    for language, patterns in (("en", captions.PARAGRAPH_EN), ("zh", captions.PARAGRAPH_ZH)):
        result[language] = captions.phrase(
            rng,
            patterns[kind],
            q=captions.quote(rng, [quoted], language)[0],
            fg=getattr(text_colour, language),
            bg=getattr(ground, language),
        )
    subject = {
        "text": shown,
        "text_colour": text_colour.en,
        "fonts": [face.name],
        "font_style": style,
        "columns": block.columns,
        "direction": "vertical" if block.vertical else "horizontal",
        **facts,
    }
    return Rendered(canvas.image(), tuple(drawn), result, "document", "flat", subject)


def _sizes(scene: Scene) -> tuple[float, float]:
    """Em sizes in pixels between which the text may be set: shares of the shorter side, but legible ones."""
    short = min(scene.width, scene.height)
    low = max(0.022 * short, min(_LEAST, 0.09 * short))
    high = max(0.085 * short, 1.3 * low)
    least, most = scene.params.sizes(low / scene.height, high / scene.height)
    return least * scene.height, most * scene.height


def _text(scene: Scene, low: float) -> tuple[str, Font]:
    """One text with a font that draws all of it: from a single paragraph to as many as the canvas holds."""
    rng, params = scene.rng, scene.params
    if params.text is not None:
        text = join_lines([line.strip() for line in split_lines(params.text) if line.strip()])
        return text, require_fonts(rng, scene.fonts, params.fonts, [text], params.styles, params.licences)[0]
    language = rng.choice(params.languages)
    room = 0.55 * scene.width * scene.height / low**2 * (1.0 if language == "zh" else 1.9)
    wanted = rng.uniform(0.1, 0.9) * room if rng.random() < 0.6 else 0
    for _ in range(ATTEMPTS):
        pieces = [sample_text(rng, language, params.level or "paragraph", params.split)]
        while sum(map(len, pieces)) < wanted:
            pieces.append(sample_text(rng, language, params.level or "paragraph", params.split))
        # What must occur comes first, where it is not cut away.
        text = join_lines([*weave(rng, params.include or "", language), *pieces])
        faces = pick_fonts(rng, scene.fonts, params.fonts, [text], params.styles, params.licences)
        if faces is not None:
            return text, faces[0]
    return text, require_fonts(rng, scene.fonts, params.fonts, [text], params.styles, params.licences)[0]


def _block(scene: Scene, text: str, low: float) -> Block:
    """Margins, leading, columns and direction for the canvas."""
    rng, width, height = scene.rng, scene.width, scene.height
    margin = rng.uniform(0.06, 0.12) * min(width, height)
    box = (margin, margin, width - margin, height - margin)
    leading = rng.uniform(1.3, 1.6)
    # Latin words in a vertical line would stand letter upon letter, which nobody sets.
    upright = not has_cjk(text) or re.search("[A-Za-z]", text) is not None
    vertical = rng.random() < (0.3 if height > width else 0.15) and not upright
    if scene.params.direction is not None:
        vertical = scene.params.direction == "vertical"
        if vertical and upright:
            raise InputError(f"Only Chinese text is set vertically, and {text[:40]!r} is not; leave direction out.")
    if vertical:
        return Block(box, rng.uniform(1.4, 1.8), vertical=True)
    ems = 12 if has_cjk(text) else 20
    most = int(min(3, (width - 2 * margin) / (ems * low), 2.2 * width / height))
    columns = rng.randint(1, most) if most > 1 and len(text) > 240 else 1
    return Block(box, leading, columns, gap=1.6 * low if columns > 1 else 0.0)
