"""What a producer process of the transport ``local`` does."""

from __future__ import annotations

import contextlib
import signal
import time
import traceback
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import torch

from glyphflow.core.errors import GlyphFlowError
from glyphflow.feed.amendments import Amendment
from glyphflow.feed.order import Part
from glyphflow.feed.packing import layout_of, pack
from glyphflow.feed.transport import FeedPlan

Message = tuple[Any, ...]
"""To a producer: ("batch", step, amendments, slot, bytes), ("slot", slot), ("heldout", count). From it: ("made", layout,
seconds, side), ("grow", bytes), ("heldout", batches), ("failed", error)."""


def produce(pipe: Connection, plan: FeedPlan, part: Part, number: int) -> None:
    """Answer what comes through ``pipe`` until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the trainer decides when to stop
    with contextlib.suppress(EOFError, ConnectionError):
        _Producer(pipe, plan, part, number).run()


class _Producer:
    def __init__(self, pipe: Connection, plan: FeedPlan, part: Part, number: int) -> None:
        self._pipe, self._plan, self._part, self._number = pipe, plan, part, number
        self._feed: Any = None
        self._slots: dict[str, SharedMemory] = {}
        self._later: deque[Message] = deque()

    def run(self) -> None:
        while True:
            question = self._later.popleft() if self._later else self._pipe.recv()
            self._pipe.send(self._answer(question))

    def _answer(self, question: Message) -> Message:
        try:
            self._feed = self._feed or self._plan.open(self._number)
            if question[0] == "heldout":
                return "heldout", list(self._feed.heldout(question[1]))
            return self._make(*question[1:])
        except (EOFError, ConnectionError):
            raise
        except GlyphFlowError as error:
            return "failed", error
        except Exception:
            return "failed", RuntimeError(f"A producer failed:\n{traceback.format_exc()}")

    def _make(self, step: int, amendments: Sequence[Amendment], slot: str, size: int) -> Message:
        """Make a batch, put it into the slot, and say where its tensors lie."""
        began = time.perf_counter()
        self._feed.amend(amendments)
        batch = self._feed.batch(step, self._part)
        layout = layout_of(batch)
        pack(batch, layout, self._memory(slot if layout.size <= size else self._larger(layout.size)))
        side = getattr(self._feed, "side", lambda step: None)(step)
        return "made", layout, time.perf_counter() - began, side

    def _memory(self, slot: str) -> torch.Tensor:
        if slot not in self._slots:
            self._slots[slot] = SharedMemory(slot)
        memory = self._slots[slot].buf
        assert memory is not None  # None only once it is closed
        return torch.from_numpy(np.frombuffer(memory, dtype=np.uint8))

    def _larger(self, size: int) -> str:
        """Ask for a larger slot; other orders may be on their way already."""
        self._pipe.send(("grow", size))
        while (message := self._pipe.recv())[0] != "slot":
            self._later.append(message)
        return str(message[1])
