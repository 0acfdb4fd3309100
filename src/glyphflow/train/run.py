"""From a recipe to a run: open the sources, build model and objective, hand them to the loop."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from glyphflow.core.config import dump_config, load_config
from glyphflow.core.errors import ConfigError, MissingError
from glyphflow.core.files import exclusive
from glyphflow.core.hardware import pick_device
from glyphflow.feed.pixels import PixelFeed, Selection
from glyphflow.models import VAE
from glyphflow.train.loop import Loop
from glyphflow.train.objectives import vae_reconstruction
from glyphflow.train.recipe import Source, VAERecipe, check_same_run
from glyphflow.train.vae import heldout_reconstruction, preview_reconstruction

RECIPE = "recipe.yaml"
_PREVIEW_PICTURES = 8


def train_vae(recipe: VAERecipe) -> None:
    """Train the VAE of ``recipe.train.init_from`` on pixels, in ``recipe.out``; continues what is there."""
    with exclusive(recipe.out, "training"):
        save_recipe(recipe)
        device = pick_device(recipe.train.device)
        vae = VAE.from_pretrained(pipeline_root(recipe.train.init_from) / "vae", dtype=torch.float32, device=device)
        vae.requires_grad_(True)
        feed = open_pixels(recipe)
        heldout = [batch.to(device) for batch in feed.heldout(recipe.train.heldout_samples)]
        Loop(
            vae,
            functools.partial(vae_reconstruction, weights=recipe.objective),
            lambda step: feed.batch(step).to(device),
            recipe.train,
            recipe.out,
            seed=recipe.seed,
            heldout=heldout_reconstruction(heldout) if heldout else None,
            preview=preview_reconstruction(heldout[:_PREVIEW_PICTURES]) if heldout else None,
        ).run()


def open_pixels(recipe: VAERecipe) -> PixelFeed:
    """The pixel feed of a recipe."""
    feed = recipe.feed
    return PixelFeed(
        [(open_selection(source, number), source.weight) for number, source in enumerate(feed.sources)],
        crop=feed.crop,
        area=feed.area,
        batch_size=feed.batch_size,
        seed=recipe.seed,
        cache_pictures=feed.cache_pictures,
        heldout_share=feed.heldout_share,
    )


def open_selection(source: Source, number: int) -> Selection:
    """The corpus view of a source; ``number`` is its place in the recipe, for the error."""
    from glyphflow.corpus import Corpus

    if source.corpus is None:
        raise ConfigError(f"feed.sources[{number}] names no corpus; add corpus: with a directory made by glyphflow corpus.")
    return Corpus.open(source.corpus).records(source.view)


def pipeline_root(name: str) -> Path:
    """The pipeline directory that ``name`` means: a path, or ``nano`` for the weights in the package."""
    root = Path(str(resources.files("glyphflow"))) / "assets" / "nano" if name == "nano" else Path(name)
    if not (root / "model_index.json").is_file():
        raise MissingError(
            f"train.init_from = {name!r} is no pipeline directory ({root / 'model_index.json'} is not there); give one in the "
            "released layout, or make a fresh one with glyphflow init."
        )
    return root


def save_recipe(recipe: VAERecipe) -> None:
    """Write the resolved recipe beside the outputs, unless a run that computes something else is there."""
    path = recipe.out / RECIPE
    if path.exists():
        check_same_run(load_config(type(recipe), path), recipe)
    dump_config(recipe, path)


Draw = Callable[[nn.Module], Image.Image]
