"""Paragraphs: lines cut from one shaping, whole sentences, columns, vertical Chinese, nothing without its glyph."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from glyphflow.core.errors import InputError
from glyphflow.render import FontLibrary, RenderSpec, render
from glyphflow.render.canvas import Canvas
from glyphflow.render.layout import pick_fonts, wrap
from glyphflow.render.paragraphs import Block, draw_block, fit, flow

CHINESE = "今天天气很好，我们去公园。她说“你好”，然后走了！小船叫未来，小狗叫火车。"
ENGLISH = "The quick brown fox jumps over the lazy dog. It waits (as ever) at noon, and sleeps."


@pytest.fixture(scope="module")
def library() -> FontLibrary:
    return FontLibrary.from_manifest()


@pytest.mark.parametrize(("text", "name"), [(CHINESE, "noto-sans-cjk-sc-regular"), (ENGLISH, "lato-regular")])
def test_lines_are_those_of_shaping_every_line_by_itself(library: FontLibrary, text: str, name: str) -> None:
    font = library.font(name)
    shaped = font.shape_text(text, False)
    for reach in (5.0, 6.5, 9.0, 14.2, 60.0):
        lines = flow(shaped, reach)
        assert lines is not None
        assert [text[a:b] for a, b in lines] == wrap(text, font, 1.0, reach), reach
        for a, b in lines:
            assert shaped.ahead[b] - shaped.ahead[a] == pytest.approx(
                font.shape(text[a:b]).advance, abs=0.03
            )  # kerning across a break
    assert flow(shaped, 0.5) is None, "no piece is that short"


def test_shaping_at_once_places_glyphs_as_shaping_the_line_does(library: FontLibrary) -> None:
    for name, text in (("noto-sans-cjk-sc-bold", CHINESE), ("playfair-display-regular", "Office AVATAR fly")):
        font = library.font(name)
        run, shaped = font.shape(text), font.shape_text(text, False)
        assert tuple(shaped.glyphs) == run.glyphs
        places = np.array(run.positions) - np.stack([shaped.along, np.zeros(len(run.glyphs))], 1)
        assert np.allclose(places, shaped.offsets)
        x = shaped.along + shaped.offsets[:, 0]
        assert np.nanmin(x + shaped.bounds[:, 0]) == pytest.approx(run.ink[0])
        assert np.nanmax(shaped.offsets[:, 1] + shaped.bounds[:, 3]) == pytest.approx(run.ink[3])


@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize("columns", [1, 2])
def test_boxes_of_a_block_hold_all_ink_and_touch_it(library: FontLibrary, vertical: bool, columns: int) -> None:
    if vertical and columns == 2:
        pytest.skip("a vertical block has one column")
    font = library.font("noto-sans-cjk-sc-regular")
    shaped = font.shape_text(CHINESE * 3, vertical)
    block = Block((12.5, 9.25, 388.0, 291.5), 1.4, columns, 20.0 if columns > 1 else 0.0, vertical)
    lines, size = fit(shaped, block, (12.0, 40.0))
    assert lines[-1][1] == len(CHINESE) * 3 and size == int(size)
    canvas = Canvas(400, 300)
    canvas.fill((255, 255, 255))
    drawn = draw_block(canvas, shaped, lines, block, size, (0, 0, 0))
    assert "".join(line.text for line in drawn) == CHINESE * 3
    ink = (canvas.image() < 255).any(axis=2)
    covered = np.zeros_like(ink)
    for line in drawn:
        x0, y0, x1, y1 = line.box
        assert 9 <= x0 < x1 <= 391 and 6 <= y0 < y1 <= 295
        inside = ink[y0:y1, x0:x1]
        assert inside[:2].any() and inside[-2:].any() and inside[:, :2].any() and inside[:, -2:].any()
        covered[y0:y1, x0:x1] = True
    assert not (ink & ~covered).any()


def test_text_that_does_not_fit_is_cut_after_a_whole_sentence(library: FontLibrary) -> None:
    shaped = library.font("noto-sans-cjk-sc-regular").shape_text(CHINESE * 8, False)
    lines, size = fit(shaped, Block((0, 0, 200, 100), 1.4), (16.0, 30.0))
    shown = "".join(shaped.text[a:b] for a, b in lines)
    assert size == 16 and (CHINESE * 8).startswith(shown) and shown[-1] in "。！” " and len(shown) > 20
    one = library.font("lato-regular").shape_text("word " * 60 + "end.", False)
    lines, size = fit(one, Block((0, 0, 200, 40), 1.4), (16.0, 30.0))
    assert size < 16 and lines[-1][1] == len(one.text), "a single sentence gets smaller instead"


def test_vertical_text_runs_down_from_the_right_with_vertical_punctuation(library: FontLibrary) -> None:
    spec = RenderSpec("paragraph", 3, 320, 400, {"text": CHINESE, "direction": "vertical"})
    made = render(spec, library)
    assert all(line.vertical for line in made.lines) and made.subject["direction"] == "vertical"
    lefts = [line.box[0] for line in made.lines]
    assert lefts == sorted(lefts, reverse=True) and "".join(line.text for line in made.lines) == CHINESE
    font = library.font("noto-sans-cjk-sc-regular")
    across, down = font.shape_text("“你好”。", False), font.shape_text("“你好”。", True)
    turned = across.glyphs != down.glyphs
    assert turned[0] and turned[3] and not turned[1] and not turned[2], "quotation marks have vertical forms"
    with pytest.raises(InputError, match="Only Chinese text is set vertically"):
        render(RenderSpec("paragraph", 0, 320, 400, {"text": "Hello there", "direction": "vertical"}), library)


def test_a_paragraph_is_dropped_for_one_missing_glyph_in_the_map_or_by_shaping(
    library: FontLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    import random

    long = "a fine text " * 12
    assert library.font("lato-regular").draws(long) and not library.font("lato-regular").draws(long + "你")
    # A character map may promise what shaping does not keep.
    font = FontLibrary.from_manifest(["lato-regular"]).font("lato-regular")
    font._characters |= frozenset("你")
    assert font.covers("a 你") and not font.draws("a 你") and not font.draws(long + "你")
    assert pick_fonts(random.Random(0), library, ["lato-regular"], [long + "你"]) is None


def test_fonts_are_chosen_by_style_and_licence(library: FontLibrary) -> None:
    for seed in range(8):
        params = {"languages": ["en"], "styles": ["serif", "slab"], "licences": ["OFL-1.1"]}
        made = render(RenderSpec("paragraph", seed, 256, 256, params), library)
        entries = [library.entry(line.font) for line in made.lines]
        assert {entry.style for entry in entries} <= {"serif", "slab"} and {entry.licence for entry in entries} == {"OFL-1.1"}
    with pytest.raises(InputError, match=r"style of .*nothing"):
        render(RenderSpec("paragraph", 0, 256, 256, {"styles": ["nothing"]}), library)


def test_the_canvas_decides_the_layout(library: FontLibrary) -> None:
    wide = [render(RenderSpec("paragraph", seed, 1200, 500, {}), library) for seed in range(12)]
    assert {made.subject["columns"] for made in wide} > {1}
    tall = [render(RenderSpec("paragraph", seed, 500, 1200, {}), library) for seed in range(12)]
    assert {made.subject["columns"] for made in tall} == {1} and any(made.lines[0].vertical for made in tall)
    for size, made in itertools.chain(((500, made) for made in wide), ((500, made) for made in tall)):
        assert all(11 <= line.size_px <= 0.09 * size for line in made.lines)
    small = render(RenderSpec("paragraph", 1, 128, 96, {}), library)
    assert min(line.size_px for line in small.lines) >= 8


def test_specs_say_their_templates_version_and_old_ones_are_refused(library: FontLibrary) -> None:
    assert '"version":2' in RenderSpec("paragraph", 0, 64, 64).to_json()
    assert "version" not in RenderSpec("word", 0, 64, 64).to_json(), "the texts of unchanged templates stay as they were"
    old = RenderSpec.from_json('{"template":"paragraph","seed":0,"width":64,"height":64}')
    assert old.version == 1 and RenderSpec.from_json(old.to_json()) == old
    with pytest.raises(InputError, match="version 1 of the template 'paragraph'"):
        render(old, library)
