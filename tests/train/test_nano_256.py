"""The recipes of the nano family at 256 px: what they hold out, and that the curriculum fits its corpora."""

import pytest

from glyphflow.corpus.recipe import load_recipe
from glyphflow.corpus.variants import text_level
from glyphflow.feed.buckets import bucket_of, bucket_sizes
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
    "nano-emoji-256-corpus",
    "nano-edits-256-corpus",
    "nano-strips-corpus",
    "nano-strips-emoji-corpus",
    "nano-strips-edits-corpus",
]
SHAPES = {"circle", "square", "triangle", "star", "rhombus", "cross"}


@pytest.mark.parametrize("name", OWN)
def test_no_picture_shows_a_held_out_word_emoji_or_typeface(name: str) -> None:
    """Looked at in a few pictures of each set, besides what the recipe says."""
    fonts = FontLibrary.from_manifest()
    trained = {emoji.name_en for emoji in emoji_catalogue("train")}
    for one in load_recipe(name).render:
        assert one.params.get("split", "train") == "train"
        assert (one.width, one.height) == ((256, 96) if "strips" in name else (256, 256))
        assert all(fonts.entry(font).split == "train" for font in one.params.get("fonts", ()) if font != SYSTEM_EMOJI)
        for spec in [] if one.optional else one.specs()[:3]:
            drawn = render(RenderSpec(spec.template, spec.seed, one.width, one.height, spec.params), fonts)
            words = [word.strip(".,!?:").lower() for line in drawn.lines for word in line.text.split()]
            if one.template in ("word", *EDITS):  # slides and posters hold names and addresses, too
                assert not [word for word in words if word.isascii() and word.isalpha() and is_heldout(word)]
            assert all(fonts.entry(line.font).split == "train" for line in drawn.lines)
            assert {thing["name_en"] for thing in drawn.subject.get("things", ())} <= trained | SHAPES
            if one.template == "word":
                assert text_level("\n".join(line.text for line in drawn.lines)) in ("word", "line")


@pytest.mark.parametrize("name", ["nano-256-words", "nano-256"])
def test_a_curriculum_finds_its_views_tasks_and_sizes(name: str) -> None:
    """A picture has the very size of its bucket: brought to another one, characters would lie across latent tokens."""
    course = read_curriculum(name)
    assert sum(p.numel() for p in MMDiT(course.model).parameters()) <= 16_000_000 and course.model == NANO_MMDIT
    sources = {source.title: source for source in course.sources}
    plans = {title: load_recipe(f"nano-{title}-corpus") for title in sources}
    for title, source in sources.items():
        assert source.side is not None and source.corpus is not None and source.corpus.name == title
        buckets = bucket_sizes(source.side**2)
        assert all(bucket_of(size, buckets) == size for size in {(one.width, one.height) for one in plans[title].render})
    for stage in course.stages:
        used = {*stage.mixture, *(title for title in sources if "edits" in title and "ti2i" in stage.tasks)}
        assert used <= set(sources) and {stage.view} <= {each.view for title in used for each in plans[title].stages}
        sides = {r.side for r in stage.resolutions}
        assert {sources[title].side for title in stage.mixture} == sides <= {sources[title].side for title in used}


def test_the_family_learns_all_tasks_and_ends_at_256_px() -> None:
    stages = [*read_curriculum("nano-256-words").stages, *read_curriculum("nano-256").stages]
    assert {task for stage in read_curriculum("nano-256").stages for task in stage.tasks} == {"t2i", "ti2i", "i2i"}
    assert [max(r.side for r in stage.resolutions) for stage in stages] == [128, 256, 153, 153, 153, 256, 256]


@pytest.mark.parametrize("name", ["words-128", "words-256", "strips"])
def test_characters_are_as_large_at_256_px_as_at_128(name: str) -> None:
    fonts = FontLibrary.from_manifest()
    grid = [one for one in load_recipe(f"nano-{name}-corpus").render if "grid" in one.params]
    assert len(grid) >= 4
    for one in grid:
        assert one.params["grid"] * one.width == 16
        for line in render(one.specs()[0], fonts).lines:
            assert line.size_px == pytest.approx(32 if "cjk" in line.font else 16 / 0.612, abs=0.01)


@pytest.mark.parametrize("name", ["nano-256-edits-corpus", "nano-edits-256-corpus", "nano-strips-edits-corpus"])
def test_every_edit_of_the_family_has_pairs(name: str) -> None:
    asked = {one.template.removeprefix("edit_") for one in load_recipe(name).render}
    assert {"text", "recolour", "add", "remove", "replace", "background"} <= asked


def test_the_captioner_learns_from_text_pictures_and_edits() -> None:
    recipe = read_recipe("nano-captioner")
    assert isinstance(recipe, CaptionerRecipe)
    told = {source.corpus.name: source.weight for source in recipe.feed.sources if source.corpus is not None}
    assert told == {"text": 3.0, "pictures": 1.0, "edits": 1.0}
