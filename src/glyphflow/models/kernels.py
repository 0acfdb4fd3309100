"""The operations between the matrix products of a block: as the reference rounds them, or fused by a compiler.

``EAGER`` runs one operation after the other and rounds after each, as the released weights were run: its results are the
reference's to the bit. ``fused()`` has the same mathematics in one pass over memory each (``torch.compile``; Triton on CUDA,
C++ on the CPU): intermediate values stay in float32, so the results are closer to exact arithmetic and differ from the
reference's in the last bit of half precision.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from glyphflow.core.errors import MissingError
from glyphflow.models.msrope import rotate, rotate_real


def cpu_autocast(x: Tensor) -> bool:
    """Whether ``x`` is computed with under autocast on the CPU, where training has ways of its own."""
    return x.device.type == "cpu" and torch.is_autocast_enabled("cpu")


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
    if weight.dtype == torch.float32 and cpu_autocast(weight):
        turned: Tensor = NormRotate.apply(x_BSHd, weight, eps, table_Sc2)  # type: ignore[no-untyped-call]
        return turned
    return rotate(rms_norm(x_BSHd, weight, eps), table_Sc2)


class NormRotate(torch.autograd.Function):
    """RMS norm and RoPE with their gradient written out, for training under autocast on the CPU: float32 by a float32 weight.

    Keeps its input and a number a head, where autograd would keep four float32 copies of the input, and needs half the passes.
    """

    @staticmethod
    def forward(ctx: Any, x_BSHd: Tensor, weight: Tensor, eps: float, table_Sc2: Tensor) -> Tensor:
        x = x_BSHd.float()
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x_BSHd, weight, scale, table_Sc2)
        return rotate((x * scale).mul_(weight), table_Sc2)

    @staticmethod
    def backward(ctx: Any, grad_BSHd: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x_BSHd, weight, scale, table_Sc2 = ctx.saved_tensors
        grad = rotate(grad_BSHd.float(), torch.view_as_real(torch.view_as_complex(table_Sc2).conj().resolve_conj()))
        normed = x_BSHd.float() * scale
        product = grad * normed
        along = torch.matmul(product, weight).div_(len(weight)).unsqueeze(-1)
        grad_x = torch.addcmul(grad.mul_(weight), normed, along, value=-1).mul_(scale)
        grad_weight = product.sum((0, 1, 2))
        return grad_x.to(x_BSHd.dtype), grad_weight, None, None


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
