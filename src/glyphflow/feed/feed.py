"""The encoded payload from caches alone: one segment of caches without their corpora."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from glyphflow.core.errors import InputError
from glyphflow.feed.batches import EncodedBatch as EncodedBatch
from glyphflow.feed.settings import FeedSettings, Resolution, Source
from glyphflow.feed.staged import Segment, StagedFeed


class EncodedFeed(StagedFeed):
    """Batches from latent caches; ``sources`` are (cache directory, weight) pairs."""

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
        areas = [int(path.name.partition("-")[2]) for path in sources[0][0].glob("area-*")]
        if not areas:
            raise InputError(f"{sources[0][0]} holds no latent cache of this version; run glyphflow encode with the recipe.")
        settings = FeedSettings(
            sources=tuple(Source(name=f"{n}", cache=path, weight=weight) for n, (path, weight) in enumerate(sources)),
            resolutions=(Resolution(area=areas[0], batch_size=batch_size),),
            captions=dict(captions or {}),
            drop_condition=drop_condition,
            heldout_share=heldout_share,
            fingerprint=fingerprint,
        )
        super().__init__([Segment(name="all", start=0, steps=1, settings=settings)], seed)
        self.fingerprint = fingerprint or self.batch(0).fingerprint
