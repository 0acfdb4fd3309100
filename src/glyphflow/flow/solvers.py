"""One step along the path."""

from __future__ import annotations

import torch


def euler_step(x: torch.Tensor, v: torch.Tensor, sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
    """x at ``sigma_next`` from ``x`` at ``sigma`` and the velocity ``v`` there; the result has v's dtype.

    ``sigma`` and ``sigma_next`` are 0-dimensional fp32 tensors. Rounding as in the reference: the product in v's dtype, the
    sum in fp32.
    """
    return (x.float() + (sigma_next - sigma) * v).to(v.dtype)
