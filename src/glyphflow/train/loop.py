"""The one training loop: batches, loss, step, average, measure, save. What is trained and on what is passed in."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import Generic, Protocol, Self, TypeVar, cast

import torch
import torch.distributed as dist
from PIL import Image
from torch import nn

from glyphflow.core.errors import InputError, InterruptedRun
from glyphflow.core.files import atomic_path
from glyphflow.core.hashing import derive_seed
from glyphflow.core.progress import Progress
from glyphflow.train.checkpoint import Checkpoints
from glyphflow.train.ema import EMA
from glyphflow.train.history import History
from glyphflow.train.lean import LeanOptimizer
from glyphflow.train.lowmem import LowMemory
from glyphflow.train.meter import Meter
from glyphflow.train.metrics import Metrics
from glyphflow.train.optimizer import learning_rate, make_optimizer
from glyphflow.train.parallel import World
from glyphflow.train.recipe import TrainConfig

Measured = Mapping[str, float]


class Batch(Protocol):
    """What the loop asks of a payload; everything else is between the feed and the objective."""

    @property
    def step(self) -> int: ...
    @property
    def ids(self) -> tuple[str, ...]: ...
    @property
    def tokens(self) -> int: ...
    def split(self, parts: int) -> Sequence[Self]: ...


B = TypeVar("B", bound=Batch)
Given = TypeVar("Given", bound=Batch, covariant=True)
Objective = Callable[[nn.Module, B, torch.Generator], tuple[torch.Tensor, dict[str, torch.Tensor]]]
"""(model, batch, rng) -> loss (a scalar that can be differentiated), metrics (detached scalars)."""


class Feed(Protocol[Given]):
    """Where batches come from: one after the other, each with the seconds spent waiting for it."""

    def next(self) -> tuple[Given, float]: ...


class Loop(Generic[B]):
    """Train ``model`` in place for ``settings.steps`` steps, from the latest checkpoint in ``out`` if there is one.

    ``feed(step)`` opens the feed at its step ``step``; its batches are on the model's device. ``objective`` turns one into a
    loss, a mean over what ``weight`` counts; ``size`` is what ``settings.micro_tokens`` limits. All randomness of a step
    comes from (``seed``, step, number of the sample), so a run that was killed and continues ends with the same bits as one
    that was not.

    ``model`` is as ``world`` has laid it out; ``trained`` holds those of its parameters that learn, which is what the
    optimizer, the average and checkpoints know (None: the model's own). ``fused``: where the backward pass itself updates the
    weights, whose gradient is then neither clipped nor looked at before. ``rate(step)`` is the learning rate (None: that of
    ``settings``), ``work(batch)`` the operations of a step on a batch and ``peak`` what a device can do in a second.
    ``heldout(model)`` measures and ``preview(model)`` draws with the averaged weights; both are optional.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective[B],
        feed: Callable[[int], AbstractContextManager[Feed[B]]],
        settings: TrainConfig,
        out: Path,
        *,
        seed: int,
        world: World,
        weight: Callable[[B], int],
        trained: nn.Module | None = None,
        fused: LowMemory | None = None,
        size: Callable[[B], int] | None = None,
        rate: Callable[[int], float] | None = None,
        work: Callable[[B], float] | None = None,
        peak: float | None = None,
        history: History | None = None,
        heldout: Callable[[nn.Module], Measured] | None = None,
        preview: Callable[[nn.Module], Image.Image] | None = None,
    ) -> None:
        self.model = model
        self._objective = objective
        self._feed = feed
        self._settings = settings
        self._out = Path(out)
        self._seed = seed
        self._world = world
        self._weight = weight
        self._size = size or weight
        self._rate = rate or (lambda step: learning_rate(step, settings))
        self._work = work or (lambda batch: 0.0)
        self._peak = peak
        self._history = history or History([])
        self._heldout = heldout
        self._preview = preview
        self._trained = trained or model
        self._parameters = [p for p in self._trained.parameters() if p.requires_grad]
        self._optimizer = make_optimizer(self._trained, settings)
        self.ema = EMA(self._trained, settings.ema_decay) if settings.ema_decay else None
        self._fused = fused
        if fused:
            fused.fuse(cast(LeanOptimizer, self._optimizer))
        self._checkpoints = Checkpoints(self._out / "checkpoints", settings.keep, world.group)
        self._measured: tuple[int, Measured] = (0, {})

    def run(self) -> int:
        """Train to the last step, and return the step that the run is at.

        Ctrl-C (or SIGTERM) saves a checkpoint and raises :class:`InterruptedRun`.
        """
        start = self._resume()
        if start >= self._settings.steps:
            return start
        world, settings = self._world, self._settings
        with contextlib.ExitStack() as stack:
            metrics = stack.enter_context(Metrics(self._out, start, wandb=settings.wandb)) if world.is_main else None
            feed = stack.enter_context(self._feed(start * settings.accumulate))
            bar = stack.enter_context(Progress("train", settings.steps, "step", initial=start)) if world.is_main else None
            stop = stack.enter_context(_stop_requests())
            stack.callback(self._checkpoints.wait)
            meter = self._meter()
            for step in range(start, settings.steps):
                self._note(step, metrics)
                taken = [feed.next() for _ in range(settings.accumulate)]
                batches, waited = [batch for batch, _ in taken], sum(seconds for _, seconds in taken)
                measured = self._step(step, batches)
                images, tokens = sum(len(b.ids) for b in batches), sum(b.tokens for b in batches)
                meter.add(images, tokens, sum(map(self._work, batches)), waited, measured)
                done = step + 1
                if done % settings.log_every == 0 or done == settings.steps:
                    line = meter.line(done)
                    if metrics and bar:
                        metrics.write(done, line)
                        shown = ("loss", "images_per_second", "peak_share", "wait_share")
                        bar.advance(0, **{name: line[name] for name in shown if name in line})
                if bar:
                    bar.advance(1)
                with meter.paused():
                    self._look(done, metrics)
                    self._save(done, stop)
        return settings.steps

    def _step(self, step: int, batches: Sequence[B]) -> dict[str, float]:
        """One optimizer step; returns its measurements. Stops before the weights change when the numbers are not finite."""
        self.model.train()
        rate = self._rate(step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        pieces = [piece for batch in batches for piece in self._split(batch)]
        weights = [self._weight(piece) for piece in pieces]
        sums: dict[str, torch.Tensor] = {}
        for number, (piece, weight) in enumerate(zip(pieces, weights, strict=True)):
            self._world.last_micro(self.model, number == len(pieces) - 1)
            loss, extra = self._loss(piece)
            share = weight / sum(weights)
            (loss * share).backward()  # type: ignore[no-untyped-call]
            for name, value in {"loss": loss.detach(), **extra}.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + share * value
        norm = self._fused.norm() if self._fused else self._world.clip(self._parameters, self._settings.clip)
        measured = self._mean({name: float(value) for name, value in sums.items()})
        if not (math.isfinite(measured["loss"]) and math.isfinite(norm)):
            self._refuse(step, batches, measured["loss"], norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self.ema:
            self.ema.update(step)
        return {**measured, "grad_norm": norm, "lr": rate}

    def _loss(self, piece: B) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        rng = torch.Generator().manual_seed(derive_seed(self._seed, "noise", piece.step))
        with self._world.computing():
            return self._objective(self.model, piece, rng)

    def _split(self, batch: B) -> Sequence[B]:
        """The fewest equal micro-batches within both limits of the recipe: as many on every rank, as shapes are the same."""
        count, settings = len(batch.ids), self._settings
        at_once = min(settings.micro_batch or count, count)
        if settings.micro_tokens:
            at_once = min(at_once, max(1, settings.micro_tokens * count // self._size(batch)))
        return batch.split(next(parts for parts in range(1, count + 1) if count % parts == 0 and count // parts <= at_once))

    def _refuse(self, step: int, batches: Sequence[B], loss: float, norm: float) -> None:
        """Say which records made the numbers useless: every sample is computed again alone, as the same work on every rank."""
        found = [record for batch in batches for sample in batch.split(len(batch.ids)) for record in self._guilty(sample)]
        everyone = [record for batch in batches for record in batch.ids]
        every = not self._anyone(not set(everyone) <= set(found)) and len(everyone) * self._world.part.world > 1
        if self._world.part.world > 1:
            gathered: list[list[str]] = [[] for _ in range(dist.get_world_size())]
            dist.all_gather_object(gathered, found)
            found = list(dict.fromkeys(record for some in gathered for record in some))
        kept = self._checkpoints.steps()
        again = f"continue from the checkpoint of step {kept[-1]}" if kept else "begin anew, as there is no checkpoint yet"
        slower = f"train.lr is {self._rate(step):.3g} here" if self._rate(step) > 0 else "the warm-up has not begun"
        where = f"Training stopped at step {step + 1}: the loss is {loss:g} and the gradient's norm {norm:g}, "
        if every:
            raise InputError(
                f"{where}with every record of the step: it is the weights or the learning rate, not the data ({slower}); lower "
                f"train.lr and run again to {again}."
            )
        names = f"because of the records {', '.join(found)}" if found else f"with no single record of {', '.join(everyone)}"
        raise InputError(
            f"{where}{names}; look at these records and leave them out by a view, or lower train.lr, then run again to {again}."
        )

    def _guilty(self, sample: B) -> tuple[str, ...]:
        """The ids of ``sample`` if its loss or its gradient is not finite."""
        with torch.set_grad_enabled(self._fused is None):  # whose gradients would change the weights
            loss, _ = self._loss(sample)
        norm = 0.0
        if self._fused is None:
            self._optimizer.zero_grad(set_to_none=True)
            self._world.last_micro(self.model, True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = self._world.clip(self._parameters, self._settings.clip)
        if self._world.part.world > 1:  # the norm is that of all ranks' samples together
            norm = 0.0
        return () if math.isfinite(float(loss.detach())) and math.isfinite(norm) else sample.ids

    def _look(self, done: int, metrics: Metrics | None) -> None:
        """Held-out measurements and preview pictures, when they are due."""
        settings = self._settings
        last = done == settings.steps
        if self._heldout and settings.heldout_samples and (last or done % settings.heldout_every == 0):
            with self._averaged(), self._world.computing():
                measured = self._heldout(self.model)
            self._measured = (done, measured)
            if metrics and measured:
                metrics.write(done, measured)
        if self._preview and (last or done % settings.preview_every == 0):
            with self._averaged(), self._world.computing():
                sheet = self._preview(self.model)
            if metrics:
                with atomic_path(self._out / "previews" / f"step_{done:06d}.png") as temporary:
                    sheet.save(temporary, format="png")

    def _note(self, step: int, metrics: Metrics | None) -> None:
        for text in self._history.notes(step * self._settings.accumulate):
            if metrics:
                metrics.note(step, text)

    def _save(self, done: int, stop: threading.Event) -> None:
        settings = self._settings
        stopping = self._anyone(stop.is_set())
        if stopping or done == settings.steps or done % settings.checkpoint_every == 0:
            extra = self._history.state(done * settings.accumulate)
            if self._measured[0] == done:
                extra |= self._measured[1]
            self._checkpoints.save(done, self._trained, self._optimizer, self.ema, extra)
        if stopping and done < settings.steps:
            self._checkpoints.wait()
            raise InterruptedRun(
                f"Training stopped after step {done} of {settings.steps}; the checkpoint is in "
                f"{self._out / 'checkpoints'} and the same command continues from it."
            )

    def _resume(self) -> int:
        step = self._checkpoints.latest(set_aside=True)
        if step is None:
            return 0
        extra = self._checkpoints.load(step, self._trained, self._optimizer, self.ema)
        self._history.check(extra, step * self._settings.accumulate)
        return step

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The model with its averaged weights, for looking only."""
        self.model.eval()
        if self.ema:
            self.ema.swap()
        try:
            with torch.no_grad():
                yield
        finally:
            if self.ema:
                self.ema.swap()

    def _meter(self) -> Meter:
        world = self._world
        devices = (dist.get_world_size() if dist.is_initialized() else 1) // world.part.world
        return Meter(
            self._settings.steps, world.device, total=world.sum, world=world.part.world, devices=devices, peak=self._peak
        )

    def _mean(self, values: dict[str, float]) -> dict[str, float]:
        """Over the data-parallel ranks, whose shares of a step are equal."""
        world = self._world.part.world
        return values if world == 1 else {name: total / world for name, total in self._world.sum(values).items()}

    def _anyone(self, mine: bool) -> bool:
        """Whether a rank was asked to stop: signals do not arrive everywhere within the same step."""
        return bool(self._world.sum({"stop": float(mine)})["stop"])


@contextlib.contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set instead of breaking into a step; a second Ctrl-C breaks in after all."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
