"""The recipes of the nano family at 256 px: what they hold out, and that the curriculum fits its corpora."""

import pytest

from glyphflow.corpus.recipe import load_recipe
from glyphflow.corpus.variants import text_level
from glyphflow.models import MMDiT
from glyphflow.models.presets import NANO_MMDIT
from glyphflow.render import EDITS, SYSTEM_EMOJI, FontLibrary, RenderSpec, emoji_catalogue, is_heldout, render
from glyphflow.train.curriculum import read_curriculum
from glyphflow.train.recipe import CaptionerRecipe, read_recipe

pytest.importorskip("manimgx_fonts_cjk")

OWN = [
    "nano-256-pictures-corpus",
    "nano-256-text-corpus",
    "nano-256-edits-corpus",
    "nano-words-256-corpus",
    "nano-edits-256-corpus",
]
SHAPES = {"circle", "square", "triangle", "star", "rhombus", "cross"}


@pytest.mark.parametrize("name", OWN)
def test_no_picture_shows_a_held_out_word_emoji_or_typeface(name: str) -> None:
    """Looked at in a few pictures of each set, besides what the recipe says."""
    fonts = FontLibrary.from_manifest()
    trained = {emoji.name_en for emoji in emoji_catalogue("train")}
    for one in load_recipe(name).render:
        assert one.params.get("split", "train") == "train" and (one.width, one.height) == (256, 256)
        assert all(fonts.entry(font).split == "train" for font in one.params.get("fonts", ()) if font != SYSTEM_EMOJI)
        for spec in [] if one.optional else one.specs()[:3]:
            drawn = render(RenderSpec(spec.template, spec.seed, 256, 256, spec.params), fonts)
            words = [word.strip(".,!?:").lower() for line in drawn.lines for word in line.text.split()]
            if one.template in ("word", *EDITS):  # slides and posters hold names and addresses, too
                assert not [word for word in words if word.isascii() and word.isalpha() and is_heldout(word)]
            assert all(fonts.entry(line.font).split == "train" for line in drawn.lines)
            assert {thing["name_en"] for thing in drawn.subject.get("things", ())} <= trained | SHAPES
            if one.template == "word":
                assert text_level("\n".join(line.text for line in drawn.lines)) in ("word", "line")


def test_the_curriculum_finds_its_views_tasks_and_sizes() -> None:
    """A stage's pictures have its size: brought to another one, characters would lie across latent tokens."""
    course = read_curriculum("nano-256")
    assert sum(p.numel() for p in MMDiT(course.model).parameters()) <= 16_000_000 and course.model == NANO_MMDIT
    plans = {name: load_recipe(f"nano-{name}-corpus") for name in ("words-128", "words-256", "edits-256")}
    for stage in course.stages:
        assert all(stage.view in {each.view for each in plan.stages} for plan in plans.values())
        assert set(stage.mixture) <= {source.title for source in course.sources}
        used = [plans[name] for name in stage.mixture] + [plans["edits-256"]] * ("ti2i" in stage.tasks)
        assert {one.width for plan in used for one in plan.render} == {r.side for r in stage.resolutions}
    for source in course.sources:
        assert {one.width for one in plans[source.corpus.name].render} == {source.side}  # type: ignore[union-attr]
    assert [max(r.side for r in stage.resolutions) for stage in course.stages] == [128, 256, 256]
    assert {task for stage in course.stages for task in stage.tasks} == {"t2i", "ti2i"}


@pytest.mark.parametrize("name", ["words-128", "words-256"])
def test_characters_are_as_large_at_256_px_as_at_128(name: str) -> None:
    fonts = FontLibrary.from_manifest()
    grid = [one for one in load_recipe(f"nano-{name}-corpus").render if "grid" in one.params]
    assert len(grid) >= 4
    for one in grid:
        assert one.params["grid"] * one.width == 16
        for line in render(one.specs()[0], fonts).lines:
            assert line.size_px == pytest.approx(32 if "cjk" in line.font else 16 / 0.612, abs=0.01)


@pytest.mark.parametrize("name", ["nano-256-edits-corpus", "nano-edits-256-corpus"])
def test_every_edit_of_the_family_has_pairs(name: str) -> None:
    asked = {one.template.removeprefix("edit_") for one in load_recipe(name).render}
    assert {"text", "recolour", "add", "remove", "replace", "background"} <= asked


def test_the_captioner_learns_from_text_pictures_and_edits() -> None:
    recipe = read_recipe("nano-captioner")
    assert isinstance(recipe, CaptionerRecipe)
    told = {source.corpus.name: source.weight for source in recipe.feed.sources if source.corpus is not None}
    assert told == {"text": 3.0, "pictures": 1.0, "edits": 1.0}
