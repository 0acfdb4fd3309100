"""What text is written, printed, carved or lit on."""

from __future__ import annotations

from dataclasses import dataclass

from glyphflow.core.errors import InputError
from glyphflow.render.palette import RGB


@dataclass(frozen=True)
class Medium:
    """A kind of surface: its names (with the Chinese measure word), texture and colour, the inks that suit it.

    ``loose`` surfaces are things that stand or lie somewhere; the others are the wall itself. ``radius`` and ``frame``: rounded
    corners as a share of the shorter side, colour of a rim. ``printed`` says in both languages how plain ink got there.
    """

    en: str
    zh: str
    unit: str
    texture: str
    rgb: RGB
    inks: tuple[str, ...]
    printed: tuple[str, str] = ("printed", "印")
    loose: bool = True
    radius: float = 0.0
    frame: RGB | None = None


_PAINTED = ("painted", "漆")

MEDIA: tuple[Medium, ...] = (
    Medium("sheet of paper", "纸", "张", "paper", (246, 243, 236), ("print", "bleed")),
    Medium("piece of cardboard", "纸板", "块", "paper", (198, 166, 122), ("print", "bleed")),
    Medium("yellow sticky note", "黄色便签", "张", "paper", (250, 226, 96), ("bleed", "print"), ("written", "写")),
    Medium("wooden board", "木板", "块", "wood", (186, 136, 84), ("print", "emboss"), _PAINTED, radius=0.02),
    Medium("dark wooden sign", "深色木牌", "块", "wood", (86, 56, 36), ("print", "emboss"), _PAINTED, radius=0.03),
    Medium("blackboard", "黑板", "块", "board", (44, 56, 50), ("chalk",), frame=(150, 104, 60)),
    Medium("whiteboard", "白板", "块", "enamel", (240, 242, 243), ("print",), ("written", "写"), frame=(150, 154, 158)),
    Medium("metal sign", "金属牌", "块", "metal", (196, 200, 206), ("print", "emboss"), radius=0.08, frame=(120, 124, 130)),
    Medium("stone slab", "石板", "块", "stone", (152, 149, 143), ("emboss",), radius=0.03),
    Medium("red sign", "红色标牌", "块", "enamel", (190, 36, 40), ("print",), radius=0.1, frame=(245, 240, 235)),
    Medium("blue sign", "蓝色标牌", "块", "enamel", (28, 78, 168), ("print",), radius=0.1, frame=(240, 244, 250)),
    Medium("green sign", "绿色标牌", "块", "enamel", (20, 104, 62), ("print",), radius=0.1, frame=(240, 246, 240)),
    Medium("red banner", "红色横幅", "条", "cloth", (184, 34, 40), ("print",)),
    Medium("dark screen", "深色屏幕", "块", "screen", (18, 22, 30), ("glow", "print"), ("shown", "显示"), frame=(36, 36, 40)),
    Medium("white screen", "白色屏幕", "块", "screen", (228, 232, 238), ("print",), ("shown", "显示"), frame=(30, 30, 32)),
    Medium("brick wall", "砖墙", "面", "brick", (158, 84, 66), ("print",), _PAINTED, loose=False),
    Medium("dark brick wall", "深色砖墙", "面", "brick", (56, 44, 44), ("glow",), loose=False),
    Medium("concrete wall", "水泥墙", "面", "plaster", (168, 166, 161), ("print", "emboss"), _PAINTED, loose=False),
    Medium("white wall", "白墙", "面", "plaster", (228, 224, 216), ("print",), _PAINTED, loose=False),
    Medium("wooden wall", "木墙", "面", "wood", (150, 104, 64), ("print", "emboss"), _PAINTED, loose=False),
)

_BY_NAME = {medium.en: medium for medium in MEDIA}

MANNERS: dict[str, tuple[str, str]] = {
    "bleed": ("written in ink", "用墨水写"),
    "chalk": ("written in chalk", "用粉笔写"),
    "emboss": ("carved", "刻"),
    "glow": ("glowing", "亮"),
}
"""How each ink but plain print got onto a medium, in English and Chinese."""

PLACES: tuple[tuple[str, str, str, RGB], ...] = (
    ("a brick wall", "砖墙", "brick", (150, 86, 70)),
    ("a concrete wall", "水泥墙", "plaster", (160, 158, 154)),
    ("a wooden table", "木桌", "wood", (140, 96, 60)),
    ("a gray stone floor", "灰色石头地面", "stone", (128, 128, 126)),
    ("a blue cloth", "蓝色布料", "cloth", (44, 70, 120)),
)
"""Where loose media stand when there is no photograph: English, Chinese, texture, colour."""


def find_medium(name: str) -> Medium:
    """The medium called ``name`` in English; an unknown one raises :class:`InputError` with those that exist."""
    if name not in _BY_NAME:
        raise InputError(f"There is no medium {name!r}; there are {', '.join(_BY_NAME)}.")
    return _BY_NAME[name]
