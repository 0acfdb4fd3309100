"""The encoded payload: batches of cached latents and caption embeddings, all of one bucket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from glyphflow.core.errors import ConfigError
from glyphflow.feed.batches import EncodedBatch as EncodedBatch
from glyphflow.feed.cache import LatentCache
from glyphflow.feed.order import EpochOrder, Interleave, is_heldout
from glyphflow.models import pack_latents
from glyphflow.models.condition import ConditionEncoder

DROPPED = -1
"""Choice of a sample that gets the empty prompt."""


@dataclass(frozen=True)
class _Stream:
    """The records of one source in one bucket."""

    cache: LatentCache
    indices: npt.NDArray[np.int64]
    order: EpochOrder
    weight: float


class EncodedFeed:
    """Batches from latent caches; the batch of a step is a pure function of the caches, the settings and the seed.

    ``sources`` are (cache directory, weight) pairs. Steps are shared among sources by weight and among the buckets of a
    source by their number of records. For each sample and epoch one caption variant is drawn (``captions``: variant ->
    weight; empty: all variants alike), or with chance ``drop_condition`` the empty prompt, independently of its neighbours.
    A cache whose encoders are not ``fingerprint`` (None: those of the first cache) is refused.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Path, float]],
        *,
        batch_size: int,
        seed: int,
        captions: Mapping[str, float] | None = None,
        drop_condition: float = 0.1,
        heldout_share: float = 0.0,
        fingerprint: str | None = None,
    ) -> None:
        caches = [LatentCache(path) for path, _ in sources]
        self.fingerprint = fingerprint or caches[0].fingerprint
        for cache in caches:
            if cache.fingerprint != self.fingerprint:
                raise ConfigError(
                    f"The cache {cache.directory} was made by the encoders {cache.fingerprint}, and this run is for "
                    f"{self.fingerprint}; encode it again with the run's encoders."
                )
        self._batch_size = batch_size
        self._draw = _Draw(dict(captions or {}), drop_condition)
        self._streams: list[_Stream] = []
        self._heldout: list[tuple[LatentCache, list[int]]] = []
        for number, (cache, (_, weight)) in enumerate(zip(caches, sources, strict=True)):
            self._add_source(number, cache, weight, heldout_share, seed)
        self._turns = Interleave([stream.weight for stream in self._streams])

    def batch(self, step: int) -> EncodedBatch:
        """The samples of ``step`` >= 0."""
        number, turn = self._turns.at(step)
        stream = self._streams[number]
        picks = stream.order.picks(turn)
        chosen = [(int(stream.indices[pick.position]), pick.choice) for pick in picks]
        return _collate(stream.cache, chosen, step)

    def heldout(self, count: int) -> list[EncodedBatch]:
        """Up to ``count`` held-out samples in batches of one bucket, each with its first caption; always the same ones."""
        batches: list[EncodedBatch] = []
        total = sum(len(indices) for _, indices in self._heldout)
        stride = max(1, total // max(1, count))
        for cache, indices in self._heldout:
            lengths = cache.lengths()
            chosen = [(i, int(np.argmax(lengths[i] > 0)) if lengths[i].any() else DROPPED) for i in indices[::stride]]
            for start in range(0, len(chosen), self._batch_size):
                batches.append(_collate(cache, chosen[start : start + self._batch_size], 0))
        return batches

    def _add_source(self, number: int, cache: LatentCache, weight: float, heldout_share: float, seed: int) -> None:
        lengths = cache.lengths()
        held = np.asarray([is_heldout(record, heldout_share) for record in cache.ids], dtype=bool)
        by_size: dict[tuple[int, int], list[int]] = {}
        for index, size in enumerate(cache.sizes):
            by_size.setdefault(size, []).append(index)
        training = int((~held).sum())
        if not training:
            raise ConfigError(f"The cache {cache.directory} holds no record to train on; encode a view that keeps some.")
        for size, members in sorted(by_size.items()):
            indices = np.asarray([i for i in members if not held[i]], dtype=np.int64)
            if out := [i for i in members if held[i]]:
                self._heldout.append((cache, out))
            if len(indices):
                draw = self._draw.bind(cache, lengths[indices])
                order = EpochOrder(len(indices), self._batch_size, seed, f"encoded-{number}-{size[0]}x{size[1]}", draw)
                self._streams.append(_Stream(cache, indices, order, weight * len(indices) / training))


class _Draw:
    """Which caption a sample shows in an epoch."""

    def __init__(self, weights: dict[str, float], drop: float) -> None:
        self._weights = weights
        self._drop = drop

    def bind(self, cache: LatentCache, lengths: npt.NDArray[np.int64]) -> _BoundDraw:
        unknown = sorted(set(self._weights) - set(cache.variants))
        if unknown:
            raise ConfigError(
                f"feed.captions names {unknown[0]!r}, and the cache {cache.directory} has the captions "
                f"{', '.join(cache.variants)}; use those names."
            )
        weights = np.asarray([self._weights.get(v, 0.0 if self._weights else 1.0) for v in cache.variants])
        return _BoundDraw(lengths, (lengths > 0) * weights, self._drop, len(cache.empty))


@dataclass(frozen=True)
class _BoundDraw:
    lengths: npt.NDArray[np.int64]  # (records, variants)
    weights: npt.NDArray[np.float64]  # (records, variants), 0 where there is no such caption
    drop: float
    empty_length: int

    def __call__(self, rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Choice and text length of every record for one epoch."""
        count = len(self.lengths)
        dropped = rng.random(count) < self.drop
        ends = np.cumsum(self.weights, axis=1)
        totals = ends[:, -1] if ends.shape[1] else np.zeros(count)
        drawn = rng.random(count) * totals
        choice = (drawn[:, None] >= ends).sum(axis=1).astype(np.int64)
        choice[dropped | (totals == 0)] = DROPPED
        rows = np.arange(count)
        length = np.where(choice == DROPPED, self.empty_length, 0)
        shown = choice != DROPPED
        length[shown] = self.lengths[rows[shown], choice[shown]]
        return choice, length


def _collate(cache: LatentCache, chosen: Sequence[tuple[int, int]], step: int) -> EncodedBatch:
    latents = torch.stack([cache.latents(index) for index, _ in chosen])
    texts = [cache.empty if choice == DROPPED else cache.embed(index, cache.variants[choice]) for index, choice in chosen]
    embeds, mask = ConditionEncoder.pad(texts)
    shape = (1, latents.shape[2] // 2, latents.shape[3] // 2)
    return EncodedBatch(
        step,
        tuple(cache.ids[index] for index, _ in chosen),
        pack_latents(latents),
        embeds,
        mask,
        [[shape]] * len(chosen),
        cache.fingerprint,
        tasks=("t2i",) * len(chosen),
        total=len(chosen),
    )
