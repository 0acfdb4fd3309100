"""Recipes are strict: types, unknown keys and overrides."""

from pathlib import Path

import pytest

from glyphflow.core.config import Config, dump_config, load_config, with_overrides
from glyphflow.core.errors import ConfigError


class Train(Config):
    lr: float = 1e-3
    steps: int


class Recipe(Config):
    name: str = "x"
    train: Train


def test_overrides_are_yaml_and_reach_into_the_tree(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("train: {steps: 5, lr: 2e-4}\n")
    recipe = load_config(Recipe, path, ["train.lr=1e-5", "name=glyph"])
    assert (recipe.train.lr, recipe.train.steps, recipe.name) == (1e-5, 5, "glyph")


def test_what_is_dumped_loads_as_the_same(tmp_path: Path) -> None:
    recipe = Recipe(name="图", train=Train(steps=3, lr=1e-7))
    dump_config(recipe, tmp_path / "out.yaml")
    assert load_config(Recipe, tmp_path / "out.yaml") == recipe


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"train": {"stesp": 3}}, r"unknown key 'train.stesp'; did you mean 'train.steps'"),
        ({"train": {}}, r"the key 'train.steps' is missing"),
        ({"train": {"steps": "many"}}, r"train.steps = 'many' is refused"),
    ],
)
def test_mistakes_are_named(data: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(Recipe, data)


def test_an_override_without_a_value_or_into_a_leaf_is_refused() -> None:
    with pytest.raises(ConfigError, match="not of the form key=value"):
        load_config(Recipe, {"train": {"steps": 1}}, ["train.lr"])
    with pytest.raises(ConfigError, match="goes into 'steps'"):
        load_config(Recipe, {"train": {"steps": 1}}, ["train.steps.x=1"])


def test_unreadable_and_broken_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Cannot read the recipe"):
        load_config(Recipe, tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1,\n")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_config(Recipe, tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="must hold key: value pairs"):
        load_config(Recipe, tmp_path / "list.yaml")


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Train(steps=1).steps = 2


def test_overrides_reach_entries_of_lists_by_name_or_number() -> None:
    data = {"stages": [{"name": "F1", "rules": [{"min": 1}, {"min": 2}]}, {"name": "F2"}]}
    found = with_overrides(data, ["stages.F1.rules.1.min=5", "stages.1.view=v"])
    assert found == {"stages": [{"name": "F1", "rules": [{"min": 1}, {"min": 5}]}, {"name": "F2", "view": "v"}]}
    assert data["stages"] == [{"name": "F1", "rules": [{"min": 1}, {"min": 2}]}, {"name": "F2"}]
    with pytest.raises(ConfigError, match="'F9' in a list that has only F1, F2"):
        with_overrides(data, ["stages.F9.view=v"])
    with pytest.raises(ConfigError, match="'2' in a list that has only 0, 1"):
        with_overrides(data, ["stages.F1.rules.2.min=5"])
