"""Locks that are held for milliseconds and waited for, and the question whether somebody holds one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from glyphflow.core.errors import StorageError
from glyphflow.core.files import exclusive


@contextlib.contextmanager
def patient(directory: Path, purpose: str, seconds: float = 10.0) -> Iterator[None]:
    """:func:`glyphflow.core.files.exclusive`, waiting up to ``seconds`` for the one who is at work there."""
    deadline = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(exclusive(directory, purpose))
                break
            except StorageError:
                if time.monotonic() > deadline or not directory.is_dir():
                    raise
                time.sleep(0.01)
        yield


def is_locked(directory: Path) -> bool:
    """Whether a living process holds the lock of ``directory``."""
    try:
        with exclusive(directory, "asking"):
            return False
    except StorageError:
        return True
