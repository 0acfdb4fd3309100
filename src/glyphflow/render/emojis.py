"""Emoji with their English and Chinese names (Unicode CLDR, by way of the ``emoji`` package), split by code point."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import require
from glyphflow.core.hashing import derive_seed
from glyphflow.render.fonts import Font

DEMO_EMOJI: tuple[str, ...] = (
    "1f98a",  # fox
    "1f955",  # carrot
    "1f433",  # spouting whale
    "1f3b8",  # guitar
    "1f6b2",  # bicycle
    "2693",  # anchor
    "1f511",  # key
    "1f344",  # mushroom
    "1f388",  # balloon
    "2602",  # umbrella
    "1f680",  # rocket
    "1f98b",  # butterfly
)
"""Held back from the nano weights, so that the demo's fine-tune has something to learn."""

# A colour in a name ("red apple") is false once the glyph is drawn in another colour; the remaining name must be unique.
_COLOUR_WORDS = {"red", "green", "blue", "yellow", "orange", "purple", "black", "white", "brown", "grey", "light", "pink"}
_COLOUR_ZH = re.compile(r"^(红|绿|蓝|黄|橙|紫|黑|白|棕|灰|青)色?(?=.)")
# Buttons, clocks and the like hold text of their own or are told apart by details too small to draw at toy size.
_UNWANTED = re.compile(
    r"flag|skin tone|keycap|button|square|circle|hair|’clock|o'clock|thirty|arrow|Japanese|zodiac|piece|mark|sign$|trigram|"
    r"cigarette|middle finger|syringe|gun|pistol|bomb|pile of poo|kiss|bikini|brief|drop of blood|dagger|coffin|urn|knife|"
    r"beer|wine|diamond|mahjong"
)


@dataclass(frozen=True)
class Emoji:
    """One emoji: its code points in hexadecimal joined by "-", and its names without colour words."""

    codepoints: str
    name_en: str
    name_zh: str

    @property
    def text(self) -> str:
        """The characters that draw it."""
        return "".join(chr(int(code, 16)) for code in self.codepoints.split("-"))


@cache
def _named() -> dict[str, Emoji]:
    emoji: Any = require("emoji", "corpus")
    emoji.config.load_language("zh")
    found: dict[str, Emoji] = {}
    names: set[str] = set()
    for text, data in sorted(emoji.EMOJI_DATA.items()):
        # Without the variation selector, which asks for colour; sequences of several people have no glyph of their own here.
        bare = text.replace("\ufe0f", "")
        if len(bare) != 1 or data.get("status") != emoji.STATUS["fully_qualified"] or "zh" not in data:
            continue
        if data["E"] >= 16:  # newer than the packaged font
            continue
        english = data["en"].strip(":").replace("_", " ")
        chinese = data["zh"].strip(":").replace("_", "")
        if (
            _UNWANTED.search(english)
            or re.search(r"[^A-Za-z0-9 '-]", english)
            or not re.fullmatch(r"[\u4e00-\u9fff]+", chinese)
        ):
            continue
        words = english.split()
        while len(words) > 1 and words[0] in _COLOUR_WORDS:
            words, chinese = words[1:], _COLOUR_ZH.sub("", chinese)
        english = " ".join(words)
        if english in names:
            continue
        names.add(english)
        code = f"{ord(bare):x}"
        found[code] = Emoji(code, english, chinese)
    return found


def _split(code: str) -> str:
    if code in DEMO_EMOJI:
        return "demo"
    return "heldout" if derive_seed("emoji", code) % 10 == 0 else "train"


@cache
def drawable_emoji(font: Font, split: str) -> tuple[Emoji, ...]:
    """The part of :func:`emoji_catalogue` that ``font`` can draw."""
    return tuple(one for one in emoji_catalogue(split) if drawable(font, one))


@cache
def emoji_catalogue(split: str) -> tuple[Emoji, ...]:
    """The single-glyph emoji of ``split``: "train", "heldout" (one in ten) or "demo" (:data:`DEMO_EMOJI`), by code point."""
    return tuple(one for code, one in _named().items() if _split(code) == split)


def find_emoji(codepoints: str) -> Emoji:
    """The emoji of ``codepoints`` ("1f34e"), of any split; unknown ones raise :class:`InputError`."""
    key = codepoints.lower().removeprefix("u+").replace("-fe0f", "")
    if key not in _named():
        raise InputError(f"{codepoints!r} is not the code point of an emoji with one glyph and two names; use one like 1f34e.")
    return _named()[key]


def drawable(font: Font, one: Emoji) -> bool:
    """Whether ``font`` draws the emoji as exactly one glyph that leaves ink."""
    run = font.shape(one.text)
    return not run.missing and len(run.glyphs) == 1
