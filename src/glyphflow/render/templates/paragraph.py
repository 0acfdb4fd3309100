"""Pure rendering, large: a paragraph on a clean ground, dropped as a whole when one glyph is missing."""

from __future__ import annotations

from glyphflow.render import captions
from glyphflow.render.layout import Placed, fit_paragraph, join_lines, require_fonts
from glyphflow.render.layout import draw as draw_lines
from glyphflow.render.palette import pick_pair
from glyphflow.render.scene import Scene
from glyphflow.render.spec import Rendered


def draw(scene: Scene) -> Rendered:
    """Wrapped text of one font and colour, left-aligned from the top of a block that sits in the middle.

    Text that does not fit at ``min_size`` is cut after a whole sentence.
    """
    rng, canvas = scene.rng, scene.canvas
    text_colour, ground = pick_pair(rng, scene.params.palette, ratio=4.5)
    texts, faces = scene.sample_lines(["paragraph"])
    text = join_lines(texts)
    face = faces[0] if len(texts) == 1 else require_fonts(rng, scene.fonts, scene.params.fonts, [text])[0]
    facts = scene.paint_ground(ground, text_colour.rgb)
    low, high = (share * scene.height for share in scene.params.sizes(0.03, 0.09))
    margin = rng.uniform(0.06, 0.12) * min(scene.width, scene.height)
    leading = rng.uniform(1.3, 1.6)
    lines, size = fit_paragraph(text, face, (scene.width - 2 * margin, scene.height - 2 * margin), (low, high), leading)
    top = (scene.height - (len(lines) - 1) * leading * size - face.ascent * size - face.descent * size) / 2
    placed = [
        Placed(line, face.shape(line), margin, top + face.ascent * size + index * leading * size, size)
        for index, line in enumerate(lines)
    ]
    drawn = draw_lines(canvas, placed, 0, 0, text_colour.rgb)
    shown = join_lines(lines)
    style = face.entry.style
    result = {}
    for language, patterns in (("en", captions.PARAGRAPH_EN), ("zh", captions.PARAGRAPH_ZH)):
        result[language] = captions.phrase(
            rng,
            patterns["handwritten" if style == "script" else "printed"],
            q=captions.quote(rng, [shown], language)[0],
            fg=getattr(text_colour, language),
            bg=getattr(ground, language),
        )
    subject = {"text": lines, "text_colour": text_colour.en, "fonts": [face.name], "font_style": style, **facts}
    return Rendered(canvas.image(), tuple(drawn), result, "document", "flat", subject)
