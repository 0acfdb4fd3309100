"""The transport ``local``: processes encode, and batches come through slots of shared memory without being copied again.

A thread of the consumer's process gives out steps and slots and takes back finished batches. A producer that dies is replaced,
and its step is given out again: a batch is a function of its step, so nothing is lost or repeated. Processes are spawned, since
a forked one would inherit the threads and the CUDA context of the trainer.

A slot belongs to the batch that lies in it until the last tensor that shares its memory is gone; only then is it written again.
So there is nothing to give back, and a consumer that keeps many batches makes the ring grow.
"""

from __future__ import annotations

import contextlib
import heapq
import multiprocessing
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.shared_memory import SharedMemory
from types import TracebackType
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.feed.order import Part
from glyphflow.feed.packing import Layout, unpack
from glyphflow.feed.producer import Message, produce
from glyphflow.feed.ring import Ring
from glyphflow.feed.transport import FeedPlan, Orders

MAX_DEATHS = 3
"""A step at which that many producers died is not tried again."""
_ORDERS = 2
"""Steps that a producer knows of: the one it makes, and the next, so that it never waits for an answer."""
_PATIENCE = 0.5


class LocalTransport:
    """See the module and :class:`glyphflow.feed.transport.Transport`."""

    def __init__(self, plan: FeedPlan, orders: Orders) -> None:
        self._plan, self._orders = plan, orders
        self._team = _Team(plan, orders.part)
        self._ring = Ring(self._team.wake)
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
        if made.error is not None:
            raise made.error
        batch = unpack(made.layout, self._ring.lease(made.slot)) if made.layout else None
        if self._orders.device is not None and self._orders.device.type != "cpu":
            batch = batch.to(self._orders.device)  # type: ignore[union-attr]
        waited = time.perf_counter() - began
        self._orders.handed_over(waited)
        self._team.wake()  # last, as the thread takes the interpreter to order the next step
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
        """Order the steps that come next from those with the least to do, no further ahead than the depth allows."""
        wanted = self._orders.wanted(steps.peek())
        self._team.resize(wanted)
        while (step := steps.peek()) < self._next + self._orders.depth + wanted:
            worker = self._team.least_busy()
            # What killed a producer before shall not take along a batch that is made and not delivered yet.
            if worker is None or len(worker.orders) >= (1 if steps.killed(step) else _ORDERS):
                return
            steps.pop()
            slot = self._ring.free()
            worker.orders.append((step, slot))
            self._team.send(worker, ("batch", step, self._orders.entries(step), slot.name, slot.size))

    def _hear(self, worker: _Worker, message: Message | None, steps: _Steps) -> None:
        if message is None:  # it died
            if worker.orders:
                self._orders.lost(worker.step, f"{worker.process.name}, exit code {worker.exit}")
            for step, slot in worker.orders:
                steps.again(step, worker.exit, guilty=step == worker.step)
                self._ring.give_back(slot)
            return
        if message[0] == "begun":
            worker.begun = message[1]
            return
        step, slot = worker.orders.popleft()
        if message[0] == "grow":
            slot = self._ring.larger(slot, message[1])
            worker.orders.appendleft((step, slot))
            self._team.send(worker, ("slot", slot.name))
            return
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

    def killed(self, step: int) -> bool:
        """Whether a producer died at ``step``."""
        return self._deaths[step] > 0

    def again(self, step: int, exit_code: int | None, *, guilty: bool) -> None:
        self._deaths[step] += guilty
        if self._deaths[step] == MAX_DEATHS:
            raise InputError(
                f"Producers died {MAX_DEATHS} times at step {step} (the last one with exit code {exit_code}; -9 is usually the "
                "system's answer to too little memory); use fewer producers or look at the records of that step."
            )
        heapq.heappush(self._again, step)


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    orders: deque[tuple[int, SharedMemory]] = field(default_factory=deque)
    """Steps that are not delivered yet, and where to put them."""
    begun: int | None = None
    """The last step that it began to make."""
    leaving: bool = False

    @property
    def step(self) -> int:
        """What it is at, or would be next."""
        waiting = [step for step, _ in self.orders]
        return self.begun if self.begun in waiting else waiting[0]

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
        for worker in [w for w in self._workers if w.leaving and not w.orders]:
            self._workers.remove(worker)
            worker.pipe.close()

    def least_busy(self) -> _Worker | None:
        """Who shall get the next step."""
        return min((w for w in self._workers if not w.leaving), key=lambda w: len(w.orders), default=None)

    def send(self, worker: _Worker, message: Message) -> None:
        """Tell a producer something; if it has just died, :meth:`listen` will say so."""
        with contextlib.suppress(OSError):
            worker.pipe.send(message)

    def listen(self) -> list[tuple[_Worker, Message | None]]:
        """What producers say, None for one that died and is gone; waits until there is something or somebody calls wake."""
        found: list[tuple[_Worker, Message | None]] = []
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

    def ask(self, question: Message) -> list[Any]:
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
