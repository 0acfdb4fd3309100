"""Complex rendering: a presentation slide with a title and bullet points, in one of three layouts."""

from __future__ import annotations

from glyphflow.render import captions
from glyphflow.render.fonts import Font
from glyphflow.render.layout import Placed, fit_size, wrap
from glyphflow.render.layout import draw as draw_lines
from glyphflow.render.palette import RGB, pick_pair
from glyphflow.render.params import Level
from glyphflow.render.scene import Scene
from glyphflow.render.spec import Rendered, TextLine

_LAYOUTS = ("bar", "rule", "side")
_PATTERNS = {
    True: {"en": captions.SLIDE_EN, "zh": captions.SLIDE_ZH},
    False: {"en": captions.EMPTY_SLIDE_EN, "zh": captions.EMPTY_SLIDE_ZH},
}


def draw(scene: Scene) -> Rendered:
    """Title and two to five bullets (``params.text``: first line and the rest), left-aligned, one size for all bullets."""
    rng, canvas = scene.rng, scene.canvas
    ink, ground = pick_pair(rng, scene.params.palette, ratio=4.5)
    levels: list[Level] = ["phrase"]
    levels += ["line"] * rng.randint(2, 5)
    lines, faces = scene.sample_lines(levels)
    canvas.fill(ground.rgb)
    layout = rng.choice(_LAYOUTS)
    width, height = scene.width, scene.height
    title_box = (0.07 * width, 0.07 * height, 0.93 * width, 0.19 * height)
    body_left = 0.07 * width
    title_rgb: RGB = ink.rgb
    if layout == "bar":
        canvas.rectangle((0, 0, width, 0.26 * height), ink.rgb)
        title_rgb = ground.rgb
    elif layout == "rule":
        canvas.rectangle((0.07 * width, 0.235 * height, 0.93 * width, 0.243 * height), ink.rgb)
    else:
        canvas.rectangle((0, 0, 0.035 * width, height), ink.rgb)

    title_size = fit_size([lines[0]], [faces[0]], title_box[2] - title_box[0], title_box[3] - title_box[1])
    run = faces[0].shape(lines[0])
    baseline = (title_box[1] + title_box[3]) / 2 - (run.ink[1] + run.ink[3]) / 2 * title_size
    title = Placed(lines[0], run, title_box[0] - run.ink[0] * title_size, baseline, title_size)
    drawn = draw_lines(canvas, [title], 0, 0, title_rgb)
    if lines[1:]:
        drawn += _bullets(scene, lines[1:], faces[1:], (body_left, 0.32 * height, 0.93 * width, 0.94 * height), ink.rgb)

    result = {}
    for language, patterns in _PATTERNS[len(lines) > 1].items():
        title_quoted, *bullets_quoted = captions.quote(rng, lines, language)
        result[language] = captions.phrase(
            rng,
            patterns,
            q=title_quoted,
            q2=(", " if language == "en" else "、").join(bullets_quoted),
            fg=getattr(ink, language),
            bg=getattr(ground, language),
        )
    names = [face.name for face in faces]
    subject = {"text": lines, "text_colour": ink.en, "background": ground.en, "layout": layout, "fonts": names}
    return Rendered(canvas.image(), tuple(drawn), result, "slide", "flat", subject)


def _bullets(
    scene: Scene, bullets: list[str], faces: list[Font], box: tuple[float, float, float, float], rgb: RGB
) -> list[TextLine]:
    """Bullets wrapped within ``box`` (x0, y0, x1, y1) at the largest size that fits all of them."""
    size = 0.075 * scene.height
    while True:
        indent = 1.1 * size
        wrapped = [wrap(text, face, size, box[2] - box[0] - indent) for text, face in zip(bullets, faces, strict=True)]
        rows = sum(len(rows) for rows in wrapped if rows is not None)
        if None not in wrapped and (1.35 * rows + 0.55 * (len(bullets) - 1)) * size <= box[3] - box[1]:
            break
        size *= 0.93
    y = box[1] + size
    placed = []
    for rows_of, face in zip(wrapped, faces, strict=True):
        dot = 0.16 * size
        middle = (box[0] + dot + 0.15 * size, y - 0.36 * size)
        scene.canvas.rectangle((middle[0] - dot, middle[1] - dot, middle[0] + dot, middle[1] + dot), rgb, dot)
        for row in rows_of or ():
            placed.append(Placed(row, face.shape(row), box[0] + indent, y, size))
            y += 1.35 * size
        y += 0.55 * size
    return draw_lines(scene.canvas, placed, 0, 0, rgb)
