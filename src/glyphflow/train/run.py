"""From a recipe to a run: open the sources, build model and objective, hand them to the loop."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import nn

from glyphflow.core.config import dump_config
from glyphflow.core.errors import ConfigError, InterruptedRun
from glyphflow.core.files import exclusive
from glyphflow.core.hardware import pick_device
from glyphflow.core.hashing import derive_seed
from glyphflow.feed.amendments import FILE as AMENDMENTS
from glyphflow.feed.amendments import AmendmentLog
from glyphflow.feed.batches import EncodedBatch
from glyphflow.feed.content import cache_path
from glyphflow.feed.encode import Encoders, encoder_fingerprint
from glyphflow.feed.order import Part
from glyphflow.feed.producing import encode_feed
from glyphflow.feed.staged import Segment, StagedFeed
from glyphflow.feed.summary import summary
from glyphflow.feed.transport import FeedPlan, Kind, Producers, Transport, encoded_plan, open_transport
from glyphflow.generate.directory import locate
from glyphflow.models import MMDiT, MMDiTConfig
from glyphflow.models.mmdit import init_weight
from glyphflow.models.weights import open_parts, read_config
from glyphflow.train.checkpoint import Checkpoints
from glyphflow.train.curriculum import Curriculum
from glyphflow.train.flops import batch_flops, matrix_rate
from glyphflow.train.heldout import heldout_velocity
from glyphflow.train.history import Change, History
from glyphflow.train.loop import Feed, Loop
from glyphflow.train.lora import TrainedLoRA, inject_lora
from glyphflow.train.lowmem import LowMemory, needs_low_memory, open_low_memory
from glyphflow.train.objectives import flow_matching, image_tokens, predicted_elements
from glyphflow.train.parallel import Weights, World
from glyphflow.train.recipe import AnyRecipe, MMDiTRecipe, RunConfig, TrainConfig
from glyphflow.train.resuming import RECIPE, as_begun, check_limit, check_recipe, check_records
from glyphflow.train.sharing import shared

Preview = Callable[[nn.Module], Image.Image]
Say = Callable[[str], None]
"""Takes a line for the person who started the run."""
FEED_LOG = "feed.jsonl"


def silent(line: str) -> None:
    """Say nothing."""


def train_mmdit(
    recipe: MMDiTRecipe | Curriculum, preview: Preview | None = None, *, peak: float | None = None, say: Say = silent
) -> int:
    """Train an MMDiT on encoded samples by a recipe of one stage or a curriculum, in ``recipe.out``; continues what is there.

    ``preview`` draws with the averaged weights; None: the recipe's prompts. ``peak``: what a device can do, operations a
    second; None: what ``recipe.train`` says, or what a CPU is measured at. ``say`` is told what the run learns from, and what
    is different where it goes on. Returns the step that the run is at.
    """
    with joined(recipe.out, recipe.train) as world:
        given, recipe = recipe, as_begun(recipe)
        root = locate(recipe.train.init_from)
        recipe = _with_fingerprint(recipe, root)
        changed = check_recipe(recipe)  # before what the sources hold now is noted: a run that is refused saw nothing
        news = look_at(recipe, say, given) if world.is_main else []
        course = course_of(recipe)
        news = told([*news, *changed], say, world)
        feed = RunFeed(recipe, course, root, world)
        # Before the network is opened: a card need not hold it and the condition encoder at once.
        preview = preview or _previews(recipe, world)
        network = _network(recipe, root, world)
        return Loop(
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
            history=History(course.begins, feed.changes, news),
            heldout=feed.measure,
            preview=preview,
        ).run()


def told(news: list[str], say: Say, world: World) -> list[str]:
    """``news``, once they are said by the process that speaks for all."""
    for sentence in news if world.is_main else ():
        say(sentence)
    return news


def look_at(recipe: MMDiTRecipe | Curriculum, say: Say, given: MMDiTRecipe | Curriculum | None = None) -> list[str]:
    """Open the sources of ``recipe`` and say what the run learns from; returns what of it is no longer as it was.

    ``given``: the recipe before the run that it continues had its say.
    """
    course = course_of(recipe)
    feed = StagedFeed(course.segments, recipe.seed, AmendmentLog(recipe.out / AMENDMENTS).read())
    for line in summary(feed, course.segments[0].settings.heldout_share):
        say(line)
    return [*check_limit(feed, recipe, given or recipe), *check_records(feed, recipe.out)]


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
    if not recipe.sources:
        raise ConfigError("The curriculum names no sources; add sources: with the corpora that its stages' views are of.")
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
    """The weights on this process's device, laid out as the recipe says. Only one process alone ever has them all."""
    train, seed = recipe.train, derive_seed(recipe.seed, "adapter")
    scratch = isinstance(recipe, Curriculum) and recipe.from_scratch
    if needs_low_memory(train):
        if scratch or world.size > 1:
            raise ConfigError(
                f"train.base, offload, modulation and weights are for existing weights on one card, and this run "
                f"{'begins from scratch' if scratch else f'has {world.size} processes'}; leave them out."
            )
        opened = open_low_memory(root / "transformer", world.device, train, seed)
        world.compute_in(train.computed_in(world.device))
        adapter = opened.trained if train.lora else None
        return Network(opened.model, opened.model.config, adapter, None if train.lora else opened.low)
    wanted = recipe.model if isinstance(recipe, Curriculum) else None
    config = wanted if scratch and wanted else read_config(root / "transformer", MMDiTConfig)
    if wanted is not None and wanted != config:
        raise ConfigError(
            f"The curriculum's model has {wanted.num_layers} layers of width {wanted.width} and the one in "
            f"train.init_from = {train.init_from} has {config.num_layers} of {config.width}, or they differ in another size; "
            "make model the same, or set from_scratch=true."
        )
    weights: Weights | None = None
    if world.size > 1:
        with torch.device("meta"):
            model = MMDiT(config)
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        weights = _fresh(recipe.seed, shapes) if scratch else open_parts(root / "transformer", shapes)
    elif scratch:
        model = MMDiT(config).init_weights(_generator(recipe.seed)).to(world.device)
    else:
        model = MMDiT.from_pretrained(root / "transformer", dtype=torch.float32, device=world.device)
    model.requires_grad_(True)
    if train.lora:
        inject_lora(model, train.lora, seed)
    laid_out = world.apply(model, train.computed_in(world.device), weights)
    return Network(laid_out, model.config, TrainedLoRA(laid_out) if train.lora else None, None)


def _fresh(seed: int, shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """Parts of the start values that one process would give the whole model, for windows in the order of the model.

    One whole matrix exists at a time, as each continues the random numbers of the one before.
    """
    generator = _generator(seed)
    return lambda name, window: init_weight(name, torch.empty(shapes[name]), generator)[window]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, "weights"))


class RunFeed:
    """The feed of a run: its transport from any step on, its held-out samples, and the log of changes."""

    def __init__(self, recipe: MMDiTRecipe | Curriculum, course: Course, root: Path, world: World) -> None:
        self._recipe, self._course, self._root, self._world = recipe, course, root, world
        self._log = AmendmentLog(recipe.out / AMENDMENTS)
        self._stages = StagedFeed(course.segments, recipe.seed)
        self._heldout: list[EncodedBatch] = []

    @contextlib.contextmanager
    def open(self, step: int) -> Iterator[Feed[EncodedBatch]]:
        """Batches of this process from ``step`` on. Once it has served held-out samples, the recipe is as good as begun."""
        train, world = self._recipe.train, self._world
        with contextlib.ExitStack() as stack:
            # Caches are read by every process for itself; encoding is done once for all that compute on the same samples.
            files = self._kind == "files"
            opened = self._transport(step, world.device) if files else shared(world, functools.partial(self._transport, step))
            transport = stack.enter_context(opened)
            if train.heldout_samples:
                self._heldout = [batch.to(world.device) for batch in transport.heldout(train.heldout_samples)]
            save_recipe(self._recipe, world)
            yield transport

    def _transport(self, step: int, device: torch.device | None) -> Transport[EncodedBatch]:
        train = self._recipe.train
        return open_transport(
            self._kind,
            self._plan(),
            start=step,
            part=self._world.part,
            device=device,
            depth=self._course.segments[0].settings.prefetch + train.accumulate - 1,
            producers=train.producers or self._producers,
            amendments=self._log,
            log=self._recipe.out / FEED_LOG if self._world.is_main else None,
            address=train.ray,
        )

    def measure(self, model: nn.Module) -> dict[str, float]:
        """The held-out loss; nothing where no sample is held out."""
        if not self._heldout:
            return {}
        part, total = self._world.part, self._world.sum
        return heldout_velocity(
            model, batches=self._heldout, seed=self._recipe.seed, rank=part.rank, world=part.world, total=total
        )

    def changes(self) -> list[Change]:
        """The log of changes as it is now."""
        return [(entry.from_step, entry.changes) for entry in self._log.read()]

    @property
    def _kind(self) -> Kind:
        sources = [source for segment in self._course.segments for source in segment.settings.sources]
        return self._recipe.train.transport or ("files" if all(source.cache for source in sources) else "local")

    def _plan(self) -> FeedPlan:
        segments, seed = self._course.segments, self._recipe.seed
        if self._kind == "files":
            return encoded_plan(segments, seed)
        device = "cuda" if self._kind == "ray" and self._world.device.type == "cuda" else str(self._world.device)
        dtype = self._recipe.train.computed_in(self._world.device)
        return encoded_plan(segments, seed, encoders=self._root, compute_dtype=dtype, devices=(device,))

    def _producers(self, step: int) -> Producers:
        self._stages.amend(self._log.read())
        return self._stages.settings_at(step).producers


@contextlib.contextmanager
def joined(out: Path, settings: RunConfig) -> Iterator[World]:
    """The processes of the run, joined; one of them holds the output directory against other runs.

    Damaged checkpoints are put aside here, so that all that follows speaks of the step at which the run really goes on.
    """
    world = World.start(settings.parallel, settings.device)
    together = True
    try:
        with exclusive(out, "training") if world.is_main else contextlib.nullcontext():
            world.barrier()
            Checkpoints(out / "checkpoints", settings.keep, world.group).latest(set_aside=True)
            yield world
    except BaseException as error:
        # Asked to stop, all processes stop; whatever else happens to one leaves the others waiting, for torchrun to end.
        together = world.size == 1 or isinstance(error, InterruptedRun)
        raise
    finally:
        if together:
            world.close()


def _measured_peak(world: World, settings: RunConfig) -> float | None:
    return matrix_rate(world.device, settings.computed_in(world.device)) if world.device.type == "cpu" else None


def _previews(recipe: MMDiTRecipe | Curriculum, world: World) -> Preview | None:
    if not recipe.preview.prompts:
        return None
    from glyphflow.train.preview import preview_sheet

    return preview_sheet(recipe, world)


def encode_sources(
    recipe: MMDiTRecipe | Curriculum,
    part: Part | None = None,
    *,
    check: bool = False,
    memory: str | int = "auto",
    say: Say = silent,
) -> list[tuple[Path, int]]:
    """Fill the caches of a recipe's sources with the encoders of ``recipe.train.init_from``: (cache, records) each.

    What the first steps need comes first. ``part`` is the share of this one of several encoding processes; ``check`` compares
    what is there with its checksums. ``memory``: what a card may give, see :class:`glyphflow.feed.frozen.FrozenEncoders`.
    ``say`` is told what the run learns from, and at last which records were left out.
    """
    given, recipe = recipe, as_begun(recipe)
    device, course = pick_device(recipe.train.device), course_of(recipe)
    feed = StagedFeed(course.segments, recipe.seed, AmendmentLog(recipe.out / AMENDMENTS).read())
    for source in (source for segment in course.segments for source in segment.settings.sources):
        cache_path(source)
    for line in [*summary(feed, course.segments[0].settings.heldout_share), *check_limit(feed, recipe, given)]:
        say(line)
    encoders = Encoders(locate(recipe.train.init_from), device, recipe.train.computed_in(device), memory)
    return list(encode_feed(feed, encoders, recipe.train.heldout_samples, part, check=check, say=say).items())


def _with_fingerprint(recipe: MMDiTRecipe | Curriculum, root: Path) -> MMDiTRecipe | Curriculum:
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
    """Write the resolved recipe beside the outputs."""
    if world.is_main:
        dump_config(recipe, recipe.out / RECIPE)
