"""Layout of a design: blocks, flex rows and columns, wrapped text.

Heights are found from the leaves up, then every box gets its place from the page down; each box is placed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from glyphflow.render.complex.styles import Sides, Style
from glyphflow.render.fonts import Font, Run
from glyphflow.render.layout import wrap

_SLACK = 0.51  # design pixels that may be missing before a box counts as too small


class DoesNotFit(Exception):
    """The texts are too long for the design; the caller shrinks them or takes shorter ones."""


@dataclass(frozen=True)
class View:
    """The canvas in design pixels, and the factor on all text sizes."""

    width: float
    height: float
    text_scale: float

    @property
    def size(self) -> tuple[float, float]:
        return self.width, self.height


@dataclass
class Box:
    """An element with its text and fonts chosen: ``x, y, width, height`` are its border box in design pixels once placed.

    ``icon`` marks text that is one glyph, drawn as large as the box; ``fit`` is the least share of the font size to which a
    single line may shrink. ``rows`` are (text, run, x, baseline, em size).
    """

    style: Style
    children: list[Box] = field(default_factory=list)
    text: str = ""
    face: Font | None = None
    icon: bool = False
    fit: float = 1.0
    group: int = -1
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0
    rows: list[tuple[str, Run, float, float, float]] = field(default_factory=list)
    _naturals: dict[float, float] = field(default_factory=dict)
    _widest: float | None = None

    @property
    def flowing(self) -> list[Box]:
        return [child for child in self.children if not child.style.absolute]


def lay_out(body: Box, view: View) -> None:
    """Place ``body`` over the whole view and everything in it; :class:`DoesNotFit` when something is too small for its text."""
    _place(body, 0.0, 0.0, view.width, view.height, view)


def _sides(sides: Sides, whole: float, view: View) -> tuple[float, float, float, float]:
    top, right, bottom, left = (side.pixels(whole, view.size) for side in sides)
    return top, right, bottom, left


def _around(style: Style, whole: float, view: View) -> tuple[float, float, float, float]:
    """Padding and border together."""
    one, two = _sides(style.padding, whole, view), _sides(style.border, whole, view)
    return one[0] + two[0], one[1] + two[1], one[2] + two[2], one[3] + two[3]


def _em(box: Box, view: View) -> float:
    return box.style.size.pixels(view.height, view.size) * view.text_scale


def _max_content(box: Box, whole: float, view: View) -> float:
    """The width of the border box when no line is broken."""
    if box.style.width is not None:
        return box.style.width.pixels(whole, view.size)
    if box._widest is None:
        around = _around(box.style, whole, view)
        inner = 0.0
        if box.icon:
            inner = _em(box, view)
        elif box.face is not None:
            # A hundredth of a pixel more than the advance, or rounding would break the line.
            inner = box.face.shape(box.text).advance * _em(box, view) + 0.01
        elif box.flowing:
            widths = [_max_content(child, whole, view) + _across(child, whole, view) for child in box.flowing]
            gap = box.style.gap.pixels(whole, view.size)
            inner = sum(widths) + gap * (len(widths) - 1) if box.style.row else max(widths)
        box._widest = inner + around[1] + around[3]
    return box._widest


def _across(box: Box, whole: float, view: View) -> float:
    """Margins left and right."""
    margin = _sides(box.style.margin, whole, view)
    return margin[1] + margin[3]


def _upright(box: Box, whole: float, view: View) -> float:
    """Margins above and below."""
    margin = _sides(box.style.margin, whole, view)
    return margin[0] + margin[2]


def _natural(box: Box, width: float, view: View) -> float:
    """The height of the border box at ``width`` when nothing asks for more."""
    style = box.style
    if style.height is not None and style.height.unit != "%":
        return style.height.pixels(0.0, view.size)
    found = box._naturals.get(width)
    if found is None:
        top, right, bottom, left = _around(style, width, view)
        inner = width - left - right
        content = 0.0
        if box.icon:
            content = _em(box, view)
        elif box.face is not None:
            lines, size = _broken(box, inner, view)
            content = len(lines) * size * style.line_height
        elif box.flowing and style.row:
            widths = _row_widths(box, inner, view)
            content = max(_natural(c, w, view) + _upright(c, inner, view) for c, w in zip(box.flowing, widths, strict=True))
        elif box.flowing:
            heights = [_natural(c, _column_width(box, c, inner, view), view) + _upright(c, inner, view) for c in box.flowing]
            content = sum(heights) + style.gap.pixels(inner, view.size) * (len(heights) - 1)
        found = box._naturals[width] = content + top + bottom
    return found


def _broken(box: Box, inner: float, view: View) -> tuple[list[str], float]:
    """The lines of a text box and their em size."""
    assert box.face is not None
    size = _em(box, view)
    if box.style.nowrap or box.fit < 1.0:
        advance = box.face.shape(box.text).advance
        if advance * size > inner:
            if advance * size * box.fit > inner:
                raise DoesNotFit(box.text)
            size = inner / advance
        return [box.text], size
    lines = wrap(box.text, box.face, size, inner)
    if lines is None:
        raise DoesNotFit(box.text)
    return lines, size


def _row_widths(box: Box, inner: float, view: View) -> list[float]:
    """Widths of a row's children: those that grow share what the others leave; without enough room, text is broken."""
    children = box.flowing
    gap = box.style.gap.pixels(inner, view.size)
    room = inner - gap * (len(children) - 1) - sum(_across(c, inner, view) for c in children)
    widths = [0.0 if c.style.grow and c.style.width is None else _max_content(c, inner, view) for c in children]
    free = room - sum(widths)
    grow = sum(c.style.grow for c in children)
    if free > 0 and grow:
        return [w + free * c.style.grow / grow for w, c in zip(widths, children, strict=True)]
    if free < 0:
        soft = [c.style.width is None and not c.style.nowrap and not c.icon for c in children]
        total = sum(w for w, is_soft in zip(widths, soft, strict=True) if is_soft)
        if total + free <= 0 and free < -_SLACK:
            raise DoesNotFit(box.text)
        if total:
            return [w * (1 + free / total) if is_soft else w for w, is_soft in zip(widths, soft, strict=True)]
    return widths


def _column_width(box: Box, child: Box, inner: float, view: View) -> float:
    if child.style.width is not None:
        return child.style.width.pixels(inner, view.size)
    room = inner - _across(child, inner, view)
    return room if box.style.align == "stretch" else min(room, _max_content(child, inner, view))


def _place(box: Box, x: float, y: float, width: float, height: float, view: View) -> None:
    box.x, box.y, box.width, box.height = x, y, width, height
    top, right, bottom, left = _around(box.style, width, view)
    inner_x, inner_y, inner_w, inner_h = x + left, y + top, width - left - right, height - top - bottom
    if box.face is not None:
        _place_text(box, inner_x, inner_y, inner_w, inner_h, view)
    elif box.flowing:
        (_place_row if box.style.row else _place_column)(box, inner_x, inner_y, inner_w, inner_h, view)
    for child in box.children:
        if child.style.absolute:
            _place_absolute(box, child, view)


def _place_text(box: Box, x: float, y: float, width: float, height: float, view: View) -> None:
    assert box.face is not None
    if box.icon:
        size = min(_em(box, view), width + _SLACK, height + _SLACK)
        run = box.face.shape(box.text)
        reach = max(run.ink[2] - run.ink[0], run.ink[3] - run.ink[1]) or 1.0
        em = size / reach
        left = x + (width - (run.ink[0] + run.ink[2]) * em) / 2
        box.rows = [(box.text, run, left, y + (height - (run.ink[1] + run.ink[3]) * em) / 2, em)]
        return
    lines, size = _broken(box, width, view)
    leading = size * box.style.line_height
    if len(lines) * leading > height + _SLACK:
        raise DoesNotFit(box.text)
    face = box.face
    baseline = y + (leading - (face.ascent + face.descent) * size) / 2 + face.ascent * size
    if box.style.height is not None:  # a text of fixed height stands in its middle
        baseline += (height - len(lines) * leading) / 2
    box.rows = []
    for number, line in enumerate(lines):
        run = face.shape(line)
        slack = max(0.0, width - run.advance * size) * {"left": 0.0, "center": 0.5, "right": 1.0}[box.style.text_align]
        box.rows.append((line, run, x + slack, baseline + number * leading, size))


def _spread(free: float, count: int, justify: str) -> tuple[float, float]:
    """(space before the first, space between two) in addition to the gap."""
    if free <= 0 or justify == "start":
        return 0.0, 0.0
    if justify in ("center", "end"):
        return (free / 2 if justify == "center" else free), 0.0
    if justify == "space-between":
        return (0.0, free / (count - 1)) if count > 1 else (0.0, 0.0)
    share = free / (count if justify == "space-around" else count + 1)
    return (share / 2 if justify == "space-around" else share), share


def _place_column(box: Box, x: float, y: float, width: float, height: float, view: View) -> None:
    children, style = box.flowing, box.style
    widths = [_column_width(box, child, width, view) for child in children]
    heights = [_height(child, w, height, view) for child, w in zip(children, widths, strict=True)]
    gap = style.gap.pixels(width, view.size)
    free = height - sum(heights) - gap * (len(children) - 1) - sum(_upright(c, width, view) for c in children)
    if free < -_SLACK:
        raise DoesNotFit(_first_text(children))
    grow = sum(child.style.grow for child in children)
    if free > 0 and grow:
        heights = [h + free * child.style.grow / grow for h, child in zip(heights, children, strict=True)]
        free = 0.0
    before, between = _spread(free, len(children), style.justify)
    y += before
    for child, w, h in zip(children, widths, heights, strict=True):
        margin = _sides(child.style.margin, width, view)
        slack = width - w - margin[1] - margin[3]
        if slack < -_SLACK:
            raise DoesNotFit(child.text)
        shift = slack * {"center": 0.5, "end": 1.0}.get(style.align, 0.0)
        _place(child, x + margin[3] + shift, y + margin[0], w, h, view)
        y += margin[0] + h + margin[2] + gap + between


def _place_row(box: Box, x: float, y: float, width: float, height: float, view: View) -> None:
    children, style = box.flowing, box.style
    widths = _row_widths(box, width, view)
    gap = style.gap.pixels(width, view.size)
    free = width - sum(widths) - gap * (len(children) - 1) - sum(_across(c, width, view) for c in children)
    if free < -_SLACK:
        raise DoesNotFit(_first_text(children))
    before, between = _spread(free, len(children), style.justify)
    x += before
    for child, w in zip(children, widths, strict=True):
        margin = _sides(child.style.margin, width, view)
        room = height - margin[0] - margin[2]
        fixed = child.style.height is not None
        h = _height(child, w, room, view) if fixed or style.align != "stretch" else room
        if (h if fixed else _natural(child, w, view)) > room + _SLACK:
            raise DoesNotFit(child.text)
        shift = (room - h) * {"center": 0.5, "end": 1.0}.get(style.align, 0.0)
        _place(child, x + margin[3], y + margin[0] + shift, w, h, view)
        x += margin[3] + w + margin[1] + gap + between


def _height(child: Box, width: float, whole: float, view: View) -> float:
    if child.style.height is not None:
        return child.style.height.pixels(whole, view.size)
    return _natural(child, width, view)


def _place_absolute(box: Box, child: Box, view: View) -> None:
    top, right, bottom, left = (
        None if side is None else side.pixels(box.height if number % 2 == 0 else box.width, view.size)
        for number, side in enumerate(child.style.inset)
    )
    width = _max_content(child, box.width, view)
    if child.style.width is None and left is not None and right is not None:
        width = box.width - left - right
    height = _height(child, width, box.height, view)
    if child.style.height is None and top is not None and bottom is not None:
        height = box.height - top - bottom
    x = left if left is not None else box.width - (right or 0.0) - width if right is not None else 0.0
    y = top if top is not None else box.height - (bottom or 0.0) - height if bottom is not None else 0.0
    _place(child, box.x + x, box.y + y, width, height, view)


def _first_text(boxes: Sequence[Box]) -> str:
    for box in boxes:
        found = box.text or _first_text(box.children)
        if found:
            return found
    return ""
