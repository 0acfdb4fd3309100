"""Designs: HTML files with slots, read once, and where they come from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from glyphflow.core.errors import InputError
from glyphflow.core.text import read_text
from glyphflow.render.complex.markup import Element, parse
from glyphflow.render.complex.slots import KINDS, OWN
from glyphflow.render.complex.styles import Style, style_of

_ATTRIBUTES = {
    "class", "id", "style", "data-slot", "data-limit", "data-repeat", "data-optional", "data-vary", "data-fit", "data-en",
    "data-zh", "data-says-en", "data-says-zh",
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """An element of a design with its style and what its ``data-`` attributes ask for.

    ``slot``: kind of text (or one of ``OWN``); ``fixed``: text in English and Chinese; ``limit`` in units of
    :func:`glyphflow.render.complex.slots.units`; ``repeat``: least and greatest number of copies; ``vary``: (property, low,
    high, unit) drawn by the seed; ``fit``: least share of the font size; ``says``: sentence of the caption in both languages.
    """

    style: Style
    children: tuple[Node, ...]
    slot: str | None
    fixed: tuple[str, str] | None
    limit: int | None
    repeat: tuple[int, int]
    optional: bool
    vary: tuple[str, float, float, str] | None
    fit: float
    says: tuple[str, str] | None

    def walk(self) -> Iterator[Node]:
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True)
class Design:
    """``size`` is the canvas in pixels that the design was drawn for; ``least`` the shortest side in pixels on which its text
    can be read; ``ground`` "quiet" or "any"; ``caption`` how the caption begins, in both languages."""

    name: str
    kind: str
    size: tuple[int, int]
    least: int
    quiet: bool
    caption: tuple[str, str]
    body: Node

    @property
    def free(self) -> bool:
        """Whether all text but the title may be left out, so that given text is the only text."""
        return all(_may_go(child) for child in self.body.children)


def _may_go(node: Node) -> bool:
    if node.slot == "title" or node.slot == "icon" or node.optional or node.repeat[1] > 1:
        return True
    if node.slot is not None or node.fixed is not None:
        return False
    return all(_may_go(child) for child in node.children)


def read_design(source: str, name: str) -> Design:
    """The design in ``source``; :class:`InputError` names file, line and what is wrong."""
    document = parse(source, name)
    meta = document.meta
    missing = [key for key in ("kind", "size", "caption-en", "caption-zh") if key not in meta]
    if missing:
        raise InputError(f'{name} lacks <meta name="{missing[0]}" content="…">.')
    match = re.fullmatch(r"(\d+)x(\d+)", meta["size"])
    if match is None:
        raise InputError(f"{name}: the size is {meta['size']!r}; write it like 1280x720.")
    return Design(
        name=Path(name).stem,
        kind=meta["kind"],
        size=(int(match.group(1)), int(match.group(2))),
        least=int(meta.get("least", "0")),
        quiet=meta.get("ground", "quiet") == "quiet",
        caption=(meta["caption-en"], meta["caption-zh"]),
        body=_node(document.body, Style(), name),
    )


def _node(element: Element, parent: Style, name: str) -> Node:
    where = f"{name}, line {element.line}"
    own = element.attributes
    for key in own:
        if key not in _ATTRIBUTES:
            raise InputError(f"{where}: the attribute {key} is not known; known are {', '.join(sorted(_ATTRIBUTES))}.")
    slot = own.get("data-slot")
    if slot is not None and slot not in (*KINDS, *OWN):
        raise InputError(f"{where}: there is no slot {slot!r}; there are {', '.join((*KINDS, *OWN))}.")
    fixed = (own["data-en"], own["data-zh"]) if "data-en" in own and "data-zh" in own else None
    if slot is None and fixed is None and element.text:
        fixed = (element.text, element.text)
    style = style_of(element, parent, name)
    low, _, high = own.get("data-repeat", "1").partition("-")
    if not low.isdigit() or not (high or low).isdigit() or int(high or low) < int(low):
        raise InputError(f"{where}: data-repeat is {own['data-repeat']!r}; write a number or a range like 2-5.")
    return Node(
        style=style,
        children=() if slot is not None else tuple(_node(child, style, name) for child in element.children),
        slot=slot,
        fixed=fixed,
        limit=int(own["data-limit"]) if "data-limit" in own else None,
        repeat=(int(low), int(high or low)),
        optional="data-optional" in own,
        vary=_vary(own["data-vary"], where) if "data-vary" in own else None,
        fit=float(own.get("data-fit", "1")),
        says=(own["data-says-en"], own["data-says-zh"]) if "data-says-en" in own and "data-says-zh" in own else None,
    )


def _vary(text: str, where: str) -> tuple[str, float, float, str]:
    match = re.fullmatch(r"(width|height)\s*:\s*([\d.]+)-([\d.]+)(px|%|vw|vh)", text.strip())
    if match is None:
        raise InputError(f"{where}: data-vary is {text!r}; write it like height: 20-90%.")
    return match.group(1), float(match.group(2)), float(match.group(3)), match.group(4)


@cache
def packaged() -> tuple[Design, ...]:
    """The designs of the package, by file name (the order is part of what a seed means)."""
    folder = resources.files("glyphflow.render.complex").joinpath("designs")
    files = sorted((item for item in folder.iterdir() if item.name.endswith(".html")), key=lambda item: item.name)
    return tuple(read_design(item.read_text(encoding="utf-8"), item.name) for item in files)


@cache
def open_design(path: Path) -> Design:
    """The design in a file of the user's own."""
    try:
        text = read_text(path)
    except InputError as error:
        raise InputError(f"The design cannot be read, give the path of an HTML file: {error}") from error
    return read_design(text, path.name)
