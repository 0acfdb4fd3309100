"""One feed for all processes that share samples: tensor and sequence parallel ranks compute on the same batches, so one of them
has producers and hands each batch on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from glyphflow.core.errors import GlyphFlowError
from glyphflow.feed.packing import layout_of, pack, unpack
from glyphflow.feed.transport import Transport
from glyphflow.train.parallel import World

T = TypeVar("T")


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
        follower = _Follower(None, group, world)
        follower.told()
        yield follower
        return
    with contextlib.ExitStack() as stack:
        opening = _Follower(None, group, world)
        transport = opening.tell(lambda: stack.enter_context(open_feed(None)), show=lambda _: None)
        yield _Follower(transport, group, world)


class _Follower:
    """The feed of one of several processes; ``source`` is where the first of them has it from.

    Whatever the first does with its source, it tells the others how that went: an error is raised in all of them, and nobody
    waits for what will not come.
    """

    def __init__(self, source: Transport[Any] | None, group: ProcessGroup, world: World) -> None:
        self._source, self._group, self._device = source, group, world.device
        self._first = world.part.rank * group.size()

    def __enter__(self) -> _Follower:
        return self

    def __exit__(self, *_: object) -> None:
        """The source is closed by whoever opened it."""

    def next(self) -> tuple[Any, float]:
        """See :class:`glyphflow.feed.transport.Transport`."""
        if self._source is None:
            layout, waited = self.told()
            memory = torch.empty(layout.size, dtype=torch.uint8)
        else:
            batch, waited = self.tell(self._source.next, show=lambda taken: (layout_of(taken[0]), taken[1]))
            layout = layout_of(batch)
            memory = torch.empty(layout.size, dtype=torch.uint8)
            pack(batch, layout, memory)
        dist.broadcast(memory, self._first, group=self._group)
        return unpack(layout, memory).to(self._device), waited

    def heldout(self, count: int) -> list[Any]:
        """See :class:`glyphflow.feed.transport.Transport`."""
        source = self._source
        found: list[Any] = self.told() if source is None else self.tell(lambda: source.heldout(count), show=list)
        return found

    def tell(self, work: Callable[[], T], show: Callable[[T], Any]) -> T:
        """What ``work`` returns, of which the others are told ``show``; or its error, for them, too."""
        try:
            found = work()
            said = (None, show(found))
        except Exception as error:
            self._broadcast((str(error) if isinstance(error, GlyphFlowError) else f"{type(error).__name__}: {error}", None))
            raise
        self._broadcast(said)
        return found

    def told(self) -> Any:
        """What the first process tells; a GlyphFlowError with the sentence of its error."""
        failure, found = self._broadcast(None)
        if failure is not None:
            raise GlyphFlowError(failure)
        return found

    def _broadcast(self, value: Any) -> Any:
        told = [value]
        dist.broadcast_object_list(told, self._first, group=self._group)
        return told[0]
