"""From a run to a pipeline directory in the released layout, at any time, also while the run goes on."""

from __future__ import annotations

from pathlib import Path

import torch

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import atomic_path, require_new
from glyphflow.generate.directory import copy_without, locate
from glyphflow.models import VAE, MMDiT
from glyphflow.train.captioner import Captioner, open_captioner
from glyphflow.train.checkpoint import Checkpoints
from glyphflow.train.curriculum import Curriculum
from glyphflow.train.lora import TrainedLoRA, inject_lora
from glyphflow.train.recipe import AnyRecipe, CaptionerRecipe, VAERecipe
from glyphflow.train.resuming import read_run
from glyphflow.train.vae_run import standardised

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_PARTS = {"vae": "vae", "captioner": "text_encoder"}
"""What recipes of other kinds than the MMDiT's train."""


def export_run(run: Path, out: Path, *, average: bool = True, dtype: str = "bfloat16") -> int:
    """Write the latest whole checkpoint of ``run`` as the pipeline directory ``out``; returns its step.

    The trained part comes from the checkpoint (its moving average unless ``average`` is false), every other part is copied from
    the directory that the run started from. A VAE whose encoder was trained gets latents_mean and latents_std measured on
    pictures of its feed. A LoRA run gives a directory with the adapter alone, float32, as diffusers and ``--lora`` read it.
    ``out`` must not exist.
    """
    if dtype not in _DTYPES:
        raise ConfigError(f"The type {dtype!r} cannot be written; choose {' or '.join(_DTYPES)}.")
    require_new(Path(out))
    recipe = read_run(run)
    checkpoints = Checkpoints(run / "checkpoints", recipe.train.keep)
    step = checkpoints.latest()
    if step is None:
        raise InputError(
            f"{run} holds no checkpoint yet; let the run reach step {recipe.train.checkpoint_every} or stop it with Ctrl-C."
        )
    if recipe.train.lora:
        _export_adapter(recipe, checkpoints, step, out, average)
        return step
    root = locate(recipe.train.init_from)
    part = _PARTS.get(recipe.kind, "transformer")
    model = _model(recipe, root)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    checkpoints.load_weights(step, weights, ema=average)
    if isinstance(recipe, VAERecipe):
        assert isinstance(model, VAE)
        model = standardised(model, recipe)
    with atomic_path(out) as temporary:
        copy_without(root, temporary, part)
        network = model.language if isinstance(model, Captioner) else model
        network.to(_DTYPES[dtype]).save_pretrained(temporary / part)
    return step


def _export_adapter(recipe: AnyRecipe | Curriculum, checkpoints: Checkpoints, step: int, out: Path, average: bool) -> None:
    assert recipe.train.lora is not None
    model = _model(recipe, locate(recipe.train.init_from))
    inject_lora(model, recipe.train.lora, 0)
    adapter = TrainedLoRA(model)
    checkpoints.load_weights(step, {name: p.detach() for name, p in adapter.named_parameters()}, ema=average)
    with atomic_path(out) as temporary:
        adapter.save(temporary)


def _model(recipe: AnyRecipe | Curriculum, root: Path) -> VAE | MMDiT | Captioner:
    if isinstance(recipe, CaptionerRecipe):
        return open_captioner(root)
    if isinstance(recipe, VAERecipe):
        return VAE.from_pretrained(root / "vae", dtype=torch.float32)
    if isinstance(recipe, Curriculum) and recipe.from_scratch:
        return MMDiT(recipe.model)
    return MMDiT.from_pretrained(root / "transformer", dtype=torch.float32)
