"""What a template understands beside seed and size."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from glyphflow.core.config import Config
from glyphflow.core.errors import InputError

Language = Literal["en", "zh", "mixed"]
Level = Literal["char", "balanced", "word", "phrase", "line", "paragraph"]
Split = Literal["train", "heldout", "demo"]


class Params(Config):
    """All parameters of all templates; each is optional and a template ignores those that it has no use for.

    text: exact text instead of a sampled one, lines separated by a line break. languages: one is chosen by the seed. level:
    how much text (default: what suits the template). split: which words and emoji may be drawn ("demo" concerns emoji only;
    its words are those of "train"). fonts: names to choose from (default: the library's fonts of the split "train"). emoji:
    code points as "1f34e" or "1f468-200d-1f373", one is chosen. palette: English colour names. min_size, max_size: em size of
    the text as a share of the canvas height, or longer side of the emoji as one of the canvas's shorter side. min_lines,
    max_lines, jitter: at least and at most this many sampled lines, and how far from the middle they may stand (0 to 1),
    where the layout is free; a curriculum begins with one line in the middle. grid: lines of em size max_size on fixed
    baselines, from this share of the width on; with a monospaced face each character then keeps to its own pixels; of two
    lines the Latin one has letters as wide as that share. In an edit, the line that is edited. phrasing: "text-first" takes
    only captions that begin with the text, "styled" only those that name the kind of typeface, "lines" those that quote two
    lines one by one. photos: names from render.photos. include: characters that sampled text must contain (see
    render.schedule). styles, licences: of the fonts to choose from ("serif", "OFL-1.1"). direction: of lines, in templates
    that set text down as well as across. medium, effects, path: what the text is on, what is done to it and the line it
    follows, by the names in render.media, render.effects and render.curves; default: the seed chooses. design: of a slide,
    poster, form, ui or page, by its name in render/complex/designs or as the path of an HTML file. side: which picture of an
    edit pair a row of a corpus is.
    """

    text: str | None = None
    languages: tuple[Language, ...] = ("en", "zh")
    level: Level | None = None
    split: Split = "train"
    fonts: tuple[str, ...] | None = None
    emoji: tuple[str, ...] | None = None
    background: Literal["plain", "gradient"] | None = None
    palette: tuple[str, ...] | None = None
    min_size: float | None = pydantic.Field(default=None, gt=0, le=1)
    max_size: float | None = pydantic.Field(default=None, gt=0, le=1)
    min_lines: int = pydantic.Field(default=1, ge=1)
    max_lines: int = pydantic.Field(default=3, ge=1)
    jitter: float = pydantic.Field(default=1.0, ge=0, le=1)
    grid: float | None = pydantic.Field(default=None, ge=0, lt=1)
    phrasing: Literal["any", "text-first", "styled", "lines"] = "any"
    photos: tuple[str, ...] | None = None
    include: str | None = None
    styles: tuple[str, ...] | None = None
    licences: tuple[str, ...] | None = None
    direction: Literal["horizontal", "vertical"] | None = None
    medium: str | None = None
    effects: tuple[str, ...] | None = None
    path: str | None = None
    design: str | None = None
    side: Literal["source", "target"] = "target"

    @pydantic.model_validator(mode="after")
    def _check(self) -> Params:
        for name in ("languages", "fonts", "emoji", "palette", "photos", "include", "styles", "licences"):
            if getattr(self, name) is not None and not getattr(self, name):
                raise ValueError(f"{name} is empty; leave it out for the default")
        if self.min_size and self.max_size and self.min_size > self.max_size:
            raise ValueError(f"min_size {self.min_size:g} is greater than max_size {self.max_size:g}")
        if self.min_lines > self.max_lines:
            raise ValueError(f"min_lines {self.min_lines} is greater than max_lines {self.max_lines}")
        if self.grid == 0 and self.min_lines > 1:
            raise ValueError("a grid of 0 has a place for one line; give the grid the width of a letter, as a share")
        if self.text is not None and not self.text.strip():
            raise ValueError("text is empty; leave it out to have one sampled")
        return self

    def sizes(self, low: float, high: float) -> tuple[float, float]:
        """(min_size, max_size) with a template's own defaults where the spec says nothing."""
        least = self.min_size if self.min_size is not None else min(low, self.max_size or low)
        return least, self.max_size if self.max_size is not None else max(high, least)


def parse_params(params: Mapping[str, Any]) -> Params:
    """``params`` of a spec as :class:`Params`; an unknown name or a wrong value raises :class:`InputError`."""
    for name in params:
        if name not in Params.model_fields:
            near = difflib.get_close_matches(name, Params.model_fields, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(Params.model_fields)}."
            raise InputError(f"Templates have no parameter {name!r}; {hint}")
    try:
        return Params.model_validate(params)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "params"
        raise InputError(f"The template parameter {where} = {first.get('input')!r} is refused: {first['msg']}.") from error
