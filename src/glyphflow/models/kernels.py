"""The operations between the matrix products of a block: as the reference rounds them, or fused by a compiler.

``EAGER`` runs one operation after the other and rounds after each, as the released weights were run: its results are the
reference's to the bit. ``fused()`` has the same mathematics in one pass over memory each (``torch.compile``; Triton on CUDA,
C++ on the CPU): intermediate values stay in float32, so the results are closer to exact arithmetic and differ from the
reference's in the last bit of half precision.
"""

from __future__ import annotations

import functools
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from glyphflow.core.errors import MissingError
from glyphflow.models.msrope import rotate, rotate_real


class _Modulate(Protocol):
    def __call__(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor: ...


class _AddGated(Protocol):
    def __call__(self, x: Tensor, gate: Tensor, update: Tensor) -> Tensor: ...


class _NormRotate(Protocol):
    def __call__(self, x_BSHd: Tensor, weight: Tensor, eps: float, table_Sc2: Tensor) -> Tensor: ...


class Kernels(NamedTuple):
    """``modulate``: LayerNorm(x) * (1 + scale) + shift. ``add_gated``: x + gate * update. ``norm_rotate``: RMS norm, RoPE."""

    modulate: _Modulate
    add_gated: _AddGated
    norm_rotate: _NormRotate


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis; statistics in float32.

    In half precision the normalised value is rounded once before the weight multiplies it, as the released model does.
    """
    x = x.float()
    normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    return normed.to(weight.dtype) * weight


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift over the last axis; in half precision three roundings, as in the released model."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def add_gated(x: Tensor, gate: Tensor, update: Tensor) -> Tensor:
    """x + gate * update."""
    return x + gate * update


def _norm_rotate(x_BSHd: Tensor, weight: Tensor, eps: float, table_Sc2: Tensor) -> Tensor:
    return rotate(rms_norm(x_BSHd, weight, eps), table_Sc2)


def _norm_rotate_real(x_BSHd: Tensor, weight: Tensor, eps: float, table_Sc2: Tensor) -> Tensor:
    return rotate_real(rms_norm(x_BSHd, weight, eps), table_Sc2)


EAGER = Kernels(modulate, add_gated, _norm_rotate)
TRACEABLE = Kernels(modulate, add_gated, _norm_rotate_real)
"""What a compiler of whole blocks should see: ``EAGER`` without complex numbers, which no compiler fuses."""


@functools.cache
def fused() -> Kernels:
    """Each kernel compiled by itself, for any size; compiled at its first call, which takes seconds.

    Raises MissingError where the compiler has no back end (no C++ compiler for the CPU).
    """
    from torch._inductor.exc import InvalidCxxCompiler

    def compiled(function: object) -> object:
        run = torch.compile(function, dynamic=True, fullgraph=True)  # type: ignore[call-overload]

        @functools.wraps(function)  # type: ignore[arg-type]
        def call(*args: object) -> object:
            try:
                return run(*args)
            except InvalidCxxCompiler as error:
                raise MissingError(
                    "Fused kernels on the CPU need a C++ compiler (g++); install one, or use fused=False."
                ) from error

        return call

    return Kernels(*(compiled(function) for function in TRACEABLE))  # type: ignore[arg-type]
