"""From a recipe to a run: open the sources, build model and objective, hand them to the loop."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import nn

from glyphflow.core.config import dump_config, load_config
from glyphflow.core.errors import ConfigError
from glyphflow.core.files import exclusive
from glyphflow.core.hashing import derive_seed
from glyphflow.feed.encode import Encoders, encode_selection, encoder_fingerprint
from glyphflow.feed.feed import EncodedFeed
from glyphflow.feed.pixels import PixelFeed, Selection
from glyphflow.feed.prefetch import Prefetch
from glyphflow.feed.settings import Source
from glyphflow.generate.directory import locate
from glyphflow.models import VAE, MMDiT
from glyphflow.train.flops import batch_flops, matrix_rate
from glyphflow.train.heldout import heldout_velocity
from glyphflow.train.loop import Loop
from glyphflow.train.lora import TrainedLoRA, inject_lora
from glyphflow.train.objectives import flow_matching, image_tokens, predicted_elements, vae_reconstruction
from glyphflow.train.parallel import World
from glyphflow.train.recipe import AnyRecipe, MMDiTRecipe, RunConfig, VAERecipe, check_same_run
from glyphflow.train.vae import heldout_reconstruction, preview_reconstruction

Preview = Callable[[nn.Module], Image.Image]
RECIPE = "recipe.yaml"
_PREVIEW_PICTURES = 8
R = TypeVar("R", VAERecipe, MMDiTRecipe)


def train_vae(recipe: VAERecipe) -> None:
    """Train the VAE of ``recipe.train.init_from`` on pixels, in ``recipe.out``; continues what is there."""
    with joined(recipe.out, recipe.train) as world:
        save_recipe(recipe, world)
        vae = VAE.from_pretrained(locate(recipe.train.init_from) / "vae", dtype=torch.float32, device=world.device)
        vae.requires_grad_(True)
        feed = open_pixels(recipe)
        heldout = [batch.to(world.device) for batch in feed.heldout(recipe.train.heldout_samples)]
        Loop(
            world.apply(vae, compute_dtype(recipe.train)),
            functools.partial(vae_reconstruction, weights=recipe.objective),
            lambda start: Prefetch(lambda step: feed.batch(step).to(world.device), start),
            recipe.train,
            recipe.out,
            seed=recipe.seed,
            world=world,
            weight=predicted_elements,
            heldout=heldout_reconstruction(heldout) if heldout else None,
            preview=preview_reconstruction(heldout[:_PREVIEW_PICTURES]) if heldout else None,
        ).run()


def train_mmdit(recipe: MMDiTRecipe, preview: Preview | None = None, *, peak: float | None = None) -> None:
    """Train the MMDiT of ``recipe.train.init_from`` on encoded samples, in ``recipe.out``; continues what is there.

    ``preview`` draws with the averaged weights; None: the recipe's prompts. ``peak``: what a device can do, operations a
    second; None: what ``recipe.train`` says, or what a CPU is measured at.
    """
    with joined(recipe.out, recipe.train) as world:
        root = locate(recipe.train.init_from)
        recipe = _with_fingerprint(recipe, root)
        feed = open_encoded(recipe)
        save_recipe(recipe, world)
        model = MMDiT.from_pretrained(root / "transformer", dtype=torch.float32, device=world.device)
        model.requires_grad_(True)
        if recipe.train.lora:
            inject_lora(model, recipe.train.lora, derive_seed(recipe.seed, "adapter"))
        config = model.config
        laid_out = world.apply(model, compute_dtype(recipe.train))
        heldout = [batch.to(world.device) for batch in feed.heldout(recipe.train.heldout_samples)]
        Loop(
            laid_out,
            functools.partial(flow_matching, times=recipe.objective),
            lambda start: Prefetch(lambda step: feed.batch(step).to(world.device), start),
            recipe.train,
            recipe.out,
            seed=recipe.seed,
            world=world,
            weight=predicted_elements,
            size=image_tokens,
            trained=TrainedLoRA(laid_out) if recipe.train.lora else None,
            work=functools.partial(batch_flops, config=config, frozen=recipe.train.lora is not None),
            peak=recipe.train.peak_flops or peak or _measured_peak(world, recipe.train),
            heldout=functools.partial(
                heldout_velocity,
                batches=heldout,
                seed=recipe.seed,
                rank=world.part.rank,
                world=world.part.world,
                total=world.sum,
            )
            if heldout
            else None,
            preview=preview or _previews(recipe, world),
        ).run()


@contextlib.contextmanager
def joined(out: Path, settings: RunConfig) -> Iterator[World]:
    """The processes of the run, joined; one of them holds the output directory against other runs."""
    world = World.start(settings.parallel, settings.device)
    try:
        with exclusive(out, "training") if world.is_main else contextlib.nullcontext():
            world.barrier()
            yield world
    finally:
        world.close()


def compute_dtype(settings: RunConfig) -> torch.dtype:
    """What the passes are computed in."""
    return torch.bfloat16 if settings.compute_dtype == "bfloat16" else torch.float32


def _measured_peak(world: World, settings: RunConfig) -> float | None:
    return matrix_rate(world.device, compute_dtype(settings)) if world.device.type == "cpu" else None


def _previews(recipe: MMDiTRecipe, world: World) -> Preview | None:
    if not recipe.preview.prompts:
        return None
    from glyphflow.train.preview import preview_sheet

    return preview_sheet(recipe, world.device)


def encode_sources(recipe: MMDiTRecipe) -> list[tuple[Path, int]]:
    """Make the cache of every source of ``recipe`` with the encoders of ``recipe.train.init_from``: (cache, records) each."""
    compute = torch.bfloat16 if recipe.train.compute_dtype == "bfloat16" else torch.float32
    encoders = Encoders(locate(recipe.train.init_from), World.start(recipe.train.parallel, recipe.train.device).device, compute)
    made = []
    for number, source in enumerate(recipe.feed.sources):
        cache = _cache(source, number)
        made.append((cache, encode_selection(open_selection(source, number), encoders, cache, recipe.feed.area)))
    return made


def open_encoded(recipe: MMDiTRecipe) -> EncodedFeed:
    """The encoded feed of a recipe."""
    feed = recipe.feed
    return EncodedFeed(
        [(_cache(source, number), source.weight) for number, source in enumerate(feed.sources)],
        batch_size=feed.batch_size,
        seed=recipe.seed,
        captions=feed.captions,
        drop_condition=feed.drop_condition,
        heldout_share=feed.heldout_share,
        fingerprint=feed.fingerprint,
    )


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


def _cache(source: Source, number: int) -> Path:
    if source.cache is None:
        raise ConfigError(
            f"feed.sources[{number}] names no cache; add cache: with the directory that glyphflow encode shall fill."
        )
    return source.cache


def _with_fingerprint(recipe: MMDiTRecipe, root: Path) -> MMDiTRecipe:
    """The recipe bound to the encoders in ``root``: latents of other encoders would teach the model another language."""
    found = encoder_fingerprint(root)
    wanted = recipe.feed.fingerprint or found
    if wanted != found:
        raise ConfigError(
            f"The recipe is bound to the encoders {wanted} and those in {root} are {found}; start from the directory "
            "that the cache was made with, or encode again and remove feed.fingerprint."
        )
    return recipe.model_copy(update={"feed": recipe.feed.model_copy(update={"fingerprint": wanted})})


def save_recipe(recipe: AnyRecipe, world: World) -> None:
    """Write the resolved recipe beside the outputs, unless a run that computes something else is there."""
    path = recipe.out / RECIPE
    if path.exists():
        check_same_run(load_config(type(recipe), path), recipe)
    world.barrier()
    if world.is_main:
        dump_config(recipe, path)
