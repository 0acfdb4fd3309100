"""From a VAE recipe to a run, and to the configuration that its export gets."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterable, Iterator

import torch

from glyphflow.core.progress import Progress
from glyphflow.feed.batches import PixelBatch
from glyphflow.feed.pixels import open_pixels
from glyphflow.feed.records import open_selection
from glyphflow.feed.transport import FeedPlan, open_transport, pixel_plan
from glyphflow.generate.directory import locate
from glyphflow.models import VAE
from glyphflow.train.history import History
from glyphflow.train.loop import Feed, Loop
from glyphflow.train.objectives import predicted_elements
from glyphflow.train.parallel import World
from glyphflow.train.recipe import VAERecipe
from glyphflow.train.resuming import check_recipe
from glyphflow.train.run import FEED_LOG, Say, joined, save_recipe, silent, told
from glyphflow.train.vae import Reader, Reconstruction, latent_statistics
from glyphflow.train.vae_loss import open_perceptual, vae_loss

STATISTICS_PICTURES = 256
"""Training pictures that latents_mean and latents_std are measured on, beside the held-out ones."""


def train_vae(recipe: VAERecipe, read: Reader | None = None, *, say: Say = silent) -> int:
    """Train the VAE of ``recipe.train.init_from`` on pixels, in ``recipe.out``; continues what is there.

    ``read`` reads the text of ``recipe.ocr_pictures`` held-out pictures at every held-out measurement. ``say``
    is told what is different where the run goes on. Returns the step that it is at.
    """
    with joined(recipe.out, recipe.train) as world:
        for source in recipe.feed.sources:
            open_selection(source, None)
        news = told(check_recipe(recipe), say, world)
        world.barrier()
        vae = VAE.from_pretrained(locate(recipe.train.init_from) / "vae", dtype=torch.float32, device=world.device)
        select_parameters(vae, recipe)
        perceptual = open_perceptual(recipe.objective, world.device)
        seen = Reconstruction(perceptual, read if world.is_main else None, recipe.ocr_pictures)
        return Loop(
            world.apply(vae, recipe.train.computed_in(world.device)),
            functools.partial(
                vae_loss, objective=recipe.objective, perceptual=perceptual, frozen_encoder=recipe.trained == "decoder"
            ),
            functools.partial(_open_feed, recipe, world, seen),
            recipe.train,
            recipe.out,
            seed=recipe.seed,
            world=world,
            weight=predicted_elements,
            history=History([], news=news),
            heldout=seen.measure,
            preview=seen.draw if recipe.train.heldout_samples else None,
        ).run()


def select_parameters(vae: VAE, recipe: VAERecipe) -> None:
    """Ask for gradients of what the recipe trains: everything, or what comes behind the latents."""
    vae.requires_grad_(recipe.trained == "all")
    if recipe.trained == "decoder":
        vae.post_quant_conv.requires_grad_(True)
        vae.decoder.requires_grad_(True)


def standardised(vae: VAE, recipe: VAERecipe) -> VAE:
    """The same weights under a configuration that knows the mean and standard deviation of their latents.

    They are measured on whole pictures, the held-out ones and :data:`STATISTICS_PICTURES` of the training. A frozen encoder
    keeps those it came with: what other networks learned of its latents must stay true.
    """
    if recipe.trained == "decoder":
        return vae
    feed = open_pixels(**pixels(recipe).arguments)
    heldout = feed.heldout(recipe.train.heldout_samples)
    with Progress("latents", len(heldout) + STATISTICS_PICTURES, "picture") as progress:
        batches = itertools.chain(heldout, feed.pictures(STATISTICS_PICTURES))
        mean, std = latent_statistics(vae, _counted(batches, progress))
    known = VAE(vae.config.model_copy(update={"latents_mean": mean, "latents_std": std}))
    known.load_state_dict(vae.state_dict())
    return known


def _counted(batches: Iterable[PixelBatch], progress: Progress) -> Iterator[PixelBatch]:
    for batch in batches:
        yield batch
        progress.advance()


def pixels(recipe: VAERecipe) -> FeedPlan:
    """The plan of the recipe's feed."""
    feed = recipe.feed
    return pixel_plan(
        feed.sources,
        crop=feed.crop,
        area=feed.area,
        batch_size=feed.batch_size,
        seed=recipe.seed,
        text_crops=feed.text_crops,
        cache_pictures=feed.cache_pictures,
        heldout_share=feed.heldout_share,
    )


@contextlib.contextmanager
def _open_feed(recipe: VAERecipe, world: World, seen: Reconstruction, step: int) -> Iterator[Feed[PixelBatch]]:
    """Batches of this process from ``step`` on, cut by a thread unless the recipe names processes; ``seen`` gets pictures."""
    train = recipe.train
    with open_transport(
        train.transport or "files",
        pixels(recipe),
        start=step,
        part=world.part,
        device=world.device,
        depth=2,
        producers=train.producers or "auto",
        log=recipe.out / FEED_LOG if world.is_main else None,
        address=train.ray,
    ) as transport:
        if train.heldout_samples:
            seen.pictures = [batch.to(world.device) for batch in transport.heldout(train.heldout_samples)]
        save_recipe(recipe, world)
        yield transport
