"""What a feed draws from and in which shares, as strict typed objects: all that decides a step's batch but the seed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from glyphflow.core.config import Config

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Task = Literal["t2i", "ti2i", "i2i"]
"""Text to picture; text and pictures to picture (edits); reconstruction of the picture that is its own reference."""
TextLevel = Literal["none", "word", "line", "paragraph"]
TEXT_LEVELS: tuple[TextLevel, ...] = ("none", "word", "line", "paragraph")


def _weights(weights: dict[str, float]) -> dict[str, float]:
    if weights and (min(weights.values()) < 0 or sum(weights.values()) <= 0):
        raise ValueError("weights must not be negative, and not all zero")
    return weights


Weights = Annotated[dict[str, float], AfterValidator(_weights)]
"""Name -> weight, relative to the others; empty: all alike. A name that is left out of a list has weight zero."""


class Source(Config):
    """Records of one corpus, or of a cache whose corpus is not at hand."""

    name: str = ""
    """How ``mixture`` calls it and what its epochs are kept under; empty: the name of the corpus or cache directory."""
    corpus: Path | None = None
    view: str | None = None
    """Records that this view keeps; None: all. :attr:`FeedSettings.view` goes before it."""
    cache: Path | None = None
    """What ``glyphflow encode`` makes of it; the transport ``files`` reads there."""
    weight: float = Field(default=1.0, gt=0)
    """Share relative to the other sources (inside a domain, where ``mixture`` names domains)."""
    side: Positive | None = None
    """The only resolution that takes from it, as the side of a square in pixels: for pictures whose details must keep their
    pixels. None: every resolution."""

    @property
    def title(self) -> str:
        """``name``, or what stands for it."""
        path = self.corpus or self.cache
        return self.name or (path.name if path else "")


class Resolution(Config):
    """Pictures of one area; they come in the nine ratios of :data:`glyphflow.feed.buckets.RATIOS`."""

    area: Positive
    """Pixels of a picture, target and references alike."""
    batch_size: Positive
    """Samples of a step, over all processes."""
    share: float = Field(default=1.0, gt=0)
    """Share of the steps, relative to the other resolutions."""


class FeedSettings(Config):
    """What one stretch of a run learns from.

    Steps are shared out in this order, each level keeping its shares exactly: resolutions, tasks, domains (``mixture``),
    sources, splits, and at last the buckets by the records that they hold. A combination without records leaves its share to
    its neighbours of the same level; a name that no record has at all is an error.
    """

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    resolutions: Annotated[tuple[Resolution, ...], Field(min_length=1)]
    view: str | None = None
    """View of every source that has a corpus, instead of the source's own."""
    tasks: Weights = Field(default_factory=lambda: {"t2i": 1.0})
    mixture: Weights = Field(default_factory=dict)
    """Weights of domains (nature, design, people, synthetic) or of sources by name. Edits are weighed by ``tasks`` alone."""
    splits: Weights = Field(default_factory=dict)
    """Weights of the view's splits, such as english, chinese, other, non-text. Edits are weighed by ``tasks`` alone."""
    text: TextLevel | None = None
    """The most text that a picture may hold, where somebody has read it; None: any."""
    captions: Weights = Field(default_factory=dict)
    """Caption variant -> chance of being chosen. ``recaption`` also means ``recaption_en`` and ``recaption_zh``, alike."""
    drop_condition: Share = 0.1
    """Chance of each sample to get the empty prompt instead, which classifier-free guidance needs."""
    heldout_share: Share = 0.02
    """Records (chosen by a hash of their id) that training never sees; the held-out loss is measured on them."""
    crop_limit: float = Field(default=0.5, gt=0, le=1)
    """Pictures of which more than this share would be cut away, to bring them to one of the nine ratios, are left out: what
    their captions say, and the words in them, would no longer be there. 1: all are taken."""
    fingerprint: str | None = None
    """Identity of the encoders; what other encoders made is refused. None: any, but one for all sources."""
    producers: Positive | Literal["auto"] = "auto"
    """Encoding processes; auto: as many as keep the consumer fed, from measured rates. Decides speed, never content."""
    prefetch: Positive = 2
    """Batches that wait ready. Decides speed, never content."""

    @model_validator(mode="after")
    def _check(self) -> FeedSettings:
        unknown = sorted(set(self.tasks) - {"t2i", "ti2i", "i2i"})
        if unknown:
            raise ValueError(f"tasks names {unknown[0]!r}; there are t2i, ti2i and i2i")
        titles = [source.title for source in self.sources]
        if len(set(titles)) != len(titles):
            raise ValueError(f"sources need names of their own, not {', '.join(titles)}; give them a name each")
        return self

    @property
    def content(self) -> FeedSettings:
        """The settings without those that decide speed only; equal ones give equal batches."""
        return self.model_copy(update={"producers": "auto", "prefetch": 2})
