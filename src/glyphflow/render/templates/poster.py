"""Complex rendering: a poster with a title, a subtitle and a picture mark, in one of three layouts."""

from __future__ import annotations

from glyphflow.render import captions
from glyphflow.render.canvas import Box
from glyphflow.render.fonts import Font
from glyphflow.render.layout import draw as draw_lines
from glyphflow.render.layout import fit_size, join_lines, require_fonts, stack
from glyphflow.render.palette import RGB, pick_pair
from glyphflow.render.scene import Scene
from glyphflow.render.spec import Rendered, TextLine

# Boxes as shares of the canvas (x0, y0, x1, y1): picture mark, title, subtitle.
_LAYOUTS: tuple[tuple[Box, Box, Box], ...] = (
    ((0.28, 0.08, 0.72, 0.50), (0.08, 0.55, 0.92, 0.78), (0.14, 0.82, 0.86, 0.93)),
    ((0.30, 0.52, 0.70, 0.92), (0.08, 0.08, 0.92, 0.32), (0.14, 0.36, 0.86, 0.46)),
    ((0.06, 0.30, 0.40, 0.70), (0.44, 0.30, 0.94, 0.54), (0.44, 0.58, 0.94, 0.68)),
)
_PATTERNS = {
    1: {"en": captions.TITLE_EN, "zh": captions.TITLE_ZH},
    2: {"en": captions.POSTER_EN, "zh": captions.POSTER_ZH},
}
_SHAPES = {"circle": "圆形", "square": "方形", "triangle": "三角形"}


def draw(scene: Scene) -> Rendered:
    """A title (``params.text``: first line) over a subtitle (the rest) and an emoji or a shape, all in one colour."""
    rng, canvas = scene.rng, scene.canvas
    ink, ground = pick_pair(rng, scene.params.palette, ratio=3.5)
    facts = scene.paint_ground(ground, ink.rgb)
    lines, faces = _texts(scene)
    mark_box, title_box, subtitle_box = (_pixels(scene, box) for box in rng.choice(_LAYOUTS))
    if rng.random() < 0.35:
        inset = 0.03 * min(scene.width, scene.height)
        frame = (inset, inset, scene.width - inset, scene.height - inset)
        canvas.rectangle(frame, ink.rgb, inset / 2, Style=canvas.skia.Paint.kStroke_Style, StrokeWidth=max(1.0, inset / 6))
    drawn = [
        _centred(scene, line, face, box, ink.rgb)
        for line, face, box in zip(lines, faces, (title_box, subtitle_box), strict=False)
    ]
    mark = _mark(scene, mark_box, ink.rgb)
    result = {}
    for language, patterns in _PATTERNS[len(lines)].items():
        quoted = captions.quote(rng, lines, language)
        result[language] = captions.phrase(
            rng,
            patterns,
            q=quoted[0],
            q2=quoted[-1],
            fg=getattr(ink, language),
            bg=getattr(ground, language),
            extra=mark[language],
        )
    names = [face.name for face in faces]
    subject = {"text": lines, "text_colour": ink.en, "fonts": names, "mark": mark["en"], **facts}
    return Rendered(canvas.image(), tuple(drawn), result, "poster", "flat", subject)


def _texts(scene: Scene) -> tuple[list[str], list[Font]]:
    """The lines of the poster, at most two: title and subtitle."""
    lines, faces = scene.sample_lines(["word", "phrase"])
    if len(lines) > 2:
        lines = [lines[0], join_lines(lines[1:])]
        faces = require_fonts(scene.rng, scene.fonts, scene.params.fonts, lines)
    return lines, faces


def _pixels(scene: Scene, box: Box) -> Box:
    return box[0] * scene.width, box[1] * scene.height, box[2] * scene.width, box[3] * scene.height


def _centred(scene: Scene, line: str, face: Font, box: Box, rgb: RGB) -> TextLine:
    """``line`` as large as ``box`` allows, in its middle."""
    size = fit_size([line], [face], box[2] - box[0], box[3] - box[1])
    placed, width, height = stack([line], [face], size)
    return draw_lines(scene.canvas, placed, (box[0] + box[2] - width) / 2, (box[1] + box[3] - height) / 2, rgb)[0]


def _mark(scene: Scene, box: Box, rgb: RGB) -> dict[str, str]:
    """Draw an emoji, or a plain shape where the library has no emoji font, and name it in both languages."""
    rng, canvas = scene.rng, scene.canvas
    side = min(box[2] - box[0], box[3] - box[1])
    left, top = (box[0] + box[2] - side) / 2, (box[1] + box[3] - side) / 2
    # Fonts that the spec names decide alone, so that the picture does not depend on what else the library holds.
    listed = scene.params.fonts or scene.fonts.names()
    emoji_fonts = [name for name in listed if scene.fonts.entry(name).style == "symbol"]
    if emoji_fonts and (scene.params.emoji or rng.random() < 0.75):
        font = scene.fonts.font(emoji_fonts[0])
        one = scene.pick_emoji(font)
        run = font.shape(one.text)
        x0, y0, x1, y1 = run.ink
        size = side / max(x1 - x0, y1 - y0)
        x, y = left + side / 2 - (x0 + x1) / 2 * size, top + side / 2 - (y0 + y1) / 2 * size
        canvas.run(run, x, y, size, rgb)
        return {"en": f"{one.name_en} icon", "zh": f"{one.name_zh}图标"}
    shape = rng.choice(sorted(_SHAPES))
    if shape == "triangle":
        canvas.polygon([(left, top + side), (left + side / 2, top), (left + side, top + side)], rgb)
    else:
        canvas.rectangle((left, top, left + side, top + side), rgb, side / 2 if shape == "circle" else 0.0)
    return {"en": shape, "zh": _SHAPES[shape]}
