"""What a producer process of the transport ``local`` does."""

from __future__ import annotations

import contextlib
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import torch

from glyphflow.core.errors import GlyphFlowError
from glyphflow.feed.amendments import Amendment
from glyphflow.feed.order import Part
from glyphflow.feed.packing import Layout, layout_of, pack
from glyphflow.feed.transport import FeedPlan, timed

Message = tuple[Any, ...]
"""To a producer: ("batch", step, amendments, slot, bytes), ("slot", slot), ("heldout", count). From it: ("begun", step),
("made", layout, seconds, side), ("grow", bytes), ("heldout", batches), ("failed", error)."""


def produce(pipe: Connection, plan: FeedPlan, part: Part, number: int) -> None:
    """Answer what comes through ``pipe`` until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the trainer decides when to stop
    with contextlib.suppress(EOFError, ConnectionError):
        _Producer(pipe, plan, part, number).run()


class _Producer:
    """Answers are sent in the order of the questions; a thread copies a batch into its slot while the next one is encoded."""

    def __init__(self, pipe: Connection, plan: FeedPlan, part: Part, number: int) -> None:
        self._pipe, self._plan, self._part, self._number = pipe, plan, part, number
        self._feed: Any = None
        self._slots: dict[str, SharedMemory] = {}
        self._later: deque[Message] = deque()
        self._packer = ThreadPoolExecutor(1, "pack")
        self._packing: Future[None] | None = None
        self._speaking = threading.Lock()

    def run(self) -> None:
        while True:
            question = self._later.popleft() if self._later else self._pipe.recv()
            answer = self._guarded(self._answer, *question)
            if answer is not None:
                self._packed()
                self._say(answer)

    def _guarded(self, work: Callable[..., Message | None], *arguments: Any) -> Message | None:
        """The answer that ``work`` gives, or the one that it failed."""
        try:
            return work(*arguments)
        except (EOFError, ConnectionError):
            raise
        except GlyphFlowError as error:
            return "failed", error
        except Exception:
            return "failed", RuntimeError(f"A producer failed:\n{traceback.format_exc()}")

    def _answer(self, kind: str, *arguments: Any) -> Message | None:
        self._feed = self._feed or self._plan.open(self._number)
        if kind == "heldout":
            return kind, list(self._feed.heldout(*arguments))
        self._make(*arguments)
        return None

    def _make(self, step: int, amendments: Sequence[Amendment], slot: str, size: int) -> None:
        """Make a batch, and have it put into the slot."""
        self._say(("begun", step))  # if this process dies of it, the batch before may not be delivered yet
        batch, side, seconds = timed(self._feed, step, amendments, self._part)
        self._packed()
        layout = layout_of(batch)
        place = slot if layout.size <= size else self._larger(layout.size)
        self._packing = self._packer.submit(self._deliver, batch, layout, place, seconds, side)

    def _deliver(self, batch: Any, layout: Layout, slot: str, seconds: float, side: int | None) -> None:
        """Copy a batch into its slot, and say where its tensors lie."""

        def packed() -> Message:
            pack(batch, layout, self._memory(slot))
            return "made", layout, seconds, side

        self._say(self._guarded(packed))

    def _packed(self) -> None:
        """Wait until the batch before this one is delivered: nothing may be said before that."""
        if self._packing is not None:
            packing, self._packing = self._packing, None
            packing.result()

    def _say(self, message: Message | None) -> None:
        with self._speaking:
            self._pipe.send(message)

    def _memory(self, slot: str) -> torch.Tensor:
        if slot not in self._slots:
            self._slots[slot] = SharedMemory(slot)
        memory = self._slots[slot].buf
        assert memory is not None  # None only once it is closed
        return torch.from_numpy(np.frombuffer(memory, dtype=np.uint8))

    def _larger(self, size: int) -> str:
        """Ask for a larger slot; other orders may be on their way already."""
        self._say(("grow", size))
        while (message := self._pipe.recv())[0] != "slot":
            self._later.append(message)
        return str(message[1])
