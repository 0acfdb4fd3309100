"""Templates: a pure function of the spec, boxes around the ink, captions that tell the truth."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from glyphflow.core.errors import InputError
from glyphflow.render import PALETTE, TEMPLATES, FontLibrary, RenderSpec, emoji_catalogue, render
from glyphflow.render.captions import article
from glyphflow.render.layout import join_lines, wrap
from glyphflow.render.palette import MIN_CONTRAST, contrast, pick_pair

QUOTES = "\"'“”「」«»"


@pytest.fixture(scope="module")
def library() -> FontLibrary:
    return FontLibrary.from_manifest()


def specs(count: int = 3, **params: object) -> list[RenderSpec]:
    return [RenderSpec(template, seed, 160, 128, dict(params)) for template in TEMPLATES for seed in range(count)]


def test_the_same_spec_gives_the_same_bytes_in_any_order_thread_and_library(library: FontLibrary) -> None:
    work = specs()
    first = [render(spec, library) for spec in work]
    fresh = FontLibrary.from_manifest()
    with ThreadPoolExecutor(4) as pool:
        second = list(pool.map(lambda spec: render(spec, fresh), reversed(work)))[::-1]
    for spec, one, two in zip(work, first, second, strict=True):
        assert one.image.tobytes() == two.image.tobytes(), spec
        assert one.lines == two.lines and one.captions == two.captions and one.subject == two.subject


def test_different_seeds_give_different_pictures(library: FontLibrary) -> None:
    for template in TEMPLATES:
        pictures = {render(RenderSpec(template, seed, 96, 96), library).image.tobytes() for seed in range(6)}
        assert len(pictures) == 6, template


def test_pictures_have_the_size_and_kind_that_the_spec_says(library: FontLibrary) -> None:
    for spec in specs(2):
        rendered = render(spec, library)
        assert rendered.image.shape == (128, 160, 3) and rendered.image.dtype == np.uint8
        assert set(rendered.captions) == {"en", "zh"} and all(rendered.captions.values())
        for line in rendered.lines:
            x0, y0, x1, y1 = line.box
            assert 0 <= x0 < x1 <= 160 and 0 <= y0 < y1 <= 128, (spec, line)


def test_boxes_hold_all_ink_and_no_more(library: FontLibrary) -> None:
    """Black on white: every dark pixel is in a box, and every box is touched at all four sides."""
    texts = ["Hamburg", "jay\nQuag", "你好世界", "gf 爱"]
    for seed, text in enumerate(texts * 2):
        params = {"text": text, "palette": ["white", "black"], "background": "plain"}
        rendered = render(RenderSpec("word", seed, 200, 160, params), library)
        ground = rendered.image[0, 0].astype(int)
        ink = np.abs(rendered.image.astype(int) - ground).max(axis=2) > 0
        covered = np.zeros_like(ink)
        for line in rendered.lines:
            x0, y0, x1, y1 = line.box
            covered[y0:y1, x0:x1] = True
            inside = ink[y0:y1, x0:x1]
            assert inside[:2].any() and inside[-2:].any() and inside[:, :2].any() and inside[:, -2:].any()
        assert not (ink & ~covered).any(), text


def test_captions_quote_exactly_what_is_drawn(library: FontLibrary) -> None:
    for spec in specs(12):
        if spec.template == "emoji":
            continue
        rendered = render(spec, library)
        drawn = "".join(line.text for line in rendered.lines).replace(" ", "")
        for caption in rendered.captions.values():
            text = "".join(char for char in caption if char not in QUOTES).replace(" ", "")
            for line in rendered.subject["text"]:
                plain = "".join(char for char in line if char not in QUOTES).replace(" ", "")
                assert plain in text.replace(",", "") or plain in text, (caption, line)
        assert drawn == "".join(rendered.subject["text"]).replace(" ", ""), spec


def test_word_captions_name_the_colours_truthfully(library: FontLibrary) -> None:
    zh_of = {colour.en: colour.zh for colour in PALETTE}
    named = 0
    for seed in range(120):
        rendered = render(RenderSpec("word", seed, 64, 64), library)
        truth = {rendered.subject["text_colour"], rendered.subject["background"]}
        before = rendered.captions["en"].replace(join_lines(rendered.subject["text"]), "")
        said = {colour.en for colour in PALETTE if f" {colour.en} " in f" {before} "}
        assert said - {"blue", "green"} <= truth | {"blue", "green"}, rendered.captions
        named += truth <= {name for name in truth if name in before}
        for name in zh_of.values():
            if name in rendered.captions["zh"]:
                assert any(name in zh_of[true] for true in truth)
    assert named >= 60, "most captions name both colours"


def test_words_have_contrast_and_keep_to_the_palette(library: FontLibrary) -> None:
    by_name = {colour.en: colour.rgb for colour in PALETTE}
    for seed in range(60):
        subject = render(RenderSpec("word", seed, 64, 64, {"palette": ["white", "red", "dark blue", "black"]}), library).subject
        assert {subject["text_colour"], subject["background"]} <= {"white", "red", "dark blue", "black"}
        assert contrast(by_name[subject["text_colour"]], by_name[subject["background"]]) >= MIN_CONTRAST


def test_a_palette_without_contrast_or_with_an_unknown_colour_is_refused(library: FontLibrary) -> None:
    import random

    with pytest.raises(InputError, match="No two of the colours white, beige"):
        pick_pair(random.Random(0), ["white", "beige"])
    with pytest.raises(InputError, match="no colour 'mauve'"):
        render(RenderSpec("word", 0, 64, 64, {"palette": ["white", "mauve"]}), library)


def test_text_that_the_fonts_lack_is_refused_by_name(library: FontLibrary) -> None:
    with pytest.raises(InputError, match="no glyph for 你 好"):
        render(RenderSpec("word", 0, 64, 64, {"text": "你好", "fonts": ["lobster-regular"]}), library)
    with pytest.raises(InputError, match="no glyph for"):
        render(RenderSpec("paragraph", 0, 64, 64, {"languages": ["zh"], "fonts": ["lobster-regular"]}), library)


def test_unknown_names_give_the_nearest_known(library: FontLibrary) -> None:
    with pytest.raises(InputError, match="did you mean 'poster'"):
        render(RenderSpec("postr", 0, 64, 64), library)
    with pytest.raises(InputError, match="did you mean 'languages'"):
        render(RenderSpec("word", 0, 64, 64, {"langauges": ["en"]}), library)
    with pytest.raises(InputError, match=r"languages\.0 = 'fr'"):
        render(RenderSpec("word", 0, 64, 64, {"languages": ["fr"]}), library)
    with pytest.raises(InputError, match=r"min_size .* is greater than max_size"):
        render(RenderSpec("word", 0, 64, 64, {"min_size": 0.5, "max_size": 0.2}), library)
    with pytest.raises(InputError, match="8x8"):
        render(RenderSpec("word", 0, 8, 8), library)


def test_specs_survive_json() -> None:
    spec = RenderSpec("word", 7, 128, 96, {"text": "你好", "palette": ["white", "red"]})
    assert RenderSpec.from_json(spec.to_json()) == spec
    with pytest.raises(InputError, match="not a render spec"):
        RenderSpec.from_json('{"template": "word"}')


def test_given_text_fonts_and_sizes_are_used(library: FontLibrary) -> None:
    params = {"text": "HELLO\n你好", "fonts": ["lobster-regular", "noto-sans-cjk-sc-bold"]}
    rendered = render(RenderSpec("word", 3, 128, 128, params), library)
    assert [(line.text, line.font) for line in rendered.lines] == [
        ("HELLO", "lobster-regular"),
        ("你好", "noto-sans-cjk-sc-bold"),
    ]
    for seed in range(20):
        sized = render(RenderSpec("word", seed, 200, 200, {"min_size": 0.2, "max_size": 0.25}), library)
        assert all(line.size_px + 0.01 >= 40 and line.size_px - 0.01 <= 50 for line in sized.lines)


def test_named_fonts_make_the_rest_of_the_library_irrelevant(library: FontLibrary) -> None:
    names = ["lato-bold", "noto-sans-cjk-sc-bold", "noto-emoji"]
    small = FontLibrary.from_manifest(names)
    for spec in specs(6, fonts=names):
        if spec.template == "emoji":
            spec = RenderSpec("emoji", spec.seed, 96, 96, {"fonts": ["noto-emoji"]})
        one, two = render(spec, library), render(spec, small)
        assert one.image.tobytes() == two.image.tobytes() and one.captions == two.captions
        assert {line.font for line in one.lines} <= set(names[:2])


def test_no_default_font_is_held_out(library: FontLibrary) -> None:
    allowed = set(library.names(split="train"))
    for spec in specs(12):
        assert {line.font for line in render(spec, library).lines} <= allowed


@pytest.mark.parametrize("code", ["1f41f", "2709", "1f4a1"])  # two wider than tall, one taller
def test_a_strip_shows_the_middle_of_its_square(library: FontLibrary, code: str) -> None:
    params = {"emoji": [code], "background": "plain", "jitter": 0.0}
    strip, square = (
        render(RenderSpec("emoji", 3, 256, height, params | {"min_size": 64 / height, "max_size": 64 / height}), library).image
        for height in (96, 256)
    )
    x0, y0, x1, y1 = (95, 95, 161, 161)  # four tokens of 16 px each way, and a pixel of soft edge
    ink = (square != square[0, 0]).any(-1)
    assert ink.any() and not (ink[:y0].any() or ink[y1:].any() or ink[:, :x0].any() or ink[:, x1:].any())
    np.testing.assert_array_equal(strip, square[80:176])


def test_emoji_is_drawn_in_its_box_and_named(library: FontLibrary) -> None:
    for split in ("train", "heldout", "demo"):
        names = {one.codepoints: one for one in emoji_catalogue(split)}
        for seed in range(5):
            rendered = render(RenderSpec("emoji", seed, 128, 128, {"split": split, "background": "plain"}), library)
            one = names[rendered.subject["emoji"]]
            assert one.name_en in rendered.captions["en"] and one.name_zh in rendered.captions["zh"]
            x0, y0, x1, y1 = rendered.subject["emoji_box"]
            ink = np.argwhere((rendered.image != rendered.image[0, 0]).any(axis=2))
            assert ink[:, 1].min() >= x0 and ink[:, 1].max() < x1
            assert ink[:, 0].min() >= y0 and ink[:, 0].max() < y1
            assert ink[:, 1].max() - ink[:, 1].min() >= x1 - x0 - 4
    given = render(RenderSpec("emoji", 0, 64, 64, {"emoji": ["1f34e"]}), library)
    assert given.subject["name_en"] == "apple" and given.subject["name_zh"] == "苹果"
    with pytest.raises(InputError, match="not the code point of an emoji"):
        render(RenderSpec("emoji", 0, 64, 64, {"emoji": ["41"]}), library)


def test_lines_break_where_they_may(library: FontLibrary) -> None:
    latin, chinese = library.font("lato-regular"), library.font("noto-sans-cjk-sc-regular")
    lines = wrap("The quick brown fox jumps over the lazy dog.", latin, 20, 120)
    assert lines is not None and " ".join(lines) == "The quick brown fox jumps over the lazy dog."
    assert all(latin.shape(line).advance * 20 <= 121.2 for line in lines)
    broken = wrap("今天天气很好，我们去公园。她说“你好”。", chinese, 20, 101)
    assert broken is not None and "".join(broken) == "今天天气很好，我们去公园。她说“你好”。"
    assert not any(line[0] in "，。”" or line[-1] in "“" for line in broken)
    assert wrap("unbreakable", latin, 20, 30) is None


def test_paragraphs_keep_whole_sentences(library: FontLibrary) -> None:
    for seed in range(6):
        rendered = render(RenderSpec("paragraph", seed, 160, 120, {"min_size": 0.1, "max_size": 0.12}), library)
        assert rendered.lines[-1].text[-1] in ".?。？！"
        tops = [line.box[1] for line in rendered.lines]
        assert tops == sorted(tops)


def test_photo_text_needs_its_package(library: FontLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    from glyphflow.core.errors import MissingError
    from glyphflow.render import photos

    monkeypatch.setattr(photos.importlib.util, "find_spec", lambda name: None)
    photos.load_photo.cache_clear()
    with pytest.raises(MissingError, match="pip install scikit-image"):
        render(RenderSpec("photo_text", 0, 64, 64, {"photos": ["coffee"]}), library)
    with pytest.raises(InputError, match="no packaged photograph 'tea'"):
        render(RenderSpec("photo_text", 0, 64, 64, {"photos": ["tea"]}), library)


def test_articles() -> None:
    assert [article(word) for word in ("apple", "unicorn", "hourglass", "owl", "blue sign")] == [
        "an apple",
        "a unicorn",
        "an hourglass",
        "an owl",
        "a blue sign",
    ]


GRID = {"fonts": ["space-mono-bold", "noto-sans-cjk-sc-bold"], "background": "plain", "grid": 1 / 16}


@pytest.mark.parametrize("languages", [["en"], ["zh"], ["mixed"]])
def test_two_lines_on_a_grid_keep_each_character_to_its_own_pixels(languages: list[str], library: FontLibrary) -> None:
    """At 256 px letters are 16 wide and Chinese characters 32; lines are 48 apart, around a middle that is a multiple of 16."""
    params = {
        **GRID,
        "languages": languages,
        "min_lines": 2,
        "max_size": 0.125,
        "phrasing": "lines",
        "palette": ["white", "black"],
    }
    for seed in range(6):
        drawn = render(RenderSpec("word", seed, 256, 256, dict(params)), library)
        assert len(drawn.lines) == 2 and len({line.font for line in drawn.lines}) == (2 if languages == ["mixed"] else 1)
        for line, middle in zip(drawn.lines, (112, 160), strict=True):
            wide = 32 if "cjk" in line.font else 16
            x0, y0, x1, y1 = line.box
            assert 16 <= x0 < 16 + wide and 16 + (len(line.text) - 1) * wide < x1 <= 16 + len(line.text) * wide <= 256
            assert middle - 17 <= y0 < middle < y1 <= middle + 17  # boxes are rounded outwards
        for caption in drawn.captions.values():
            quoted = [caption.find(line.text) for line in drawn.lines]
            assert -1 < quoted[0] < quoted[1] and caption[quoted[1] - 1] in QUOTES


def test_a_grid_of_nothing_has_no_second_line(library: FontLibrary) -> None:
    with pytest.raises(InputError, match="a grid of 0 has a place for one line"):
        render(RenderSpec("word", 0, 128, 64, {**GRID, "grid": 0, "min_lines": 2}), library)
    with pytest.raises(InputError, match="min_lines 4 is greater than max_lines 3"):
        render(RenderSpec("word", 0, 128, 64, {"min_lines": 4}), library)
