"""A starting point for a small VAE: the best linear code of picture blocks, written into its weights.

From random weights such a network spends its first thousands of steps on learning that blue is blue: the colour has to find its
way through thirty layers, each of which normalises it. The linear answer is known, so we start there. The encoder computes, to
within a few per cent, the first ``z_dim`` principal components of each 8 x 8 block of pixels, scaled to unit variance: stride-2
convolutions move neighbouring pixels into channels, the last of them projects. The decoder returns each block's mean colour,
smoothly interpolated. Everything else (residual branches, unused channels) starts as :meth:`glyphflow.models.VAE.init_weights`
leaves it and learns what is missing, above all the strokes.

Two devices carry a linear signal through layers that are not linear. A channel that holds a large constant makes the channel
norm nearly a fixed scale. A pair of channels (x, -x) makes SiLU exact: silu(x) - silu(-x) = x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from glyphflow.core.errors import InputError
from glyphflow.models import VAE

_CONSTANT = 4.0  # of the channel that steadies the norms; signals have a magnitude of about 1
_TENT = torch.tensor([0.25, 0.5, 0.25])


@torch.no_grad()
def init_block_transform(vae: VAE, pictures: Sequence[npt.NDArray[np.uint8]]) -> None:
    """Set the linear starting point of ``vae`` (three halvings, RGB) from ``pictures`` (H, W, 3), some hundreds of them.

    Raises :class:`InputError` when the model is too narrow to hold the pairs of channels.
    """
    config = vae.config
    widths = [config.base_dim * multiple for multiple in config.dim_mult]
    if len(widths) != 4 or config.input_channels != 3 or any(w < n for w, n in zip(widths, (12, 48, 49, 49), strict=True)):
        raise InputError(
            f"A VAE with {config.input_channels} colour channels and levels of {widths} channels has no block transform; it "
            "needs 3 colour channels and 4 levels of at least 12, 48, 49 and 49 channels."
        )
    axes, scale = _components(pictures)
    _encoder(vae, axes, scale)
    _decoder(vae, axes, scale)


def _components(pictures: Sequence[npt.NDArray[np.uint8]]) -> tuple[Tensor, Tensor]:
    """Principal axes (192, 3, 8, 8) of blocks in [-1, 1], strongest first, and the root-mean-square along each."""
    blocks = []
    for picture in pictures:
        h, w = (side // 8 * 8 for side in picture.shape[:2])
        tiles = picture[:h, :w].astype(np.float64) / 127.5 - 1
        blocks.append(tiles.reshape(h // 8, 8, w // 8, 8, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 192))
    values = np.concatenate(blocks)
    variance, axes = np.linalg.eigh(values.T @ values / len(values))
    order = np.argsort(variance)[::-1].copy()
    rms = np.sqrt(np.maximum(variance[order], 1e-8))
    return torch.from_numpy(axes[:, order].T.copy()).float().reshape(192, 3, 8, 8), torch.from_numpy(rms).float()


def _encoder(vae: VAE, axes: Tensor, scale: Tensor) -> None:
    config, encoder = vae.config, vae.encoder
    blocks: list[Any] = list(encoder.down_blocks)
    per_level = config.num_res_blocks + 1
    _centre(encoder.conv_in, torch.eye(3))
    taps = _space_to_depth(3)
    for level in range(3):
        for block in blocks[level * per_level : (level + 1) * per_level - 1]:
            _pass_on(block, taps.shape[1])
        down: Any = blocks[(level + 1) * per_level - 1].resample[1]
        if level < 2:
            _stride(down, taps)
            taps = _space_to_depth(taps.shape[0])
    for block in blocks[3 * per_level :]:
        _pass_on(block, down.out_channels)
    # After two steps a channel is (colour, bit 0 of y, bit 0 of x, bit 1 of y, bit 1 of x); bits 2 are the taps of this one.
    signals = axes / 8.0
    rows = torch.cat(
        [torch.stack([signals[: config.z_dim], -signals[: config.z_dim]], 1).flatten(0, 1), signals[config.z_dim :]]
    )
    rows = rows[: down.out_channels - 1].reshape(-1, 3, 2, 2, 2, 2, 2, 2)
    rows = rows.permute(0, 1, 4, 7, 3, 6, 2, 5).reshape(len(rows), 48, 2, 2)
    _stride(down, torch.cat([rows, torch.zeros(1, 48, 2, 2)]))
    down.bias[-1] = _CONSTANT
    out = torch.zeros(2 * config.z_dim, down.out_channels)
    gain = 8.0 * _CONSTANT / math.sqrt(down.out_channels)
    for k in range(config.z_dim):
        out[k, 2 * k], out[k, 2 * k + 1] = gain / scale[k], -gain / scale[k]
    _centre(encoder.conv_out, out)
    encoder.conv_out.bias[config.z_dim :] = -6.0
    _centre(vae.quant_conv, torch.eye(2 * config.z_dim))


def _decoder(vae: VAE, axes: Tensor, scale: Tensor) -> None:
    decoder, z_dim = vae.decoder, vae.config.z_dim
    _centre(vae.post_quant_conv, torch.eye(z_dim))
    colour = (axes[:z_dim].mean((2, 3)) * scale[:z_dim, None]).T  # (3, z_dim): mean colour of a block
    _centre(decoder.conv_in, colour)
    up_blocks: list[Any] = list(decoder.up_blocks)
    for block in up_blocks:
        for residual in block.resnets:
            _pass_on(residual, 3)
        for upsampler in block.upsamplers:
            conv = upsampler.resample[1]
            conv.weight[:7] = 0.0
            conv.bias[:7] = 0.0
            for c in range(3):
                conv.weight[c, c] = torch.outer(_TENT, _TENT)
    last = up_blocks[2].upsamplers[0].resample[1]
    last.weight[3:6, :3] = -last.weight[:3, :3]
    last.bias[6] = _CONSTANT
    for residual in up_blocks[3].resnets:
        _pass_on(residual, 7)
    width = last.out_channels
    out = torch.zeros(3, width)
    gain = _CONSTANT / math.sqrt(width)
    out[:, :3], out[:, 3:6] = gain * torch.eye(3), -gain * torch.eye(3)
    _centre(decoder.conv_out, out)


def _pass_on(block: Any, channels: int) -> None:
    """Let the first ``channels`` channels through a residual block unchanged (its branch starts at zero)."""
    shortcut = block.conv_shortcut
    if not isinstance(shortcut, nn.Identity):
        shortcut.weight[:channels] = 0.0
        shortcut.bias[:channels] = 0.0
        for c in range(channels):
            shortcut.weight[c, c] = 1.0


def _centre(conv: nn.Module, matrix: Tensor) -> None:
    """Make the first rows of a convolution the pointwise ``matrix`` (out, in); later rows stay."""
    weight, bias = cast(Tensor, conv.weight), cast(Tensor, conv.bias)
    rows, columns = matrix.shape
    kernel = weight[:, :, -1]
    middle = kernel.shape[-1] // 2
    kernel[:rows] = 0.0
    kernel[:rows, :columns, middle, middle] = matrix
    bias[:rows] = 0.0


def _stride(conv: nn.Conv2d, taps: Tensor) -> None:
    """Make the first rows of a stride-2 convolution the 2 x 2 ``taps`` (out, in, 2, 2)."""
    rows, columns = taps.shape[:2]
    conv.weight[:rows] = 0.0
    conv.weight[:rows, :columns, :2, :2] = taps
    cast(Tensor, conv.bias)[:rows] = 0.0


def _space_to_depth(channels: int) -> Tensor:
    """(4 channels, channels, 2, 2): output 4 c + 2 dy + dx is channel c of pixel (dy, dx)."""
    taps = torch.zeros(4 * channels, channels, 2, 2)
    for c in range(channels):
        for dy in range(2):
            for dx in range(2):
                taps[4 * c + 2 * dy + dx, c, dy, dx] = 1.0
    return taps
