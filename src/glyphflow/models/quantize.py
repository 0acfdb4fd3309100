"""Weights of the blocks' linears in 8 or 4 bits (approximate tier): a half or a quarter of the memory and of the streaming.

Only weights are rounded; the arithmetic stays in the working dtype. Each weight is expanded when its layer runs, which costs
one pass over it and, with thousands of tokens a call, little beside the product. The stored form is plain integers, so that it
moves between devices like any other tensor and needs no package or kernel of one kind of card.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glyphflow.core.errors import InputError

Quantize = Literal["int8", "int4"]
KINDS: tuple[Quantize, ...] = ("int8", "int4")
GROUP = 64  # weights of a row that share a scale and an offset in int4
_PARTS = (".attn.", ".img_mlp.", ".txt_mlp.")  # not embedders, norms and modulation: few bytes or much harm


class QuantLinear(nn.Module):
    """y = x W^T + b with W in 8 bits (one scale a row) or 4 (a scale and an offset for each GROUP of a row).

    ``packed`` is int8 (out, in), or uint8 (out, in / 2) with weight 2k in the low and 2k + 1 in the high half of a byte;
    ``scale`` is (out, 1) or (out, in / GROUP), ``offset`` likewise in int4.
    """

    def __init__(self, weight_OI: Tensor, bias: nn.Parameter | None, kind: Quantize) -> None:
        super().__init__()
        self.out_features, self.in_features = weight_OI.shape
        self.kind = kind
        packed, scale, offset = _to_int8(weight_OI) if kind == "int8" else _to_int4(weight_OI)
        self.packed = nn.Parameter(packed, requires_grad=False)
        self.scale = nn.Parameter(scale.to(weight_OI.dtype), requires_grad=False)
        self.offset = None if offset is None else nn.Parameter(offset.to(weight_OI.dtype), requires_grad=False)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            out: Tensor = _Through.apply(x, self.bias, self)  # type: ignore[no-untyped-call]
            return out
        return F.linear(x, self.expand(), self.bias)

    def expand(self) -> Tensor:
        """The weight (out, in) in the dtype of ``scale``; takes :func:`expanding_bytes` on the way."""
        if self.offset is None:
            return self.packed.to(self.scale.dtype).mul_(self.scale)
        levels = torch.stack([self.packed & 15, self.packed >> 4], dim=-1).view(self.out_features, -1, GROUP)
        weight = levels.to(self.scale.dtype)
        # One pass over the weight, and one rounding.
        torch.addcmul(self.offset[..., None], weight, self.scale[..., None], out=weight)
        return weight.view(self.out_features, self.in_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, kind={self.kind}"


class _Through(torch.autograd.Function):
    """x W^T + b for a weight that is not trained: the backward pass expands it again instead of keeping it as a whole."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, linear: QuantLinear) -> Tensor:
        ctx.linear, ctx.dtype = linear, x.dtype
        weight = linear.expand()
        return F.linear(x.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        weight = ctx.linear.expand()
        bias = grad.flatten(0, -2).sum(0).to(ctx.linear.bias.dtype) if ctx.needs_input_grad[1] else None
        return (grad.to(weight.dtype) @ weight).to(ctx.dtype), bias, None


def quantised(name: str, shape: tuple[int, ...], kind: Quantize) -> bool:
    """Whether the weight called ``name`` is kept in ``kind``: a matrix of a block, in int4 with rows of whole groups."""
    inside = name.startswith("transformer_blocks.") and name.endswith(".weight") and any(part in name for part in _PARTS)
    return inside and len(shape) == 2 and (kind == "int8" or shape[1] % GROUP == 0)


def quantise_as_placed(kind: Quantize) -> Callable[[nn.Module, str], None]:
    """For :func:`glyphflow.models.load_weights`: each weight is rounded before the next is read, so the whole never exists."""
    check_kind(kind)
    return lambda module, name: quantise_weight(module, name, kind)


def check_kind(kind: str) -> Quantize:
    """``kind`` itself if it is one of KINDS; raises InputError otherwise."""
    if kind not in KINDS:
        raise InputError(f"quantize is {kind!r}; it can be {' or '.join(map(repr, KINDS))}, or None to leave the weights.")
    return kind


@torch.no_grad()
def quantise_weight(module: nn.Module, name: str, kind: Quantize) -> None:
    """Replace the linear of ``module`` that owns the weight ``name`` by a :class:`QuantLinear`, if it is one to be rounded."""
    path = name.removesuffix(".weight")
    if path == name or not quantised(name, tuple(module.get_parameter(name).shape), kind):
        return
    linear = module.get_submodule(path)
    assert isinstance(linear, nn.Linear)
    parent, _, leaf = path.rpartition(".")
    setattr(module.get_submodule(parent), leaf, QuantLinear(linear.weight, linear.bias, kind))


def quantised_as(module: nn.Module) -> Quantize | None:
    """The kind in which ``module`` holds weights, None when they are whole."""
    return next((part.kind for part in module.modules() if isinstance(part, QuantLinear)), None)


def weight_bytes(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, kind: Quantize | None = None) -> int:
    """Bytes that tensors of these names and shapes take as ``dtype``, with the blocks' linears in ``kind``."""
    total = 0
    for name, shape in shapes.items():
        count = torch.Size(shape).numel()
        if kind is None or not quantised(name, shape, kind):
            total += count * dtype.itemsize
        elif kind == "int8":
            total += count + shape[0] * dtype.itemsize
        else:
            total += count // 2 + 2 * (count // GROUP) * dtype.itemsize
    return total


def expanding_bytes(width: int, dtype: torch.dtype, kind: Quantize | None) -> int:
    """Bytes that expanding the largest weight of a block of ``width`` takes at its highest point; 0 for whole weights."""
    levels = 0 if kind != "int4" else 1
    return 0 if kind is None else 4 * width * width * (dtype.itemsize + levels)


def _to_int8(weight: Tensor) -> tuple[Tensor, Tensor, None]:
    low, high = torch.aminmax(weight, dim=1, keepdim=True)
    scale = _stored(torch.maximum(-low, high).float() / 127, weight.dtype)
    levels = weight.to(torch.float32, copy=True).div_(scale).round_().clamp_(-127, 127)
    return levels.to(torch.int8), scale, None


def _to_int4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    groups = weight.to(torch.float32, copy=True).view(weight.shape[0], -1, GROUP)
    low, high = torch.aminmax(groups, dim=-1)
    scale, offset = _stored((high - low) / 15, weight.dtype), low.to(weight.dtype).float()
    levels = groups.sub_(offset[..., None]).div_(scale[..., None]).round_().clamp_(0, 15).to(torch.uint8).view(weight.shape)
    return levels[:, 0::2] | (levels[:, 1::2] << 4), scale, offset


def _stored(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """``scale`` as rounded when stored, so that levels are found for that; 1 where all weights are equal."""
    rounded = scale.to(dtype).float()
    return torch.where(rounded == 0, 1, rounded)
