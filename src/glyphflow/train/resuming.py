"""What is different when a run goes on: another learning rate, other records. It is told, as none of it is an error."""

from __future__ import annotations

import math
from pathlib import Path

from glyphflow.core.config import load_config, parse_yaml, to_dict
from glyphflow.core.files import read_json, write_json
from glyphflow.core.text import read_text
from glyphflow.feed.staged import StagedFeed
from glyphflow.feed.summary import changes, contents, decided_by_limit
from glyphflow.train.checkpoint import Checkpoints
from glyphflow.train.curriculum import Curriculum, read_training
from glyphflow.train.optimizer import learning_rate
from glyphflow.train.recipe import AnyRecipe, MMDiTRecipe, check_same_run, flat

RECIPE = "recipe.yaml"
CONTENTS = "data.json"
_NO_NEWS = {"out", "feed.fingerprint", "fingerprint"}
_CROP_LIMITS = {"mmdit": "feed.crop_limit", "curriculum": "crop_limit"}
"""The key by kind of recipe. Versions that did not have it took every picture: 1."""


def saved_steps(out: Path) -> int:
    """Steps of the checkpoint that a run in ``out`` goes on from; 0 where it begins.

    That is the newest one: :func:`glyphflow.train.run.joined` has put damaged ones aside before anyone asks.
    """
    return max(Checkpoints(out / "checkpoints", 1).steps(), default=0)


def read_run(run: Path) -> AnyRecipe | Curriculum:
    """The recipe that the run in the directory ``run`` was started by last, as the version that wrote it meant it."""
    return read_training(run / RECIPE, _unsaid(run / RECIPE))


def as_begun(recipe: MMDiTRecipe | Curriculum) -> MMDiTRecipe | Curriculum:
    """``recipe`` with the crop_limit of the run that it continues, unless it states one itself.

    Another value would draw other batches, and a default is nobody's decision.
    """
    path = recipe.out / RECIPE
    stated = recipe if isinstance(recipe, Curriculum) else recipe.feed
    if "crop_limit" in stated.model_fields_set or not path.exists() or not saved_steps(recipe.out):
        return recipe
    kept = {"crop_limit": crop_limit(load_config(type(recipe), path, _unsaid(path)))}
    if isinstance(recipe, Curriculum):
        return recipe.model_copy(update=kept)
    return recipe.model_copy(update={"feed": recipe.feed.model_copy(update=kept)})


def crop_limit(recipe: MMDiTRecipe | Curriculum) -> float:
    """Share of a picture that may be cut away."""
    return recipe.crop_limit if isinstance(recipe, Curriculum) else recipe.feed.crop_limit


def check_limit(feed: StagedFeed, begun: MMDiTRecipe | Curriculum, given: MMDiTRecipe | Curriculum) -> list[str]:
    """What :func:`as_begun` made of ``given``, where that decides about a picture of ``feed``."""
    old, new = crop_limit(begun), crop_limit(given)
    count = 0 if old == new else decided_by_limit(feed, old, new)
    if not count:
        return []
    return [
        f"The run goes on with {_CROP_LIMITS[begun.kind]} = {old:g}, as it was begun; the default {new:g} would "
        f"{'leave out' if new < old else 'add'} {count} of its pictures, and holds for runs in other directories."
    ]


def check_recipe(recipe: AnyRecipe | Curriculum) -> list[str]:
    """What ``recipe`` changes of the run in its directory, in sentences; ConfigError where that computes something else.

    Before the first checkpoint there is nothing to go on with, so any recipe may begin.
    """
    path, step = recipe.out / RECIPE, saved_steps(recipe.out)
    if not path.exists() or not step:
        return []
    saved = load_config(type(recipe), path, _unsaid(path))
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


def _unsaid(path: Path) -> list[str]:
    """Overrides for keys that the version which wrote the recipe ``path`` did not have."""
    data = parse_yaml(read_text(path), str(path))
    key = _CROP_LIMITS.get(str(data.get("kind"))) if isinstance(data, dict) else None
    holder = data.get("feed") if key and key.startswith("feed.") else data
    return [f"{key}=1.0"] if key and isinstance(holder, dict) and "crop_limit" not in holder else []


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
