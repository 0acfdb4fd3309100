"""How batches reach the one who trains: made ahead of time, in order, by somebody else. One protocol, three transports.

``files``  a thread of this process reads the caches that ``glyphflow encode`` fills, also while it still fills them
``local``  processes on this machine encode; batches come through a ring of shared memory
``ray``    actors encode, on this machine or on a cluster

Transports differ in speed and never in content: each asks :meth:`Feed.batch` for a step and hands on what it says.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, TypeVar

import torch

from glyphflow.core.config import load_config, to_dict
from glyphflow.core.errors import ConfigError
from glyphflow.core.files import storage_errors
from glyphflow.feed.amendments import Amendment, AmendmentLog
from glyphflow.feed.encode import Encoders
from glyphflow.feed.order import Part
from glyphflow.feed.prefetch import Prefetch
from glyphflow.feed.settings import Source
from glyphflow.feed.staged import Segment, Sources, StagedFeed

Kind = Literal["files", "local", "ray"]
Producers = int | Literal["auto"]
B = TypeVar("B")
C = TypeVar("C", covariant=True)

_HEADROOM = 1.15
"""Producers are meant to be this much faster than the consumer."""


class Feed(Protocol[C]):
    """What makes batches: a pure function of the step, the same in every process."""

    def batch(self, step: int, part: Part | None = None) -> C: ...
    def heldout(self, count: int) -> Sequence[C]: ...
    def amend(self, amendments: Sequence[Amendment]) -> None: ...
    def stop(self) -> None: ...


def timed(feed: Feed[C], step: int, amendments: Sequence[Amendment], part: Part) -> tuple[C, int | None, float]:
    """The batch of ``step`` as a producer makes it, the side of its pictures (None: the feed has no sizes), and the seconds."""
    began = time.perf_counter()
    feed.amend(amendments)
    batch = feed.batch(step, part)
    side = getattr(feed, "side", lambda step: None)(step)
    return batch, side, time.perf_counter() - began


class Transport(Protocol[B]):
    """A context manager that gives the batches of one part, step after step."""

    def __enter__(self) -> Transport[B]: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
    def next(self) -> tuple[B, float]:
        """The batch of the next step, and the seconds that were spent waiting for it.

        An error that happened while it was made is raised here. Tensors on the CPU may be views of memory that the transport
        owns: they stay as they are for as long as anything refers to them, and their place is used again after that.
        """
        ...

    def heldout(self, count: int) -> list[B]:
        """Held-out batches, made where the others are made; to be called before the first :meth:`next`."""
        ...


@dataclass(frozen=True)
class FeedPlan:
    """How a feed is opened, in words that any process understands.

    ``make`` is "module:function" and is called with ``arguments`` (JSON values) and ``worker``, the number of the producer that
    opens it.
    """

    make: str
    arguments: Mapping[str, Any]

    def open(self, worker: int = 0) -> Feed[Any]:
        """The feed, in this process."""
        module, _, function = self.make.partition(":")
        feed: Feed[Any] = getattr(importlib.import_module(module), function)(**self.arguments, worker=worker)
        return feed


def encoded_plan(
    segments: Sequence[Segment],
    seed: int,
    *,
    encoders: Path | None = None,
    compute_dtype: torch.dtype = torch.float32,
    devices: Sequence[str] = ("cpu",),
) -> FeedPlan:
    """The plan of a :class:`StagedFeed`: from caches, or with the ``encoders`` of a pipeline directory.

    Producer number n computes on ``devices[n % len(devices)]``.
    """
    arguments: dict[str, Any] = {"segments": [to_dict(segment) for segment in segments], "seed": seed}
    if encoders is not None:
        live = {"encoders": str(encoders), "compute_dtype": str(compute_dtype).removeprefix("torch."), "devices": list(devices)}
        return FeedPlan("glyphflow.feed.transport:open_live", arguments | live)
    return FeedPlan("glyphflow.feed.transport:open_cached", arguments)


def pixel_plan(
    sources: Sequence[Source],
    *,
    crop: int,
    area: int,
    batch_size: int,
    seed: int,
    text_crops: float = 0.0,
    cache_pictures: int = 0,
    heldout_share: float = 0.0,
) -> FeedPlan:
    """The plan of a :class:`glyphflow.feed.pixels.PixelFeed`; each producer keeps prepared pictures of its own."""
    numbers = {"crop": crop, "area": area, "batch_size": batch_size, "seed": seed}
    shares = {"text_crops": text_crops, "cache_pictures": cache_pictures, "heldout_share": heldout_share}
    named = [to_dict(source) for source in sources]
    return FeedPlan("glyphflow.feed.pixels:open_pixels", {"sources": named, **numbers, **shares})


def open_cached(segments: Sequence[Mapping[str, Any]], seed: int, worker: int = 0) -> StagedFeed:
    """What a plan without encoders opens."""
    return StagedFeed([load_config(Segment, segment) for segment in segments], seed)


def open_live(
    segments: Sequence[Mapping[str, Any]], seed: int, encoders: str, compute_dtype: str, devices: Sequence[str], worker: int = 0
) -> StagedFeed:
    """What a plan with encoders opens; the networks are loaded when the first sample is asked for."""
    device = torch.device(devices[worker % len(devices)])
    dtype = torch.bfloat16 if compute_dtype == "bfloat16" else torch.float32
    opener = Sources(lambda: Encoders(Path(encoders), device, dtype))
    return StagedFeed([load_config(Segment, segment) for segment in segments], seed, sources=opener)


def open_transport(
    kind: Kind,
    plan: FeedPlan,
    *,
    start: int = 0,
    part: Part | None = None,
    device: torch.device | None = None,
    depth: int = 2,
    producers: Producers | Callable[[int], Producers] = "auto",
    amendments: AmendmentLog | None = None,
    log: Path | None = None,
    address: str = "ray",
) -> Transport[Any]:
    """Batches of ``plan`` from step ``start`` on, for ``part``, on ``device``, up to ``depth`` of them made ahead.

    ``producers`` (a number, "auto", or a function of the step) is how many processes or actors encode. ``amendments`` is read
    before steps are ordered. ``log`` gets a JSON line with side, pictures and seconds for every batch that was made, which
    ``glyphflow plan train --feed-log`` reads. ``address`` is where Ray is: "ray" for one that is started here, else "auto" or
    "ray://host:port".
    """
    orders = Orders(start, part or Part(), device, depth, producers, amendments, FeedLog(log), _most(plan, kind))
    if kind == "files":
        return ThreadTransport(plan, orders)
    if kind == "local":
        from glyphflow.feed.local import LocalTransport

        return LocalTransport(plan, orders)
    if kind == "ray":
        from glyphflow.feed.ray import RayTransport

        return RayTransport(plan, orders, address)
    raise ConfigError(f"There is no transport {kind!r}; there are files, local and ray.")


def _most(plan: FeedPlan, kind: Kind) -> int:
    """Most producers that "auto" takes: a card holds the encoders once, and processors are shared by a machine's trainers."""
    if kind == "ray":
        return 1024  # actors that the cluster has no room for wait, and are asked for nothing
    cards = [device for device in plan.arguments.get("devices", ()) if str(device).startswith("cuda")]
    return len(cards) or max(1, (os.cpu_count() or 2) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1)


@dataclass
class FeedLog:
    """What producers did, a JSON line a batch."""

    path: Path | None

    def write(self, **line: Any) -> None:
        """Append a line, if anybody wants it."""
        if self.path is None:
            return
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


@dataclass
class Orders:
    """What every transport does alike: which steps come, under which amendments, how many producers there shall be."""

    start: int
    part: Part
    device: torch.device | None
    depth: int
    producers: Producers | Callable[[int], Producers]
    amendments: AmendmentLog | None
    log: FeedLog
    limit: int
    """Most producers that "auto" takes."""
    _making: float = 0.0
    _using: float = 0.0
    _left: float | None = None
    _auto: int = 1

    def entries(self, step: int) -> tuple[Amendment, ...]:
        """The amendments that decide ``step``; from now on they cannot change."""
        return self.amendments.settle(step) if self.amendments else ()

    def wanted(self, step: int) -> int:
        """How many producers there shall be at ``step``."""
        wanted = self.producers(step) if callable(self.producers) else self.producers
        return self._auto if wanted == "auto" else wanted

    def made(self, step: int, rows: int, side: int | None, seconds: float, producers: int) -> None:
        """Note that a producer took ``seconds`` for a batch."""
        self._making = seconds if not self._making else 0.8 * self._making + 0.2 * seconds
        if side is not None:
            self.log.write(step=step, side=side, pictures=rows, seconds=round(seconds, 6), producers=producers)

    def lost(self, step: int, who: str) -> None:
        """Note that a producer is gone, and the step that it was at; somebody else makes it again."""
        self.log.write(step=step, lost=who)

    def handed_over(self, waited: float) -> None:
        """Note that the consumer got a batch; "auto" compares the time it works with what producers need.

        More are hired at once, as an idle trainer costs more than a spare process; they go again when they are one too many.
        """
        now = time.perf_counter()
        if self._left is not None:
            using = max(now - self._left - waited, 1e-6)
            self._using = using if not self._using else 0.8 * self._using + 0.2 * using
        self._left = now
        if self._making and self._using:
            needed = min(self.limit, max(1, math.ceil(_HEADROOM * self._making / self._using)))
            self._auto = needed if needed > self._auto or needed < self._auto - 1 else self._auto


class ThreadTransport:
    """A thread of this process makes the batches; for caches, where making is reading."""

    def __init__(self, plan: FeedPlan, orders: Orders) -> None:
        self._feed = plan.open()
        self._orders = orders
        self._prefetch: Prefetch[Any] = Prefetch(self._make, orders.start, orders.depth)

    def __enter__(self) -> ThreadTransport:
        self._prefetch.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._feed.stop()
        self._prefetch.__exit__(kind, error, trace)

    def next(self) -> tuple[Any, float]:
        """See :class:`Transport`."""
        return self._prefetch.next()

    def heldout(self, count: int) -> list[Any]:
        """See :class:`Transport`."""
        return list(self._feed.heldout(count))

    def _make(self, step: int) -> Any:
        self._feed.amend(self._orders.entries(step))
        batch = self._feed.batch(step, self._orders.part)
        return batch if self._orders.device is None else batch.to(self._orders.device)
