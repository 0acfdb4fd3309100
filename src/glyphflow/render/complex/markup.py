"""Reads the subset of HTML and CSS that designs are written in: a tree of elements with the declarations that hold for them.

HTML: any tag; an element holds other elements or text, not both. CSS: rules with selectors of tags, classes, ids and
descendants; the more specific and the later declaration wins, a ``style`` attribute wins over all. The properties are those of
:mod:`glyphflow.render.complex.styles`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

from glyphflow.core.errors import InputError

_EMPTY_TAGS = {"meta", "br", "hr", "img", "input", "link"}
_SIMPLE = re.compile(r"([a-zA-Z][\w-]*|\*)?((?:[.#][\w-]+)*)$")


@dataclass
class Element:
    """One element: its tag and attributes, and either children or text (white space collapsed); ``declared`` is its CSS."""

    tag: str
    attributes: dict[str, str]
    line: int
    children: list[Element] = field(default_factory=list)
    text: str = ""
    declared: dict[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()


@dataclass(frozen=True)
class Document:
    """A parsed design: what its ``meta`` elements say, and its body."""

    meta: dict[str, str]
    body: Element


class _Reader(HTMLParser):
    def __init__(self, name: str) -> None:
        super().__init__(convert_charrefs=True)
        self.name = name
        self.root = Element("html", {}, 1)
        self.open = [self.root]
        self.meta: dict[str, str] = {}
        self.css: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {key: value or "" for key, value in attrs}
        if tag == "meta":
            if "name" in attributes:
                self.meta[attributes["name"]] = attributes.get("content", "")
            return
        if tag == "html":
            return
        element = Element(tag, attributes, self.getpos()[0])
        self.open[-1].children.append(element)
        if tag not in _EMPTY_TAGS:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _EMPTY_TAGS:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "html" or tag in _EMPTY_TAGS:
            return
        last = self.open[-1]
        if last.tag != tag:
            raise InputError(
                f"{self.name}, line {self.getpos()[0]}: </{tag}> closes <{last.tag}> of line {last.line}; "
                f"write </{last.tag}> before it."
            )
        if last.text and last.children:
            raise InputError(
                f"{self.name}, line {last.line}: <{last.tag}> holds text beside elements; give the text its own element."
            )
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1].tag == "style":
            self.css.append(data)
        elif data.strip():
            self.open[-1].text = f"{self.open[-1].text} {' '.join(data.split())}".strip()


def parse(source: str, name: str) -> Document:
    """``source`` as a document; ``name`` (the file) is named by the :class:`InputError` that a mistake raises."""
    reader = _Reader(name)
    reader.feed(source)
    reader.close()
    if len(reader.open) > 1:
        last = reader.open[-1]
        raise InputError(f"{name}, line {last.line}: <{last.tag}> is never closed; write </{last.tag}>.")
    bodies = [element for element in reader.root.children if element.tag == "body"]
    if len(bodies) != 1:
        raise InputError(f"{name} has {len(bodies)} <body> elements and needs exactly one.")
    _cascade(bodies[0], _rules("".join(reader.css), name), name)
    return Document(reader.meta, bodies[0])


@dataclass(frozen=True)
class _Rule:
    """Simple selectors from the outermost ancestor to the element itself, and what they declare."""

    selectors: tuple[tuple[str, tuple[str, ...]], ...]
    declared: dict[str, str]

    @property
    def specificity(self) -> tuple[int, int, int]:
        marks = [mark for _, group in self.selectors for mark in group]
        ids = sum(mark.startswith("#") for mark in marks)
        return ids, len(marks) - ids, sum(tag not in ("", "*") for tag, _ in self.selectors)


def declarations(text: str, where: str) -> dict[str, str]:
    """``a: b; c: d`` as a mapping."""
    found: dict[str, str] = {}
    for part in text.split(";"):
        if part.strip():
            key, colon, value = part.partition(":")
            if not colon:
                raise InputError(f"{where}: {part.strip()!r} is not a declaration; write property: value;")
            found[key.strip().lower()] = value.strip()
    return found


def _rules(css: str, name: str) -> list[_Rule]:
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    rules = []
    for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", css):
        declared = declarations(body, f"{name}, {selectors.strip()}")
        for selector in selectors.split(","):
            parts = []
            for part in selector.split():
                match = _SIMPLE.match(part)
                if match is None:
                    raise InputError(
                        f"{name}: the selector {selector.strip()!r} is not understood; use tags, .class, #id and descendants."
                    )
                parts.append((match.group(1) or "", tuple(re.findall(r"[.#][\w-]+", match.group(2)))))
            rules.append(_Rule(tuple(parts), declared))
    return sorted(rules, key=lambda rule: rule.specificity)  # stable: the later of two equals wins


def _cascade(element: Element, rules: list[_Rule], name: str, above: tuple[Element, ...] = ()) -> None:
    for rule in rules:
        if _matches(rule, (*above, element)):
            element.declared.update(rule.declared)
    element.declared.update(declarations(element.attributes.get("style", ""), f"{name}, line {element.line}"))
    for child in element.children:
        _cascade(child, rules, name, (*above, element))


def _matches(rule: _Rule, path: tuple[Element, ...]) -> bool:
    *ancestors, own = rule.selectors
    if not _is(own, path[-1]):
        return False
    above = list(path[:-1])
    for selector in reversed(ancestors):
        while above and not _is(selector, above[-1]):
            above.pop()
        if not above:
            return False
        above.pop()
    return True


def _is(selector: tuple[str, tuple[str, ...]], element: Element) -> bool:
    tag, marks = selector
    own = {f".{name}" for name in element.classes} | {f"#{element.attributes.get('id', '')}"}
    return tag in ("", "*", element.tag) and own.issuperset(marks)
