"""What the shipped weights must not have seen is not in their recipes."""

import pytest

from glyphflow.corpus.recipe import load_recipe
from glyphflow.render import FontLibrary, emoji_catalogue
from glyphflow.train.recipe import MMDiTRecipe, VAERecipe, read_recipe


@pytest.mark.parametrize(
    "name",
    [
        "nano-vae-corpus",
        "nano-vae-256-corpus",
        "nano-vae-text-corpus",
        "nano-grid-corpus",
        "nano-128-corpus",
        "nano-words-128-corpus",
    ],
)
def test_training_renders_use_only_the_training_split(name: str) -> None:
    trained = {emoji.codepoints for emoji in emoji_catalogue("train")}
    fonts = FontLibrary.from_manifest()
    for one in load_recipe(name).render:
        assert one.params.get("split", "train") == "train"
        assert set(one.params.get("emoji", ())) <= trained
        assert all(fonts.entry(font).split == "train" for font in one.params.get("fonts", ()))


@pytest.mark.parametrize(
    ("name", "kind"), [("nano-vae", VAERecipe), ("nano-mmdit-grid", MMDiTRecipe), ("nano-mmdit-128", MMDiTRecipe)]
)
def test_the_recipes_can_be_read(name: str, kind: type) -> None:
    assert isinstance(read_recipe(name), kind)
