"""Batches as bytes in one piece of memory: where each tensor lies, and everything else about the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from glyphflow.feed.batches import tensor_fields

_ALIGN = 64


@dataclass(frozen=True)
class Place:
    """Where a tensor lies."""

    field: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    """First byte."""

    def of(self, memory: torch.Tensor) -> torch.Tensor:
        """The tensor as a view of ``memory`` (bytes)."""
        size = math.prod(self.shape) * self.dtype.itemsize
        return memory[self.offset : self.offset + size].view(self.dtype).as_strided(self.shape, self.strides)


@dataclass(frozen=True)
class Layout:
    """A batch without its tensors, and where they are."""

    batch: Any
    tensors: tuple[Place, ...]
    size: int
    """Bytes of all tensors."""


def layout_of(batch: Any) -> Layout:
    """Where the tensors of ``batch`` would lie; each keeps its order in memory (channels last stays so)."""
    tensors, offset = [], 0
    fields = tensor_fields(batch)
    for name, tensor in fields.items():
        dense = tensor if _is_dense(tensor) else tensor.contiguous()
        tensors.append(Place(name, tensor.dtype, tuple(tensor.shape), tuple(dense.stride()), offset))
        offset += -(-tensor.numel() * tensor.element_size() // _ALIGN) * _ALIGN
    return Layout(replace(batch, **dict.fromkeys(fields)), tuple(tensors), offset)


def pack(batch: Any, layout: Layout, memory: torch.Tensor) -> None:
    """Copy the tensors of ``batch`` into ``memory`` (bytes), as ``layout`` says."""
    for place in layout.tensors:
        place.of(memory).copy_(getattr(batch, place.field))


def unpack(layout: Layout, memory: torch.Tensor) -> Any:
    """The batch whose tensors are views of ``memory``."""
    return replace(layout.batch, **{place.field: place.of(memory) for place in layout.tensors})


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill one piece of memory without gaps or overlaps, in whatever order."""
    expected = 1
    for stride, length in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= length
    return True
