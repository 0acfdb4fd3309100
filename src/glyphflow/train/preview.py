"""Preview pictures of a training run: fixed prompts and seeds, drawn by the pipeline that users draw with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import cast

import torch
from PIL import Image
from torch import nn

from glyphflow.core.hardware import pick_device
from glyphflow.core.hashing import derive_seed
from glyphflow.feed.frozen import FrozenEncoders
from glyphflow.flow import ScheduleConfig
from glyphflow.generate.directory import ModelFacts, locate
from glyphflow.generate.pipeline import Pipeline
from glyphflow.models import ConditionEncoder, MMDiT
from glyphflow.train.curriculum import Curriculum
from glyphflow.train.parallel import World
from glyphflow.train.recipe import MMDiTRecipe
from glyphflow.train.vae import contact_sheet

_COLUMNS = 4


def preview_sheet(recipe: MMDiTRecipe | Curriculum, world: World | None = None) -> Callable[[nn.Module], Image.Image]:
    """A callable that draws the prompts of ``recipe.preview`` with the MMDiT it is given, one contact sheet a time.

    Prompts are embedded once, here; the condition encoder is not kept. ``world``: where the model is, which all its processes
    draw with (None: this process alone, on the recipe's device).
    """
    settings = recipe.preview
    root, device = locate(recipe.train.init_from), world.device if world else pick_device(recipe.train.device)
    frozen = FrozenEncoders(root, device, recipe.train.computed_in(device))
    embeds, mask = ConditionEncoder.pad([rows.float() for rows in frozen.embed(settings.prompts)])
    empty, _ = ConditionEncoder.pad([frozen.embed([""])[0].float()] * len(settings.prompts))
    vae = frozen.release()
    schedule, facts = ScheduleConfig.from_json(root / "scheduler" / "scheduler_config.json"), ModelFacts.read(root)

    def draw(model: nn.Module) -> Image.Image:
        seeds = (derive_seed(settings.seed, "preview", number) for number in range(len(settings.prompts)))
        # Without device, budget and speed: the model stays laid out for training.
        pipeline = Pipeline(cast(MMDiT, model), vae, None, schedule, facts)
        with world.whole(model) if world else contextlib.nullcontext():
            result = pipeline.generate(
                prompt_embeds=embeds,
                prompt_embeds_mask=mask,
                negative_prompt_embeds=empty,
                true_cfg_scale=facts.default_true_cfg_scale if settings.guidance is None else settings.guidance,
                num_inference_steps=settings.steps or facts.default_steps,
                width=settings.width,
                height=settings.height,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                progress=False,
            )
        return contact_sheet(result.images, _COLUMNS)

    return draw
