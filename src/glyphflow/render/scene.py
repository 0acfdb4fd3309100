"""What every template is given, and the steps that several of them share."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.hashing import derive_seed
from glyphflow.core.text import split_lines
from glyphflow.render.canvas import Canvas
from glyphflow.render.emojis import Emoji, drawable, drawable_emoji, find_emoji
from glyphflow.render.fonts import Font, FontLibrary
from glyphflow.render.layout import pick_fonts, require_fonts
from glyphflow.render.palette import RGB, Colour, contrast, shade
from glyphflow.render.params import Level, Params, parse_params
from glyphflow.render.spec import RenderSpec
from glyphflow.render.texts import sample_text

ATTEMPTS = 24
"""How often text is sampled anew before a font that lacks its glyphs is an error."""


@dataclass(frozen=True)
class Scene:
    """A spec opened for drawing: its checked parameters, its random stream, the fonts, an empty canvas."""

    spec: RenderSpec
    params: Params
    fonts: FontLibrary
    rng: random.Random
    canvas: Canvas

    @classmethod
    def open(cls, spec: RenderSpec, fonts: FontLibrary) -> Scene:
        """Check the spec; sizes outside 16..8192 pixels and wrong parameters raise :class:`InputError`."""
        if not (16 <= spec.width <= 8192 and 16 <= spec.height <= 8192):
            raise InputError(f"A render is 16 to 8192 pixels wide and high, and the spec says {spec.width}x{spec.height}.")
        # Python's Mersenne Twister gives the same stream on every machine and version.
        rng = random.Random(derive_seed("render", spec.template, spec.seed))
        return cls(spec, parse_params(spec.params), fonts, rng, Canvas(spec.width, spec.height))

    @property
    def width(self) -> int:
        return self.spec.width

    @property
    def height(self) -> int:
        return self.spec.height

    def sample_lines(self, levels: Sequence[Level]) -> tuple[list[str], list[Font]]:
        """One text of one language per level, with a font for each; all are sampled anew when a glyph is missing.

        The lines of ``params.text`` come instead, however many they are; ``params.level`` overrides every level. What
        ``params.include`` asks for is the last line.
        """
        rng, params = self.rng, self.params
        if params.text is not None:
            lines = [line.strip() for line in split_lines(params.text) if line.strip()]
            return lines, self._require(lines)
        language = rng.choice(params.languages)
        lines = []
        for _ in range(ATTEMPTS):
            lines = [sample_text(rng, language, params.level or level, params.split) for level in levels]
            if params.include:
                lines[-1] = params.include
            faces = pick_fonts(rng, self.fonts, params.fonts, lines, params.styles, params.licences)
            if faces is not None:
                return lines, faces
        return lines, self._require(lines)

    def _require(self, lines: Sequence[str]) -> list[Font]:
        return require_fonts(self.rng, self.fonts, self.params.fonts, lines, self.params.styles, self.params.licences)

    def pick_emoji(self, font: Font) -> Emoji:
        """One of ``params.emoji``, or of the split; :class:`InputError` when ``font`` cannot draw it."""
        codes = self.params.emoji
        if codes is not None:
            one = find_emoji(self.rng.choice(codes))
            if not drawable(font, one):
                raise InputError(
                    f"The font {font.name} has no glyph for the emoji {one.codepoints} ({one.name_en}); leave it out."
                )
            return one
        choice = drawable_emoji(font, self.params.split)
        if not choice:
            raise InputError(f"The font {font.name} draws no emoji of the split {self.params.split!r}; use noto-emoji.")
        return self.rng.choice(choice)

    def paint_ground(self, ground: Colour, text: RGB) -> dict[str, Any]:
        """Cover the canvas with ``ground``, plain or as a gradient that keeps its name and its contrast to ``text``."""
        kind = self.params.background or ("gradient" if self.rng.random() < 0.3 else "plain")
        first, second = ground.rgb, ground.rgb
        if kind == "gradient":
            amount = self.rng.uniform(0.06, 0.16)
            first, second = shade(ground.rgb, amount), shade(ground.rgb, -amount)
            angle = self.rng.uniform(0, 2 * math.pi)
            if min(contrast(first, text), contrast(second, text)) >= 2.5:
                self.canvas.fill_gradient(first, second, angle)
                return {"background": ground.en, "background_kind": kind}
        self.canvas.fill(ground.rgb)
        return {"background": ground.en, "background_kind": "plain"}
