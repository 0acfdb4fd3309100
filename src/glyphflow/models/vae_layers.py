"""Encoder and decoder of the VAE, written for pictures; a clip is a batch of frames that knows its past.

The released network is a causal video VAE. For a single frame only the last temporal slice of every 3 x 3 x 3 kernel meets
data (the others see the zero frames before the first), so a picture takes a plain 2-D network: the same numbers for 0.4 of the
arithmetic. A clip takes the same modules with its frames folded into the batch, (B * T, C, H, W): all but the causal
convolutions look at one frame at a time, and those find the frames before in ``past``.

Inputs in contiguous memory format are computed as the reference does, to the same bits in half precision. Inputs in
channels_last take the faster kernels, which sum in another order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glyphflow.models.channelnorm import ChannelNorm
from glyphflow.models.vae_video import Past

if TYPE_CHECKING:
    from glyphflow.models.vae import VAEConfig


class Encoder(nn.Module):
    """Residual blocks, halving the side between levels; then attention at the lowest level."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        dims = [config.base_dim * multiple for multiple in (1, *config.dim_mult)]
        self.conv_in = CausalConv(config.input_channels, dims[0], 3)
        self.down_blocks = nn.ModuleList()
        for level, (dim_in, dim_out) in enumerate(pairwise(dims)):
            for index in range(config.num_res_blocks):
                self.down_blocks.append(ResBlock(dim_in if index == 0 else dim_out, dim_out))
            if level < len(config.dim_mult) - 1:
                self.down_blocks.append(Downsample(dim_out, config.temperal_downsample[level]))
        self.mid_block = MidBlock(dims[-1])
        self.norm_out = ChannelNorm(dims[-1], 3)
        self.conv_out = CausalConv(dims[-1], 2 * config.z_dim, 3)

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        x = self.conv_in(x, past)
        for block in self.down_blocks:
            x = block(x, past)
        x = self.mid_block(x, past)
        out: Tensor = self.conv_out(self.norm_out(x, overwrite=True), past)
        return out


class Decoder(nn.Module):
    """The encoder mirrored, with one more residual block per level."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        dims = [config.base_dim * multiple for multiple in (config.dim_mult[-1], *config.dim_mult[::-1])]
        steps = len(config.dim_mult) - 1
        self.conv_in = CausalConv(config.z_dim, dims[0], 3)
        self.mid_block = MidBlock(dims[0])
        self.up_blocks = nn.ModuleList()
        for level, (dim_in, dim_out) in enumerate(pairwise(dims)):
            temporal = config.temperal_downsample[::-1][level] if level < steps else None
            # The upsampler of the level before has halved the channels.
            self.up_blocks.append(UpBlock(dim_in if level == 0 else dim_in // 2, dim_out, config.num_res_blocks + 1, temporal))
        self.norm_out = ChannelNorm(dims[-1], 3)
        self.conv_out = CausalConv(dims[-1], config.input_channels, 3)

    def forward(self, z: Tensor, past: Past | None = None) -> Tensor:
        x = self.mid_block(self.conv_in(z, past), past)
        # Layer by layer, because a call of a whole level would hold the input of its first layer to the end.
        for layer in self._up_layers():
            x = layer(x, past)
        out: Tensor = self.conv_out(self.norm_out(x, overwrite=True), past)
        return out

    def _up_layers(self) -> Iterator[nn.Module]:
        for block in self.up_blocks:
            assert isinstance(block, UpBlock)
            yield from block.resnets
            yield from block.upsamplers


class CausalConv(nn.Module):
    """A k x k x k convolution that looks at no later frame; on a picture, the k x k one of its last temporal slice."""

    def __init__(self, channels_in: int, channels_out: int, size: int | tuple[int, int, int]) -> None:
        super().__init__()
        kernel = (size, size, size) if isinstance(size, int) else size
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, *kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        padding = self.weight.shape[-1] // 2
        if past is not None and self.weight.shape[2] > 1:
            clip = past.extend(self, x)
            if clip is not None:
                return past.fold(F.conv3d(clip, self.weight, self.bias, padding=(0, padding, padding)))
        return F.conv2d(x, self.weight[:, :, -1], self.bias, padding=padding)


class ResBlock(nn.Module):
    """norm, SiLU, conv, norm, SiLU, conv, plus the input (through a 1 x 1 conv when the channels change)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels_in, 3)
        self.conv1 = CausalConv(channels_in, channels_out, 3)
        self.norm2 = ChannelNorm(channels_out, 3)
        self.conv2 = CausalConv(channels_out, channels_out, 3)
        self.conv_shortcut = CausalConv(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        h = self.conv1(self.norm1(x), past)
        h = self.conv2(self.norm2(h, overwrite=True), past)
        return _add(h, self.conv_shortcut(x))


class MidBlock(nn.Module):
    """Residual block, attention over all positions, residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResBlock(channels, channels), ResBlock(channels, channels)])
        self.attentions = nn.ModuleList([PositionAttention(channels)])

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        out: Tensor = self.resnets[1](self.attentions[0](self.resnets[0](x, past)), past)
        return out


class PositionAttention(nn.Module):
    """Single-head self-attention over the h * w positions of a picture, as a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, 2, silu=False)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2)[:, None].contiguous()
        q, k, v = qkv.chunk(3, dim=-1)
        out = F.scaled_dot_product_attention(q, k, v).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        # A clone, because strides of sides of 1 would leave the format open and the layers after would take the other one.
        out = out.clone(memory_format=torch.channels_last if _is_channels_last(x) else torch.contiguous_format)
        return _add(self.proj(out), x)


class Downsample(nn.Module):
    """Half the side by a 3 x 3 convolution of stride 2 that is padded at the right and bottom; clips may halve in time, too."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = CausalConv(channels, channels, (3, 1, 1)) if temporal else None

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        x = self.resample(x)
        return x if past is None or self.time_conv is None else past.halve(self.time_conv, x)


class Upsample(nn.Module):
    """Double the side by repeating pixels, then a 3 x 3 convolution to half the channels; clips may double in time before."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest-exact"), nn.Conv2d(channels, channels // 2, 3, padding=1)
        )
        self.time_conv = CausalConv(channels, 2 * channels, (3, 1, 1)) if temporal else None

    def forward(self, x: Tensor, past: Past | None = None) -> Tensor:
        if past is not None and self.time_conv is not None:
            x = past.double(self.time_conv, x)
        if x.device.type == "cpu" and _is_channels_last(x) and not torch.is_grad_enabled():
            return self._at_once(x)
        out: Tensor = self.resample(x)
        return out

    def _at_once(self, x: Tensor) -> Tensor:
        """The same without the repeated pixels: each output sees only 2 x 2 different inputs, so 4 products do for 9.

        Taps that meet the same input are added beforehand, which makes this a transposed 4 x 4 convolution of stride 2. It is
        twice as fast on a CPU; CUDA's kernels for it may sum in a different order each time.
        """
        weight, bias = self.resample[1].weight, self.resample[1].bias
        assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
        which = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.float32, device=x.device)
        taps = (weight.float().flatten(2) @ torch.kron(which, which).T).view(*weight.shape[:2], 4, 4).transpose(0, 1)
        return F.conv_transpose2d(x, taps.to(weight.dtype), bias, stride=2, padding=1)


class UpBlock(nn.Module):
    """Residual blocks of one level, then an upsampler unless the level is the last (``temporal`` None)."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int, temporal: bool | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(channels_in if i == 0 else channels_out, channels_out) for i in range(blocks))
        self.upsamplers = nn.ModuleList([Upsample(channels_out, temporal)] if temporal is not None else [])


def _add(update: Tensor, x: Tensor) -> Tensor:
    """``update`` + x, in the memory of ``update`` when no gradient needs it."""
    if torch.is_grad_enabled() or update.dtype != x.dtype:
        return torch.add(update, x)
    return update.add_(x)


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
