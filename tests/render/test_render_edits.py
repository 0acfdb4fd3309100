"""Edit pairs: only what the instruction names changes, and it changes to what the instruction says."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from glyphflow.core.errors import InputError
from glyphflow.render import PALETTE, FontLibrary, RenderSpec, emoji_catalogue, is_heldout
from glyphflow.render.captions import STYLES
from glyphflow.render.edits import EDITS, TASKS, EditPair, render_edit

ZH = {colour.en: colour.zh for colour in PALETTE}


@pytest.fixture(scope="module")
def library() -> FontLibrary:
    return FontLibrary.from_manifest()


def pairs(library: FontLibrary, task: str, count: int, side: int = 128, **params: object) -> list[EditPair]:
    return [render_edit(RenderSpec(f"edit_{task}", seed, side, side, dict(params)), library) for seed in range(count)]


@pytest.mark.parametrize("task", TASKS)
def test_pixels_outside_the_mask_are_equal_and_something_inside_is_not(task: str, library: FontLibrary) -> None:
    for side in (64, 256):
        for pair in pairs(library, task, 12, side):
            assert pair.task == task and pair.mask.shape == (side, side) and pair.mask.dtype == np.uint8
            assert set(np.unique(pair.mask)) <= {0, 255}
            differs = (pair.source.image != pair.target.image).any(axis=2)
            assert differs.any() and not differs[pair.mask == 0].any(), pair.instruction
            if task != "background":
                assert (pair.mask == 255).mean() < 0.6
                ys, xs = np.nonzero(differs)
                my, mx = np.nonzero(pair.mask)
                assert abs(int(ys.min()) - int(my.min())) <= 3 and abs(int(xs.max()) - int(mx.max())) <= 3, "the mask is tight"
            assert set(pair.instruction) == {"en", "zh"}
            assert not any("{" in text or "  " in text for text in pair.instruction.values())
            assert re.search("[\u4e00-\u9fff]", pair.instruction["zh"])


def test_a_pair_is_a_function_of_its_spec(library: FontLibrary) -> None:
    specs = [RenderSpec(name, seed, 96, 128) for name in EDITS for seed in range(3)]
    first = [render_edit(spec, library) for spec in specs]
    fresh = FontLibrary.from_manifest()
    with ThreadPoolExecutor(4) as pool:
        second = list(pool.map(lambda spec: render_edit(spec, fresh), reversed(specs)))[::-1]
    for one, two in zip(first, second, strict=True):
        assert one.source.image.tobytes() == two.source.image.tobytes()
        assert one.target.image.tobytes() == two.target.image.tobytes()
        assert one.mask.tobytes() == two.mask.tobytes() and one.instruction == two.instruction
        assert one.source.captions == two.source.captions and one.target.subject == two.target.subject


def test_text_edits_name_both_texts_and_draw_them(library: FontLibrary) -> None:
    for pair in pairs(library, "text", 20):
        (before,), (after,) = pair.source.subject["text"], pair.target.subject["text"]
        assert before != after and pair.source.lines[0].text == before and pair.target.lines[0].text == after
        for instruction in pair.instruction.values():
            assert after in instruction and before in instruction
        assert pair.source.subject["things"] == pair.target.subject["things"]


def test_colour_edits_name_the_new_colour(library: FontLibrary) -> None:
    for pair in pairs(library, "text_colour", 20):
        (before,), (after,) = pair.source.subject["text_colour"], pair.target.subject["text_colour"]
        assert before != after and after in pair.instruction["en"] and ZH[after] in pair.instruction["zh"]
        assert pair.source.lines[0].box == pair.target.lines[0].box
    for pair in pairs(library, "recolour", 20):
        changed = [
            (old, new)
            for old, new in zip(pair.source.subject["things"], pair.target.subject["things"], strict=True)
            if old != new
        ]
        ((old, new),) = changed
        assert old["box"] == new["box"] and old["name_en"] == new["name_en"]
        assert new["name_en"] in pair.instruction["en"] and new["colour"] in pair.instruction["en"]
        assert new["name_zh"] in pair.instruction["zh"] and ZH[new["colour"]] in pair.instruction["zh"]


def test_font_edits_keep_the_text_and_change_the_style(library: FontLibrary) -> None:
    for pair in pairs(library, "font", 20):
        assert pair.source.subject["text"] == pair.target.subject["text"]
        before, after = (library.entry(side.lines[0].font).style for side in (pair.source, pair.target))
        assert before != after
        assert STYLES[after][0] in pair.instruction["en"] and STYLES[after][1] in pair.instruction["zh"]


def test_things_come_go_and_are_replaced(library: FontLibrary) -> None:
    def names(pair: EditPair) -> tuple[set[str], set[str]]:
        return tuple({thing["name_en"] for thing in side.subject["things"]} for side in (pair.source, pair.target))  # type: ignore[return-value]

    for pair in pairs(library, "add", 20):
        before, after = names(pair)
        (new,) = after - before
        assert before < after and new in pair.instruction["en"]
    for pair in pairs(library, "remove", 20):
        before, after = names(pair)
        (old,) = before - after
        assert after < before and old in pair.instruction["en"]
    for pair in pairs(library, "replace", 20):
        before, after = names(pair)
        (old,), (new,) = before - after, after - before
        assert old in pair.instruction["en"] and new in pair.instruction["en"]


def test_backgrounds_change_and_everything_on_them_stays(library: FontLibrary) -> None:
    for pair in pairs(library, "background", 20):
        before, after = pair.source.subject, pair.target.subject
        assert before["background"] != after["background"] and after["background"] in pair.instruction["en"]
        assert ZH[after["background"]] in pair.instruction["zh"]
        assert before["things"] == after["things"] and pair.source.lines == pair.target.lines
        assert (pair.mask[0] == 255).all()


def test_captions_say_what_each_side_shows(library: FontLibrary) -> None:
    for seed in range(30):
        pair = render_edit(RenderSpec("edit", seed, 128, 128), library)
        for side in (pair.source, pair.target):
            assert all(text in caption for text in side.subject["text"] for caption in side.captions.values())
            for thing in side.subject["things"]:
                assert f"{thing['colour']} {thing['name_en']}" in side.captions["en"]
                assert f"{ZH[thing['colour']]}{thing['name_zh']}" in side.captions["zh"]
            assert f"{side.subject['background']} background" in side.captions["en"]
        assert pair.source.captions != pair.target.captions or pair.task == "font"


def test_instructions_come_in_several_phrasings(library: FontLibrary) -> None:
    for task in TASKS:
        starts = {pair.instruction["en"].split()[0] for pair in pairs(library, task, 25, 64)}
        assert len(starts) >= 3, task


def test_training_pairs_hold_nothing_that_is_kept_for_evaluation(library: FontLibrary) -> None:
    allowed = {one.name_en for one in emoji_catalogue("train")} | {"circle", "square", "triangle", "star", "rhombus", "cross"}
    fonts = set(library.names(split="train"))
    for seed in range(60):
        pair = render_edit(RenderSpec("edit", seed, 64, 64), library)
        for side in (pair.source, pair.target):
            assert {thing["name_en"] for thing in side.subject["things"]} <= allowed
            assert {line.font for line in side.lines} <= fonts
            assert not any(is_heldout(word) for line in side.lines for word in re.findall("[A-Za-z']+", line.text))
    held = {one.name_en for one in emoji_catalogue("heldout")}
    shown = {
        thing["name_en"]
        for pair in pairs(library, "replace", 12, 64, split="heldout")
        for thing in pair.source.subject["things"]
    }
    assert shown - allowed <= held and shown & held


def test_given_text_is_used(library: FontLibrary) -> None:
    pair = render_edit(RenderSpec("edit_text", 1, 128, 128, {"text": "Hope\nQwen"}), library)
    assert pair.source.subject["text"] == ["Hope"] and pair.target.subject["text"] == ["Qwen"]
    pair = render_edit(RenderSpec("edit_remove", 1, 128, 128, {"text": "你好"}), library)
    assert pair.source.subject["text"] == pair.target.subject["text"] == ["你好"]


def test_impossible_edits_are_one_sentence(library: FontLibrary) -> None:
    with pytest.raises(InputError, match="did you mean 'edit_recolour'"):
        render_edit(RenderSpec("edit_recolor", 0, 64, 64), library)
    with pytest.raises(InputError, match="takes two lines of text"):
        render_edit(RenderSpec("edit_text", 0, 64, 64, {"text": "one"}), library)
    with pytest.raises(InputError, match="found nothing to change to"):
        render_edit(RenderSpec("edit_background", 0, 64, 64, {"palette": ["white", "black"]}), library)
    with pytest.raises(InputError, match="found nothing to change to"):
        render_edit(RenderSpec("edit_font", 0, 64, 64, {"fonts": ["lato-bold"]}), library)


def test_text_on_a_grid_is_set_again_in_the_same_place(library: FontLibrary) -> None:
    params = {
        "fonts": ["space-mono-bold", "noto-sans-cjk-sc-bold", "noto-emoji"],
        "grid": 1 / 16,
        "max_size": 0.125,
        "level": "word",
    }
    for pair in pairs(library, "text", 8, 256, **params):
        (old,), (new,) = pair.source.lines, pair.target.lines
        wide = 32 if "cjk" in new.font else 16
        assert old.font == new.font and old.size_px == new.size_px == pytest.approx(32 if wide == 32 else 16 / 0.612, abs=0.01)
        for line in (old, new):
            assert 16 <= line.box[0] < 16 + wide and line.box[2] <= 16 + len(line.text) * wide <= 256
    with pytest.raises(InputError, match="A grid of 0 is no place for the line of an edit"):
        pairs(library, "text", 1, 256, **{**params, "grid": 0})
