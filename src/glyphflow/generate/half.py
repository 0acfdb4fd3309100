"""float16 without black pictures, for cards that have no bfloat16.

float16 ends at 65504, and the released weights go beyond it: in the residual streams of the MMDiT, in the products that are
added to them, and in the language model. An overflow becomes infinite, then not a number, then black. Here the weights stay in
float16 and so do the multiplications, which is where the time goes; what can overflow does not:

- residual streams are float32 (where the reference clips them to float16's range, these keep their values);
- the linears whose products are added to a stream, or normalised, work on inputs divided by 64 and hand on float32;
- inputs of linears are brought to float16 where they enter, clipped to its range;
- the condition encoder runs in bfloat16 and the VAE in float32: short work, which old cards do slowly but right.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glyphflow.models.quantize import QuantLinear

_LIMIT = torch.finfo(torch.float16).max
_SHRINK = 1 / 64  # a power of two: only the range moves, no digit is lost
_ENTRANCES = ("img_in", "txt_in", "controlnet_x_embedder")
_WIDE = ("to_q", "to_k", "add_q_proj", "add_k_proj", "to_out.0", "to_add_out", "img_mlp.net.2", "txt_mlp.net.2")


class PartDtypes(NamedTuple):
    """The dtype of each network of a pipeline."""

    transformer: torch.dtype
    condition_encoder: torch.dtype
    vae: torch.dtype

    @classmethod
    def of(cls, dtype: torch.dtype) -> PartDtypes:
        """Those of a pipeline that works in ``dtype``."""
        return cls(dtype, torch.bfloat16, torch.float32) if dtype == torch.float16 else cls(dtype, dtype, dtype)


def keep_finite(network: nn.Module) -> None:
    """Make a float16 MMDiT or ControlNet compute as described above; networks in other dtypes stay as they are."""
    done = any(isinstance(module, (_WideLinear, _WideQuantLinear)) for module in network.modules())
    if done or next(network.parameters()).dtype != torch.float16:
        return
    for name, module in network.named_modules():
        if not isinstance(module, (nn.Linear, QuantLinear)):
            continue
        module.register_forward_pre_hook(_narrow)
        if name.endswith(_WIDE):
            module.__class__ = _WideLinear if isinstance(module, nn.Linear) else _WideQuantLinear
        elif name in _ENTRANCES:
            module.register_forward_hook(_widen)
        else:
            module.register_forward_hook(_clip)


class _WideLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return _wide(x, self.weight, self.bias)


class _WideQuantLinear(QuantLinear):
    def forward(self, x: Tensor) -> Tensor:
        return _wide(x, self.expand(), self.bias)


def _wide(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b of float16 in float32, where the product may be 64 times as large as in float16."""
    product = F.linear(x * _SHRINK, weight).float() / _SHRINK
    return product if bias is None else product + bias


def _narrow(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    x, *rest = args
    return (x if x.dtype == torch.float16 else x.clamp(-_LIMIT, _LIMIT).half(), *rest)


def _widen(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    return out.float()


def _clip(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    return out.clamp(-_LIMIT, _LIMIT)
