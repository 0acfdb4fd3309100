"""A disk that refuses is told from a bug, whoever wrote the file and however the library says it."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from glyphflow.core.errors import InputError, StorageError
from glyphflow.core.files import storage_errors


def raise_in_context() -> None:
    """As zip writers do: the write fails, and closing the file fails with something else."""
    try:
        raise OSError(errno.EFBIG, "File too large")
    finally:
        raise RuntimeError("unexpected pos 704 vs 598")


def raise_rust() -> None:
    raise ValueError("Error while serializing: I/O error: No space left on device (os error 28)")


def raise_copytree() -> None:
    raise shutil.Error([("a", "b", "[Errno 28] No space left on device: 'a' -> 'b'")])


@pytest.mark.parametrize("fail", [raise_in_context, raise_rust, raise_copytree])
def test_refusals_become_a_sentence(fail: Callable[[], None]) -> None:
    with pytest.raises(StorageError, match="big"), storage_errors(Path("big.bin")):
        fail()


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(InputError), storage_errors(Path("a")):
        raise InputError("The picture says (os error 28).")
    with pytest.raises(RuntimeError), storage_errors(Path("a")):
        raise RuntimeError("shape mismatch 28")
