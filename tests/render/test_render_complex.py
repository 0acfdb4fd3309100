"""Designs: every one in both languages, exact boxes, captions that quote all texts, and mistakes that are named."""

from __future__ import annotations

import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from glyphflow.core.errors import InputError
from glyphflow.render import FontLibrary, Rendered, RenderSpec, is_heldout, render
from glyphflow.render.complex import KINDS, Design, packaged, read_design
from glyphflow.render.complex.slots import KINDS as SLOTS
from glyphflow.render.complex.slots import is_reserved, reserved_words, slot_text, units
from glyphflow.render.palette import contrast

DESIGNS = packaged()
HEAD = (
    '<head><meta name="kind" content="slide"><meta name="size" content="400x300">'
    '<meta name="caption-en" content="a slide {title}">'
    '<meta name="caption-zh" content="幻灯片{title}"><style>STYLE</style></head>'
)


@pytest.fixture(scope="module")
def library() -> FontLibrary:
    return FontLibrary.from_manifest()


def drawn(library: FontLibrary, design: Design, seed: int, language: str = "en", **params: object) -> Rendered:
    spec = RenderSpec(design.kind, seed, *design.size, {"design": design.name, "languages": [language], **params})
    return render(spec, library)


def own(tmp_path: Path, body: str, css: str = "") -> str:
    path = tmp_path / "own.html"
    path.write_text(f"<html>{HEAD.replace('STYLE', css)}{body}</html>", encoding="utf-8")
    return str(path)


def test_there_are_three_designs_of_every_kind() -> None:
    for kind in KINDS:
        assert sum(design.kind == kind for design in DESIGNS) >= 3, kind


@pytest.mark.parametrize("design", DESIGNS, ids=lambda design: design.name)
def test_every_design_draws_both_languages_inside_the_picture(design: Design, library: FontLibrary) -> None:
    for seed in range(3):
        for language in ("en", "zh"):
            rendered = drawn(library, design, seed, language)
            width, height = design.size
            assert rendered.image.shape == (height, width, 3)
            for line in rendered.lines:
                x0, y0, x1, y1 = line.box
                assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height, line
                assert line.size_px >= 12, line
                inside = rendered.image[y0:y1, x0:x1].reshape(-1, 3).astype(int)
                assert (np.abs(inside - np.array(line.colour)).sum(axis=1) < 60).any(), f"{line} is not in its box"
            joined = "".join(line.text for line in rendered.lines).replace(" ", "")
            assert joined == "".join(rendered.subject["text"]).replace(" ", "")
            for caption in rendered.captions.values():
                assert all(text in caption for text in rendered.subject["text"]), caption
                assert "{" not in caption and "  " not in caption
            cjk = sum(bool(re.search("[\u4e00-\u9fff]", text)) for text in rendered.subject["text"])
            assert cjk == 0 if language == "en" else cjk * 2 >= len(rendered.subject["text"]) / 2


def test_lines_do_not_lie_on_one_another(library: FontLibrary) -> None:
    for design in DESIGNS:
        lines = drawn(library, design, 5).lines
        for number, one in enumerate(lines):
            for other in lines[number + 1 :]:
                wide = min(one.box[2], other.box[2]) - max(one.box[0], other.box[0])
                high = min(one.box[3], other.box[3]) - max(one.box[1], other.box[1])
                # The ink of two lines of one paragraph may meet by a descender.
                assert wide <= 1 or high <= 0.25 * min(one.size_px, other.size_px), (design.name, one, other)


def test_text_can_be_read_on_its_ground(library: FontLibrary) -> None:
    for design in DESIGNS:
        for seed in range(6):
            rendered = drawn(library, design, seed)
            for line in rendered.lines:
                x0, y0, x1, y1 = line.box
                ground = np.median(np.concatenate([rendered.image[y0, x0:x1], rendered.image[y1 - 1, x0:x1]]), axis=0)
                red, green, blue = (int(value) for value in ground)
                assert contrast(line.colour, (red, green, blue)) >= 2.5, (design.name, seed, line)


def test_a_design_is_a_function_of_its_spec(library: FontLibrary) -> None:
    specs = [RenderSpec(kind, seed, 512, 512) for kind in KINDS for seed in range(3)]
    first = [render(spec, library) for spec in specs]
    fresh = FontLibrary.from_manifest()
    with ThreadPoolExecutor(4) as pool:
        second = list(pool.map(lambda spec: render(spec, fresh), reversed(specs)))[::-1]
    for one, two in zip(first, second, strict=True):
        assert one.image.tobytes() == two.image.tobytes()
        assert (one.lines, one.captions, one.subject) == (two.lines, two.captions, two.subject)


def test_small_pictures_take_designs_whose_text_can_be_read_there(library: FontLibrary) -> None:
    least = {design.name: design.least for design in DESIGNS}
    for kind in ("slide", "poster"):
        for seed in range(12):
            assert least[render(RenderSpec(kind, seed, 128, 128), library).subject["design"]] == 0


@pytest.mark.parametrize("size", [(256, 256), (1328, 1328), (1664, 928), (928, 1664), (300, 900)])
def test_designs_adapt_to_other_sizes(size: tuple[int, int], library: FontLibrary) -> None:
    for kind in KINDS:
        for seed in range(2):
            rendered = render(RenderSpec(kind, seed, *size), library)
            assert rendered.image.shape[:2] == (size[1], size[0]) and rendered.lines


def test_given_text_is_all_the_text_and_shrinks_until_it_fits(library: FontLibrary) -> None:
    lines = ["Our harvest", "Apples from the old garden", "Pears", "今年的葡萄很甜"]
    for seed in range(6):
        slide = render(RenderSpec("slide", seed, 640, 360, {"text": "\n".join(lines)}), library)
        assert slide.subject["text"] == lines
        poster = render(RenderSpec("poster", seed, 256, 256, {"text": "HELLO"}), library)
        assert poster.subject["text"] == ["HELLO"]
        long = render(
            RenderSpec("slide", seed, 640, 360, {"text": "\n".join(["A word"] + ["many more words " * 6] * 6)}), library
        )
        assert len(long.subject["text"]) == 7
    with pytest.raises(InputError, match="no glyph for"):
        render(RenderSpec("slide", 0, 640, 360, {"text": "你好", "fonts": ["lato-regular"]}), library)


def test_training_text_holds_nothing_that_is_kept_for_evaluation() -> None:
    rng = random.Random(0)
    for kind in SLOTS:
        for language in ("en", "zh"):
            for _ in range(40):
                text = slot_text(kind, rng, language, "train", 40, set())  # type: ignore[arg-type]
                assert text and not is_reserved(text), (kind, text)
    assert is_reserved("Sale of cheese") == any(map(is_heldout, ("Sale", "of", "cheese")))
    for design in DESIGNS:
        for node in design.body.walk():
            assert node.fixed is None or not reserved_words(node.fixed[0]), (design.name, node.fixed)


def test_slots_keep_to_their_limit() -> None:
    rng = random.Random(1)
    texts = [slot_text("heading", rng, language, "train", 20, set()) for language in ("en", "zh") for _ in range(50)]  # type: ignore[arg-type]
    assert all(units(text) <= 20 for text in texts)
    used: set[str] = set()
    for _ in range(10):
        text = slot_text("menu", rng, "en", "train", None, used)
        assert text not in used
        used.add(text)


def test_bars_and_totals_tell_the_truth(library: FontLibrary) -> None:
    invoice = next(design for design in DESIGNS if design.name == "form-invoice")
    for seed in range(4):
        prices = [float(t[1:]) for t in drawn(library, invoice, seed).subject["text"] if re.fullmatch(r"[$€£]\d+(\.\d+)?", t)]
        assert prices[-1] == pytest.approx(sum(prices[:-1]))


def test_named_colours_and_fonts_decide_alone(library: FontLibrary) -> None:
    names = ["lora-regular", "lora-bold"]
    for design in DESIGNS[::3]:
        rendered = drawn(library, design, 1, fonts=names, palette=["white", "dark blue"])
        assert {line.font for line in rendered.lines} <= set(names)
        assert {rendered.subject["background"], rendered.subject["text_colour"]} == {"white", "dark blue"}
    serif = drawn(library, DESIGNS[0], 1, styles=["serif"])
    assert {library.entry(line.font).style for line in serif.lines} == {"serif"}


def test_a_design_of_ones_own_needs_no_code(library: FontLibrary, tmp_path: Path) -> None:
    path = own(
        tmp_path,
        '<body class="sheet"><h1 data-slot="title" data-limit="20"></h1><div class="row" data-says-en="Rows: {texts}" '
        'data-says-zh="各行：{texts}"><p data-slot="price" data-repeat="2"></p></div>'
        '<p data-en="Thanks" data-zh="谢谢"></p></body>',
        ".sheet { padding: 20px; gap: 10px } .row { display: flex; justify-content: space-between; background: var(--soft) }"
        " h1 { font-size: 40px; font-weight: bold }",
    )
    spec = RenderSpec("slide", 3, 400, 300, {"design": path, "languages": ["zh"]})
    rendered = render(spec, library)
    title, first, second, thanks = rendered.lines
    assert thanks.text == "谢谢" and first.text[0] == "¥"
    assert first.box[1] == pytest.approx(second.box[1], abs=3) and first.box[2] < second.box[0]
    assert title.size_px == 40 and title.box[0] >= 19 and abs(second.box[2] - 380) <= 3
    assert rendered.captions["zh"].endswith(f"{thanks.text}" + rendered.captions["zh"][-2:])


@pytest.mark.parametrize(
    ("body", "css", "message"),
    [
        ("<body><p>one</p>", "", "is never closed"),
        ("<body><div><p>one</div></p></body>", "", "closes <p>"),
        ("<body>text <p>more</p></body>", "", "holds text beside elements"),
        ('<body><p data-slot="titel"></p></body>', "", "no slot 'titel'"),
        ('<body><p data-limits="3"></p></body>', "", "attribute data-limits is not known"),
        ('<body><p data-repeat="5-2"></p></body>', "", "range like 2-5"),
        ('<body><p data-vary="size: 3"></p></body>', "", "height: 20-90%"),
        ("<body></body>", "p { colour: red }", "did you mean color"),
        ("<body><p></p></body>", "p { color: mauve }", "'mauve' is not a colour"),
        ("<body><p></p></body>", "p { color: var(--brand) }", "no --brand"),
        ("<body><p></p></body>", "p { width: 3cm }", "'3cm' is not a length"),
        ("<body><p></p></body>", "p { display: grid }", "may be block, flex"),
        ("<body><p></p></body>", "p { font-family: Arial }", "may be body, heading"),
        ("<body></body>", "p:hover { color: white }", "is not understood"),
        ("<p></p>", "", "0 <body> elements"),
    ],
)
def test_mistakes_in_a_design_are_one_sentence(body: str, css: str, message: str) -> None:
    css = css or "p { color: white }"
    body = body.replace("<body></body>", "<body><p></p></body>")
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_design(f"<html>{HEAD.replace('STYLE', css)}{body}</html>", "own.html")
    assert "own.html" in str(caught.value)


def test_unknown_designs_and_designs_without_room_are_refused(library: FontLibrary, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no slide design 'bar'; there are slide-agenda"):
        render(RenderSpec("slide", 0, 640, 360, {"design": "bar"}), library)
    with pytest.raises(InputError, match="cannot be read"):
        render(RenderSpec("slide", 0, 640, 360, {"design": str(tmp_path / "no.html")}), library)
    path = own(tmp_path, '<body><p data-slot="paragraph"></p></body>', "p { width: 60px; font-size: 60px }")
    with pytest.raises(InputError, match="has no room for its texts"):
        render(RenderSpec("slide", 0, 400, 300, {"design": path}), library)


def test_the_guides_own_design_and_lists_are_true(library: FontLibrary, tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "designs.md").read_text(encoding="utf-8")
    source = "\n".join(line[4:] for line in guide.split("### A design of your own")[1].split("`meta` beside")[0].splitlines())
    path = tmp_path / "guide.html"
    path.write_text(source.strip(), encoding="utf-8")
    rendered = render(RenderSpec("poster", 2, 768, 1024, {"design": str(path), "languages": ["en"]}), library)
    assert rendered.lines[-1].text == "Open daily" and "It lists" in rendered.captions["en"]
    slots = set(re.findall(r"\w+", guide.split("a sampled text:")[1].split("; or `icon`")[0]))
    assert slots == set(SLOTS)
