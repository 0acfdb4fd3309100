"""The colours of a design: a named ground, a named text colour and a named accent of the palette, and shades between them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from glyphflow.render.palette import RGB, Colour, colours, contrast, pick_pair

_QUIET = ("white", "white", "white", "beige", "light blue", "black", "dark blue", "dark green")
_GREYS = ("white", "black", "gray")
Names = tuple[str, ...] | None


@dataclass(frozen=True)
class Theme:
    """``ground``, ``ink`` and ``accent`` have names; ``rgb`` holds the value of every variable of the CSS."""

    ground: Colour
    ink: Colour
    accent: Colour
    rgb: dict[str, RGB]

    @classmethod
    def pick(cls, rng: random.Random, names: Names, quiet: bool) -> Theme:
        """A theme of the palette ``names`` (None: all). ``quiet`` grounds are those that pages and slides have."""
        ink, ground = pick_pair(rng, names, ratio=4.5)
        if quiet and names is None:
            ground = rng.choice(colours(_QUIET))
            ink = max(colours(("white", "black")), key=lambda colour: contrast(colour.rgb, ground.rgb))
        elif names is None:  # strong grounds, and text that does not flicker on them
            ink = max(colours(("white", "black")), key=lambda c: contrast(c.rgb, ground.rgb)) if rng.random() < 0.5 else ink
        choice = [
            colour
            for colour in colours(names)
            if colour.en not in _GREYS and contrast(colour.rgb, ground.rgb) >= 3.0 and colour not in (ink, ground)
        ]
        accent = rng.choice(choice) if choice else ink
        return cls(ground, ink, accent, _shades(ground.rgb, ink.rgb, accent.rgb))


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """``first`` with ``share`` (0 to 1) of ``second``."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _shades(ground: RGB, ink: RGB, accent: RGB) -> dict[str, RGB]:
    white, black = (250, 250, 250), (14, 14, 16)
    muted = next(
        (grey for share in (0.4, 0.3, 0.2, 0.1) if contrast(grey := mix(ink, ground, share), mix(ground, ink, 0.06)) >= 4.5),
        ink,
    )
    # White on a colour is what designers write; black only where white could not be read.
    on_accent = white if contrast(white, accent) >= 3.5 else black
    return {
        "paper": ground,
        "ink": ink,
        "muted": muted,
        "accent": accent,
        "on-accent": on_accent,
        "panel": mix(ground, ink, 0.05),
        "line": mix(ground, ink, 0.18),
        "soft": mix(ground, accent, 0.12),
    }
