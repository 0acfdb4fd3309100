"""The order in which a line's characters stand: the Unicode bidirectional algorithm (UAX 9) without explicit embeddings.

A line of Hebrew or Arabic runs from the right; digits and Latin words in it run from the left, brackets follow what they
enclose, and the first letter that has a direction decides the line's own. The characters that embed or isolate directions by
hand are refused: captions do not show them. Rules are named as in the annex; within one line there is one isolating run.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from glyphflow.core.errors import InputError

_RIGHT = frozenset(("R", "AL"))
_BY_HAND = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))
_NEUTRAL = frozenset(("B", "S", "WS", "ON", "BN"))
_OPENING = (
    "([{\u0f3a\u0f3c\u2045\u207d\u208d\u2329\u27e6\u27e8\u27ea\u2983\u2985"
    "\u3008\u300a\u300c\u300e\u3010\u3014\u3016\u3018\u301a\uff08\uff3b\uff5b\uff5f\uff62"
)
_CLOSING = (
    ")]}\u0f3b\u0f3d\u2046\u207e\u208e\u232a\u27e7\u27e9\u27eb\u2984\u2986"
    "\u3009\u300b\u300d\u300f\u3011\u3015\u3017\u3019\u301b\uff09\uff3d\uff5d\uff60\uff63"
)
_MATCHING = dict(zip(_OPENING, _CLOSING, strict=True))
_SAME = {"\u232a": "\u3009"}  # canonically equivalent brackets match one another
_DEEPEST = 63  # brackets that are open at a time, by BD16


@dataclass(frozen=True)
class Piece:
    """A part of a line that is shaped at once: ``text`` in reading order, from the right if ``right``."""

    text: str
    right: bool


def runs_right(text: str) -> bool:
    """Whether any character of ``text`` runs from the right to the left."""
    return not text.isascii() and any(unicodedata.bidirectional(char) in ("R", "AL", "AN") for char in text)


def mixes(text: str) -> bool:
    """Whether ``text`` has letters of both directions, so that how its lines run depends on where it begins."""
    found = {unicodedata.bidirectional(char) for char in text}
    return "L" in found and not found.isdisjoint(_RIGHT)


def visual_pieces(text: str) -> list[Piece]:
    """The pieces of one line from left to right, as they stand in the picture."""
    found = levels(text)
    spans = [(text[start:end], found[start]) for start, end in _level_runs(found)]
    for level in range(max(found, default=0), 0, -1):  # L2
        begin = 0
        while begin < len(spans):
            end = begin
            while end < len(spans) and spans[end][1] >= level:
                end += 1
            spans[begin:end] = reversed(spans[begin:end])
            begin = max(end, begin + 1)
    pieces: list[Piece] = []
    for part, level in spans:
        scripts = list(_by_script(part)) if level % 2 else [part]
        pieces += [Piece(each, bool(level % 2)) for each in (reversed(scripts) if level % 2 else scripts)]
    return pieces


def levels(text: str) -> list[int]:
    """The embedding level of every character of one line: even ones run from the left, odd ones from the right."""
    classes = [unicodedata.bidirectional(char) or "L" for char in text]
    if not _BY_HAND.isdisjoint(classes):
        raise InputError(
            f"The text {text[:40]!r} holds characters that set directions by hand (U+202A to U+202E, U+2066 to U+2069), which "
            "are not drawn; take them out: the order follows from the letters."
        )
    base = next((int(each in _RIGHT) for each in classes if each == "L" or each in _RIGHT), 0)  # P2, P3
    kinds = _weak(classes, "R" if base else "L")
    _brackets(text, classes, kinds, base)
    _neutral(kinds, base)
    found = [_level(kind, base) for kind in kinds]
    for number in range(len(text) - 1, -1, -1):  # L1: white space at the end
        if classes[number] not in ("WS", "BN"):
            break
        found[number] = base
    return found


def _level(kind: str, base: int) -> int:
    """I1, I2."""
    if base:
        return 1 if kind == "R" else 2
    return {"L": 0, "R": 1}.get(kind, 2)


def _weak(classes: list[str], edge: str) -> list[str]:
    """W1 to W7: marks, digits and what stands between digits."""
    kinds = list(classes)
    for number, kind in enumerate(kinds):  # W1
        if kind == "NSM":
            kinds[number] = kinds[number - 1] if number else edge
    strong = edge
    for number, kind in enumerate(kinds):  # W2, W3
        if kind in ("L", "R", "AL"):
            strong = kind
        elif kind == "EN" and strong == "AL":
            kinds[number] = "AN"
    kinds = ["R" if kind == "AL" else kind for kind in kinds]
    for number in range(1, len(kinds) - 1):  # W4
        before, after = kinds[number - 1], kinds[number + 1]
        if before == after and (
            (kinds[number] in ("ES", "CS") and before == "EN") or (kinds[number] == "CS" and before == "AN")
        ):
            kinds[number] = before
    for start, end in _same(kinds, "ET"):  # W5
        if "EN" in (kinds[start - 1] if start else "", kinds[end] if end < len(kinds) else ""):
            kinds[start:end] = ["EN"] * (end - start)
    kinds = ["ON" if kind in ("ET", "ES", "CS") else kind for kind in kinds]  # W6
    strong = edge
    for number, kind in enumerate(kinds):  # W7
        if kind in ("L", "R"):
            strong = kind
        elif kind == "EN" and strong == "L":
            kinds[number] = "L"
    return kinds


def _brackets(text: str, classes: list[str], kinds: list[str], base: int) -> None:
    """N0: a pair of brackets runs as what it encloses, or as what stands before it."""
    own = "R" if base else "L"
    for start, end in _pairs(text, kinds):
        inside = {_strong(kind) for kind in kinds[start + 1 : end]} - {""}
        if own in inside:
            kind = own
        elif inside:
            before = next((found for each in reversed(kinds[:start]) if (found := _strong(each))), own)
            kind = before if before != own else own
        else:
            continue
        for place in (start, end):
            kinds[place] = kind
            for after in range(place + 1, len(kinds)):  # marks on a bracket go with it
                if classes[after] != "NSM":
                    break
                kinds[after] = kind


def _pairs(text: str, kinds: list[str]) -> list[tuple[int, int]]:
    """BD16: the places of matching brackets, in the order of their openings."""
    waiting: list[tuple[str, int]] = []
    found = []
    for number, char in enumerate(text):
        if kinds[number] != "ON":
            continue
        if char in _MATCHING:
            if len(waiting) == _DEEPEST:
                return []
            closing = _MATCHING[char]
            waiting.append((_SAME.get(closing, closing), number))
        elif char in _CLOSING:
            wanted = _SAME.get(char, char)
            place = next((index for index in range(len(waiting) - 1, -1, -1) if waiting[index][0] == wanted), None)
            if place is not None:
                found.append((waiting[place][1], number))
                del waiting[place:]
    return sorted(found)


def _neutral(kinds: list[str], base: int) -> None:
    """N1, N2: what has no direction runs as what stands on both sides, else as the line."""
    own = "R" if base else "L"
    start = 0
    while start < len(kinds):
        end = start
        while end < len(kinds) and kinds[end] in _NEUTRAL:
            end += 1
        if end > start:
            before = _strong(kinds[start - 1]) if start else own
            after = _strong(kinds[end]) if end < len(kinds) else own
            kinds[start:end] = [before if before == after else own] * (end - start)
        start = max(end, start + 1)


def _strong(kind: str) -> str:
    """Digits count as running from the right where neutrals ask."""
    return "R" if kind in ("R", "EN", "AN") else "L" if kind == "L" else ""


def _same(kinds: list[str], wanted: str) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(kinds):
        end = start
        while end < len(kinds) and kinds[end] == wanted:
            end += 1
        if end > start:
            yield start, end
        start = max(end, start + 1)


def _level_runs(found: list[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for number in range(1, len(found) + 1):
        if number == len(found) or found[number] != found[start]:
            yield start, number
            start = number


def _by_script(text: str) -> Iterator[str]:
    """``text`` cut where the script changes (a shaper takes one at a time); what has none stays with what it follows."""
    start, script = 0, ""
    for number, char in enumerate(text):
        own = unicodedata.name(char, "").split(" ", 1)[0] if char.isalpha() else ""
        if own and script and own != script:
            yield text[start:number]
            start = number
        script = own or script
    if text:
        yield text[start:]
