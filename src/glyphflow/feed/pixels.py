"""The pixel payload: random crops of pictures, for training the VAE. Some of them may be placed where something is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

INK = 32
"""Of 255: the smallest difference of neighbouring pixels that counts as an edge; noise and soft shading are below it."""


class PixelFeed:
    """Batches of random crops; the batch of a step is a pure function of the sources, the settings and the seed.

    ``sources`` are (selection, weight) pairs: steps are shared among them in proportion to the weights. Each picture is first
    brought to its bucket of ``area`` pixels, the same way as encoding does, so that the VAE learns on the sharpness it will
    meet. ``text_crops`` is the share of the crops that :func:`inked_place` places. Up to ``cache_pictures`` prepared pictures
    stay in memory as uint8 (at most 3 x area bytes each): rendering or decoding one costs more than all its crops. Records
    whose id falls into ``heldout_share`` are left to :meth:`heldout`.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Selection, float]],
        *,
        crop: int,
        area: int,
        batch_size: int,
        seed: int,
        text_crops: float = 0.0,
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
        self._text_crops = text_crops
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
        return [self._whole(0, source, index) for source, index in chosen]

    def pictures(self, count: int) -> Iterator[PixelBatch]:
        """Up to ``count`` whole training pictures, one batch per picture, in the order in which training meets them first."""
        met: set[tuple[int, int]] = set()
        step = 0
        while len(met) < min(count, sum(map(len, self._training))):
            source, number = self._turns.at(step)
            for pick in self._orders[source].picks(number):
                index = self._training[source][pick.member]
                if (source, index) not in met and len(met) < count:
                    met.add((source, index))
                    yield self._whole(step, source, index)
            step += 1

    def _whole(self, step: int, source: int, index: int) -> PixelBatch:
        return PixelBatch(step, (self._sources[source].ids[index],), to_tensor(self._picture(source, index)[None]), total=1)

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
        if self._text_crops and rng.random() < self._text_crops and (place := inked_place(picture, self._crop, rng)):
            top, left = place
            return picture[top : top + self._crop, left : left + self._crop]
        top = int(rng.integers(0, height - self._crop + 1))
        left = int(rng.integers(0, width - self._crop + 1))
        return picture[top : top + self._crop, left : left + self._crop]


def inked_place(picture: Picture, crop: int, rng: np.random.Generator) -> tuple[int, int] | None:
    """(top, left) of a crop whose chance grows with the edges in it; None for a picture without any.

    An edge pixel is drawn by its strength, then one of the crops that hold it. Edges are differences of neighbours, in the
    channel where they are largest, from :data:`INK` on. They are dense where text is, in renders and in pictures of pages
    alike, and nobody needs to have read it. Foliage has edges, too: which pictures are rich in text is for the corpus to say.
    """
    values = picture.astype(np.int16)
    ink = np.zeros(picture.shape[:2], np.int32)
    ink[:, 1:] += np.abs(np.diff(values, axis=1)).max(axis=2)
    ink[1:] += np.abs(np.diff(values, axis=0)).max(axis=2)
    ink[ink < INK] = 0
    reached = ink.ravel().cumsum(dtype=np.int64)
    if not reached[-1]:
        return None
    drawn = divmod(int(np.searchsorted(reached, rng.integers(reached[-1]), side="right")), picture.shape[1])
    # From the first to the last crop that holds the edge, the pixels on both sides of it.
    first = [max(0, at - crop + 1) for at in drawn]
    last = [min(max(0, at - 1), side - crop) for at, side in zip(drawn, picture.shape[:2], strict=True)]
    top, left = (int(rng.integers(low, high + 1)) for low, high in zip(first, last, strict=True))
    return top, left


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
