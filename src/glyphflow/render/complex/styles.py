"""The CSS properties that designs may use, read into values once when a design is opened.

Lengths are px (of the size that the design was drawn for), %, vw, vh, vmin, em and, for heights, auto. Colours are #rgb,
#rrggbb, rgba(), white, black, transparent and the theme's variables: var(--paper), var(--ink), var(--muted), var(--accent),
var(--on-accent), var(--panel), var(--line), var(--soft), and each of them with an opacity: var(--ink) 40%.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from glyphflow.core.errors import InputError
from glyphflow.render.complex.markup import Element
from glyphflow.render.palette import RGB

T = TypeVar("T")
VARIABLES = ("paper", "ink", "muted", "accent", "on-accent", "panel", "line", "soft")
_SIDES = ("top", "right", "bottom", "left")


@dataclass(frozen=True)
class Length:
    """``value`` in ``unit``: px, %, vw, vh or vmin (em is resolved when it is read)."""

    value: float
    unit: str

    def pixels(self, whole: float, view: tuple[float, float]) -> float:
        """In design pixels; ``whole`` is what a percentage is of, ``view`` the canvas in design pixels."""
        if self.unit == "px":
            return self.value
        if self.unit == "%":
            return self.value / 100 * whole
        side = {"vw": view[0], "vh": view[1], "vmin": min(view)}[self.unit]
        return self.value / 100 * side


@dataclass(frozen=True)
class Ink:
    """A colour of the theme by name, or a fixed one, with an opacity from 0 to 255."""

    name: str | None
    rgb: RGB = (0, 0, 0)
    alpha: int = 255


NONE = Length(0, "px")
Sides = tuple[Length, Length, Length, Length]


@dataclass(frozen=True)
class Style:
    """Everything that layout and painting ask of an element. Sides are top, right, bottom, left; corners are of one radius."""

    row: bool = False
    absolute: bool = False
    width: Length | None = None
    height: Length | None = None
    margin: Sides = (NONE,) * 4
    padding: Sides = (NONE,) * 4
    border: Sides = (NONE,) * 4
    border_ink: tuple[Ink | None, Ink | None, Ink | None, Ink | None] = (None,) * 4
    inset: tuple[Length | None, Length | None, Length | None, Length | None] = (None,) * 4
    radius: Length = NONE
    background: Ink | None = None
    gradient: tuple[float, Ink, Ink] | None = None
    shadow: tuple[Length, Length, Length, Ink] | None = None
    clip: bool = False
    gap: Length = NONE
    grow: float = 0.0
    justify: str = "start"
    align: str = "stretch"
    # Inherited from here on.
    colour: Ink = Ink("ink")
    family: str = "body"
    size: Length = Length(16, "px")
    bold: bool = False
    line_height: float = 1.35
    text_align: Literal["left", "center", "right"] = "left"
    upper: bool = False
    nowrap: bool = False


_INHERITED = ("colour", "family", "size", "bold", "line_height", "text_align", "upper", "nowrap")
FAMILIES = ("body", "heading", "sans", "serif", "slab", "display", "script", "mono")
_BLOCKED = {"start": "start", "flex-start": "start", "center": "center", "end": "end", "flex-end": "end", "stretch": "stretch"}
_JUSTIFY = {**_BLOCKED, "space-between": "space-between", "space-around": "space-around", "space-evenly": "space-evenly"}
_KNOWN = (
    "display", "flex-direction", "flex", "flex-grow", "gap", "justify-content", "align-items", "position", "top",
    "right", "bottom", "left", "inset", "width", "height", "margin", "margin-top", "margin-right",
    "margin-bottom", "margin-left", "padding", "padding-top", "padding-right", "padding-bottom", "padding-left",
    "border", "border-top", "border-right", "border-bottom", "border-left", "border-radius", "background",
    "box-shadow", "overflow", "color", "font-family", "font-size", "font-weight", "line-height", "text-align",
    "text-transform", "white-space",
)  # fmt: skip


def style_of(element: Element, parent: Style, name: str) -> Style:
    """The computed style of ``element``; a property or value outside the subset raises :class:`InputError` naming it."""
    style = replace(Style(), **{key: getattr(parent, key) for key in _INHERITED})
    where = f"{name}, line {element.line}"
    declared = element.declared
    if "font-size" in declared:  # first: em refers to it
        style = replace(style, size=_relative(_length(declared["font-size"], parent.size, where), parent.size))
    for key, value in declared.items():
        if key not in _KNOWN:
            near = difflib.get_close_matches(key, _KNOWN, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"it may use {', '.join(_KNOWN)}."
            raise InputError(f"{where}: {key} is not among the CSS properties that designs may use; {hint}")
        if key != "font-size":
            style = _with(style, key, value, where)
    return style


def _with(style: Style, key: str, value: str, where: str) -> Style:
    def length(text: str) -> Length:
        return _length(text, style.size, where)

    def one_of(choices: dict[str, str]) -> str:
        if value not in choices:
            raise InputError(f"{where}: {key} may be {', '.join(choices)} and is {value!r}.")
        return choices[value]

    if key == "display":
        return replace(style, row=one_of({"block": "", "flex": "row"}) == "row")
    if key == "flex-direction":
        return replace(style, row=one_of({"row": "row", "column": ""}) == "row")
    if key in ("flex", "flex-grow"):
        return replace(style, grow=float(value.split()[0]))
    if key == "gap":
        return replace(style, gap=length(value))
    if key == "justify-content":
        return replace(style, justify=one_of(_JUSTIFY))
    if key == "align-items":
        return replace(style, align=one_of(_BLOCKED))
    if key == "position":
        return replace(style, absolute=one_of({"static": "", "relative": "", "absolute": "absolute"}) == "absolute")
    if key == "inset":
        return replace(style, inset=_four(value, length))
    if key in _SIDES:
        return replace(style, inset=_changed(style.inset, key, length(value)))
    if key == "width":
        return replace(style, width=None if value == "auto" else length(value))
    if key == "height":
        return replace(style, height=None if value == "auto" else length(value))
    if key == "margin":
        return replace(style, margin=_four(value, length))
    if key == "padding":
        return replace(style, padding=_four(value, length))
    if key.startswith("margin-"):
        return replace(style, margin=_changed(style.margin, key.rpartition("-")[2], length(value)))
    if key.startswith("padding-"):
        return replace(style, padding=_changed(style.padding, key.rpartition("-")[2], length(value)))
    if key == "border-radius":
        return replace(style, radius=length(value))
    if key.startswith("border"):
        thick, ink = _border(value, length, where)
        if key == "border":
            return replace(style, border=(thick,) * 4, border_ink=(ink,) * 4)
        side = key.rpartition("-")[2]
        return replace(style, border=_changed(style.border, side, thick), border_ink=_changed(style.border_ink, side, ink))
    if key == "background":
        gradient = re.fullmatch(r"linear-gradient\((-?[\d.]+)deg,\s*(.+?),\s*(var.+|#.+|\w+.*)\)", value)
        if gradient is not None:
            stops = (_ink(gradient.group(2), where), _ink(gradient.group(3), where))
            return replace(style, gradient=(float(gradient.group(1)), *stops))
        return replace(style, background=_ink(value, where))
    if key == "box-shadow":
        x, y, blur, colour = value.split(None, 3)
        return replace(style, shadow=(length(x), length(y), length(blur), _ink(colour, where)))
    if key == "overflow":
        return replace(style, clip=one_of({"visible": "", "hidden": "hidden"}) == "hidden")
    if key == "color":
        return replace(style, colour=_ink(value, where))
    if key == "font-family":
        return replace(style, family=one_of({family: family for family in FAMILIES}))
    if key == "font-weight":
        return replace(style, bold=one_of({"normal": "", "bold": "bold", "400": "", "700": "bold"}) == "bold")
    if key == "line-height":
        return replace(style, line_height=float(value))
    if key == "text-align":
        one_of({"left": "", "center": "", "right": ""})
        return replace(style, text_align="center" if value == "center" else "right" if value == "right" else "left")
    if key == "text-transform":
        return replace(style, upper=one_of({"none": "", "uppercase": "upper"}) == "upper")
    return replace(style, nowrap=one_of({"normal": "", "nowrap": "nowrap"}) == "nowrap")


def _length(text: str, em: Length, where: str) -> Length:
    match = re.fullmatch(r"(-?\d*\.?\d+)(px|%|vw|vh|vmin|em)?", text)
    if match is None or (match.group(2) is None and float(match.group(1)) != 0):
        raise InputError(f"{where}: {text!r} is not a length; write a number with px, %, vw, vh, vmin or em.")
    value, unit = float(match.group(1)), match.group(2) or "px"
    return Length(value * em.value, em.unit) if unit == "em" else Length(value, unit)


def _relative(size: Length, parent: Length) -> Length:
    """A font size in % is of the parent's."""
    return Length(size.value / 100 * parent.value, parent.unit) if size.unit == "%" else size


def _four(value: str, length: Callable[[str], Length]) -> Sides:
    """One to four lengths as CSS reads them: all; upright and across; top, across, bottom; all four."""
    parts = [length(part) for part in value.split()]
    top, right, bottom, left = {1: (0, 0, 0, 0), 2: (0, 1, 0, 1), 3: (0, 1, 2, 1)}.get(len(parts), (0, 1, 2, 3))
    return parts[top], parts[right], parts[bottom], parts[left]


def _changed(sides: tuple[T, T, T, T], side: str, value: T) -> tuple[T, T, T, T]:
    top, right, bottom, left = (value if name == side else old for name, old in zip(_SIDES, sides, strict=True))
    return top, right, bottom, left


def _border(value: str, length: Callable[[str], Length], where: str) -> tuple[Length, Ink | None]:
    if value == "none":
        return NONE, None
    match = re.fullmatch(r"(\S+)\s+solid\s+(.+)", value)
    if match is None:
        raise InputError(f"{where}: a border is written as 2px solid colour, and here is {value!r}.")
    return length(match.group(1)), _ink(match.group(2), where)


def _ink(text: str, where: str) -> Ink:
    text = text.strip()
    match = re.fullmatch(r"var\(--([\w-]+)\)(?:\s+([\d.]+)%)?", text)
    if match is not None:
        if match.group(1) not in VARIABLES:
            raise InputError(f"{where}: a theme has no --{match.group(1)}; it has --{', --'.join(VARIABLES)}.")
        return Ink(match.group(1), alpha=round(float(match.group(2) or 100) * 2.55))
    if match := re.fullmatch(r"#([0-9a-fA-F]{3}|[0-9a-fA-F]{6})", text):
        digits = match.group(1) if len(match.group(1)) == 6 else "".join(c * 2 for c in match.group(1))
        return Ink(None, (int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)))
    if match := re.fullmatch(r"rgba?\(\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*(?:,\s*([\d.]+)\s*)?\)", text):
        red, green, blue = (int(match.group(k)) for k in (1, 2, 3))
        return Ink(None, (red, green, blue), round(255 * float(match.group(4) or 1)))
    named = {"white": Ink(None, (255, 255, 255)), "black": Ink(None, (0, 0, 0)), "transparent": Ink(None, alpha=0)}
    if text not in named:
        raise InputError(f"{where}: {text!r} is not a colour; write #rrggbb, rgba(…), white, black or var(--ink).")
    return named[text]
