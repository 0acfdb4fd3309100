"""The transport ``ray``: actors encode, on this machine or on any number of nodes, and batches lie in Ray's object store.

Ray copies torch tensors when it pickles them, and numpy arrays not at all: a batch travels as one array of bytes and a layout,
and the consumer's tensors are read-only views of the store, which keeps them for as long as anything refers to them. Ray
orders nothing and bounds nothing, so both are done here: steps are given out in order, never more than ``depth`` beyond the
actors at work, and a batch whose actor or node is lost is simply made again. What costs time beside the encoding happens beside
it: an actor copies one batch into the store while it encodes the next, and a thread of the consumer fetches ahead by one.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings
from collections import Counter
from types import TracebackType
from typing import Any

import numpy as np
import torch

from glyphflow.core.cluster import connected
from glyphflow.core.errors import GlyphFlowError, InputError
from glyphflow.core.hardware import require
from glyphflow.feed.amendments import Amendment
from glyphflow.feed.order import Part
from glyphflow.feed.packing import Layout, layout_of, pack, unpack
from glyphflow.feed.prefetch import Prefetch
from glyphflow.feed.transport import FeedPlan, Orders, timed

MAX_DEATHS = 3
_ORDERS = 2
"""Steps that an actor knows of: the one it makes, and the next, so that it never waits for an answer."""
_FETCHED = 1
"""Batches that wait in the consumer's process."""
_STORE = 512 << 20
"""Bytes of the object store of a Ray that is started here; it spills to disk beyond that."""


class RayTransport:
    """See the module and :class:`glyphflow.feed.transport.Transport`."""

    def __init__(self, plan: FeedPlan, orders: Orders, address: str) -> None:
        self._plan, self._orders, self._address = plan, orders, address
        self._ray = require("ray", "ray")
        self._stack = contextlib.ExitStack()
        self._actors: list[_Actor] = []
        self._hired = 0
        self._promises: dict[int, tuple[Any, _Actor]] = {}
        self._deaths: Counter[int] = Counter()
        self._next = self._ordered = orders.start
        self._fetched: Prefetch[Any] | None = None
        self._stopping = threading.Event()

    def __enter__(self) -> RayTransport:
        self._stack.enter_context(connected(self._address, store=_STORE, option="--producers"))
        # One CPU each: Ray spreads them over the nodes, and asks for no more than a machine has.
        options = {"num_cpus": 1, "num_gpus": self._gpus(), "max_restarts": 0, "max_concurrency": _ORDERS}
        self._remote = self._ray.remote(**options)(Producer)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        with contextlib.suppress(Exception):
            for actor in self._actors:
                self._ray.kill(actor.handle)  # also wakes the thread that waits for them
        if self._fetched is not None:
            self._fetched.__exit__(kind, error, trace)
        self._promises.clear()
        self._stack.close()

    def next(self) -> tuple[Any, float]:
        """See :class:`glyphflow.feed.transport.Transport`."""
        began = time.perf_counter()
        if self._fetched is None:
            self._fetched = Prefetch(self._fetch, self._next, _FETCHED).__enter__()
        batch, _ = self._fetched.next()
        waited = time.perf_counter() - began
        self._orders.handed_over(waited)
        return batch, waited

    def heldout(self, count: int) -> list[Any]:
        """See :class:`glyphflow.feed.transport.Transport`."""
        while True:
            self._resize(max(1, len(self._actors)))
            actor = self._actors[0]
            try:
                answer = self._ray.get(actor.handle.heldout.remote(count))
                return [unpack(layout, _tensor(data)) for layout, data in answer]
            except self._ray.exceptions.RayTaskError as error:
                raise _own(error) from None
            except self._ray.exceptions.RayError as error:
                self._replace(actor, error)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _fetch(self, step: int) -> Any:
        """The batch of ``step``, where the consumer wants it."""
        while True:
            self._give_out()
            if step not in self._promises:  # its actor was lost while an earlier step was waited for
                self._order(step, self._least_busy())
            promise, actor = self._promises[step]
            try:
                layout, data, seconds, side = self._ray.get(promise)
                break
            except self._ray.exceptions.RayTaskError as error:
                raise _own(error) from None
            except self._ray.exceptions.RayError as error:  # an actor or a node is gone, and with it what lay there
                self._replace(actor, error)
        del self._promises[step]
        actor.waiting -= 1
        self._next += 1
        self._give_out()
        batch = unpack(layout, _tensor(data))
        self._orders.made(step, len(layout.batch.ids), side, seconds, len(self._actors))
        return batch if self._orders.device is None else batch.to(self._orders.device)

    def _give_out(self) -> None:
        """Order the steps that may be on their way, each from the actor with the least to do."""
        wanted = self._orders.wanted(self._ordered)
        self._resize(wanted)
        while self._ordered < self._next + self._orders.depth + wanted:
            actor = self._least_busy()
            if actor.waiting >= _ORDERS and self._ordered > self._next:
                return
            self._order(self._ordered, actor)
            self._ordered += 1

    def _least_busy(self) -> _Actor:
        """Who shall get the next step: one that runs. Actors that the cluster has no room for would keep it for ever."""
        while not self._stopping.is_set():
            waiting = [actor.ready for actor in self._actors if not actor.runs]
            done, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0) if waiting else ([], [])
            for actor in self._actors:
                actor.runs = actor.runs or actor.ready in done
            running = [actor for actor in self._actors if actor.runs]
            if running:
                return min(running, key=lambda one: one.waiting)
            self._ray.wait(waiting, timeout=1)
        raise InputError("The feed was closed while its actors were on their way.")

    def _order(self, step: int, actor: _Actor) -> None:
        actor.waiting += 1
        self._promises[step] = actor.handle.make.remote(step, self._orders.entries(step)), actor

    def _resize(self, count: int) -> None:
        while len(self._actors) < count:
            self._actors.append(_Actor(self._remote.remote(self._plan, self._orders.part, self._hired), self._hired))
            self._hired += 1
        for actor in [one for one in self._actors if not one.waiting][: max(0, len(self._actors) - count)]:
            self._actors.remove(actor)
            self._ray.kill(actor.handle)

    def _replace(self, actor: _Actor, error: Exception) -> None:
        """Another actor for one that is gone, and the step that is waited for ordered again.

        What else the actor had been asked for is ordered when its turn comes: if a later step is what kills, it shall not take
        this one along again.
        """
        if self._stopping.is_set():
            raise error
        reason = " ".join(str(error).split())[:200]
        self._orders.lost(self._next, f"actor {actor.number}: {reason}")
        self._deaths[self._next] += 1
        if self._deaths[self._next] == MAX_DEATHS:
            raise InputError(
                f"Ray lost the batch of step {self._next} {MAX_DEATHS} times ({reason}); use fewer "
                "producers, or look at the memory of the nodes."
            ) from error
        if actor in self._actors:
            self._actors.remove(actor)
        with contextlib.suppress(Exception):
            self._ray.kill(actor.handle)
        self._resize(1)
        self._promises = {step: promise for step, promise in self._promises.items() if promise[1] is not actor}

    def _gpus(self) -> float:
        """Share of a GPU that a producer asks Ray for: a whole one where the plan computes on CUDA."""
        devices = self._plan.arguments.get("devices", ())
        return 1.0 if any(str(device).startswith("cuda") for device in devices) else 0.0


class _Actor:
    def __init__(self, handle: Any, number: int) -> None:
        self.handle, self.number = handle, number
        self.ready = handle.ready.remote()
        self.runs = False
        self.waiting = 0
        """Batches that were ordered from it and not taken yet."""


class Producer:
    """What an actor is. Ray calls it from two threads: one encodes, the other packs and copies what was encoded before."""

    def __init__(self, plan: FeedPlan, part: Part, number: int) -> None:
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
        self._plan, self._part, self._number = plan, part, number
        self._feed: Any = None
        self._encoding = threading.Lock()
        self._own = threading.local()

    def ready(self) -> None:
        """Answered as soon as the actor runs."""

    def make(self, step: int, entries: tuple[Amendment, ...]) -> tuple[Layout, Any, float, int | None]:
        """The batch of a step: its layout, its bytes, the seconds it took and the side of its pictures."""
        with self._encoding:
            batch, side, seconds = timed(self._open(), step, entries, self._part)
        layout = layout_of(batch)
        data = self._memory(layout.size)
        pack(batch, layout, torch.from_numpy(data))
        return layout, data, seconds, side

    def _memory(self, size: int) -> Any:
        """Bytes of this thread, used again and again: Ray has copied them into its store when :meth:`make` returns."""
        memory = getattr(self._own, "memory", None)
        if memory is None or len(memory) < size:
            memory = self._own.memory = np.empty(size + size // 4, dtype=np.uint8)
        return memory[:size]

    def heldout(self, count: int) -> list[tuple[Layout, Any]]:
        """Held-out batches."""
        with self._encoding:
            return [_packed(batch) for batch in self._open().heldout(count)]

    def _open(self) -> Any:
        self._feed = self._feed or self._plan.open(self._number)
        return self._feed


def _packed(batch: Any) -> tuple[Layout, Any]:
    layout = layout_of(batch)
    data = np.empty(layout.size, dtype=np.uint8)
    pack(batch, layout, torch.from_numpy(data))
    return layout, data


def _tensor(data: Any) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nobody may write there is what the protocol says
        return torch.from_numpy(data)


def _own(error: Any) -> BaseException:
    """The error as it was raised in the actor, without Ray's report around it where it is one of ours."""
    cause = error.cause
    return cause if isinstance(cause, GlyphFlowError) else RuntimeError(str(error))
