"""Paints placed boxes: shadow, ground, border, text; and says what was written where."""

from __future__ import annotations

from glyphflow.render.canvas import Box as Rectangle
from glyphflow.render.canvas import Canvas
from glyphflow.render.complex.boxes import Box
from glyphflow.render.complex.styles import NONE, Ink
from glyphflow.render.complex.theme import Theme
from glyphflow.render.palette import RGB
from glyphflow.render.spec import TextLine


def paint(canvas: Canvas, body: Box, theme: Theme, scale: float) -> list[TextLine]:
    """Draw ``body`` and all in it at ``scale`` pixels per design pixel; gives its lines of text in document order."""
    canvas.fill(theme.rgb["paper"])
    lines: list[TextLine] = []
    _paint(canvas, body, theme, scale, lines)
    return lines


def _rgb(ink: Ink, theme: Theme) -> RGB:
    return ink.rgb if ink.name is None else theme.rgb[ink.name]


def _paint(canvas: Canvas, box: Box, theme: Theme, scale: float, lines: list[TextLine]) -> None:
    style = box.style
    x0, y0 = box.x * scale, box.y * scale
    area = (x0, y0, x0 + box.width * scale, y0 + box.height * scale)
    side = min(area[2] - x0, area[3] - y0)
    radius = min(side / 2, style.radius.value / 100 * side if style.radius.unit == "%" else style.radius.value * scale)
    if style.shadow is not None:
        _shadow(canvas, box, area, radius, theme, scale)
    if style.background is not None and style.background.alpha:
        canvas.rectangle(area, _rgb(style.background, theme), radius, style.background.alpha)
    if style.gradient is not None:
        angle, first, second = style.gradient
        canvas.raw.save()
        canvas.raw.clipRRect(canvas.skia.RRect.MakeRectXY(canvas.skia.Rect(*area), radius, radius), True)
        # CSS: 0 degrees is up, 90 is to the right; the canvas: 0 is to the right, clockwise.
        canvas.fill_gradient(_rgb(first, theme), _rgb(second, theme), (angle - 90) * 3.141592653589793 / 180, area)
        canvas.raw.restore()
    _border(canvas, box, area, radius, theme, scale)
    for text, run, x, baseline, em in box.rows:
        rgb = _rgb(style.colour, theme)
        ink = canvas.run(run, x * scale, baseline * scale, em * scale, rgb)
        if not box.icon:
            lines.append(TextLine(text, ink, run.font.name, round(em * scale, 2), rgb))
    if box.children:
        if style.clip:
            canvas.raw.save()
            canvas.raw.clipRRect(canvas.skia.RRect.MakeRectXY(canvas.skia.Rect(*area), radius, radius), True)
        for child in box.children:
            _paint(canvas, child, theme, scale, lines)
        if style.clip:
            canvas.raw.restore()


def _shadow(canvas: Canvas, box: Box, area: Rectangle, radius: float, theme: Theme, scale: float) -> None:
    assert box.style.shadow is not None
    x, y, blur, ink = box.style.shadow
    sigma = max(0.3, blur.value * scale / 2)
    moved = (area[0] + x.value * scale, area[1] + y.value * scale, area[2] + x.value * scale, area[3] + y.value * scale)
    soft = canvas.skia.MaskFilter.MakeBlur(canvas.skia.kNormal_BlurStyle, sigma)
    canvas.rectangle(moved, _rgb(ink, theme), radius, ink.alpha, MaskFilter=soft)


def _border(canvas: Canvas, box: Box, area: Rectangle, radius: float, theme: Theme, scale: float) -> None:
    style = box.style
    if style.border == (NONE,) * 4:
        return
    x0, y0, x1, y1 = area
    if len(set(style.border)) == 1 and style.border_ink[0] is not None:
        thick = max(1.0, style.border[0].value * scale)
        inner = (x0 + thick / 2, y0 + thick / 2, x1 - thick / 2, y1 - thick / 2)
        stroke = {"Style": canvas.skia.Paint.kStroke_Style, "StrokeWidth": thick}
        canvas.rectangle(
            inner, _rgb(style.border_ink[0], theme), max(0.0, radius - thick / 2), style.border_ink[0].alpha, **stroke
        )
        return
    top, right, bottom, left = (max(1.0, side.value * scale) if side.value else 0.0 for side in style.border)
    edges = ((x0, y0, x1, y0 + top), (x1 - right, y0, x1, y1), (x0, y1 - bottom, x1, y1), (x0, y0, x0 + left, y1))
    for thick, ink, edge in zip((top, right, bottom, left), style.border_ink, edges, strict=True):
        if thick and ink is not None:
            canvas.rectangle(edge, _rgb(ink, theme), 0.0, ink.alpha)
