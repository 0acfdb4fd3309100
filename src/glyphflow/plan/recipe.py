"""What can be planned for: a curriculum, or a recipe of one stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from glyphflow.generate.directory import NANO, locate
from glyphflow.generate.sizes import ModelConfig
from glyphflow.plan.generate import PRESETS
from glyphflow.train.curriculum import Curriculum, Optimizer, Resolution, Stage, encoded_recipe, read_training
from glyphflow.train.recipe import RunConfig

_CAPTION_TOKENS = 40  # of the nano models' captions
_LONG_CAPTION_TOKENS = 150  # of released models' captions, where a recipe has no place to say so


def read_plannable(source: str | Path, overrides: Sequence[str] = ()) -> Curriculum:
    """The curriculum ``source``, or the recipe of kind mmdit as a curriculum of one stage.

    Raises ConfigError for other kinds.
    """
    recipe = encoded_recipe(read_training(source, overrides), "a plan is made for")
    if isinstance(recipe, Curriculum):
        return recipe
    model, feed = model_of(recipe.train.init_from), recipe.feed.settings
    stage = Stage(
        name=Path(source).stem,
        steps=recipe.train.steps,
        lr=recipe.train.lr,
        resolutions=tuple(
            Resolution(side=round(math.sqrt(each.area)), batch=each.batch_size, share=each.share) for each in feed.resolutions
        ),
        view=feed.sources[0].view or "all",
        captions=feed.captions,
        tasks=feed.tasks,
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
        caption_tokens=_CAPTION_TOKENS if recipe.train.init_from == NANO else _LONG_CAPTION_TOKENS,
        preview=recipe.preview,
        train=RunConfig(**{name: getattr(recipe.train, name) for name in RunConfig.model_fields}),
        stages=(stage,),
    )


def model_of(source: str) -> ModelConfig:
    """The sizes of the model ``source``; a released layout (``Qwen/Qwen-Image``) is known without its weights."""
    known = Path(source).name.lower()
    return PRESETS[known] if known in PRESETS and not Path(source).is_dir() else ModelConfig.read(locate(source))
