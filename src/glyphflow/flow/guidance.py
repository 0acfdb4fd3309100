"""True classifier-free guidance: two predictions become one."""

from __future__ import annotations

import torch


def true_cfg(cond: torch.Tensor, uncond: torch.Tensor, scale: float) -> torch.Tensor:
    """``uncond + scale (cond - uncond)``, each packed token rescaled to the length that ``cond`` gave it.

    Both inputs are (B, N, C); the length is taken over C. Without the rescaling pictures are over-saturated. Bit-equal to the
    reference; where the combination is zero (a model whose head is still zero) the result is zero and not 0 / 0.
    """
    combined = uncond + scale * (cond - uncond)
    wanted: torch.Tensor = torch.norm(cond, dim=-1, keepdim=True)
    length: torch.Tensor = torch.norm(combined, dim=-1, keepdim=True)
    return combined * (wanted / length.clamp_min(torch.finfo(length.dtype).tiny))
