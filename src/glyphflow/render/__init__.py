"""Text into pictures: fonts, shaping, templates.

:func:`render` is a pure function of a spec and a font library: the same bytes at every call, in every order and thread. A
corpus therefore stores specs and renders when it reads.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable

from glyphflow.core.errors import InputError
from glyphflow.render import complex as complex_designs
from glyphflow.render.edits import EDITS, EditPair, edit_side, render_edit
from glyphflow.render.emojis import DEMO_EMOJI, Emoji, emoji_catalogue
from glyphflow.render.fonts import SYSTEM_EMOJI, FontLibrary
from glyphflow.render.palette import PALETTE, Colour
from glyphflow.render.scene import Scene
from glyphflow.render.spec import VERSIONS, Rendered, RenderSpec, TextLine
from glyphflow.render.templates import emoji, paragraph, photo_text, surface, word
from glyphflow.render.texts import is_heldout, sample_text

_TEMPLATES: dict[str, Callable[[Scene], Rendered]] = {
    "word": word.draw,
    "paragraph": paragraph.draw,
    "photo_text": photo_text.draw,
    "surface": surface.draw,
    "emoji": emoji.draw,
    **{kind: functools.partial(complex_designs.draw, kind=kind) for kind in complex_designs.KINDS},
}

TEMPLATES: tuple[str, ...] = tuple(_TEMPLATES)
"""Names that a spec's ``template`` may have."""


def render(spec: RenderSpec, fonts: FontLibrary) -> Rendered:
    """Draw ``spec``.

    Raises :class:`InputError` for an unknown template or parameter (with the nearest known one) and for text that the fonts
    do not cover, :class:`MissingError` for a font file or package that is not installed.
    """
    if spec.template in EDITS:
        return edit_side(spec, fonts)
    if spec.template not in _TEMPLATES:
        near = difflib.get_close_matches(spec.template, TEMPLATES, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(TEMPLATES)}."
        raise InputError(f"There is no template {spec.template!r}; {hint}")
    current = VERSIONS.get(spec.template, 1)
    if spec.version != current:
        raise InputError(
            f"The spec is for version {spec.version} of the template {spec.template!r}, and this GlyphFlow draws version "
            f"{current}, whose pictures differ; make the specs anew, or render with the release that made them."
        )
    return _TEMPLATES[spec.template](Scene.open(spec, fonts))


__all__ = [
    "DEMO_EMOJI",
    "EDITS",
    "PALETTE",
    "SYSTEM_EMOJI",
    "TEMPLATES",
    "Colour",
    "EditPair",
    "Emoji",
    "FontLibrary",
    "RenderSpec",
    "Rendered",
    "TextLine",
    "emoji_catalogue",
    "is_heldout",
    "render",
    "render_edit",
    "sample_text",
]
