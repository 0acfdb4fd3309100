"""What can be planned for: a curriculum, or a recipe of one stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from glyphflow.core.errors import ConfigError
from glyphflow.generate.directory import locate
from glyphflow.generate.sizes import ModelConfig
from glyphflow.train.curriculum import Curriculum, Optimizer, Resolution, Stage, is_curriculum, read_curriculum
from glyphflow.train.recipe import MMDiTRecipe, read_recipe

_CAPTION_TOKENS = 40  # of a recipe that does not say: its captions are short, and the feed measures them


def read_plannable(source: str | Path, overrides: Sequence[str] = ()) -> Curriculum:
    """The curriculum ``source``, or the recipe of kind mmdit as a curriculum of one stage.

    Raises ConfigError for other kinds.
    """
    if is_curriculum(source):
        return read_curriculum(source, overrides)
    recipe = read_recipe(source, overrides)
    if not isinstance(recipe, MMDiTRecipe):
        raise ConfigError(
            f"{source} is a recipe of kind {recipe.kind}; a plan is made for curricula and recipes of kind mmdit."
        )
    model = ModelConfig.read(locate(recipe.train.init_from))
    stage = Stage(
        name=Path(source).stem,
        steps=recipe.train.steps,
        lr=recipe.train.lr,
        resolutions=(Resolution(side=round(math.sqrt(recipe.feed.area)), batch=recipe.feed.batch_size),),
        view=recipe.feed.sources[0].view or "all",
        captions=recipe.feed.captions,
        text="paragraph",
    )
    return Curriculum(
        kind="curriculum",
        out=recipe.out,
        model=model.transformer,
        vae=model.vae,
        objective=recipe.objective,
        optimizer=Optimizer(ema_decay=recipe.train.ema_decay),
        drop_condition=recipe.feed.drop_condition,
        caption_tokens=_CAPTION_TOKENS,
        stages=(stage,),
    )
