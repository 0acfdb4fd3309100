"""Which records make the batch of a step: pure arithmetic over seeds, so that a step number is the only state of a feed.

A feed is a set of *streams* (one per source and bucket). :class:`Interleave` says which stream serves a step and how many
batches that stream served before; :class:`EpochOrder` says which records the n-th batch of a stream holds. Neither keeps
anything that cannot be computed again, so a run that restarts at step k gets the batch of step k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from glyphflow.core.errors import ConfigError
from glyphflow.core.hashing import derive_seed

SORT_WINDOW = 8
"""Batches whose records may be exchanged to bring similar text lengths together."""


@dataclass(frozen=True)
class Part:
    """The slice of every global batch that belongs to data-parallel rank ``rank`` of ``world``."""

    rank: int = 0
    world: int = 1

    def bounds(self, total: int) -> tuple[int, int]:
        """First row and the one behind the last of this part of a batch of ``total`` rows; ConfigError if it cannot be dealt."""
        if total % self.world:
            raise ConfigError(
                f"A global batch of {total} samples cannot be dealt to {self.world} data-parallel ranks; make batch_size a "
                f"multiple of {self.world}."
            )
        rows = total // self.world
        return self.rank * rows, (self.rank + 1) * rows


class Interleave:
    """Serve streams in proportion to ``weights``, as evenly as whole steps allow: the one furthest behind is next."""

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = np.asarray(weights, dtype=np.float64) / float(np.sum(weights))
        self._served = np.zeros(len(weights), dtype=np.int64)
        self._plan: list[tuple[int, int]] = []

    def at(self, step: int) -> tuple[int, int]:
        """(stream, how many batches it served before) for ``step`` >= 0. The plan grows as far as it is asked for."""
        while len(self._plan) <= step:
            stream = int(np.argmax(self._weights * (len(self._plan) + 1) - self._served))
            self._plan.append((stream, int(self._served[stream])))
            self._served[stream] += 1
        return self._plan[step]


class Epoch(NamedTuple):
    """One pass over a stream's records."""

    order: npt.NDArray[np.int64]
    """(count,) positions in the order of this epoch."""
    choice: npt.NDArray[np.int64]
    """(count,) what was drawn for each position, by position (caption variant; -1 is the dropped condition)."""


class Pick(NamedTuple):
    """One record of a batch."""

    epoch: int
    position: int
    choice: int


Draw = Callable[[np.random.Generator], tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]
"""From an epoch's generator: what each record shows this time (choice), and how long its text then is (length)."""


class EpochOrder:
    """Batches of a stream of ``count`` records: one seeded permutation after the other, no record twice within an epoch.

    A batch may reach over the end of an epoch, so every batch is full and every record is served. Where ``draw`` gives lengths,
    records are exchanged within windows of :data:`SORT_WINDOW` batches so that a batch holds texts of similar length (less
    padding); the order of those batches is shuffled again.
    """

    def __init__(self, count: int, batch_size: int, seed: int, name: str, draw: Draw | None = None) -> None:
        self._count = count
        self._batch = batch_size
        self._key = (seed, "order", name)
        self._draw = draw
        self._epochs: dict[int, Epoch] = {}

    def picks(self, batch: int) -> list[Pick]:
        """The records of the stream's batch number ``batch`` >= 0."""
        start = batch * self._batch
        found = []
        for at in range(start, start + self._batch):
            number, offset = divmod(at, self._count)
            epoch = self._epoch(number)
            position = int(epoch.order[offset])
            found.append(Pick(number, position, int(epoch.choice[position])))
        return found

    def _epoch(self, number: int) -> Epoch:
        if number not in self._epochs:
            if len(self._epochs) >= 4:  # a batch reaches over at most a few epochs; older ones are cheap to make again
                self._epochs.pop(min(self._epochs))
            self._epochs[number] = self._make(number)
        return self._epochs[number]

    def _make(self, number: int) -> Epoch:
        rng = np.random.default_rng(derive_seed(*self._key, number))
        order = rng.permutation(self._count)
        if self._draw is None:
            return Epoch(order, np.zeros(self._count, dtype=np.int64))
        choice, length = self._draw(rng)
        return Epoch(self._gather_lengths(order, length, number, rng), choice)

    def _gather_lengths(
        self, order: npt.NDArray[np.int64], length: npt.NDArray[np.int64], number: int, rng: np.random.Generator
    ) -> npt.NDArray[np.int64]:
        lead = -number * self._count % self._batch  # where the first batch that begins in this epoch begins
        for start in range(lead, self._count, SORT_WINDOW * self._batch):
            window = order[start : start + SORT_WINDOW * self._batch]
            window = window[np.argsort(length[window], kind="stable")]
            batches = [window[i : i + self._batch] for i in range(0, len(window), self._batch)]
            last = batches.pop() if len(batches[-1]) < self._batch else window[:0]  # a part of a batch stays at the end
            shuffled = [batches[i] for i in rng.permutation(len(batches))]
            order[start : start + len(window)] = np.concatenate([*shuffled, last])
        return order


def is_heldout(record_id: str, share: float) -> bool:
    """Whether a record is kept out of training: a property of its id alone, so that every run and every view agrees."""
    return derive_seed("heldout", record_id) / 2**63 < share
