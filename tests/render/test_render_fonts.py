"""Fonts: the manifest is what is installed, outlines are right, and text without a glyph is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import skia

from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.hashing import sha256_file
from glyphflow.render import FontLibrary, fonts


@pytest.fixture(scope="module")
def library() -> FontLibrary:
    return FontLibrary.from_manifest()


def test_manifest_hashes_match_the_installed_files() -> None:
    for entry in fonts.manifest():
        found = importlib.util.find_spec(entry.package)
        assert found is not None and found.origin is not None, f"pip install {entry.pip}"
        assert sha256_file(Path(found.origin).parent / entry.file) == entry.sha256, entry.name


def test_manifest_has_both_scripts_and_all_splits(library: FontLibrary) -> None:
    families = {library.entry(name).family for name in library.names("latin", split="train")}
    assert len(families) >= 30
    assert len(library.names("cjk", split="train")) == 3
    assert len({library.entry(name).family for name in library.names(split="heldout")}) == 4
    assert {library.entry(name).family for name in library.names(split="demo")} == {"lobster"}
    split_of: dict[str, str] = {}
    for entry in fonts.manifest():
        assert split_of.setdefault(entry.family, entry.split) == entry.split, "a family must not be in two splits"


def _filled_share(path: skia.Path, units: int) -> float:
    surface = skia.Surface(64, 64)
    canvas = surface.getCanvas()
    canvas.clear(skia.ColorWHITE)
    canvas.translate(8, 48)
    canvas.scale(36 / units, 36 / units)
    canvas.drawPath(path, skia.Paint(AntiAlias=True))
    return 1 - float(surface.toarray()[..., 0].mean()) / 255


class _SkiaPen:
    """Collects what HarfBuzz draws, y upwards, as a Skia path."""

    def __init__(self) -> None:
        self.path = skia.Path()

    def moveTo(self, p: tuple[float, float]) -> None:
        self.path.moveTo(p[0], -p[1])

    def lineTo(self, p: tuple[float, float]) -> None:
        self.path.lineTo(p[0], -p[1])

    def qCurveTo(self, a: tuple[float, float], b: tuple[float, float]) -> None:
        self.path.quadTo(a[0], -a[1], b[0], -b[1])

    def curveTo(self, a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> None:
        self.path.cubicTo(a[0], -a[1], b[0], -b[1], c[0], -c[1])

    def closePath(self) -> None:
        self.path.close()


def test_skia_draws_the_outlines_that_harfbuzz_shapes(library: FontLibrary) -> None:
    """Some variable fonts come out of Skia's FreeType with glyphs of mixed weights; none of those may be in the manifest."""
    for name in library.names():
        font = library.font(name)
        characters = "ABCDEFGQRSabcdefgmnqrstwz0234589&%$你好世界永\U0001f34e\U0001f98a"
        drawn = skia.Font(font.typeface, font.upem)
        drawn.setHinting(skia.FontHinting.kNone)
        for char in characters:
            if ord(char) not in font.coverage:
                continue
            glyph = font.shape(char).glyphs[0]
            pen = _SkiaPen()
            font.draw_outline(glyph, pen)
            expected = _filled_share(pen.path, font.upem)
            actual = _filled_share(drawn.getPath(glyph), font.upem)
            assert actual == pytest.approx(expected, rel=0.03, abs=0.002), (name, char)


def test_coverage_is_per_character_and_capitals_only_faces_refuse_small_letters(library: FontLibrary) -> None:
    assert library.covers("lato-regular", "Hello, world")
    assert not library.covers("lato-regular", "Hello 你好")
    assert library.covers("noto-sans-cjk-sc-bold", "Hello 你好")
    assert library.covers("bebas-neue-regular", "HELLO 24")
    assert not library.covers("bebas-neue-regular", "Hello")
    assert library.font("lato-regular").shape("你").missing


def test_a_missing_package_is_one_sentence_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_package_root", lambda package: None)
    with pytest.raises(MissingError, match=r"pip install fontpkg-lato fontpkg-anton$"):
        FontLibrary.from_manifest(["lato-regular", "lato-bold", "anton-regular"])


def test_a_missing_colour_font_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_system_emoji_file", lambda: None)
    with pytest.raises(MissingError, match="no colour emoji font"):
        FontLibrary.from_manifest([fonts.SYSTEM_EMOJI], system=True)
    assert fonts.SYSTEM_EMOJI not in FontLibrary.from_manifest(system=True).names()


def test_another_file_than_the_manifests_is_refused(tmp_path: Path) -> None:
    entry = next(entry for entry in fonts.manifest() if entry.name == "lato-regular")
    path = tmp_path / "Lato-Regular.ttf"
    path.write_bytes(b"not the font")
    with pytest.raises(InputError, match=r"SHA-256 .* pinned version of fontpkg-lato"):
        FontLibrary([entry], {entry.name: path}).font("lato-regular")
    path.unlink()
    with pytest.raises(MissingError, match="fontpkg-lato"):
        FontLibrary([entry], {entry.name: path}).font("lato-regular")


def test_an_unknown_name_gives_the_nearest(library: FontLibrary) -> None:
    with pytest.raises(InputError, match="did you mean 'lato-regular'"):
        FontLibrary.from_manifest(["lato-reglar"])
    with pytest.raises(InputError, match="did you mean 'lato-bold'"):
        library.font("lato-bolt")


def test_a_font_is_opened_once(library: FontLibrary) -> None:
    assert library.font("lato-regular") is library.font("lato-regular")
