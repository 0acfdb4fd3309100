"""The transport ``local``: processes encode, and batches come through slots of shared memory without being copied again.

A thread of the consumer's process gives out steps and slots and takes back finished batches. A producer that dies is replaced,
and its step is given out again: a batch is a function of its step, so nothing is lost or repeated. Processes are spawned, since
a forked one would inherit the threads and the CUDA context of the trainer.

A slot belongs to the batch that lies in it until the last tensor that shares its memory is gone; only then is it written again.
So there is nothing to give back, and a consumer that keeps many batches makes the ring grow.
"""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import multiprocessing
import threading
import time
import traceback
import weakref
from collections import Counter, deque
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.shared_memory import SharedMemory
from types import TracebackType
from typing import Any

import numpy as np
import torch

from glyphflow.core.errors import GlyphFlowError, InputError
from glyphflow.feed.amendments import Amendment
from glyphflow.feed.order import Part
from glyphflow.feed.packing import Layout, layout_of, pack, unpack
from glyphflow.feed.transport import FeedPlan, Orders

MAX_DEATHS = 3
"""A step at which that many producers died is not tried again."""
_SLOT_BYTES = 1 << 20
_HELDOUT = -1
_PATIENCE = 0.5


class LocalTransport:
    """See the module and :class:`glyphflow.feed.transport.Transport`."""

    def __init__(self, plan: FeedPlan, orders: Orders) -> None:
        self._plan, self._orders = plan, orders
        self._team = _Team(plan, orders.part)
        self._ring = _Ring(self._team.wake)
        self._ready: dict[int, _Made] = {}
        self._changed = threading.Condition()
        self._next = orders.start
        self._failed: BaseException | None = None
        self._stop = False
        self._thread = threading.Thread(target=self._manage, name="feed", daemon=True)

    def __enter__(self) -> LocalTransport:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop = True
        self._team.wake()
        if self._thread.is_alive():
            self._thread.join()
        self._team.close()
        self._ready.clear()
        self._ring.close()

    def next(self) -> tuple[Any, float]:
        """See :class:`glyphflow.feed.transport.Transport`."""
        began = time.perf_counter()
        if not self._thread.is_alive() and self._failed is None:
            self._thread.start()
        with self._changed:
            while self._next not in self._ready:
                if self._failed is not None:
                    raise self._failed
                self._changed.wait(_PATIENCE)
            made = self._ready.pop(self._next)
            self._next += 1
        self._team.wake()
        if made.error is not None:
            raise made.error
        batch = unpack(made.layout, self._ring.lease(made.slot)) if made.layout else None
        if self._orders.device is not None and self._orders.device.type != "cpu":
            batch = batch.to(self._orders.device)  # type: ignore[union-attr]
        waited = time.perf_counter() - began
        self._orders.handed_over(waited)
        return batch, waited

    def heldout(self, count: int) -> list[Any]:
        """See :class:`glyphflow.feed.transport.Transport`."""
        return self._team.ask(("heldout", count))

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _manage(self) -> None:
        try:
            steps = _Steps(self._orders.start)
            while not self._stop:
                self._give_out(steps)
                for worker, message in self._team.listen():
                    self._hear(worker, message, steps)
        except BaseException as error:
            with self._changed:
                self._failed = error
                self._changed.notify_all()

    def _give_out(self, steps: _Steps) -> None:
        """Give idle producers the steps that come next, no further ahead than the depth allows."""
        wanted = self._orders.wanted(steps.peek())
        self._team.resize(wanted)
        for worker in self._team.idle():
            step = steps.peek()
            if step >= self._next + self._orders.depth + wanted:
                return
            steps.pop()
            worker.step, worker.slot = step, self._ring.free()
            self._team.send(worker, ("batch", step, self._orders.entries(step), worker.slot.name, worker.slot.size))

    def _hear(self, worker: _Worker, message: tuple[Any, ...] | None, steps: _Steps) -> None:
        if message is None:  # it died
            if worker.step is not None:
                steps.again(worker.step, worker.exit)
                self._ring.give_back(worker.slot)
            return
        if message[0] == "grow":
            worker.slot = self._ring.larger(worker.slot, message[1])
            self._team.send(worker, ("slot", worker.slot.name, worker.slot.size))
            return
        step, slot, worker.step = worker.step, worker.slot, None
        assert step is not None
        if message[0] == "failed":
            self._ring.give_back(slot)
            made = _Made(slot, None, message[1])
        else:
            _, layout, seconds, side = message
            made = _Made(slot, layout, None)
            self._orders.made(step, len(layout.batch.ids), side, seconds, len(self._team))
        with self._changed:
            self._ready[step] = made
            self._changed.notify_all()


@dataclass
class _Made:
    slot: SharedMemory
    layout: Layout | None
    error: BaseException | None


class _Steps:
    """The steps in the order in which they are given out: those of producers that died first."""

    def __init__(self, start: int) -> None:
        self._fresh = start
        self._again: list[int] = []
        self._deaths: Counter[int] = Counter()

    def peek(self) -> int:
        return self._again[0] if self._again else self._fresh

    def pop(self) -> None:
        if self._again:
            heapq.heappop(self._again)
        else:
            self._fresh += 1

    def again(self, step: int, exit_code: int | None) -> None:
        self._deaths[step] += 1
        if self._deaths[step] == MAX_DEATHS:
            raise InputError(
                f"Producers died {MAX_DEATHS} times at step {step} (the last one with exit code {exit_code}; -9 is usually the "
                "system's answer to too little memory); use fewer producers or look at the records of that step."
            )
        heapq.heappush(self._again, step)


class _Ring:
    """Pieces of shared memory that take turns; all are made, and removed, by the consumer's process."""

    def __init__(self, wake: Any) -> None:
        self._free: deque[SharedMemory] = deque()
        self._all: dict[str, SharedMemory] = {}
        self._wake = wake
        self._size = _SLOT_BYTES
        self._closed = False

    def free(self) -> SharedMemory:
        """A slot that nobody uses; a new one when all are in use."""
        with contextlib.suppress(IndexError):
            return self._free.popleft()
        return self._new()

    def give_back(self, slot: SharedMemory) -> None:
        """Let the slot be used again. Called by whoever drops the last tensor, so it takes no lock."""
        if self._closed:
            self._remove(slot)
        else:
            self._free.append(slot)
            self._wake()

    def larger(self, slot: SharedMemory, size: int) -> SharedMemory:
        """A slot of at least ``size`` bytes instead; later ones are as large."""
        self._size = max(self._size, size + size // 4)
        self._remove(slot)
        return self._new()

    def lease(self, slot: SharedMemory) -> torch.Tensor:
        """The bytes of a slot; when the last view of them is gone, the slot is given back."""
        lease = _Lease(slot)
        weakref.finalize(lease, self.give_back, slot).atexit = False
        return torch.from_numpy(np.asarray(lease))

    def close(self) -> None:
        """Remove what nobody looks at, and the rest as soon as nobody does."""
        self._closed = True
        while self._free:
            self._remove(self._free.popleft())
        for slot in self._all.values():
            with contextlib.suppress(FileNotFoundError):
                slot.unlink()

    def _new(self) -> SharedMemory:
        slot = SharedMemory(create=True, size=self._size)
        self._all[slot.name] = slot
        return slot

    def _remove(self, slot: SharedMemory) -> None:
        self._all.pop(slot.name, None)
        slot.close()
        with contextlib.suppress(FileNotFoundError):
            slot.unlink()


class _Lease:
    """What an array over a slot refers to: gone when the last view is gone.

    It is given by its address, as shared memory cannot be closed while an array holds it as a buffer, and an array tells that
    it goes a moment before it lets go.
    """

    def __init__(self, slot: SharedMemory) -> None:
        address = ctypes.addressof(ctypes.c_char.from_buffer(slot.buf))
        self.__array_interface__ = {"shape": (slot.size,), "typestr": "|u1", "data": (address, False), "version": 3}


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    slot: Any = None
    step: int | None = None
    """What it works at; None: it waits."""
    leaving: bool = False

    @property
    def exit(self) -> int | None:
        return self.process.exitcode


class _Team:
    """The producers, as processes with a pipe each."""

    def __init__(self, plan: FeedPlan, part: Part) -> None:
        self._plan, self._part = plan, part
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._hired = 0
        self._bell, self._button = self._context.Pipe(duplex=False)
        self._rung = False

    def __len__(self) -> int:
        return len(self._workers)

    def wake(self) -> None:
        """Make :meth:`listen` return."""
        if not self._rung:
            self._rung = True
            with contextlib.suppress(OSError):
                self._button.send_bytes(b"!")

    def resize(self, count: int) -> None:
        """Hire, or let those go who wait, until there are ``count``."""
        while sum(not worker.leaving for worker in self._workers) < count:
            self._hire()
        spare = [worker for worker in self._workers if not worker.leaving][count:]
        for worker in spare:
            worker.leaving = True
        for worker in [w for w in self._workers if w.leaving and w.step is None]:
            self._workers.remove(worker)
            worker.pipe.close()

    def idle(self) -> list[_Worker]:
        """Those who wait for a step."""
        return [worker for worker in self._workers if worker.step is None and not worker.leaving]

    def send(self, worker: _Worker, message: tuple[Any, ...]) -> None:
        """Tell a producer something; if it has just died, :meth:`listen` will say so."""
        with contextlib.suppress(OSError):
            worker.pipe.send(message)

    def listen(self) -> list[tuple[_Worker, tuple[Any, ...] | None]]:
        """What producers say, None for one that died and is gone; waits until there is something or somebody calls wake."""
        found: list[tuple[_Worker, tuple[Any, ...] | None]] = []
        ready = wait([self._bell, *(worker.pipe for worker in self._workers)], _PATIENCE)
        if self._bell in ready:
            self._rung = False
            self._bell.recv_bytes()
        for worker in [w for w in self._workers if w.pipe in ready]:
            try:
                found.append((worker, worker.pipe.recv()))
            except (EOFError, OSError):
                self._workers.remove(worker)
                worker.pipe.close()
                worker.process.join()
                found.append((worker, None))
        return found

    def ask(self, question: tuple[Any, ...]) -> list[Any]:
        """One question to one producer, answered before anything else; errors of its making are raised here."""
        self.resize(max(1, len(self._workers)))
        for _ in range(MAX_DEATHS):
            worker = self._workers[0]
            self.send(worker, question)
            try:
                kind, answer = worker.pipe.recv()
            except (EOFError, OSError):
                self._workers.remove(worker)
                worker.process.join()
                self._hire()
                continue
            if kind == "failed":
                raise answer
            return list(answer)
        raise InputError(f"Producers died {MAX_DEATHS} times over the held-out samples; look at the memory of this machine.")

    def close(self) -> None:
        """End all producers; those who are in the middle of a batch drop it."""
        for worker in self._workers:
            worker.pipe.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers.clear()

    def _hire(self) -> None:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self._plan, self._part, self._hired)
        process = self._context.Process(target=produce, args=arguments, name=f"producer-{self._hired}", daemon=True)
        process.start()
        theirs.close()
        self._hired += 1
        self._workers.append(_Worker(process, ours))


def produce(pipe: Connection, plan: FeedPlan, part: Part, number: int) -> None:
    """What a producer process does until its pipe is closed."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the trainer decides when to stop
    feed: Any = None
    slots: dict[str, SharedMemory] = {}
    with contextlib.suppress(EOFError, OSError):
        while True:
            question = pipe.recv()
            try:
                feed = feed or plan.open(number)
                if question[0] == "heldout":
                    pipe.send(("heldout", list(feed.heldout(question[1]))))
                else:
                    _answer(pipe, feed, part, slots, *question[1:])
            except (EOFError, OSError):
                raise
            except GlyphFlowError as error:
                pipe.send(("failed", error))
            except Exception:
                pipe.send(("failed", RuntimeError(f"A producer failed:\n{traceback.format_exc()}")))


def _answer(
    pipe: Connection,
    feed: Any,
    part: Part,
    slots: dict[str, SharedMemory],
    step: int,
    entries: tuple[Amendment, ...],
    name: str,
    size: int,
) -> None:
    """Make a batch, put it into the slot, and say where its tensors lie."""
    began = time.perf_counter()
    feed.amend(entries)
    batch = feed.batch(step, part)
    layout = layout_of(batch)
    if layout.size > size:
        pipe.send(("grow", layout.size))
        _, name, size = pipe.recv()
    if name not in slots:
        slots[name] = SharedMemory(name)
    memory = np.frombuffer(slots[name].buf, dtype=np.uint8)
    pack(batch, layout, torch.from_numpy(memory))
    side = getattr(feed, "side", lambda step: None)(step)
    pipe.send(("made", layout, time.perf_counter() - began, side))
