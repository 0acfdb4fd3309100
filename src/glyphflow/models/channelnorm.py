"""The VAE's normalisation over channels with its SiLU: exact for inference, few passes over memory for training.

At the sizes of a VAE this pair moves more memory than the convolutions between which it stands compute: written with plain
operations it takes 40 % of a training step on a CPU.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# At most so many parts, and parts of at least so many elements, which fit into the cache of a core with their float32 copies.
_BANDS, _BAND = 16, 1 << 18


class ChannelNorm(nn.Module):
    """x / |x| * sqrt(C) * gamma over the channels of each position, then SiLU if asked for.

    ``axes`` is the number of trailing ones in the shape of gamma: 3 for layers of the video path, 2 for picture layers.
    """

    def __init__(self, channels: int, axes: int, silu: bool = True) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * axes))
        self.silu = silu

    def forward(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """x (B, C, H, W) -> the same shape and dtype; ``overwrite`` says that x is not needed any more.

        Without gradients the bands of a picture are done one after the other, each while it is in the cache, and at most one
        tensor of the size of x is made (none with ``overwrite``); in half precision the result is the same to the bit.
        """
        # On the meta device, where memory is counted before a run, there is no autocast to ask about.
        autocast = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
        fast = autocast and x.is_contiguous(memory_format=torch.channels_last)
        if fast and self.silu:
            return _NormSiLU.apply(x, self.gamma.flatten())  # type: ignore[no-any-return, no-untyped-call]
        if torch.is_grad_enabled() or x.dtype != self.gamma.dtype:
            normed = self._direction(x) * math.sqrt(x.shape[1]) * self.gamma.reshape(-1, 1, 1)
            return F.silu(normed) if self.silu else normed
        out = x if overwrite else torch.empty_like(x)
        rows = max(1, -(-x.shape[2] // _BANDS), _BAND // (x.shape[0] * x.shape[1] * x.shape[3]))
        for band, result in zip(torch.split(x, rows, dim=2), torch.split(out, rows, dim=2), strict=True):
            normed = self._direction(band).mul_(math.sqrt(x.shape[1]))
            torch.mul(normed, self.gamma.reshape(-1, 1, 1), out=result)
            if self.silu:
                F.silu(result, inplace=True)
        return out

    @staticmethod
    def _direction(x: Tensor) -> Tensor:
        # Three roundings in half precision, as in the released model: here and after each factor.
        return F.normalize(x.float(), dim=1).to(x.dtype)


class _NormSiLU(torch.autograd.Function):
    """SiLU(x * r * gamma) with r = sqrt(C) / |x|, over rows of channels.

    Broadcasts of r and gamma are outer products of a matrix multiplication, which on a CPU is ten times faster than a
    broadcast along rows as short as 24 channels. With g the gradient after SiLU and p = g * x, the gradients are
    r^T p for gamma and g * (r gamma) - x * (r^3 (p gamma) / C) for x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor) -> Tensor:
        rows, channels = _rows(x), x.shape[1]
        norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=torch.float32)
        r = (math.sqrt(channels) / norm.clamp_min_(1e-12)).to(x.dtype)
        gamma = gamma.to(x.dtype)
        y = rows * torch.mm(r, gamma[None])
        ctx.save_for_backward(x, r, gamma, y)
        return _picture(F.silu(y), x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, r, gamma, y = ctx.saved_tensors
        rows = _rows(x)
        g = torch.ops.aten.silu_backward(_rows(grad.contiguous(memory_format=torch.channels_last)), y)
        p = g * rows
        grad_gamma = torch.mm(r.t(), p)[0].float()
        pull = r.float().pow(3) * torch.mv(p, gamma).float()[:, None] / x.shape[1]
        g.mul_(torch.mm(r, gamma[None]))
        g.addcmul_(rows, torch.mm(pull.to(x.dtype), torch.ones_like(gamma)[None]), value=-1)
        return _picture(g, x), grad_gamma


def _rows(x: Tensor) -> Tensor:
    """channels_last (B, C, H, W) -> (B * H * W, C), a view."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _picture(rows: Tensor, like: Tensor) -> Tensor:
    """Inverse of :func:`_rows`."""
    batch, channels, height, width = like.shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)
