"""``glyphflow feed`` and ``glyphflow encode``, as people call them."""

from __future__ import annotations

from pathlib import Path

import pytest
from feed_corpus import AREA, make_corpus
from typer.testing import CliRunner

from glyphflow.cli.main import app
from glyphflow.core.config import dump_config
from glyphflow.core.errors import ConfigError, InputError
from glyphflow.feed.amendments import AmendmentLog
from glyphflow.train.recipe import read_recipe
from tiny import tiny_pipeline


def glyphflow(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("recipe")
    corpus = make_corpus(place, photos=12, edits=2)
    model = tiny_pipeline(place / "model")
    changes = [
        f"feed.sources=[{{name: all, corpus: {corpus}, cache: {place / 'cache'}}}]",
        f"feed.area={AREA}",
        "feed.batch_size=4",
        "feed.heldout_share=0.0",
        "train.steps=10",
        f"train.init_from={model}",
        f"out={place / 'run'}",
        "preview.prompts=[]",
    ]
    read = read_recipe("demo-mmdit", changes)
    dump_config(read, place / "recipe.yaml")
    dump_config(read, read.out / "recipe.yaml")  # as a training that has begun would
    return place / "recipe.yaml"


def test_encode_by_parts(recipe: Path) -> None:
    assert "0 records" in glyphflow("encode", str(recipe), "--part", "2/2")  # fewer shards than parts
    assert "15 records" in glyphflow("encode", str(recipe), "--part", "1/2")
    assert "15 records" in glyphflow("encode", str(recipe), "--check")
    with pytest.raises(ConfigError, match="3/2 is not of the form 1/4"):
        glyphflow("encode", str(recipe), "--part", "3/2")


def test_a_feed_is_shown_and_changed_and_wrong_changes_are_refused_at_once(recipe: Path) -> None:
    run = recipe.parent / "run"
    AmendmentLog(run / "amendments.jsonl").settle(2)  # a training that has ordered three steps
    assert "From step 18 on: captions.zh=1.0" in glyphflow("feed", "set", str(run), "captions.zh=1.0")
    assert "From step 20 on: producers=3" in glyphflow("feed", "set", str(run), "producers=3", "--from", "20")
    shown = glyphflow("feed", "show", str(run))
    assert "64 px x 4" in shown and "from step 18 on: captions.zh=1.0" in shown and "before 18" in shown
    for change, sentence in (
        (["mixture.animals=1"], "mixture names 'animals'"),
        (["captions.fr=1"], "captions names 'fr'"),
        (["heldout_share=0.5"], "cannot be changed while a run goes on"),
        (["producers=2", "--from", "3"], "comes too late; use --from 18"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            glyphflow("feed", "set", str(run), *change)
    assert len(AmendmentLog(run / "amendments.jsonl").read()) == 2
    with pytest.raises(InputError, match="is no training run"):
        glyphflow("feed", "show", str(recipe.parent / "model"))
