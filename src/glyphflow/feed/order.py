"""Which records make the batch of a step: pure arithmetic over hashes, so that a step number is the only state of a feed.

A feed is a set of *streams* (records that may share a batch). :class:`Interleave` says which stream serves a step and how many
batches it served before; :class:`Serving` says which records the n-th batch of a stream holds. Everything random about a record
comes from a hash of its id, so it does not depend on where the record stands or on what else is in the stream.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from glyphflow.core.errors import ConfigError
from glyphflow.core.hashing import derive_seed

Keys = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]

SORT_WINDOW = 8
"""Batches whose records may be exchanged to bring similar text lengths together."""


@dataclass(frozen=True)
class Part:
    """The slice of every global batch that belongs to data-parallel rank ``rank`` of ``world``."""

    rank: int = 0
    world: int = 1

    def bounds(self, total: int) -> tuple[int, int]:
        """First row of this part of ``total`` rows, and the one behind its last; ConfigError where they do not divide."""
        if total % self.world:
            raise ConfigError(
                f"A global batch of {total} samples cannot be dealt to {self.world} data-parallel ranks; make batch_size a "
                f"multiple of {self.world}."
            )
        rows = total // self.world
        return self.rank * rows, (self.rank + 1) * rows


def record_keys(ids: Sequence[str]) -> Keys:
    """64 bits of a hash of each id: what stands for a record in all arithmetic here."""
    digests = b"".join(hashlib.blake2b(one.encode("utf-8"), digest_size=8).digest() for one in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def mixed(keys: Keys, *parts: str | int) -> Keys:
    """Random bits for each key and purpose (the finalizer of SplitMix64)."""
    with np.errstate(over="ignore"):
        bits = (keys ^ np.uint64(derive_seed(*parts))) + np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(bits ^ (bits >> np.uint64(31)))


def uniform(keys: Keys, *parts: str | int) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each key and purpose."""
    return (mixed(keys, *parts) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def is_heldout(record_id: str, share: float) -> bool:
    """Whether a record is kept out of training: a property of its id alone, so that every run and every view agrees."""
    return derive_seed("heldout", record_id) / 2**63 < share


class Interleave:
    """Serve streams in proportion to ``weights``, evenly: the k-th turn of a stream is due at (k + 1/2) / its share."""

    def __init__(self, weights: Sequence[float]) -> None:
        self._shares = np.asarray(weights, dtype=np.float64) / float(np.sum(weights))
        self._streams: Numbers = np.zeros(0, dtype=np.int64)
        self._turns: Numbers = self._streams

    def at(self, step: int) -> tuple[int, int]:
        """(stream, how many batches it served before) for ``step`` >= 0."""
        self._plan(step + 1)
        return int(self._streams[step]), int(self._turns[step])

    def served(self, steps: int) -> Numbers:
        """Batches that each stream served in the first ``steps`` steps."""
        self._plan(steps)
        return np.bincount(self._streams[:steps], minlength=len(self._shares))

    def _plan(self, steps: int) -> None:
        """Merge the due times of all streams as far as it takes; what was planned before stays a prefix of it."""
        if steps <= len(self._streams):
            return
        steps = max(steps, 2 * len(self._streams), 1024)
        horizon = steps + len(self._shares)  # by then at least that many turns are due
        counts = np.floor(horizon * self._shares + 0.5).astype(np.int64) + 1
        streams = np.repeat(np.arange(len(counts)), counts)
        turns = np.concatenate([np.arange(count) for count in counts])
        order = np.lexsort((streams, (turns + 0.5) / self._shares[streams]))[:steps]
        self._streams, self._turns = streams[order], turns[order]


class Pick(NamedTuple):
    """One record of a batch: its place in the stream, and which pass over the stream this is."""

    epoch: int
    member: int


Lengths = Callable[[Numbers, int], npt.NDArray[np.float64]]
"""(members, epoch) -> how long their texts are in that epoch, in any unit."""


class Serving:
    """The order of a stream while nothing about it changes: pass after pass, no record twice within one.

    ``keys`` are the records' (see :func:`record_keys`), ``last`` says for each the number of the pass after the one in which
    it was served last (0: never): passes that began under other settings are finished first. ``weights`` make records rarer:
    one of half the largest weight takes part in half of the passes. A batch may reach over the end of a pass, so that every
    batch is full and every record is served. Where ``lengths`` are given, records are exchanged within windows of
    :data:`SORT_WINDOW` batches so that a batch holds texts of similar length; the order of those batches is shuffled again.
    """

    def __init__(
        self,
        keys: Keys,
        batch_size: int,
        seed: int,
        name: str,
        *,
        last: Numbers | None = None,
        weights: npt.NDArray[np.float64] | None = None,
        lengths: Lengths | None = None,
    ) -> None:
        self._keys = keys
        self._batch = batch_size
        self._seed = (seed, name)
        self._last = np.zeros(len(keys), dtype=np.int64) if last is None else last
        self._chance = None if weights is None or float(np.ptp(weights)) == 0.0 else weights / float(weights.max())
        self._lengths = lengths
        self._orders: dict[int, _Order] = {}
        top = int(self._last.max())
        self._first = top - 1 if top and len(self._left(top - 1)) else top
        self._ends = [len(self._left(self._first))]

    def picks(self, batch: int) -> list[Pick]:
        """The records of the stream's batch number ``batch`` >= 0."""
        start = batch * self._batch
        found: list[Pick] = []
        while len(found) < self._batch:
            epoch, offset = self._locate(start + len(found))
            run = self._order(epoch).run(offset, self._batch - len(found))
            found += [Pick(epoch, int(member)) for member in run]
        return found

    def after(self, batches: int) -> Numbers:
        """``last`` when ``batches`` batches have been served: what a new order must know to repeat none too soon."""
        last = self._last.copy()
        epoch, offset = self._locate(batches * self._batch)
        if self._chance is None:
            last[:] = epoch if epoch > self._first else last
        else:
            for done in range(self._first, epoch):
                last[self._left(done)] = done + 1
        if offset:
            last[self._order(epoch).before(offset)] = epoch + 1
        return last

    def _left(self, epoch: int) -> Numbers:
        """Members that take part in pass ``epoch`` and were not served in it before this order began."""
        fresh = self._last <= epoch
        if self._chance is not None:
            fresh &= uniform(self._keys, *self._seed, "take", epoch) < self._chance
        return np.flatnonzero(fresh)

    def _locate(self, position: int) -> tuple[int, int]:
        """(pass, offset in it) of the record served at ``position``."""
        if self._chance is None and position >= self._ends[0]:
            epoch, offset = divmod(position - self._ends[0], len(self._keys))
            return self._first + 1 + epoch, offset
        while self._ends[-1] <= position:
            self._ends.append(self._ends[-1] + len(self._left(self._first + len(self._ends))))
        number = int(np.searchsorted(self._ends, position, side="right"))
        return self._first + number, position - (self._ends[number - 1] if number else 0)

    def _begin(self, epoch: int) -> int:
        """Position of the first record of pass ``epoch``."""
        number = epoch - self._first
        if number == 0:
            return 0
        return self._ends[number - 1] if self._chance is not None else self._ends[0] + (number - 1) * len(self._keys)

    def _order(self, epoch: int) -> _Order:
        if epoch not in self._orders:
            if len(self._orders) >= 2:
                self._orders.pop(next(iter(self._orders)))
            members = self._left(epoch)
            order = members[np.argsort(mixed(self._keys[members], *self._seed, "order", epoch), kind="stable")]
            lead = -self._begin(epoch) % self._batch
            seed = derive_seed(*self._seed, "window", epoch)
            self._orders[epoch] = _Order(order, lead, self._batch, seed, epoch, self._lengths)
        return self._orders[epoch]


class _Order:
    """One pass; texts of similar length are brought together window by window, when a window is asked for."""

    def __init__(self, order: Numbers, lead: int, batch: int, seed: int, epoch: int, lengths: Lengths | None) -> None:
        self._order, self._lead, self._batch, self._seed = order, lead, batch, seed
        self._epoch, self._lengths = epoch, lengths
        self._gathered: set[int] = set()

    def run(self, offset: int, count: int) -> Numbers:
        """At most ``count`` members from ``offset`` on, fewer at the end of the pass."""
        end = min(offset + count, len(self._order))
        if self._lengths is not None and end > self._lead:
            width = SORT_WINDOW * self._batch
            for window in range(max(0, offset - self._lead) // width, (end - 1 - self._lead) // width + 1):
                self._gather(window, self._lengths)
        return self._order[offset:end]

    def before(self, offset: int) -> Numbers:
        """The first ``offset`` > 0 members, in any order: only the window that is cut need be sorted."""
        self.run(offset - 1, 1)
        return self._order[:offset]

    def _gather(self, number: int, lengths: Lengths) -> None:
        """Sort a window by length, and shuffle its batches; a part of a batch stays at the end."""
        if number in self._gathered:
            return
        self._gathered.add(number)
        start = self._lead + number * SORT_WINDOW * self._batch
        window = self._order[start : start + SORT_WINDOW * self._batch]
        window = window[np.argsort(lengths(window, self._epoch), kind="stable")]
        batches = [window[i : i + self._batch] for i in range(0, len(window), self._batch)]
        rest = batches.pop() if len(batches[-1]) < self._batch else window[:0]
        turns = np.random.default_rng([self._seed, number]).permutation(len(batches))
        self._order[start : start + len(window)] = np.concatenate([*(batches[i] for i in turns), rest])
