"""A design with its slots filled: texts and fonts are chosen, laid out until everything fits, painted, and told in captions."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.text import split_lines
from glyphflow.render import captions
from glyphflow.render.complex.boxes import Box, DoesNotFit, View, lay_out
from glyphflow.render.complex.design import Design, Node, open_design, packaged
from glyphflow.render.complex.paint import paint
from glyphflow.render.complex.slots import is_reserved, slot_text
from glyphflow.render.complex.styles import Length, Style
from glyphflow.render.complex.theme import Theme
from glyphflow.render.complex.typefaces import Typefaces
from glyphflow.render.emojis import Emoji
from glyphflow.render.params import Language
from glyphflow.render.scene import Scene
from glyphflow.render.spec import Rendered

KINDS: tuple[str, ...] = ("slide", "poster", "form", "ui", "page")
"""Kinds of designs; each is a template of :func:`glyphflow.render.render`."""
IMAGE_TYPES = {"slide": "slide", "poster": "poster", "form": "document", "ui": "screenshot", "page": "screenshot"}

_TRIES = 8  # sets of texts before the limits are lowered to the least
_SHRINK = (1.0, 0.94, 0.88, 0.82)  # text sizes tried with sampled texts
_SMALL = (0.74, 0.66, 0.58, 0.5)  # and those of the last attempt
_LEAST_SHRINK = 0.1  # given texts shrink until they fit


@dataclass(frozen=True)
class _Said:
    """A sentence of the caption: where its first text comes, the pattern in both languages, its texts and emoji."""

    at: int
    pattern: tuple[str, str]
    texts: list[str]
    emoji: list[Emoji]


class _Fill:
    """One attempt to fill a design: boxes with texts, and what the caption has to say about them."""

    def __init__(self, scene: Scene, design: Design, faces: Typefaces, language: Language, tight: float) -> None:
        self.scene, self.design, self.faces, self.language, self.tight = scene, design, faces, language, tight
        self.given = _given(scene)
        self.used: set[str] = set()
        self.texts: list[str] = []
        self.emoji: list[Emoji] = []
        self.said: list[_Said] = []
        self.silent: list[str] = []
        self.title: str | None = None
        self.ordinal = 0
        self.currency = scene.rng.choice("$$$€£")
        self.sum = 0.0
        self.minutes = scene.rng.randrange(14, 22) * 30
        self.percent: float | None = None
        self.body = self._box(design.body, None)

    @property
    def rng(self) -> random.Random:
        return self.scene.rng

    def _box(self, node: Node, heard: list[str] | None) -> Box | None:
        """The box of ``node``; ``heard`` collects its texts for the sentence of the caption that speaks of them."""
        start, first_emoji = len(self.texts), len(self.emoji)
        own: list[str] | None = [] if node.says else heard
        children = [box for child in node.children for box in self._copies(child, own)]
        box = Box(self._style(node), children, fit=node.fit)
        if node.slot == "icon":
            if not self._icon(box):
                return None
        elif node.slot is not None or node.fixed is not None:
            text = self._text(node)
            if text is None:
                return None
            box.text = text.upper() if node.style.upper else text
            box.face = self.faces.face(box.text, node.style.family, node.style.bold)
            if box.face is None:
                raise DoesNotFit(box.text)
            self.texts.append(box.text)
            if node.slot == "title" and self.title is None:
                self.title = box.text
            elif own is not None:
                own.append(box.text)
            else:
                self.silent.append(box.text)
        elif (node.children and not children) or (not self.texts[start:] and self._spoken(node)):
            return None
        if node.says is not None and len(self.texts) + len(self.emoji) > start + first_emoji:
            self.said.append(_Said(start, node.says, own or [], self.emoji[first_emoji:]))
        return box

    def _copies(self, node: Node, heard: list[str] | None) -> list[Box]:
        low, high = node.repeat
        if self.given is not None and high > 1 and self.design.free:
            # Given texts decide how often: one copy for each that is left.
            count = len(self.given)
        else:
            count = self.rng.randint(low, high) if high > low else low
        boxes = []
        for number in range(count):
            if high > 1 and self.design.free and self.given == []:
                break
            self.ordinal = number + 1 if high > 1 else self.ordinal
            box = self._box(node, heard)
            if box is not None:
                boxes.append(box)
        return boxes

    def _style(self, node: Node) -> Style:
        if node.vary is None:
            return node.style
        name, low, high, unit = node.vary
        # A bar beside a percentage is as long as that says.
        share = self.rng.random() if self.percent is None else self.percent
        self.percent = None
        length = Length(low + (high - low) * share, unit)
        return replace(node.style, width=length) if name == "width" else replace(node.style, height=length)

    def _text(self, node: Node) -> str | None:
        """The text of a slot; None when given texts are all used and the slot may stay empty."""
        if node.slot == "ordinal":
            return str(self.ordinal)
        if node.fixed is not None:
            own = self.language if self.language != "mixed" else self.rng.choice(("en", "zh"))
            return node.fixed[own == "zh"]
        if node.slot == "total":
            return self._total()
        if node.slot == "clock":
            return self._clock()
        if self.given is not None:
            if self.given:
                return self.given.pop(0)
            if node.optional or self.design.free:
                return None
        elif node.optional and self.rng.random() < 0.25:
            return None
        limit = None if node.limit is None else max(4, round(node.limit * self.tight))
        assert node.slot is not None
        text = slot_text(node.slot, self.rng, self.language, self.scene.params.split, limit, self.used)
        self.used.add(text)
        if node.slot == "percent":
            self.percent = int(text[:-1]) / 100
        if node.slot == "price":
            text = text if text[0] == "¥" else self.currency + text[1:]
            self.sum += float(text[1:])
        return text

    def _total(self) -> str:
        """The sum of the prices so far; other prices are sampled when it is a number kept for evaluation."""
        text = f"{'¥' if self.language == 'zh' else self.currency}{self.sum:.2f}".removesuffix(".00")
        if self.scene.params.split != "heldout" and is_reserved(text):
            raise DoesNotFit(text)
        return text

    def _clock(self) -> str:
        """A time of day after the last one."""
        while True:
            self.minutes = (self.minutes + self.rng.randrange(2, 20) * 5) % (24 * 60)
            text = f"{self.minutes // 60:02d}:{self.minutes % 60:02d}"
            if self.scene.params.split == "heldout" or not is_reserved(text):
                return text

    def _spoken(self, node: Node) -> bool:
        """Whether ``node`` holds slots for given texts, which may all be used up: then its dots and lines go, too."""
        return self.given is not None and any(part.slot not in (None, "icon") for part in node.walk())

    def _icon(self, box: Box) -> bool:
        """An emoji of the split, where the fonts have one."""
        font = self.faces.emoji
        if font is None:
            return False
        one = self.scene.pick_emoji(font)
        while self.scene.params.emoji is None and one.name_en.startswith("input "):  # letters that no caption would quote
            one = self.scene.pick_emoji(font)
        box.text, box.face, box.icon = one.text, font, True
        self.emoji.append(one)
        return True


def draw(scene: Scene, kind: str) -> Rendered:
    """One of the designs of ``kind``, or the one that ``params.design`` names (a name, or the path of an HTML file).

    ``params.text`` replaces the sampled texts in the design's order: first the title, then the rest. Named fonts and colours
    decide alone. Sampled texts that do not fit are made smaller by up to a fifth, then sampled again.
    """
    rng = scene.rng
    design = _choose(scene, kind)
    theme = Theme.pick(rng, scene.params.palette, design.quiet)
    language = rng.choice(scene.params.languages)
    faces = Typefaces(scene, language)
    fill, scale = _fitted(scene, design, faces, language)
    assert fill.body is not None
    lines = paint(scene.canvas, fill.body, theme, scale)
    subject: dict[str, Any] = {
        "text": fill.texts,
        "design": design.name,
        "text_colour": theme.ink.en,
        "background": theme.ground.en,
        "accent": theme.accent.en,
        "emoji": [one.codepoints for one in fill.emoji],
        "fonts": sorted({line.font for line in lines}),
    }
    told = {language: _caption(scene, design, theme, fill, language) for language in ("en", "zh")}
    return Rendered(scene.canvas.image(), tuple(lines), told, IMAGE_TYPES[kind], "flat", subject)


def _choose(scene: Scene, kind: str) -> Design:
    wanted = scene.params.design
    if wanted is not None and wanted.endswith(".html"):
        return open_design(Path(wanted))
    choice = [design for design in packaged() if design.kind == kind]
    if wanted is not None:
        named = [design for design in choice if design.name == wanted]
        if not named:
            raise InputError(f"There is no {kind} design {wanted!r}; there are {', '.join(d.name for d in choice)}.")
        return named[0]
    side = min(scene.width, scene.height)
    fitting = [design for design in choice if design.least <= side] or [min(choice, key=lambda design: design.least)]
    # A design drawn for a tall page is not laid on its side when there is another.
    wide = scene.width > scene.height
    fitting = [d for d in fitting if d.size[0] == d.size[1] or (d.size[0] > d.size[1]) == wide] or fitting
    if scene.params.text is not None:
        fitting = [design for design in fitting if design.free] or [design for design in choice if design.free] or fitting
    return scene.rng.choice(fitting)


def _given(scene: Scene) -> list[str] | None:
    text = scene.params.text
    return None if text is None else [line.strip() for line in split_lines(text) if line.strip()]


def _fitted(scene: Scene, design: Design, faces: Typefaces, language: Language) -> tuple[_Fill, float]:
    """Texts for ``design`` and their layout, with the pixels per design pixel.

    First the design is brought to the picture's area; on a picture of another shape, where it then lacks width or height, it is
    made small enough to stand there whole, with room to spare.
    """
    across, upright = scene.width / design.size[0], scene.height / design.size[1]
    whole, area = min(across, upright), math.sqrt(across * upright)
    scales = (area, whole) if whole < 0.95 * area else (whole,)
    search = _shrunk if scene.params.text is not None else _sampled
    for scale in scales:
        view = View(scene.width / scale, scene.height / scale, 1.0)
        fill = search(scene, design, faces, language, view, scale == scales[-1])
        if fill is not None:
            return fill, scale
    raise InputError(
        f"The design {design.name} has no room for its texts at {scene.width}x{scene.height}; it was drawn for "
        f"{design.size[0]}x{design.size[1]}: choose a size nearer to that or shorter texts."
    )


def _shrunk(scene: Scene, design: Design, faces: Typefaces, language: Language, view: View, last: bool) -> _Fill | None:
    """The given texts, at the largest size at which everything has room."""
    faces.require(_given(scene) or [])
    fill = _Fill(scene, design, faces, language, 1.0)
    shrink = 1.0
    while shrink > (_LEAST_SHRINK if last else _SHRINK[-1]):
        if _lay_out(fill, replace(view, text_scale=shrink)):
            return fill
        shrink *= 0.94
    return None


def _sampled(scene: Scene, design: Design, faces: Typefaces, language: Language, view: View, last: bool) -> _Fill | None:
    """Texts that fit at one of :data:`_SHRINK`; the later ones are shorter, the very last may be small."""
    uncovered: list[str] = []
    for attempt in range(_TRIES if last else 2):
        try:
            fill = _Fill(scene, design, faces, language, 1.0 if attempt < 3 else 1.0 - 0.12 * (attempt - 2))
        except DoesNotFit as problem:
            uncovered = [str(problem)]
            continue
        for shrink in _SHRINK if attempt < _TRIES - 1 else (*_SHRINK, *_SMALL):
            if _lay_out(fill, replace(view, text_scale=shrink)):
                return fill
    if last:
        faces.require(uncovered)
    return None


def _lay_out(fill: _Fill, view: View) -> bool:
    assert fill.body is not None
    _forget(fill.body)
    try:
        lay_out(fill.body, view)
    except DoesNotFit:
        return False
    return True


def _forget(box: Box) -> None:
    """Widths and heights of another text size."""
    box._naturals.clear()
    box._widest = None
    for child in box.children:
        _forget(child)


def _caption(scene: Scene, design: Design, theme: Theme, fill: _Fill, language: str) -> str:
    """How the design introduces itself, its sentences in reading order, then what none speaks of; all texts are quoted."""
    english = language == "en"
    marks = captions.quote(scene.rng, fill.texts or [""], language)
    quoted = dict(zip(fill.texts or [""], marks, strict=True))
    comma, end = (", ", ".") if english else ("、", "。")
    names = {"bg": theme.ground, "fg": theme.ink, "accent": theme.accent}
    words = {key: getattr(colour, language) for key, colour in names.items()}
    words |= {f"a_{key}": captions.article(word) for key, word in words.items()} if english else {}
    opening = design.caption[not english].format_map({**words, "title": quoted.get(fill.title or "", "")})
    sentences = [opening]
    for said in sorted(fill.said, key=lambda said: said.at):
        icons = [captions.article(one.name_en) if english else one.name_zh for one in said.emoji]
        if "{icons}" in said.pattern[0] and not icons:
            continue
        texts = comma.join(quoted[text] for text in said.texts)
        if "{texts}" in said.pattern[0] and not texts:
            continue
        sentences.append(said.pattern[not english].format_map({**words, "texts": texts, "icons": comma.join(icons)}))
    if fill.silent:
        rest = comma.join(quoted[text] for text in fill.silent)
        sentences.append(f"It also says {rest}" if english else f"另有文字{rest}")
    return (". " if english else "。").join(sentence.rstrip(".。") for sentence in sentences) + (
        end if len(sentences) > 1 else ""
    )
