"""Large pictures through the VAE tile by tile, with cross-faded overlaps: bounded memory for a small change of the picture.

Each tile has its own attention and its own borders, so this is an approximation; the places of the tiles and the fading are
those of the released pipeline. Shapes in names: h and w latent positions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def tiled(network: Callable[[Tensor], Tensor], x: Tensor, tile: int, unit_in: int, unit_out: int) -> Tensor:
    """``network`` over overlapping tiles of ``x`` (..., h * unit_in, w * unit_in) -> (..., h * unit_out, w * unit_out).

    ``tile`` is the side of a tile in latent positions (2 or more); a quarter of it overlaps the next tile. Beside the result,
    one tile and the margins of one row of tiles are kept.
    """
    stride = tile * 3 // 4
    step = stride * unit_out
    h, w = x.shape[-2] // unit_in, x.shape[-1] // unit_in
    out: Tensor | None = None
    above: list[Tensor] = []
    for top in range(0, h, stride):
        margins: list[Tensor] = []
        left: Tensor | None = None
        for number, start in enumerate(range(0, w, stride)):
            rows = slice(top * unit_in, (top + tile) * unit_in)
            part = network(x[..., rows, start * unit_in : (start + tile) * unit_in])
            if above:
                _fade(above[number], part, -2)
            if left is not None:
                _fade(left, part, -1)
            margins.append(part[..., step:, :].clone())
            left = part[..., step:].clone()
            if out is None:
                out = part.new_empty(*part.shape[:-2], h * unit_out, w * unit_out)
            kept = part[..., :step, :step]
            out[..., top * unit_out :, start * unit_out :][..., : kept.shape[-2], : kept.shape[-1]] = kept
        above = margins
    assert out is not None
    return out


def _fade(old: Tensor, new: Tensor, dim: int) -> None:
    """Turn the start of ``new`` along ``dim`` linearly from ``old``, the margin of the neighbour that lies over it."""
    length = old.shape[dim]
    share = torch.tensor([[1 - i / length, i / length] for i in range(length)], device=new.device)
    away, near = (part if dim == -1 else part[:, None] for part in share.unbind(1))
    edge = new.narrow(dim, 0, length)
    edge.copy_((old * away).to(new.dtype) + (edge * near).to(new.dtype))
