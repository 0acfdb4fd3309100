"""One feed for all processes that share samples: tensor and sequence parallel ranks compute on the same batches, so one of them
has producers and hands each batch on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from glyphflow.feed.packing import layout_of, pack, unpack
from glyphflow.feed.transport import Transport
from glyphflow.train.parallel import World


@contextlib.contextmanager
def shared(
    world: World, open_feed: Callable[[torch.device | None], AbstractContextManager[Transport[Any]]]
) -> Iterator[Transport[Any]]:
    """What ``open_feed(device)`` opens: here where samples are this process's own, else in the first that shares them."""
    sharing = world.size // world.part.world
    if sharing == 1:
        with open_feed(world.device) as transport:
            yield transport
        return
    firsts = range(0, world.size, sharing)
    groups = [dist.new_group(list(range(first, first + sharing)), backend="gloo") for first in firsts]
    group = cast(ProcessGroup, groups[world.part.rank])
    if world.rank % sharing:
        yield _Follower(None, group, world)
        return
    with open_feed(None) as transport:
        yield _Follower(transport, group, world)


class _Follower:
    """The feed of one of several processes; ``source`` is where the first of them has it from."""

    def __init__(self, source: Transport[Any] | None, group: ProcessGroup, world: World) -> None:
        self._source, self._group, self._device = source, group, world.device
        self._first = world.part.rank * group.size()

    def __enter__(self) -> _Follower:
        return self

    def __exit__(self, *_: object) -> None:
        """The source is closed by whoever opened it."""

    def next(self) -> tuple[Any, float]:
        """See :class:`glyphflow.feed.transport.Transport`."""
        batch, waited = self._source.next() if self._source else (None, 0.0)
        layout, waited = self._told((layout_of(batch), waited) if self._source else None)
        memory = torch.empty(layout.size, dtype=torch.uint8)
        if self._source:
            pack(batch, layout, memory)
        dist.broadcast(memory, self._first, group=self._group)
        return unpack(layout, memory).to(self._device), waited

    def heldout(self, count: int) -> list[Any]:
        """See :class:`glyphflow.feed.transport.Transport`."""
        found: list[Any] = self._told(self._source.heldout(count) if self._source else None)
        return found

    def _told(self, value: Any) -> Any:
        told = [value]
        dist.broadcast_object_list(told, self._first, group=self._group)
        return told[0]
