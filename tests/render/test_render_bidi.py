"""Lines that run from the right, alone and among others; what stands where was compared with another implementation."""

import numpy as np
import pytest

from glyphflow.core.errors import InputError
from glyphflow.render import FontLibrary, RenderSpec, render
from glyphflow.render.bidi import mixes, runs_right, visual_pieces

HEBREW = "\u05de\u05d1\u05e6\u05e2"  # mivtsa, "sale"
ARABIC = "\u062a\u062e\u0641\u064a\u0636"


def seen(text: str) -> str:
    """The characters from left to right, brackets as they are stored."""
    return "".join(piece.text[::-1] if piece.right else piece.text for piece in visual_pieces(text))


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("\u05d0\u05d1\u05d2", "\u05d2\u05d1\u05d0"),
        ("Sale \u05d0\u05d1 50% today", "Sale 50% \u05d1\u05d0 today"),  # a number behind a word belongs to it
        ("\u05d0\u05d1 Sale 50", "Sale 50 \u05d1\u05d0"),
        ("\u05d0\u05d1 50% Sale", "Sale 50% \u05d1\u05d0"),
        ("\u05d0 12.50 \u05d1", "\u05d1 12.50 \u05d0"),
        ("\u05d0 1-2 \u05d1", "\u05d1 1-2 \u05d0"),
        ("\u0628 1-2 \u062a", "\u062a 2-1 \u0628"),  # after Arabic letters, digits do not join over a hyphen
        ("(\u05d0\u05d1)", ")\u05d1\u05d0("),
        ("ab (\u05d0\u05d1) cd", "ab (\u05d1\u05d0) cd"),
        ("\u05d0\u05d1 (ab) \u05d2", "\u05d2 )ab( \u05d1\u05d0"),
        ("ab \u05d0 (cd) \u05d1", "ab \u05d0 (cd) \u05d1"),
        ("ab \u05d0\u05d1, \u05d2\u05d3!", "ab \u05d3\u05d2 ,\u05d1\u05d0!"),
        ("\u05d0\u05d1! ", " !\u05d1\u05d0"),
        ("\u0661\u0662\u0663", "\u0661\u0662\u0663"),
        ("\u05d0\u05b0\u05d1", "\u05d1\u05b0\u05d0"),
        ("50%", "50%"),
        ("", ""),
    ],
)
def test_the_order_of_a_line(text: str, order: str) -> None:
    assert seen(text) == order


def test_scripts_of_one_direction_are_shaped_apart() -> None:
    pieces = visual_pieces(f"{HEBREW} {ARABIC}")
    assert [piece.text for piece in pieces] == [ARABIC, f"{HEBREW} "] and all(piece.right for piece in pieces)


def test_directions_by_hand_are_refused() -> None:
    with pytest.raises(InputError, match="set directions by hand"):
        visual_pieces(f"a \u202e{HEBREW}\u202c")
    assert runs_right(HEBREW) and runs_right("a \u0661") and not runs_right("Zürich 12") and not runs_right("\u4f60\u597d")
    assert mixes(f"a {HEBREW}") and not mixes(f"{HEBREW} 50%")


@pytest.fixture(scope="module")
def fonts() -> FontLibrary:
    return FontLibrary.from_manifest()


def test_a_word_within_a_line_stands_as_it_does_alone(fonts: FontLibrary) -> None:
    """Letter by letter the glyphs of the line are those of its parts, the Hebrew word's last letter first."""
    drawn = render(RenderSpec("word", 3, 384, 384, {"text": f"Sale {HEBREW} today"}), fonts)
    font = fonts.font(drawn.lines[0].font)
    line = font.shape(f"Sale {HEBREW} today")
    parts = [font.shape(part) for part in ("Sale ", HEBREW, " today")]
    assert line.glyphs == tuple(glyph for part in parts for glyph in part.glyphs)
    assert parts[1].glyphs == tuple(font.shape(letter).glyphs[0] for letter in reversed(HEBREW))
    xs = [x for x, _ in line.positions]
    assert xs == sorted(xs) and line.advance == pytest.approx(sum(part.advance for part in parts))
    shown = render(RenderSpec("word", 3, 384, 384, {"text": f"({HEBREW})"}), fonts)
    turned = fonts.font(shown.lines[0].font).shape(f"({HEBREW})")
    assert turned.glyphs[0] == fonts.font(shown.lines[0].font).shape("(").glyphs[0]  # mirrored: it opens on the left


def test_each_line_of_a_word_has_its_own_direction(fonts: FontLibrary) -> None:
    text = f"{HEBREW} 50%\nSale"
    drawn = render(RenderSpec("word", 3, 384, 384, {"text": text}), fonts)
    assert [line.text for line in drawn.lines] == text.split("\n")
    assert np.ptp(drawn.image) > 0


def test_what_is_not_set_from_the_right_is_a_sentence(fonts: FontLibrary) -> None:
    long = f"{HEBREW} {HEBREW} 12, {HEBREW}. " * 20
    for template, text in (("paragraph", long), ("paragraph", HEBREW), ("paragraph", f"Sale {HEBREW} today. " * 20)):
        with pytest.raises(InputError, match="runs from right to left"):
            render(RenderSpec(template, 3, 512, 512, {"text": text.strip()}), fonts)
