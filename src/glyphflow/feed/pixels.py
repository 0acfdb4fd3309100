"""The pixel payload: random crops of pictures, for training the VAE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from glyphflow.core.config import load_config
from glyphflow.core.errors import ConfigError
from glyphflow.core.hashing import derive_seed
from glyphflow.feed.amendments import Amendment
from glyphflow.feed.batches import PixelBatch
from glyphflow.feed.buckets import bucket_of, bucket_sizes, fit
from glyphflow.feed.order import Interleave, Part, Serving, is_heldout, record_keys
from glyphflow.feed.records import Picture, Selection, open_selection
from glyphflow.feed.settings import Source


class PixelFeed:
    """Batches of random crops; the batch of a step is a pure function of the sources, the settings and the seed.

    ``sources`` are (selection, weight) pairs: steps are shared among them in proportion to the weights. Each picture is first
    brought to its bucket of ``area`` pixels, the same way as encoding does, so that the VAE learns on the sharpness it will
    meet. Up to ``cache_pictures`` prepared pictures stay in memory as uint8 (at most 3 x area bytes each): rendering or
    decoding one costs more than all its crops. Records whose id falls into ``heldout_share`` are left to :meth:`heldout`.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Selection, float]],
        *,
        crop: int,
        area: int,
        batch_size: int,
        seed: int,
        cache_pictures: int = 0,
        heldout_share: float = 0.0,
    ) -> None:
        self._sources = [selection for selection, _ in sources]
        self._crop = crop
        self._buckets = bucket_sizes(area)
        smallest = min(min(size) for size in self._buckets)
        if crop > smallest or crop % 8:
            raise ConfigError(
                f"feed.crop = {crop} does not fit: it must be a multiple of 8 of at most {smallest}, the shortest side of the "
                f"buckets of feed.area = {area}; lower the crop or raise the area."
            )
        self._seed = seed
        self._limit = cache_pictures
        self._cache: dict[tuple[int, int], Picture] = {}
        self._training: list[list[int]] = []
        self._heldout: list[tuple[int, int]] = []
        self._orders: list[Serving] = []
        for number, selection in enumerate(self._sources):
            ids = list(selection.ids)
            out = [is_heldout(record_id, heldout_share) for record_id in ids]
            self._training.append([i for i, held in enumerate(out) if not held])
            self._heldout += [(number, i) for i, held in enumerate(out) if held]
            if not self._training[-1]:
                raise ConfigError(f"Source {number} of the feed holds no record to train on; check its corpus and view.")
            keys = record_keys([ids[i] for i in self._training[-1]])
            self._orders.append(Serving(keys, batch_size, seed, f"pixels-{number}"))
        self._turns = Interleave([weight for _, weight in sources])

    def batch(self, step: int, part: Part | None = None) -> PixelBatch:
        """The crops of ``step`` >= 0 that belong to ``part`` (default: all)."""
        source, number = self._turns.at(step)
        picks = self._orders[source].picks(number)
        first, end = (part or Part()).bounds(len(picks))
        crops, ids = [], []
        for pick in picks[first:end]:
            index = self._training[source][pick.member]
            record_id = self._sources[source].ids[index]
            rng = np.random.default_rng(derive_seed(self._seed, "crop", record_id, pick.epoch))
            crops.append(self._cut(self._picture(source, index), rng))
            ids.append(record_id)
        return PixelBatch(step, tuple(ids), to_tensor(np.stack(crops)), first, len(picks))

    def amend(self, amendments: Sequence[Amendment]) -> None:
        """Nothing of this feed can be changed while a run goes on."""
        if amendments:
            raise ConfigError("The feed of a VAE training cannot be changed while it runs; remove amendments.jsonl.")

    def stop(self) -> None:
        """Nothing here waits for others."""

    def heldout(self, count: int) -> list[PixelBatch]:
        """Up to ``count`` whole held-out pictures, one batch per picture, always the same ones in the same order."""
        chosen = self._heldout[:: max(1, len(self._heldout) // max(1, count))][:count]
        return [
            PixelBatch(0, (self._sources[source].ids[index],), to_tensor(self._picture(source, index)[None]), total=1)
            for source, index in chosen
        ]

    def _picture(self, source: int, index: int) -> Picture:
        key = (source, index)
        if key in self._cache:
            return self._cache[key]
        image = self._sources[source].load(index).image
        picture = fit(image, bucket_of((image.shape[1], image.shape[0]), self._buckets))
        if len(self._cache) < self._limit:  # first come, first kept: with random access, eviction would gain nothing
            self._cache[key] = picture
        return picture

    def _cut(self, picture: Picture, rng: np.random.Generator) -> Picture:
        height, width = picture.shape[:2]
        top = int(rng.integers(0, height - self._crop + 1))
        left = int(rng.integers(0, width - self._crop + 1))
        return picture[top : top + self._crop, left : left + self._crop]


def open_pixels(
    sources: Sequence[Mapping[str, Any]], crop: int, area: int, batch_size: int, seed: int, worker: int = 0, **more: Any
) -> PixelFeed:
    """A pixel feed of corpora by name, as a :class:`glyphflow.feed.transport.FeedPlan` opens it."""
    named = [load_config(Source, source) for source in sources]
    opened = [(open_selection(source, None), source.weight) for source in named]
    return PixelFeed(opened, crop=crop, area=area, batch_size=batch_size, seed=seed, **more)


def to_tensor(pictures: Picture) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1], channels last in memory."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
