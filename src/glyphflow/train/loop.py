"""The one training loop: batch, loss, step, average, measure, save. What is trained and on what is passed in."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Generic, Protocol, TypeVar

import torch
from PIL import Image
from torch import nn

from glyphflow.core.errors import InputError, InterruptedRun
from glyphflow.core.files import atomic_path
from glyphflow.core.hardware import peak_memory_bytes
from glyphflow.core.hashing import derive_seed
from glyphflow.core.progress import Progress
from glyphflow.feed.prefetch import Prefetch
from glyphflow.train.checkpoint import Checkpoints
from glyphflow.train.metrics import Metrics
from glyphflow.train.optimizer import EMA, gradient_norm, learning_rate, make_optimizer
from glyphflow.train.recipe import TrainConfig

Measured = Mapping[str, float]


class Batch(Protocol):
    """What the loop asks of a payload; everything else is between the feed and the objective."""

    @property
    def ids(self) -> tuple[str, ...]: ...
    @property
    def tokens(self) -> int: ...


B = TypeVar("B", bound=Batch)
Objective = Callable[[nn.Module, B, torch.Generator], tuple[torch.Tensor, dict[str, torch.Tensor]]]
"""(model, batch, rng) -> loss (a scalar that can be differentiated), metrics (detached scalars)."""


class Loop(Generic[B]):
    """Train ``model`` in place for ``settings.steps`` steps, from the latest checkpoint in ``out`` if there is one.

    ``batch(step)`` makes the batch of a step (already on the model's device), ``objective`` turns it into a loss. All
    randomness of a step comes from (``seed``, step), so a run that was killed and continues ends with the same bits as one
    that was not. ``heldout(model)`` measures and ``preview(model)`` draws with the averaged weights; both are optional.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective[B],
        batch: Callable[[int], B],
        settings: TrainConfig,
        out: Path,
        *,
        seed: int,
        heldout: Callable[[nn.Module], Measured] | None = None,
        preview: Callable[[nn.Module], Image.Image] | None = None,
    ) -> None:
        self.model = model
        self.ema = EMA(model, settings.ema_decay)
        self._objective = objective
        self._batch = batch
        self._settings = settings
        self._out = Path(out)
        self._seed = seed
        self._heldout = heldout
        self._preview = preview
        self._optimizer = make_optimizer(model, settings)
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._device = self._trained[0].device
        self._checkpoints = Checkpoints(self._out / "checkpoints", settings.keep)

    def run(self) -> None:
        """Train to the last step. Ctrl-C (or SIGTERM) saves a checkpoint and raises :class:`InterruptedRun`."""
        start = self._resume()
        if start >= self._settings.steps:
            return
        with (
            Metrics(self._out, start) as metrics,
            Prefetch(self._batch, start) as feed,
            Progress("train", self._settings.steps, "step", initial=start) as progress,
            _stop_requests() as stop,
        ):
            meter = _Meter(self._settings.steps, self._device)
            for step in range(start, self._settings.steps):
                batch, waited = feed.next()
                measured = self._step(step, batch)
                meter.add(batch, waited, measured)
                done = step + 1
                if done % self._settings.log_every == 0 or done == self._settings.steps:
                    line = meter.line(done)
                    metrics.write(done, line)
                    progress.advance(0, **{k: line[k] for k in ("loss", "images_per_second", "wait_share")})
                progress.advance(1)
                with meter.paused():
                    self._look(done, metrics)
                    self._save(done, stop)

    def _step(self, step: int, batch: B) -> dict[str, float]:
        """One optimizer step; returns its measurements. Stops before the weights change when the numbers are not finite."""
        self.model.train()
        rng = torch.Generator().manual_seed(derive_seed(self._seed, "noise", step))
        with autocast(self._device, self._settings):
            loss, extra = self._objective(self.model, batch, rng)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = gradient_norm(self._trained, self._settings.clip)
        value = float(loss.detach())
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise InputError(
                f"Training stopped at step {step + 1}: the loss is {value:g} and the gradient's norm {norm:g} on the records "
                f"{', '.join(batch.ids)}; look at these records or lower train.lr, then run again to continue from the "
                "last checkpoint."
            )
        rate = learning_rate(step, self._settings)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.ema.update(step)
        return {"loss": value, "grad_norm": norm, "lr": rate, **{k: float(v) for k, v in extra.items()}}

    def _look(self, done: int, metrics: Metrics) -> None:
        """Held-out measurements and preview pictures, when they are due."""
        settings = self._settings
        last = done == settings.steps
        if self._heldout and settings.heldout_samples and (last or done % settings.heldout_every == 0):
            with self._averaged(), autocast(self._device, settings):
                metrics.write(done, self._heldout(self.model))
        if self._preview and (last or done % settings.preview_every == 0):
            with self._averaged(), autocast(self._device, settings):
                sheet = self._preview(self.model)
            with atomic_path(self._out / "previews" / f"step_{done:06d}.png") as temporary:
                sheet.save(temporary, format="png")

    def _save(self, done: int, stop: threading.Event) -> None:
        settings = self._settings
        if stop.is_set() or done == settings.steps or done % settings.checkpoint_every == 0:
            self._checkpoints.save(done, self.model, self._optimizer, self.ema)
        if stop.is_set() and done < settings.steps:
            raise InterruptedRun(
                f"Training stopped after step {done} of {settings.steps}; the checkpoint is in "
                f"{self._out / 'checkpoints'} and the same command continues from it."
            )

    def _resume(self) -> int:
        steps = self._checkpoints.steps()
        if not steps:
            return 0
        self._checkpoints.load(steps[-1], self.model, self._optimizer, self.ema)
        return steps[-1]

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The model with its averaged weights, for looking only."""
        self.ema.swap()
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.ema.swap()


class _Meter:
    """Averages between two log lines."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self._steps = steps
        self._device = device
        self._clear()

    def add(self, batch: Batch, waited: float, measured: Mapping[str, float]) -> None:
        self._count += 1
        self._images += len(batch.ids)
        self._tokens += batch.tokens
        self._waited += waited
        for name, value in measured.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def line(self, done: int) -> dict[str, float]:
        """Means since the last line; rates without the time spent on checkpoints, previews and held-out measurements."""
        seconds = max(time.perf_counter() - self._began, 1e-9)
        memory = torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else peak_memory_bytes()
        line = {name: total / self._count for name, total in self._sums.items()} | {
            "images_per_second": self._images / seconds,
            "tokens_per_second": self._tokens / seconds,
            "seconds_per_step": seconds / self._count,
            "wait_share": self._waited / seconds,
            "peak_memory_gb": memory / 1e9,
            "eta_seconds": (self._steps - done) * seconds / self._count,
        }
        self._clear()
        return line

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def _clear(self) -> None:
        self._count = self._images = self._tokens = 0
        self._waited = 0.0
        self._sums: dict[str, float] = {}
        self._began = time.perf_counter()


def autocast(device: torch.device, settings: TrainConfig) -> torch.autocast:
    """Compute in bfloat16 over the float32 parameters when the recipe says so."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.compute_dtype == "bfloat16")


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
