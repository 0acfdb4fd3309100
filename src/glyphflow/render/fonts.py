"""Typefaces from installed packages, by manifest and hash; text is shaped by HarfBuzz and drawn by Skia from the same file."""

from __future__ import annotations

import difflib
import importlib.util
import math
import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydantic

from glyphflow.core.config import Config, parse_yaml
from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.hardware import require
from glyphflow.core.hashing import sha256_file
from glyphflow.render.bidi import runs_right, visual_pieces

SYSTEM_EMOJI = "system-colour-emoji"
"""Name of the machine's own colour emoji font, where it has one and ``system=True`` asked for it."""


class FontEntry(Config):
    """One line of the manifest. ``axes`` fixes the axes of a variable font; ``face_index`` picks the face of a collection.

    ``scripts`` are among latin, cjk, emoji. ``split``: train, heldout (for evaluation only) or demo (the typeface that the
    demo's fine-tune learns; no other corpus may use it).
    """

    name: str
    family: str
    package: str
    pip: str
    file: str
    sha256: str
    licence: str
    style: Literal["sans", "serif", "slab", "script", "display", "mono", "symbol", "colour"]
    scripts: tuple[str, ...]
    split: Literal["train", "heldout", "demo"]
    axes: dict[str, float] = pydantic.Field(default_factory=dict)
    face_index: int = 0
    caps_only: bool = False


@dataclass(frozen=True)
class Run:
    """Shaped text in em units, baseline at y = 0, y downwards: multiply by the size in pixels.

    ``ink`` is the exact box (x0, y0, x1, y1) of the outlines; ``advance`` is the distance to the next run.
    """

    font: Font
    glyphs: tuple[int, ...]
    positions: tuple[tuple[float, float], ...]
    advance: float
    ink: tuple[float, float, float, float]
    missing: bool


@dataclass(frozen=True, eq=False)
class Text:
    """A whole text shaped at once, in em units, as arrays over its N glyphs; lines are cut from it by its advances.

    ``glyphs`` (N,) int; ``clusters`` (N,) int, the character that a glyph came from, never falling; ``along`` (N,) float, the
    pen before each glyph in reading direction; ``offsets`` (N, 2) float, where the glyph stands from the pen, (x, y) with y
    downwards; ``bounds`` (N, 4) float, (x0, y0, x1, y1) of the outline around the glyph's origin, NaN where there is no ink;
    ``ahead`` (characters + 1,) float, the pen before each character and behind the last.
    """

    font: Font
    text: str
    vertical: bool
    glyphs: npt.NDArray[np.int64]
    clusters: npt.NDArray[np.int64]
    along: npt.NDArray[np.float64]
    offsets: npt.NDArray[np.float64]
    bounds: npt.NDArray[np.float64]
    ahead: npt.NDArray[np.float64]
    missing: bool


_LINE = 64  # characters; longer texts are shaped for cutting into lines
_NO_INK = (math.nan, math.nan, math.nan, math.nan)


class Font:
    """One face at one weight, loaded once: a Skia typeface and a HarfBuzz font over the same file.

    Shaping never changes the HarfBuzz font, so worker threads may share a Font.
    """

    def __init__(self, entry: FontEntry, path: Path) -> None:
        skia, harfbuzz = require("skia", "corpus"), require("uharfbuzz", "corpus")
        self.entry = entry
        self.name = entry.name
        # An empty manager reads the file and nothing else; the default one would scan the machine's fonts.
        typeface = skia.FontMgr.New_Custom_Empty().makeFromFile(str(path), entry.face_index)
        if typeface is None:
            raise InputError(
                f"The font file {path} of {entry.name} cannot be read; run: pip install --force-reinstall {entry.pip}"
            )
        self.typeface: Any = _with_axes(skia, typeface, entry)
        face = harfbuzz.Face(harfbuzz.Blob.from_file_path(str(path)), entry.face_index)
        self._harfbuzz: Any = harfbuzz
        self._font: Any = harfbuzz.Font(face)
        if entry.axes:
            self._font.set_variations(entry.axes)
        self.upem = face.upem
        self.coverage: frozenset[int] = frozenset(face.unicodes)
        self._characters = frozenset(map(chr, self.coverage))
        extents = self._font.get_font_extents("ltr")
        self.ascent = extents.ascender / self.upem
        self.descent = -extents.descender / self.upem
        # Outlines' boxes (x0, y0, x1, y1) in font units with y downwards, filled in as glyphs are met.
        self._bounds: npt.NDArray[np.float64] = np.zeros((face.glyph_count, 4))
        self._known: npt.NDArray[np.bool_] = np.zeros(face.glyph_count, dtype=bool)
        self._extents = lru_cache(maxsize=None)(self._outline_box)
        self.shape = lru_cache(maxsize=8192)(self._shape)
        self.shape_text = lru_cache(maxsize=64)(self._shape_text)

    def covers(self, text: str) -> bool:
        """Whether every character of ``text`` that leaves ink has a glyph here that looks like that character."""
        if self.entry.caps_only and text != text.upper():
            return False
        return all(char.isspace() for char in set(text) - self._characters)

    def draws(self, text: str) -> bool:
        """Whether the character map covers ``text`` and shaping it leaves no .notdef glyph."""
        if not self.covers(text):
            return False
        short = len(text) <= _LINE or runs_right(text)
        return not (self.shape(text).missing if short else self.shape_text(text, False).missing)

    def draw_outline(self, glyph: int, pen: Any) -> None:
        """Draw a glyph's outline in font units, y upwards, with a pen of the fontTools kind."""
        self._font.draw_glyph_with_pen(glyph, pen)

    def _shape(self, text: str) -> Run:
        upem = self.upem
        glyphs: list[int] = []
        positions: list[tuple[float, float]] = []
        x0 = y0 = math.inf
        x1 = y1 = -math.inf
        pen = 0
        for buffer in self._buffers(text):
            for info, place in zip(buffer.glyph_infos, buffer.glyph_positions, strict=True):
                glyphs.append(info.codepoint)
                x, y = pen + place.x_offset, -place.y_offset
                positions.append((x / upem, y / upem))
                box = self._extents(info.codepoint)
                if box is not None:
                    x0, x1 = min(x0, x + box[0]), max(x1, x + box[2])
                    y0, y1 = min(y0, y + box[1]), max(y1, y + box[3])
                pen += place.x_advance
        ink = (x0 / upem, y0 / upem, x1 / upem, y1 / upem) if x1 > x0 else (0.0, 0.0, 0.0, 0.0)
        return Run(self, tuple(glyphs), tuple(positions), pen / upem, ink, missing=0 in glyphs)

    def _shape_text(self, text: str, vertical: bool) -> Text:
        if runs_right(text):  # its clusters fall and its pen runs back: cut by advances, the lines would be wrong
            raise InputError(
                f"The text {text[:40]!r} runs from right to left, which columns, curves and paragraphs do not set; use the "
                'template "word", with a line break where a line shall end.'
            )
        buffer, upem = self._buffer(text, vertical), self.upem
        infos, found = buffer.glyph_infos, buffer.glyph_positions
        glyphs = np.array([info.codepoint for info in infos], dtype=np.int64)
        clusters = np.array([info.cluster for info in infos], dtype=np.int64)
        # Numbers one behind the other: numpy takes four times as long for a list of tuples.
        places = np.fromiter(chain.from_iterable([place.position for place in found]), np.int64, 4 * len(found))
        x_offset, y_offset, x_advance, y_advance = places.reshape(-1, 4).T / upem
        # HarfBuzz counts y upwards; a vertical line runs down, so its advances come out negative.
        advances = -y_advance if vertical else x_advance
        offsets = np.stack([x_offset, -y_offset], axis=1)
        ahead = np.zeros(len(text) + 1)
        np.cumsum(np.bincount(clusters, advances, minlength=len(text)), out=ahead[1:])
        along = np.cumsum(advances) - advances
        bounds = self._boxes(glyphs) / upem
        return Text(self, text, vertical, glyphs, clusters, along, offsets, bounds, ahead, missing=not glyphs.all())

    def _buffers(self, text: str) -> list[Any]:
        """``text`` shaped in one line, in pieces of one direction from left to right."""
        if not runs_right(text):
            return [self._buffer(text)]
        return [self._buffer(piece.text, direction="rtl" if piece.right else "ltr") for piece in visual_pieces(text)]

    def _buffer(self, text: str, vertical: bool = False, direction: str | None = None) -> Any:
        """``text`` shaped at once, right or down."""
        buffer = self._harfbuzz.Buffer()
        buffer.add_str(text)
        buffer.guess_segment_properties()
        if vertical or direction:
            buffer.direction = direction or "ttb"
        self._harfbuzz.shape(self._font, buffer)
        return buffer

    def _outline_box(self, glyph: int) -> tuple[int, int, int, int] | None:
        extents = self._font.get_glyph_extents(glyph)
        if extents is None or not extents.width:
            return None
        x, y = extents.x_bearing, -extents.y_bearing
        return x, y, x + extents.width, y - extents.height

    def _boxes(self, glyphs: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        for glyph in set(glyphs[~self._known[glyphs]].tolist()):
            self._bounds[glyph] = self._extents(glyph) or _NO_INK
            self._known[glyph] = True
        boxes: npt.NDArray[np.float64] = self._bounds[glyphs]
        return boxes


class FontLibrary:
    """The fonts a renderer may use, by name, in the manifest's order. Files are checked and opened at first use."""

    def __init__(self, entries: Iterable[FontEntry], paths: Mapping[str, Path]) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self._paths = dict(paths)
        self._fonts: dict[str, Font] = {}
        self._lock = threading.Lock()
        self.candidates = lru_cache(maxsize=256)(self._candidates)

    @classmethod
    def from_manifest(cls, names: Sequence[str] | None = None, system: bool = False) -> FontLibrary:
        """All fonts of the manifest, or those in ``names``.

        ``system=True`` adds the machine's colour emoji font as "system-colour-emoji" where there is one. A package that is not
        installed raises :class:`MissingError` with the pip command for all that are missing; an unknown name raises
        :class:`InputError`.
        """
        known = {entry.name: entry for entry in manifest()}
        for name in names or ():
            if name not in known and name != SYSTEM_EMOJI:
                raise InputError(f"The font manifest has no {name!r}; {_nearest(name, known)}")
        chosen = [entry for entry in known.values() if names is None or entry.name in names]
        roots = {entry.package: _package_root(entry.package) for entry in chosen}
        missing = list(dict.fromkeys(entry.pip for entry in chosen if roots[entry.package] is None))
        if missing:
            raise MissingError(f"{len(missing)} font package(s) are not installed; run: pip install {' '.join(missing)}")
        paths = {entry.name: root / entry.file for entry in chosen if (root := roots[entry.package]) is not None}
        path = _system_emoji_file() if system else None
        if path is not None:
            chosen.append(_system_entry(path))
            paths[SYSTEM_EMOJI] = path
        elif SYSTEM_EMOJI in (names or ()):
            raise MissingError(
                f"This system has no colour emoji font, or was not asked for one, and {SYSTEM_EMOJI!r} is listed; "
                "install one (Debian: fonts-noto-color-emoji) or use 'noto-emoji'."
            )
        return cls(chosen, paths)

    def names(self, script: str | None = None, split: str | None = None, style: str | None = None) -> tuple[str, ...]:
        """Names of the fonts with this script (latin, cjk, emoji), split and style; None means any."""
        return tuple(
            name
            for name, entry in self._entries.items()
            if (script is None or script in entry.scripts)
            and (split is None or entry.split == split)
            and (style is None or entry.style == style)
        )

    def _candidates(
        self,
        names: tuple[str, ...] | None,
        script: str | None = None,
        styles: tuple[str, ...] | None = None,
        licences: tuple[str, ...] | None = None,
    ) -> tuple[FontEntry, ...]:
        """The fonts to choose from for text: ``names``, else those of the split "train" with ``script``; narrowed by the rest.

        Emoji fonts have digits, as parts of key caps, but are not for text.
        """
        pool = names if names is not None else self.names(script=script, split="train")
        return tuple(
            entry
            for entry in map(self.entry, pool)
            if "emoji" not in entry.scripts
            and (styles is None or entry.style in styles)
            and (licences is None or entry.licence in licences)
        )

    def entry(self, name: str) -> FontEntry:
        """The manifest line of a font of this library."""
        if name not in self._entries:
            raise InputError(f"This font library has no {name!r}; {_nearest(name, self._entries)}")
        return self._entries[name]

    def path(self, name: str) -> Path:
        """The installed file of a font of this library."""
        return self._paths[self.entry(name).name]

    def font(self, name: str) -> Font:
        """The font, opened at first use; :class:`InputError` when the installed file is not the one of the manifest."""
        entry = self.entry(name)
        with self._lock:
            if name not in self._fonts:
                path = self._paths[name]
                _check_file(path, entry.sha256, entry.name, entry.pip)
                self._fonts[name] = Font(entry, path)
            return self._fonts[name]

    def covers(self, name: str, text: str) -> bool:
        """Whether the font ``name`` has a glyph for every character of ``text`` that leaves ink."""
        return self.font(name).covers(text)


@cache
def manifest() -> tuple[FontEntry, ...]:
    """The fonts GlyphFlow knows, in fixed order (the order is part of what a seed means)."""
    text = resources.files("glyphflow.render").joinpath("fonts.yaml").read_text(encoding="utf-8")
    return tuple(FontEntry.model_validate(row) for row in parse_yaml(text, "fonts.yaml"))


@cache
def _check_file(path: Path, expected: str, name: str, pip: str) -> None:
    """Hash ``path`` once per process; a failure is not cached, so that a repaired file is seen."""
    if not path.is_file():
        raise MissingError(f"The font {name} should be at {path} and is not; run: pip install --force-reinstall {pip}")
    actual = sha256_file(path)
    if actual != expected:
        raise InputError(
            f"The font file {path.name} of {name} has the SHA-256 {actual[:12]}… and the manifest says {expected[:12]}…; "
            f"specs would render differently: install the pinned version of {pip}."
        )


def _package_root(package: str) -> Path | None:
    found = importlib.util.find_spec(package)
    return Path(found.origin).parent if found is not None and found.origin else None


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, 1, 0.5)
    return f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names[:8])} …"


def _with_axes(skia: Any, typeface: Any, entry: FontEntry) -> Any:
    if not entry.axes:
        return typeface
    position = skia.FontArguments.VariationPosition
    coordinates = position.Coordinates(
        [position.Coordinate(int.from_bytes(tag.encode("ascii"), "big"), value) for tag, value in entry.axes.items()]
    )
    # Skia keeps a pointer to the position: both must live until the clone is made.
    place = position(coordinates)
    arguments = skia.FontArguments()
    arguments.setCollectionIndex(entry.face_index)
    arguments.setVariationDesignPosition(place)
    return typeface.makeClone(arguments)


def _system_emoji_file() -> Path | None:
    """The colour emoji font of this machine: Noto on Linux, Apple's and Microsoft's own elsewhere."""
    home = Path.home()
    if sys.platform == "darwin":
        folders = [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    elif sys.platform == "win32":  # pragma: no cover
        folders = [Path(os.environ.get("WINDIR", "C:\\Windows")) / "Fonts"]
    else:
        folders = [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), home / ".local/share/fonts", home / ".fonts"]
    for folder in folders:
        for pattern in ("NotoColorEmoji*.ttf", "Apple Color Emoji.ttc", "seguiemj.ttf"):
            for path in sorted(folder.rglob(pattern)):
                return path
    return None


def _system_entry(path: Path) -> FontEntry:
    return FontEntry(
        name=SYSTEM_EMOJI,
        family=path.stem,
        package="",
        pip="(a font of this system)",
        file=path.name,
        sha256=sha256_file(path),
        licence="as installed",
        style="colour",
        scripts=("emoji",),
        split="train",
    )
