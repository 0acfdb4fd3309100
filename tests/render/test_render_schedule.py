"""Rare characters on a schedule: all come as often as asked, and the pictures show them."""

from __future__ import annotations

import pytest

from glyphflow.core.errors import InputError
from glyphflow.render import FontLibrary, RenderSpec, render
from glyphflow.render.schedule import Schedule, coverage, standard_characters


def test_every_character_comes_as_often_as_asked() -> None:
    schedule = Schedule(per_picture=7)
    count = schedule.pictures(times=3)
    assert count == -(-3 * 8105 // 7)
    found = coverage(schedule.at(index) for index in range(count))
    assert found.below(3) == () and set(found.counts) == {3, 4} and found.share(3) == 1.0
    assert all(len(schedule.at(index)) == 7 for index in (0, 500, 10**9))
    half = coverage(schedule.at(index) for index in range(count // 6))
    assert 0.45 < half.share() < 0.55 and len(half.below(1)) == round(8105 * (1 - half.share()))


def test_a_schedule_is_a_function_of_its_parts() -> None:
    assert Schedule(seed=3).at(17) == Schedule(seed=3).at(17) != Schedule(seed=4).at(17)
    turns = Schedule(("a", "b", "c"), per_picture=1)
    assert {"".join(turns.at(3 * turn + k) for k in range(3)) for turn in range(20)} != {"abc"}
    with pytest.raises(InputError, match="1 to 3 characters"):
        Schedule(("a", "b", "c"), per_picture=4)


def test_the_pictures_show_what_the_schedule_asks_for() -> None:
    library = FontLibrary.from_manifest(["noto-sans-cjk-sc-regular"])
    for template, size, params in (
        ("word", 128, {"languages": ["zh"]}),
        ("paragraph", 320, {"languages": ["zh"], "direction": "vertical"}),
        ("paragraph", 320, {"languages": ["en"]}),
        ("surface", 192, {"languages": ["zh"]}),
    ):
        specs = [RenderSpec(template, seed, size, size, dict(params)) for seed in range(6)]
        schedule = Schedule(seed=1)
        for number, spec in enumerate(schedule.apply(specs, start=40), start=40):
            drawn = "".join(line.text for line in render(spec, library).lines)
            assert set(schedule.at(number)) <= set(drawn), (spec, drawn)


def test_one_packaged_font_draws_the_whole_table() -> None:
    font = FontLibrary.from_manifest(["noto-sans-cjk-sc-regular"]).font("noto-sans-cjk-sc-regular")
    assert len(standard_characters()) == 8105 and font.draws("".join(standard_characters()))


def test_a_recipe_asks_for_scheduled_characters() -> None:
    from glyphflow.corpus.recipe import RenderSet

    specs = RenderSet(name="rare", template="paragraph", count=5, seed=2, scheduled=3, params={"languages": ["zh"]}).specs()
    schedule = Schedule(per_picture=3, seed=2)
    assert [spec.params["include"] for spec in specs] == [schedule.at(number) for number in range(5)]
    assert all(spec.params["languages"] == ["zh"] for spec in specs)
