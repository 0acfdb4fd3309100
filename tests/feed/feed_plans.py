"""A feed for tests of transports: batches whose content is arithmetic over the step, made at any speed, or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from glyphflow.core.errors import InputError
from glyphflow.feed.amendments import Amendment
from glyphflow.feed.batches import PixelBatch
from glyphflow.feed.order import Part
from glyphflow.feed.transport import FeedPlan


class Arithmetic:
    """Batches of ``rows`` x 3 x ``side`` x ``side`` values; each takes ``seconds``."""

    def __init__(self, rows: int, side: int, seconds: float, fail_at: int, die_at: int, marks: str) -> None:
        self._rows, self._side, self._seconds = rows, side, seconds
        self._fail_at, self._die_at, self._marks = fail_at, die_at, Path(marks)
        self._changes: Sequence[Amendment] = ()

    def batch(self, step: int, part: Part | None = None) -> PixelBatch:
        (self._marks / f"{os.getpid()}").touch()
        time.sleep(self._seconds)
        if step == self._fail_at:
            raise InputError(f"Step {step} cannot be made.")
        if step == self._die_at:
            os._exit(7)
        first, end = (part or Part()).bounds(self._rows)
        held = sum(change.from_step <= step for change in self._changes)
        values = torch.arange(self._rows * 3 * self._side**2, dtype=torch.float32).reshape(-1, 3, self._side, self._side)
        pixels = (values[first:end] + 1000 * step).contiguous(memory_format=torch.channels_last)
        ids = tuple(f"{step}-{row}-{held}" for row in range(first, end))
        return PixelBatch(step, ids, pixels, first, self._rows)

    def heldout(self, count: int) -> list[PixelBatch]:
        return [self.batch(1000 + n) for n in range(count)]

    def amend(self, amendments: Sequence[Amendment]) -> None:
        self._changes = amendments

    def stop(self) -> None: ...


def open_arithmetic(rows: int, side: int, seconds: float, fail_at: int, die_at: int, marks: str, worker: int = 0) -> Arithmetic:
    return Arithmetic(rows, side, seconds, fail_at, die_at, marks)


def arithmetic_plan(
    marks: Path, rows: int = 4, side: int = 8, seconds: float = 0.0, fail_at: int = -1, die_at: int = -1
) -> FeedPlan:
    """``marks`` is a directory in which every process that makes a batch leaves a file named by its id."""
    marks.mkdir(parents=True, exist_ok=True)
    numbers = {"rows": rows, "side": side, "seconds": seconds, "fail_at": fail_at, "die_at": die_at}
    return FeedPlan("feed_plans:open_arithmetic", {**numbers, "marks": str(marks)})
