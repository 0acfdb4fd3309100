"""MSRoPE: one rotary position scheme in which text lies on the diagonal beyond the image (report, section on MSRoPE).

Every token has three integer positions (frame, row, column). Image tokens are centred: an axis of n tokens uses the positions
-(n - n // 2) ... n // 2 - 1, so that a larger picture only adds positions at its border. Text token k stands at m + k on all
three axes, where m is the first position beyond the largest image; seen by text alone this is ordinary 1-D RoPE. The n-th
image of a sample (0 = the one being made, then the references) has frame position n. In a layered model the images are the
layers, and the last one, the picture that they are taken from, has frame position -1.

The figure of the report has the text start one later and odd sizes symmetric about 0; released weights follow this code.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

ImageShape = tuple[int, int, int]
"""(frames, height in tokens, width in tokens) of one image; a token covers 16 x 16 pixels."""

THETA = 10000.0


def text_start(shapes: Sequence[ImageShape], layered: bool = False) -> int:
    """Position of the first text token on every axis: just beyond the largest image of the sample (and the last layer)."""
    side = max(max(height // 2, width // 2) for _, height, width in shapes)
    return max(side, len(shapes) - 1) if layered else side


def joint_positions(shapes: Sequence[ImageShape], text_length: int, layered: bool = False) -> Tensor:
    """Positions of the joint sequence [text, image 0, image 1, ...]: int64 (text_length + image tokens, 3), on the CPU.

    Image tokens are in the order frame, row, column. Positions have no upper bound: long prompts beside large pictures go on
    where tables of fixed size end.
    """
    start = text_start(shapes, layered)
    text = torch.arange(start, start + text_length, device="cpu")[:, None].expand(-1, 3)
    frames = list(range(len(shapes)))
    if layered:
        frames[-1] = -1
    return torch.cat([text, *(_image_positions(frame, shape) for frame, shape in zip(frames, shapes, strict=True))])


def _image_positions(first: int, shape: ImageShape) -> Tensor:
    frames, height, width = shape
    axes = (
        torch.arange(first, first + frames, device="cpu"),
        torch.arange(height, device="cpu") - (height - height // 2),
        torch.arange(width, device="cpu") - (width - width // 2),
    )
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # what sampling makes first, training reads later: it must be an ordinary tensor
def rotation_table(
    shapes: tuple[ImageShape, ...],
    text_length: int,
    axes_dims: tuple[int, ...],
    device: torch.device,
    layered: bool = False,
) -> Tensor:
    """[cos, sin] of the angles by which the joint sequence turns: float32 (S, sum(axes_dims) / 2, 2) on ``device``.

    Feature pair j of an axis with d features turns by position * THETA ** (-2 j / d). Computed on the CPU, so that every
    device rotates by the same bits, and kept: a run of many steps at one size builds it once.
    """
    positions = joint_positions(shapes, text_length, layered)
    angles = []
    for axis, dim in enumerate(axes_dims):
        frequency = 1.0 / torch.pow(THETA, torch.arange(0, dim, 2, device="cpu").to(torch.float32).div(dim))
        angles.append(torch.outer(positions[:, axis], frequency))
    angle = torch.cat(angles, dim=1)
    return torch.view_as_real(torch.polar(torch.ones_like(angle), angle)).to(device)


def rotate(x_BSHd: Tensor, table_Sc2: Tensor) -> Tensor:
    """Turn adjacent feature pairs (2k, 2k + 1) of ``x`` by ``table``, in float32; the result has the dtype of ``x``."""
    pairs = torch.view_as_complex(x_BSHd.float().reshape(*x_BSHd.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * torch.view_as_complex(table_Sc2)[:, None]).flatten(-2).type_as(x_BSHd)


def rotate_real(x_BSHd: Tensor, table_Sc2: Tensor) -> Tensor:
    """:func:`rotate` without complex numbers, which compilers do not fuse: the same but for the last bit of float32."""
    even, odd = x_BSHd.float().reshape(*x_BSHd.shape[:-1], -1, 2).unbind(-1)
    cos, sin = table_Sc2[:, None].unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2).type_as(x_BSHd)
