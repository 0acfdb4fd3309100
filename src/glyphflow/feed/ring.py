"""Slots of shared memory that take turns between processes; a slot is free again when nobody looks at it any more."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import weakref
from collections import deque
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import torch

from glyphflow.core.errors import StorageError
from glyphflow.core.hardware import gigabytes

_TMPFS = Path("/dev/shm")
_SLOT_BYTES = 1 << 20
"""Of the first slots; they grow with the batches."""


class Ring:
    """All slots are made, and removed, by this process; ``wake`` is called when one is given back."""

    def __init__(self, wake: Callable[[], None]) -> None:
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
        if _TMPFS.is_dir() and (free := shutil.disk_usage(_TMPFS).free) < self._size:  # writing there would kill the producer
            raise StorageError(
                f"{_TMPFS} has {gigabytes(free)} left and a batch needs {gigabytes(self._size)}; enlarge it (docker run "
                "--shm-size=16g), make the batch smaller, or take the transport files."
            )
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
        memory = slot.buf
        assert memory is not None  # None only once it is closed
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self.__array_interface__ = {"shape": (slot.size,), "typestr": "|u1", "data": (address, False), "version": 3}
