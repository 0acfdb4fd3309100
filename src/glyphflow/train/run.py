"""From a recipe to a run: open the sources, build model and objective, hand them to the loop."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from PIL import Image
from torch import nn

from glyphflow.core.config import dump_config, load_config
from glyphflow.core.errors import ConfigError, InterruptedRun
from glyphflow.core.files import exclusive
from glyphflow.core.hardware import pick_device
from glyphflow.core.hashing import derive_seed
from glyphflow.feed.amendments import FILE as AMENDMENTS
from glyphflow.feed.amendments import AmendmentLog
from glyphflow.feed.batches import EncodedBatch
from glyphflow.feed.encode import Encoders, encoder_fingerprint
from glyphflow.feed.order import Part
from glyphflow.feed.pixels import PixelFeed
from glyphflow.feed.prefetch import Prefetch
from glyphflow.feed.producing import encode_feed
from glyphflow.feed.records import open_selection
from glyphflow.feed.staged import Segment, StagedFeed
from glyphflow.generate.directory import locate
from glyphflow.models import VAE, MMDiT, MMDiTConfig
from glyphflow.train.curriculum import Curriculum
from glyphflow.train.flops import batch_flops, matrix_rate
from glyphflow.train.heldout import heldout_velocity
from glyphflow.train.history import Change, History
from glyphflow.train.loop import Feed, Loop
from glyphflow.train.lora import TrainedLoRA, inject_lora
from glyphflow.train.lowmem import LowMemory, needs_low_memory, open_low_memory
from glyphflow.train.objectives import flow_matching, image_tokens, predicted_elements, vae_reconstruction
from glyphflow.train.parallel import World
from glyphflow.train.recipe import AnyRecipe, MMDiTRecipe, RunConfig, TrainConfig, VAERecipe, check_same_run
from glyphflow.train.vae import heldout_reconstruction, preview_reconstruction

Preview = Callable[[nn.Module], Image.Image]
RECIPE = "recipe.yaml"
_PREVIEW_PICTURES = 8
E = TypeVar("E", MMDiTRecipe, Curriculum)


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


def train_mmdit(recipe: MMDiTRecipe | Curriculum, preview: Preview | None = None, *, peak: float | None = None) -> None:
    """Train an MMDiT on encoded samples by a recipe of one stage or a curriculum, in ``recipe.out``; continues what is there.

    ``preview`` draws with the averaged weights; None: the recipe's prompts. ``peak``: what a device can do, operations a
    second; None: what ``recipe.train`` says, or what a CPU is measured at.
    """
    with joined(recipe.out, recipe.train) as world:
        root = locate(recipe.train.init_from)
        recipe = _with_fingerprint(recipe, root)
        course = course_of(recipe)
        feed = open_feed(recipe, course, world)
        heldout = [batch.to(world.device) for batch in feed.heldout(recipe.train.heldout_samples)]
        save_recipe(recipe, world)
        network = _network(recipe, root, world)
        Loop(
            network.model,
            functools.partial(flow_matching, times=recipe.objective),
            feed.open,
            course.settings,
            recipe.out,
            seed=recipe.seed,
            world=world,
            weight=predicted_elements,
            size=image_tokens,
            trained=network.trained,
            fused=network.fused,
            rate=course.rate,
            work=functools.partial(batch_flops, config=network.config, frozen=recipe.train.lora is not None),
            peak=recipe.train.peak_flops or peak or _measured_peak(world, recipe.train),
            history=History(course.begins, feed.changes),
            heldout=_heldout(heldout, recipe.seed, world),
            preview=preview or _previews(recipe, world),
        ).run()


class Course(NamedTuple):
    """What a run learns from when, whichever kind of recipe says it."""

    segments: tuple[Segment, ...]
    """Stretches of the feed; their steps are batches."""
    settings: TrainConfig
    rate: Callable[[int], float] | None
    """Learning rate of an optimizer step; None: that of ``settings``."""

    @property
    def begins(self) -> list[tuple[int, str]]:
        """(first step of the feed, name) of each stage of a curriculum."""
        return [(segment.start, segment.name) for segment in self.segments] if self.rate else []


def course_of(recipe: MMDiTRecipe | Curriculum) -> Course:
    """The stages of a curriculum, or the only one of a plain recipe."""
    batches = recipe.train.accumulate
    if isinstance(recipe, MMDiTRecipe):
        segment = Segment(name="all", start=0, steps=recipe.train.steps * batches, settings=recipe.feed.settings)
        return Course((segment,), recipe.train, None)
    segments = (
        Segment(name=stage.name, start=start * batches, steps=stage.steps * batches, settings=recipe.feed(stage))
        for stage, start in zip(recipe.stages, recipe.starts(), strict=False)
    )
    return Course(tuple(segments), recipe.settings(), recipe.rate)


class Network(NamedTuple):
    """The network of a run, laid out for training."""

    model: nn.Module
    config: MMDiTConfig
    trained: nn.Module | None
    """Where only an adapter learns: its tensors."""
    fused: LowMemory | None
    """Where the backward pass updates the weights itself."""


def _network(recipe: MMDiTRecipe | Curriculum, root: Path, world: World) -> Network:
    """Whole weights in main memory or on the card, then whatever the recipe says about where they live."""
    train, seed = recipe.train, derive_seed(recipe.seed, "adapter")
    scratch = isinstance(recipe, Curriculum) and recipe.from_scratch
    if needs_low_memory(train):
        if scratch or world.size > 1:
            raise ConfigError(
                f"train.base, offload, modulation and weights are for existing weights on one card, and this run "
                f"{'begins from scratch' if scratch else f'has {world.size} processes'}; leave them out."
            )
        opened = open_low_memory(root / "transformer", world.device, train, seed)
        world.compute_in(compute_dtype(train))
        adapter = opened.trained if train.lora else None
        return Network(opened.model, opened.model.config, adapter, None if train.lora else opened.low)
    place = torch.device("cpu") if world.size > 1 else world.device  # sharding moves each process's part to its card
    if isinstance(recipe, Curriculum) and recipe.from_scratch:
        model = MMDiT(recipe.model).init_weights(torch.Generator().manual_seed(derive_seed(recipe.seed, "weights"))).to(place)
    else:
        model = MMDiT.from_pretrained(root / "transformer", dtype=torch.float32, device=place)
        if isinstance(recipe, Curriculum) and recipe.model != model.config:
            raise ConfigError(
                f"The curriculum's model has {recipe.model.num_layers} layers of width {recipe.model.width} and train.init_from = "
                f"{train.init_from} has {model.config.num_layers} of {model.config.width}, or they differ in another size; make "
                "model the same, or set from_scratch=true."
            )
    model.requires_grad_(True)
    if train.lora:
        inject_lora(model, train.lora, seed)
    laid_out = world.apply(model, compute_dtype(train))
    return Network(laid_out, model.config, TrainedLoRA(laid_out) if train.lora else None, None)


class RunFeed:
    """The feed of a run: held-out samples, the log of changes, and the transport from any step on."""

    def __init__(self, recipe: MMDiTRecipe | Curriculum, course: Course, world: World) -> None:
        self._log = AmendmentLog(recipe.out / AMENDMENTS)
        self._world = world
        self._feed = StagedFeed(course.segments, recipe.seed, self._log.read())

    def heldout(self, count: int) -> list[EncodedBatch]:
        """About ``count`` held-out samples."""
        return self._feed.heldout(count) if count else []

    def open(self, step: int) -> AbstractContextManager[Feed[EncodedBatch]]:
        """Batches of this process from ``step`` on."""
        return Prefetch(lambda at: self._feed.batch(at, self._world.part).to(self._world.device), step)

    def changes(self) -> list[Change]:
        """The log of changes as it is now."""
        return [(entry.from_step, entry.changes) for entry in self._log.read()]


def open_feed(recipe: MMDiTRecipe | Curriculum, course: Course, world: World) -> RunFeed:
    """The encoded feed of a run."""
    return RunFeed(recipe, course, world)


def _heldout(batches: list[EncodedBatch], seed: int, world: World) -> Callable[[nn.Module], dict[str, float]] | None:
    part = world.part
    measure = functools.partial(heldout_velocity, batches=batches, seed=seed, rank=part.rank, world=part.world, total=world.sum)
    return measure if batches else None


@contextlib.contextmanager
def joined(out: Path, settings: RunConfig) -> Iterator[World]:
    """The processes of the run, joined; one of them holds the output directory against other runs."""
    world = World.start(settings.parallel, settings.device)
    together = True
    try:
        with exclusive(out, "training") if world.is_main else contextlib.nullcontext():
            world.barrier()
            yield world
    except BaseException as error:
        # Asked to stop, all processes stop; whatever else happens to one leaves the others waiting, for torchrun to end.
        together = world.size == 1 or isinstance(error, InterruptedRun)
        raise
    finally:
        if together:
            world.close()


def compute_dtype(settings: RunConfig) -> torch.dtype:
    """What the passes are computed in."""
    return torch.bfloat16 if settings.compute_dtype == "bfloat16" else torch.float32


def _measured_peak(world: World, settings: RunConfig) -> float | None:
    return matrix_rate(world.device, compute_dtype(settings)) if world.device.type == "cpu" else None


def _previews(recipe: MMDiTRecipe | Curriculum, world: World) -> Preview | None:
    if not recipe.preview.prompts:
        return None
    from glyphflow.train.preview import preview_sheet

    return preview_sheet(recipe, world.device)


def encode_sources(recipe: MMDiTRecipe | Curriculum, part: Part | None = None) -> list[tuple[Path, int]]:
    """Fill the caches of a recipe's sources with the encoders of ``recipe.train.init_from``: (cache, records) each.

    What the first steps need comes first. ``part`` is the share of this one of several encoding processes.
    """
    device = pick_device(recipe.train.device)
    encoders = Encoders(locate(recipe.train.init_from), device, compute_dtype(recipe.train))
    log = AmendmentLog(recipe.out / AMENDMENTS)
    feed = StagedFeed(course_of(recipe).segments, recipe.seed, log.read())
    return list(encode_feed(feed, encoders, recipe.train.heldout_samples, part).items())


def open_pixels(recipe: VAERecipe) -> PixelFeed:
    """The pixel feed of a recipe."""
    feed = recipe.feed
    return PixelFeed(
        [(open_selection(source, None), source.weight) for source in feed.sources],
        crop=feed.crop,
        area=feed.area,
        batch_size=feed.batch_size,
        seed=recipe.seed,
        cache_pictures=feed.cache_pictures,
        heldout_share=feed.heldout_share,
    )


def _with_fingerprint(recipe: E, root: Path) -> E:
    """The recipe bound to the encoders in ``root``: latents of other encoders would teach the model another language."""
    found = encoder_fingerprint(root)
    wanted = (recipe.fingerprint if isinstance(recipe, Curriculum) else recipe.feed.fingerprint) or found
    if wanted != found:
        raise ConfigError(
            f"The recipe is bound to the encoders {wanted} and those in {root} are {found}; start from the directory "
            "that the cache was made with, or encode again and remove the fingerprint."
        )
    if isinstance(recipe, Curriculum):
        return recipe.model_copy(update={"fingerprint": wanted})
    return recipe.model_copy(update={"feed": recipe.feed.model_copy(update={"fingerprint": wanted})})


def save_recipe(recipe: AnyRecipe | Curriculum, world: World) -> None:
    """Write the resolved recipe beside the outputs, unless a run that computes something else is there."""
    path = recipe.out / RECIPE
    if path.exists():
        check_same_run(load_config(type(recipe), path), recipe)
    world.barrier()
    if world.is_main:
        dump_config(recipe, path)
