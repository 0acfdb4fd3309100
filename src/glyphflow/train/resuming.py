"""What is different when a run goes on: another learning rate, other records. It is told, as none of it is an error."""

from __future__ import annotations

import math
from pathlib import Path

from glyphflow.core.config import load_config, to_dict
from glyphflow.core.files import read_json, write_json
from glyphflow.feed.staged import StagedFeed
from glyphflow.feed.summary import changes, contents
from glyphflow.train.checkpoint import Checkpoints
from glyphflow.train.curriculum import Curriculum
from glyphflow.train.optimizer import learning_rate
from glyphflow.train.recipe import AnyRecipe, check_same_run, flat

RECIPE = "recipe.yaml"
CONTENTS = "data.json"
_NO_NEWS = {"out", "feed.fingerprint", "fingerprint"}


def saved_steps(out: Path) -> int:
    """Steps of the checkpoint that a run in ``out`` goes on from; 0 where it begins."""
    return max(Checkpoints(out / "checkpoints", 1).steps(), default=0)


def check_recipe(recipe: AnyRecipe | Curriculum) -> list[str]:
    """What ``recipe`` changes of the run in its directory, in sentences; ConfigError where that computes something else.

    Before the first checkpoint there is nothing to go on with, so any recipe may begin.
    """
    path, step = recipe.out / RECIPE, saved_steps(recipe.out)
    if not path.exists() or not step:
        return []
    saved = load_config(type(recipe), path)
    check_same_run(saved, recipe)
    return _news(saved, recipe, step)


def check_records(feed: StagedFeed, out: Path) -> list[str]:
    """Which sources hold others than when the run in ``out`` was started last, and note what they hold now."""
    path, now = out / CONTENTS, contents(feed)
    before = read_json(path) if path.exists() and saved_steps(out) else {}
    write_json(path, now)
    step = saved_steps(out)
    return [
        f"{change}: from step {step + 1} on the run draws other batches than it would have; restore the data to repeat it."
        for change in changes(before, now)
    ]


def rate_at(recipe: AnyRecipe | Curriculum, step: int) -> float:
    """The learning rate of ``step`` (from 0)."""
    return recipe.rate(step) if isinstance(recipe, Curriculum) else learning_rate(step, recipe.train)


def _news(saved: AnyRecipe | Curriculum, now: AnyRecipe | Curriculum, step: int) -> list[str]:
    before, after = flat(to_dict(saved)), flat(to_dict(now))
    different = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    changed = [f"{key} {before.get(key)} -> {after.get(key)}" for key in different if key not in _NO_NEWS]
    old, new = rate_at(saved, step), rate_at(now, step)
    if math.isclose(old, new, rel_tol=1e-6):
        return []
    why = f" ({', '.join(changed)})" if changed else ""
    return [
        f"The learning rate goes on at {new:.3g} in step {step + 1}, where it was to be {old:.3g}{why}: the schedule is "
        "that of the recipe as it is now, over its whole length."
    ]
