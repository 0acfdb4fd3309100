"""Which model is on the device when: all of them where they fit, else one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open

from glyphflow.core.errors import InputError

_WORKING_ROOM = 4 * 2**30  # bytes for activations: a 1328 x 1328 decode in bf16 and a forward pass stay below it


class Movable(Protocol):
    """A module, or a wrapper of one."""

    def to(self, device: torch.device) -> Any:
        """Move the weights to ``device``."""


def stored_bytes(directory: Path, dtype: torch.dtype) -> int:
    """Bytes that the safetensors of ``directory`` take as ``dtype``, from their headers."""
    elements = 0
    for path in directory.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                size = 1
                for side in file.get_slice(name).get_shape():
                    size *= side
                elements += size
    return elements * dtype.itemsize


def fits(sizes: Mapping[str, int], device: torch.device, memory: str) -> bool:
    """Whether all models stay on ``device``; ``sizes`` are their bytes by name.

    ``memory`` is "auto" (measure) or "resident" (they shall). Raises :class:`InputError` for other words, and when not even the
    largest model fits alone.
    """
    if memory not in ("auto", "resident"):
        raise InputError(f"memory is {memory!r}; it can be 'auto' (models take turns when they must) or 'resident'.")
    if device.type != "cuda" or memory == "resident":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    largest = max(sizes, key=lambda name: sizes[name])
    if sizes[largest] > free:
        raise InputError(
            f"The {largest} needs {sizes[largest] / 2**30:.1f} GiB and {device} has {free / 2**30:.1f} GiB free; use a larger "
            "card or device cpu."
        )
    return sum(sizes.values()) + _WORKING_ROOM <= free


class Residency:
    """Puts the model that works next on the device; without room for all, the others wait in the machine's memory."""

    def __init__(self, parts: Mapping[str, Movable | None], device: torch.device, together: bool) -> None:
        self.device = device
        self._parts = {name: part for name, part in parts.items() if part is not None}
        self._together = together
        if together:
            for part in self._parts.values():
                part.to(device)

    def use(self, name: str) -> None:
        """Make sure that part ``name`` is on the device before it is called."""
        if self._together:
            return
        for other, part in self._parts.items():
            if other != name:
                part.to(torch.device("cpu"))
        self._parts[name].to(self.device)
