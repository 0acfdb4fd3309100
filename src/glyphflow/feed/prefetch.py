"""The in-process transport: a thread makes the batches of coming steps while the model works on this one."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

B = TypeVar("B")


class Prefetch(Generic[B]):
    """Give ``make(step)`` for step = ``start``, ``start`` + 1, … with up to ``depth`` batches made ahead.

    An error of ``make`` is raised by :meth:`next` at the step it belongs to. Use as a context manager: leaving it ends the
    thread.
    """

    def __init__(self, make: Callable[[int], B], start: int, depth: int = 2) -> None:
        self._make = make
        self._queue: queue.Queue[B | BaseException] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(start,), name="feed", daemon=True)

    def __enter__(self) -> Prefetch[B]:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        while self._thread.is_alive():  # the thread may sit in put: make room until it sees the flag
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def next(self) -> tuple[B, float]:
        """The next batch and the seconds spent waiting for it."""
        began = time.perf_counter()
        batch = self._queue.get()
        if isinstance(batch, BaseException):
            raise batch
        return batch, time.perf_counter() - began

    def _work(self, step: int) -> None:
        while not self._stop.is_set():
            try:
                batch = self._make(step)
            except BaseException as error:
                self._queue.put(error)
                return
            self._queue.put(batch)
            step += 1
