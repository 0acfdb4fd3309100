"""Typefaces from installed packages, by manifest and hash; text is shaped by HarfBuzz and drawn by Skia from the same file."""

from __future__ import annotations

import difflib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import pydantic

from glyphflow.core.config import Config, parse_yaml
from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.hardware import require
from glyphflow.core.hashing import sha256_file

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
        extents = self._font.get_font_extents("ltr")
        self.ascent = extents.ascender / self.upem
        self.descent = -extents.descender / self.upem
        self.shape = lru_cache(maxsize=8192)(self._shape)

    def covers(self, text: str) -> bool:
        """Whether every character of ``text`` that leaves ink has a glyph here that looks like that character."""
        if self.entry.caps_only and text != text.upper():
            return False
        return all(ord(char) in self.coverage for char in text if not char.isspace())

    def draw_outline(self, glyph: int, pen: Any) -> None:
        """Draw a glyph's outline in font units, y upwards, with a pen of the fontTools kind."""
        self._font.draw_glyph_with_pen(glyph, pen)

    def _shape(self, text: str) -> Run:
        harfbuzz, upem = self._harfbuzz, self.upem
        buffer = harfbuzz.Buffer()
        buffer.add_str(text)
        buffer.guess_segment_properties()
        harfbuzz.shape(self._font, buffer)
        glyphs: list[int] = []
        positions: list[tuple[float, float]] = []
        x0 = y0 = float("inf")
        x1 = y1 = float("-inf")
        pen = 0
        for info, place in zip(buffer.glyph_infos, buffer.glyph_positions, strict=True):
            x, y = pen + place.x_offset, -place.y_offset
            glyphs.append(info.codepoint)
            positions.append((x / upem, y / upem))
            extents = self._font.get_glyph_extents(info.codepoint)
            if extents is not None and extents.width:
                x0, x1 = min(x0, x + extents.x_bearing), max(x1, x + extents.x_bearing + extents.width)
                y0, y1 = min(y0, y - extents.y_bearing), max(y1, y - extents.y_bearing - extents.height)
            pen += place.x_advance
        ink = (x0 / upem, y0 / upem, x1 / upem, y1 / upem) if x1 > x0 else (0.0, 0.0, 0.0, 0.0)
        return Run(self, tuple(glyphs), tuple(positions), pen / upem, ink, missing=0 in glyphs)


class FontLibrary:
    """The fonts a renderer may use, by name, in the manifest's order. Files are checked and opened at first use."""

    def __init__(self, entries: Iterable[FontEntry], paths: Mapping[str, Path]) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self._paths = dict(paths)
        self._fonts: dict[str, Font] = {}
        self._lock = threading.Lock()

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

    def entry(self, name: str) -> FontEntry:
        """The manifest line of a font of this library."""
        if name not in self._entries:
            raise InputError(f"This font library has no {name!r}; {_nearest(name, self._entries)}")
        return self._entries[name]

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
