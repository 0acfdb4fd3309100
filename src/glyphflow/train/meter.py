"""How fast a run is: images, tokens and operations a second, and what the steps waited for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

import torch

from glyphflow.core.hardware import peak_memory_bytes

Sum = Callable[[Mapping[str, float]], dict[str, float]]
"""Adds numbers up over the data-parallel ranks."""


class Meter:
    """Averages between two log lines.

    Counts are those of one process; ``total`` joins the ``world`` data-parallel ones when a line is made. ``devices`` share
    the work of one process (tensor and sequence parallel). ``peak`` is what a device could do, operations a second.
    """

    def __init__(
        self,
        steps: int,
        device: torch.device,
        *,
        total: Sum = dict,
        world: int = 1,
        devices: int = 1,
        peak: float | None = None,
    ) -> None:
        self._steps = steps
        self._device = device
        self._total = total
        self._world = world
        self._devices = devices
        self._peak = peak
        self._clear()

    def add(self, images: int, tokens: int, flops: float, waited: float, measured: Mapping[str, float]) -> None:
        """One optimizer step of this process: what it computed, its seconds of waiting, and its measurements."""
        self._count += 1
        for name, value in (("images", images), ("tokens", tokens), ("flops", flops), ("waited", waited)):
            self._amounts[name] += value
        for name, value in measured.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def line(self, done: int) -> dict[str, float]:
        """Means since the last line; rates without the time spent on checkpoints, previews and held-out measurements."""
        seconds = max(time.perf_counter() - self._began, 1e-9)
        amounts = self._total(self._amounts)
        rate = amounts["flops"] / seconds / (self._world * self._devices)
        memory = torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else peak_memory_bytes()
        line = {name: total / self._count for name, total in self._sums.items()} | {
            "images_per_second": amounts["images"] / seconds,
            "tokens_per_second": amounts["tokens"] / seconds,
            "seconds_per_step": seconds / self._count,
            "wait_share": amounts["waited"] / self._world / seconds,
            "peak_memory_gb": memory / 1e9,
            "eta_seconds": (self._steps - done) * seconds / self._count,
        }
        if rate:
            line["tflops_per_device"] = rate / 1e12
        if rate and self._peak:
            line["peak_share"] = rate / self._peak
        self._clear()
        return line

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time in here does not count."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def _clear(self) -> None:
        self._count = 0
        self._amounts = {"images": 0.0, "tokens": 0.0, "flops": 0.0, "waited": 0.0}
        self._sums: dict[str, float] = {}
        self._began = time.perf_counter()
