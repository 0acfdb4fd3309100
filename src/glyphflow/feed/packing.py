"""Batches as bytes in one piece of memory: where each tensor lies, and everything else about the batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from glyphflow.feed.batches import tensor_fields

_ALIGN = 64


@dataclass(frozen=True)
class Layout:
    """A batch without its tensors, and where they are."""

    batch: Any
    tensors: tuple[tuple[str, torch.dtype, tuple[int, ...], tuple[int, ...], int], ...]
    """(field, dtype, shape, strides, first byte)."""
    size: int
    """Bytes of all tensors."""


def layout_of(batch: Any) -> Layout:
    """Where the tensors of ``batch`` would lie; each keeps its order in memory (channels last stays so)."""
    tensors, offset = [], 0
    fields = tensor_fields(batch)
    for name, tensor in fields.items():
        dense = tensor if _is_dense(tensor) else tensor.contiguous()
        tensors.append((name, tensor.dtype, tuple(tensor.shape), tuple(dense.stride()), offset))
        offset += -(-tensor.numel() * tensor.element_size() // _ALIGN) * _ALIGN
    return Layout(replace(batch, **dict.fromkeys(fields)), tuple(tensors), offset)


def pack(batch: Any, layout: Layout, memory: torch.Tensor) -> None:
    """Copy the tensors of ``batch`` into ``memory`` (bytes), as ``layout`` says."""
    for name, *place in layout.tensors:
        _view(memory, *place).copy_(getattr(batch, name))


def unpack(layout: Layout, memory: torch.Tensor) -> Any:
    """The batch whose tensors are views of ``memory``."""
    return replace(layout.batch, **{name: _view(memory, *place) for name, *place in layout.tensors})


def _view(
    memory: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...], strides: tuple[int, ...], offset: int
) -> torch.Tensor:
    size = math.prod(shape) * dtype.itemsize
    return memory[offset : offset + size].view(dtype).as_strided(shape, strides)


def _is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill one piece of memory without gaps or overlaps, in whatever order."""
    expected = 1
    for stride, length in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= length
    return True
