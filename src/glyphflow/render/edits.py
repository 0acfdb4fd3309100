"""Edit pairs: a picture before and after an instruction, with the mask of what changed.

For training of instruction editing and for its tests: the target is exactly what the instruction asks for, and outside the mask
both pictures are equal bit by bit. A pair is a function of its spec, like every render; words, fonts and emoji keep to the
spec's split.
"""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from glyphflow.core.errors import InputError
from glyphflow.core.text import split_lines
from glyphflow.render import captions
from glyphflow.render.canvas import Canvas
from glyphflow.render.edit_phrases import INSTRUCTIONS
from glyphflow.render.edit_scene import SHAPES, Picture, PixelBox, Place, Thing, Writing, paint, told
from glyphflow.render.fonts import Font, FontLibrary
from glyphflow.render.layout import grid_size, has_cjk, pick_fonts, require_fonts
from glyphflow.render.palette import MIN_CONTRAST, Colour, colours, contrast
from glyphflow.render.params import Language, Level
from glyphflow.render.scene import Scene
from glyphflow.render.spec import Rendered, RenderSpec
from glyphflow.render.texts import sample_text

TASKS: tuple[str, ...] = tuple(INSTRUCTIONS)
"""What an edit may be about."""
EDITS: tuple[str, ...] = ("edit", *(f"edit_{task}" for task in TASKS))
"""Templates of edit pairs: "edit" takes a task by the seed, "edit_recolour" and so on that one."""

_ATTEMPTS = 60
_PLAINLY = 110  # sum of the differences of red, green and blue from which nobody overlooks a change
_SMALL = 192  # pixels of width below which a text is one word


@dataclass(frozen=True)
class EditPair:
    """``mask`` is (height, width) uint8, 255 where source and target may differ: the ink boxes of what was changed, before and
    after; for a new background all pixels that it touches. ``instruction`` has the keys "en" and "zh"."""

    source: Rendered
    target: Rendered
    instruction: dict[str, str]
    task: str
    mask: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Edit:
    """The pictures before and after, and the words of the instruction; ``texts`` are quoted as {q} and {q2}."""

    before: Picture
    after: Picture
    texts: tuple[str, ...]
    en: dict[str, str]
    zh: dict[str, str]


def render_edit(spec: RenderSpec, fonts: FontLibrary) -> EditPair:
    """Draw the pair that ``spec`` describes; its template is one of :data:`EDITS`.

    ``params``: languages, split, fonts, emoji, palette, background, and text: one line that the picture shows, for the task
    "text" two, before and after. Raises what :func:`glyphflow.render.render` raises, and :class:`InputError` when palette or
    fonts leave the task nothing to change to.
    """
    if spec.template not in EDITS:
        near = difflib.get_close_matches(spec.template, EDITS, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(EDITS)}."
        raise InputError(f"There is no edit {spec.template!r}; {hint}")
    scene = Scene.open(spec, fonts)
    task = scene.rng.choice(TASKS) if spec.template == "edit" else spec.template.removeprefix("edit_")
    maker = _Maker(scene, task)
    for _ in range(_ATTEMPTS):
        picture = maker.picture()
        edit = None if picture is None else _EDITS[task](maker, picture)
        if edit is not None:
            return _pair(scene, task, edit)
    raise InputError(
        f"The edit {task!r} found nothing to change to in {_ATTEMPTS} pictures; allow more colours, fonts or emoji."
    )


def edit_side(spec: RenderSpec, fonts: FontLibrary) -> Rendered:
    """The picture of the pair that ``params.side`` names, as a row of a corpus: the caption of a target is the instruction."""
    pair = render_edit(spec, fonts)
    if spec.params.get("side") == "source":
        return pair.source
    return replace(pair.target, captions=pair.instruction)


def _pair(scene: Scene, task: str, edit: _Edit) -> EditPair:
    second = Canvas(scene.width, scene.height)
    boxes, lines = paint(scene.canvas, edit.before)
    new_boxes, new_lines = paint(second, edit.after)
    source = told(edit.before, boxes, lines, scene.canvas, scene.rng)
    target = told(edit.after, new_boxes, new_lines, second, scene.rng)
    mask = np.zeros((scene.height, scene.width), np.uint8)
    if task == "background":
        mask[(source.image != target.image).any(axis=2)] = 255
    else:
        old = _inked(edit.before, boxes, [line.box for line in lines])
        new = _inked(edit.after, new_boxes, [line.box for line in new_lines])
        for x0, y0, x1, y1 in (box for _, box in old.symmetric_difference(new)):
            mask[max(0, y0) : y1, max(0, x0) : x1] = 255
    instruction = {}
    for language, patterns, words in zip(("en", "zh"), INSTRUCTIONS[task], (edit.en, edit.zh), strict=True):
        quoted = captions.quote(scene.rng, edit.texts, language) if edit.texts else []
        slots = dict(zip(("q", "q2"), quoted, strict=False))
        instruction[language] = captions.phrase(scene.rng, patterns, **words, **slots)
    return EditPair(source, target, instruction, task, mask)


def _inked(picture: Picture, boxes: Sequence[PixelBox], lines: Sequence[PixelBox]) -> set[tuple[Thing | Writing, PixelBox]]:
    """What is drawn, with its ink boxes."""
    return {*zip(picture.things, boxes, strict=True), *zip(picture.writings, lines, strict=True)}


class _Maker:
    """Samples pictures for one task, and what an edit may put into them."""

    def __init__(self, scene: Scene, task: str) -> None:
        self.scene, self.task = scene, task
        self.rng: random.Random = scene.rng
        self.palette = colours(scene.params.palette)
        text = scene.params.text
        self.given = None if text is None else [line.strip() for line in split_lines(text) if line.strip()]
        if self.given is not None and len(self.given) != (2 if task == "text" else 1):
            wanted = "two lines of text, before and after" if task == "text" else "one line of text"
            raise InputError(f"The edit {task!r} takes {wanted}, and params.text has {len(self.given)}.")
        if scene.params.grid == 0:
            raise InputError("A grid of 0 is no place for the line of an edit; give grid a letter's width, as a share.")
        self.left = (scene.params.grid or 0.0) * scene.width
        """Where a line on the grid begins, in pixels."""
        # Fonts that the spec names decide alone, so that the picture does not depend on what else the library holds.
        listed = scene.params.fonts or scene.fonts.names()
        marks = [name for name in listed if scene.fonts.entry(name).style == "symbol"]
        self.marks = scene.fonts.font(marks[0]) if marks else None

    def picture(self) -> Picture | None:
        """A picture that the task can be done on: with text where text is edited, with things where things are."""
        rng, scene = self.rng, self.scene
        about_text = self.task in ("text", "text_colour", "font")
        about_things = self.task in ("add", "remove", "replace", "recolour")
        bands = rng.choice((("top",), ("bottom",))) if about_text or self.given or rng.random() < 0.45 else ()
        count = rng.choice((1, 2, 2, 3, 4)) if about_things or not bands else rng.choice((0, 1, 2, 2, 3))
        text_places, thing_places = _places(scene.width, scene.height, bands, count)
        ground = rng.choice(self.palette)
        kind = scene.params.background or ("gradient" if rng.random() < 0.2 else "plain")
        angle = rng.uniform(0, 2 * math.pi) if kind == "gradient" else None
        writings = []
        for place in text_places:
            writing = self.writing(place, ground)
            if writing is None:
                return None
            writings.append(writing)
        things: list[Thing] = []
        share = rng.uniform(0.68, 0.9)
        for place in thing_places:
            thing = self.thing(place, ground, share, things)
            if thing is None:
                return None
            things.append(thing)
        return Picture(scene.width, scene.height, ground, angle, tuple(things), tuple(writings))

    def colour(self, *grounds: Colour, old: Colour | None = None) -> Colour | None:
        """A colour that can be seen on ``grounds`` and is plainly another than ``old``."""
        choice = [
            colour
            for colour in self.palette
            if (old is None or sum(abs(a - b) for a, b in zip(colour.rgb, old.rgb, strict=True)) >= _PLAINLY)
            and all(contrast(colour.rgb, ground.rgb) >= MIN_CONTRAST for ground in grounds)
        ]
        return self.rng.choice(choice) if choice else None

    def thing(self, place: Place, ground: Colour, share: float, others: Sequence[Thing]) -> Thing | None:
        """An emoji or a shape that is not among ``others``."""
        colour = self.colour(ground)
        if colour is None:
            return None
        names = {thing.en for thing in others}
        if self.marks is not None and (self.scene.params.emoji or self.rng.random() < 0.75):
            one = self.scene.pick_emoji(self.marks)
            if one.name_en not in names and one.name_en not in SHAPES:
                return Thing(one.name_en, one.name_zh, one.text, self.marks, colour, place, share)
        shapes = [name for name in SHAPES if name not in names]
        name = self.rng.choice(shapes)
        return Thing(name, SHAPES[name][0], "", None, colour, place, share)

    def writing(self, place: Place, ground: Colour) -> Writing | None:
        colour = self.colour(ground)
        found = self.text(None)
        if colour is None or found is None:
            return None
        return Writing(*found, colour, place, self.rng.uniform(0.75, 1.0), self.size(found[1]), self.left)

    def size(self, face: Font) -> float | None:
        """Em size in pixels on the grid that the spec asks for, where letters are as wide as the grid; None without a grid."""
        params, scene = self.scene.params, self.scene
        if params.grid is None:
            return None
        cjk = "cjk" in face.entry.scripts
        return params.sizes(0.2, 0.2)[1] * scene.height if cjk else grid_size(face, self.left)

    def fits(self, text: str, face: Font) -> bool:
        """Whether ``text`` stays on the canvas when it begins where the grid does."""
        size = self.size(face)
        return size is None or face.shape(text).advance * size <= self.scene.width - self.left

    def text(self, face: Font | None) -> tuple[str, Font] | None:
        """A text and a face for it; with ``face``, one that it covers (the text after an edit)."""
        params = self.scene.params
        if self.given is not None:
            text = self.given[0 if face is None else 1]
            if face is not None and face.covers(text):
                return text, face
            return text, require_fonts(self.rng, self.scene.fonts, params.fonts, [text])[0]
        language: Language = self.rng.choice(params.languages)
        if face is not None:
            language = "zh" if "cjk" in face.entry.scripts else "en"
        elif self.task == "font" and "en" in params.languages and len(self.styles("cjk")) < 2:
            language = "en"
        level: Level = "phrase" if self.scene.width >= _SMALL and self.rng.random() < 0.5 else "word"
        text = sample_text(self.rng, language, params.level or level, params.split)
        if face is not None:
            return (text, face) if face.covers(text) and not face.shape(text).missing and self.fits(text, face) else None
        faces = pick_fonts(self.rng, self.scene.fonts, params.fonts, [text])
        return (text, faces[0]) if faces is not None and self.fits(text, faces[0]) else None

    def styles(self, script: str) -> dict[str, list[str]]:
        """The fonts that may set text in ``script``, by the styles that captions have a name for."""
        fonts, params = self.scene.fonts, self.scene.params
        found: dict[str, list[str]] = {}
        for name in params.fonts if params.fonts is not None else fonts.names(split="train"):
            entry = fonts.entry(name)
            if script in entry.scripts and (script == "cjk") == ("cjk" in entry.scripts) and entry.style in captions.STYLES:
                found.setdefault(entry.style, []).append(name)
        return found


def _places(width: int, height: int, bands: Sequence[str], count: int) -> tuple[list[Place], list[Place]]:
    """Places for one text per band ("top", "bottom") and for ``count`` things."""
    margin = 0.06 * min(width, height)
    x0, y0, x1, y1 = margin, margin, width - margin, height - margin
    texts = []
    for band in bands:
        depth = (y1 - y0) * (0.3 if count else 0.6)
        if not count:
            texts.append(Place((x0, (height - depth) / 2, x1, (height + depth) / 2), "in the middle", "中间"))
        elif band == "top":
            texts.append(Place((x0, y0, x1, y0 + depth), "at the top", "顶部"))
            y0 += depth + margin
        else:
            texts.append(Place((x0, y1 - depth, x1, y1), "at the bottom", "底部"))
            y1 -= depth + margin
    middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
    third = (x1 - x0) / 3
    if count <= 1:
        cells = [Place((x0, y0, x1, y1), "in the middle", "中间")]
    elif count == 2:
        cells = [Place((x0, y0, middle_x, y1), "on the left", "左边"), Place((middle_x, y0, x1, y1), "on the right", "右边")]
    elif count == 3:
        names = (("on the left", "左边"), ("in the middle", "中间"), ("on the right", "右边"))
        cells = [Place((x0 + k * third, y0, x0 + (k + 1) * third, y1), *names[k]) for k in range(3)]
    else:
        cells = [
            Place((x0, y0, middle_x, middle_y), "at the top left", "左上角"),
            Place((middle_x, y0, x1, middle_y), "at the top right", "右上角"),
            Place((x0, middle_y, middle_x, y1), "at the bottom left", "左下角"),
            Place((middle_x, middle_y, x1, y1), "at the bottom right", "右下角"),
        ]
    return texts, cells[:count]


def _edit_text(maker: _Maker, before: Picture) -> _Edit | None:
    old = before.writings[0]
    found = maker.text(old.face)
    if found is None or found[0] == old.text:
        return None
    after = replace(
        before, writings=(replace(old, text=found[0], face=found[1], size=maker.size(found[1])), *before.writings[1:])
    )
    return _Edit(before, after, (old.text, found[0]), {}, {})


def _edit_text_colour(maker: _Maker, before: Picture) -> _Edit | None:
    old = before.writings[0]
    new = maker.colour(before.ground, old=old.colour)
    if new is None:
        return None
    after = replace(before, writings=(replace(old, colour=new), *before.writings[1:]))
    return _Edit(before, after, (old.text,), {"old": old.colour.en, "new": new.en}, {"old": old.colour.zh, "new": new.zh})


def _edit_font(maker: _Maker, before: Picture) -> _Edit | None:
    old = before.writings[0]
    style = old.face.entry.style
    others = {key: names for key, names in maker.styles("cjk" if has_cjk(old.text) else "latin").items() if key != style}
    if style not in captions.STYLES or not others:
        return None
    wanted = maker.rng.choice(sorted(others))
    face = maker.scene.fonts.font(maker.rng.choice(others[wanted]))
    if not face.covers(old.text) or face.shape(old.text).missing:
        return None
    after = replace(before, writings=(replace(old, face=face), *before.writings[1:]))
    (old_en, old_zh), (new_en, new_zh) = captions.STYLES[style], captions.STYLES[wanted]
    return _Edit(before, after, (old.text,), {"old": old_en, "new": new_en}, {"old": old_zh, "new": new_zh})


def _edit_add(maker: _Maker, before: Picture) -> _Edit | None:
    """The pair of a removal, the other way round."""
    thing = maker.rng.choice(before.things)
    less = tuple(one for one in before.things if one is not thing)
    if not less and not before.writings:
        return None
    place_en, place_zh = thing.place.en, thing.place.zh
    beside = [one for one in less if one.place.box[1] == thing.place.box[1]]
    if beside and maker.rng.random() < 0.4:
        near = min(beside, key=lambda one: abs(one.place.box[0] - thing.place.box[0]))
        right = near.place.box[0] < thing.place.box[0]
        if abs(near.place.box[0] - thing.place.box[0]) <= 1.01 * (thing.place.box[2] - thing.place.box[0]):
            place_en = f"to the {'right' if right else 'left'} of the {near.en}"
            place_zh = f"{near.zh}的{'右' if right else '左'}边"
    after = replace(before, things=(*less, thing))
    words_en = {"thing": f"{thing.colour.en} {thing.en}", "place": place_en}
    words_zh = {"thing": f"{thing.colour.zh}{thing.zh}", "place": place_zh}
    return _Edit(replace(before, things=less), after, (), words_en, words_zh)


def _edit_remove(maker: _Maker, before: Picture) -> _Edit | None:
    thing = maker.rng.choice(before.things)
    less = tuple(one for one in before.things if one is not thing)
    if not less and not before.writings:
        return None
    return _Edit(before, replace(before, things=less), (), *_named(maker, thing))


def _edit_replace(maker: _Maker, before: Picture) -> _Edit | None:
    thing = maker.rng.choice(before.things)
    other = maker.thing(thing.place, before.ground, thing.share, before.things)
    if other is None:
        return None
    same = maker.rng.random() < 0.5
    other = replace(other, colour=thing.colour) if same else other
    en, zh = _named(maker, thing)
    en |= {"new": f"{other.colour.en} {other.en}"}
    zh |= {"new": f"{other.colour.zh}{other.zh}"}
    return _Edit(before, _with(before, thing, other), (), en, zh)


def _edit_recolour(maker: _Maker, before: Picture) -> _Edit | None:
    thing = maker.rng.choice(before.things)
    new = maker.colour(before.ground, old=thing.colour)
    if new is None:
        return None
    en, zh = {"thing": thing.en, "place": thing.place.en}, {"thing": thing.zh, "place": thing.place.zh}
    en |= {"old": thing.colour.en, "new": new.en}
    zh |= {"old": thing.colour.zh, "new": new.zh}
    return _Edit(before, _with(before, thing, replace(thing, colour=new)), (), en, zh)


def _edit_background(maker: _Maker, before: Picture) -> _Edit | None:
    drawn = [*(thing.colour for thing in before.things), *(writing.colour for writing in before.writings)]
    new = maker.colour(*drawn, old=before.ground)
    if new is None:
        return None
    words = ({"old": before.ground.en, "new": new.en}, {"old": before.ground.zh, "new": new.zh})
    return _Edit(before, replace(before, ground=new), (), *words)


def _named(maker: _Maker, thing: Thing) -> tuple[dict[str, str], dict[str, str]]:
    """The thing by its name, half of the time with its colour."""
    coloured = maker.rng.random() < 0.5
    en = {"thing": f"{thing.colour.en} {thing.en}" if coloured else thing.en, "place": thing.place.en}
    zh = {"thing": f"{thing.colour.zh}{thing.zh}" if coloured else thing.zh, "place": thing.place.zh}
    return en, zh


def _with(picture: Picture, old: Thing, new: Thing) -> Picture:
    return replace(picture, things=tuple(new if one is old else one for one in picture.things))


_EDITS: dict[str, Callable[[_Maker, Picture], _Edit | None]] = {
    "text": _edit_text,
    "text_colour": _edit_text_colour,
    "font": _edit_font,
    "add": _edit_add,
    "remove": _edit_remove,
    "replace": _edit_replace,
    "recolour": _edit_recolour,
    "background": _edit_background,
}
