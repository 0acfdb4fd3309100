"""The picture path of Qwen-Image's VAE: pixels in [-1, 1] <-> 16 latent channels at an eighth of the side.

The released network is a causal video VAE. For a single frame only the last temporal slice of every 3 x 3 x 3 kernel meets
data (the others see the zero frames before the first), so this path is a plain 2-D network: the same numbers for 0.4 of the
arithmetic. Parameters keep the released names and 5-D shapes; ``time_conv`` belongs to the video path and is only carried.

Shapes in names: B batch, C channels, H and W pixels, h and w latent positions (H / 8, W / 8).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from glyphflow.core.config import Config
from glyphflow.core.errors import InputError
from glyphflow.models import weights
from glyphflow.models.channelnorm import ChannelNorm

_MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508) + (
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
_STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743) + (
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


class VAEConfig(Config):
    """Sizes of the network; names and defaults are those of the released vae/config.json (126.9 M parameters)."""

    base_dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attn_scales: tuple[float, ...] = ()
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    dropout: float = 0.0
    input_channels: int = 3
    latents_mean: tuple[float, ...] = _MEAN
    latents_std: tuple[float, ...] = _STD

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent position along a side (8 for the released network)."""
        return 1 << (len(self.dim_mult) - 1)

    @model_validator(mode="after")
    def _check(self) -> VAEConfig:
        if self.attn_scales or self.dropout:
            raise InputError(
                f"attn_scales {self.attn_scales} and dropout {self.dropout} are used by no released VAE; set them to [] and 0."
            )
        if len(self.temperal_downsample) != len(self.dim_mult) - 1:
            raise InputError(
                f"temperal_downsample has {len(self.temperal_downsample)} entries, but dim_mult {self.dim_mult} has "
                f"{len(self.dim_mult) - 1} steps between its levels; give one entry per step."
            )
        if not len(self.latents_mean) == len(self.latents_std) == self.z_dim:
            raise InputError(
                f"latents_mean and latents_std have {len(self.latents_mean)} and {len(self.latents_std)} values, but z_dim is "
                f"{self.z_dim}; give one value per latent channel."
            )
        return self


@dataclass(frozen=True)
class Posterior:
    """What the encoder says about a picture: independent normals, ``mean`` and ``logvar`` (B, z_dim, h, w), raw latents."""

    mean: Tensor
    logvar: Tensor

    def mode(self) -> Tensor:
        """The most likely latents (used for references and for editing)."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw; a CPU ``generator`` gives the same noise on every device."""
        device = generator.device if generator is not None else self.mean.device
        noise = torch.randn(self.mean.shape, generator=generator, device=device, dtype=self.mean.dtype)
        return self.mean + torch.exp(0.5 * self.logvar) * noise.to(self.mean.device)


class VAE(nn.Module):
    """Encoder and decoder; both work in raw latents (:meth:`standardise` makes those that the MMDiT is trained on)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = CausalConv(2 * config.z_dim, 2 * config.z_dim, 1)
        self.post_quant_conv = CausalConv(config.z_dim, config.z_dim, 1)
        self.decoder = Decoder(config)

    def encode(self, x_BCHW: Tensor) -> Posterior:
        """Pictures in [-1, 1], sides multiples of 8 -> :class:`Posterior`. Raises InputError for other sizes and for video."""
        self._check_picture(x_BCHW)
        mean, logvar = self.quant_conv(self.encoder(x_BCHW)).chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30.0, 20.0))

    def decode(self, z_BChw: Tensor) -> Tensor:
        """Raw latents (B, z_dim, h, w) -> pictures (B, C, 8h, 8w), clamped to [-1, 1] when no gradient is asked for.

        Training needs the unclamped value: beyond the range a clamp has no gradient to come back by.
        """
        if z_BChw.ndim != 4 or z_BChw.shape[1] != self.config.z_dim:
            raise InputError(
                f"Latents of shape {tuple(z_BChw.shape)} cannot be decoded; this VAE takes (batch, {self.config.z_dim}, h, w) "
                "(video comes with the video path)."
            )
        x: Tensor = self.decoder(self.post_quant_conv(z_BChw))
        return x if x.requires_grad else x.clamp(-1.0, 1.0)

    def standardise(self, z_BChw: Tensor) -> Tensor:
        """Raw latents -> zero mean and unit variance per channel, by the config's latents_mean and latents_std."""
        mean, std = self._statistics(z_BChw)
        return (z_BChw - mean) / std

    def unstandardise(self, z_BChw: Tensor) -> Tensor:
        """Inverse of :meth:`standardise`; divides by the rounded 1 / std, as the released pipeline does."""
        mean, std = self._statistics(z_BChw)
        return z_BChw / (1.0 / std) + mean

    def _statistics(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(v).to(z)[:, None, None] for v in (self.config.latents_mean, self.config.latents_std))
        return mean, std

    def _check_picture(self, x: Tensor) -> None:
        if x.ndim == 5:
            raise InputError(
                f"Input of shape {tuple(x.shape)} is video; pass (batch, channels, height, width) until video comes."
            )
        if x.ndim != 4 or x.shape[1] != self.config.input_channels:
            raise InputError(
                f"Pictures of shape {tuple(x.shape)} do not fit; this VAE takes (batch, {self.config.input_channels}, height, "
                "width)."
            )
        height, width = x.shape[-2:]
        factor = self.config.spatial_factor
        if height % factor or width % factor:
            raise InputError(
                f"A picture of height {height} and width {width} cannot be encoded; both must be multiples of {factor}: crop "
                "or resize it."
            )

    def init_weights(self, generator: torch.Generator | None = None) -> VAE:
        """Start values for training from scratch on pictures.

        Kernels and biases are uniform, with variance 1 / fan-in and 1 / (3 fan-in) of the 2-D slice that pictures use; the
        other temporal slices are 0 (a video then starts as independent frames), norm weights 1. Two choices make training start
        at once instead of after hundreds of steps: the last layer of every residual is 0, so that colours pass the norms, which
        know directions only; and log-variances start at -6, so that the decoder sees latents and not their noise.
        """
        for name, module in self.named_modules():
            if isinstance(module, ChannelNorm):
                nn.init.ones_(module.gamma)
            elif isinstance(module, CausalConv | nn.Conv2d):
                last = name.endswith(("conv2", "attentions.0.proj"))
                _init_convolution(module, 0.0 if last else 1.0, generator)
        with torch.no_grad():
            cast(Tensor, self.quant_conv.bias)[self.config.z_dim :] = -6.0
        return self

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, dtype: torch.dtype = torch.bfloat16, device: str | torch.device = "cpu"
    ) -> VAE:
        """Read a released ``vae`` directory straight to ``device``; gradients are off until asked for."""
        config = weights.read_config(Path(directory), VAEConfig)
        with torch.device("meta"):
            model = cls(config)
        weights.load_weights(model, Path(directory), dtype, torch.device(device))
        return model.eval().requires_grad_(False)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json and safetensors that diffusers' AutoencoderKLQwenImage opens, too."""
        weights.save_weights(self, Path(directory), weights.released_config("AutoencoderKLQwenImage", self.config))


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

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        out: Tensor = self.conv_out(self.norm_out(self.mid_block(x)))
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

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        out: Tensor = self.conv_out(self.norm_out(x))
        return out


class CausalConv(nn.Module):
    """A k x k x k convolution that looks at no later frame; on a picture, the k x k one of its last temporal slice."""

    def __init__(self, channels_in: int, channels_out: int, size: int | tuple[int, int, int]) -> None:
        super().__init__()
        kernel = (size, size, size) if isinstance(size, int) else size
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, *kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[:, :, -1], self.bias, padding=self.weight.shape[-1] // 2)


@torch.no_grad()
def _init_convolution(module: CausalConv | nn.Conv2d, scale: float, generator: torch.Generator | None) -> None:
    nn.init.zeros_(module.weight)
    kernel = module.weight[:, :, -1] if module.weight.ndim == 5 else module.weight
    bound = scale / math.sqrt(kernel[0].numel())
    kernel.uniform_(-math.sqrt(3) * bound, math.sqrt(3) * bound, generator=generator)
    cast(Tensor, module.bias).uniform_(-bound, bound, generator=generator)


class ResBlock(nn.Module):
    """norm, SiLU, conv, norm, SiLU, conv, plus the input (through a 1 x 1 conv when the channels change)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels_in, 3)
        self.conv1 = CausalConv(channels_in, channels_out, 3)
        self.norm2 = ChannelNorm(channels_out, 3)
        self.conv2 = CausalConv(channels_out, channels_out, 3)
        self.conv_shortcut = CausalConv(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.norm1(x))
        update, shortcut = self.conv2(self.norm2(h)), self.conv_shortcut(x)
        return torch.add(update, shortcut)


class MidBlock(nn.Module):
    """Residual block, attention over all positions, residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResBlock(channels, channels), ResBlock(channels, channels)])
        self.attentions = nn.ModuleList([PositionAttention(channels)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.resnets[1](self.attentions[0](self.resnets[0](x)))
        return out


class PositionAttention(nn.Module):
    """Single-head self-attention over the h * w positions of a picture, as a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, 2, silu=False)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.to_qkv(self.norm(x)).flatten(2).transpose(1, 2)[:, None].contiguous()
        q, k, v = qkv.chunk(3, dim=-1)
        out = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)
        out = out.view(*out.shape[:2], *x.shape[2:])
        last = x.is_contiguous(memory_format=torch.channels_last)
        update: Tensor = self.proj(out.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format))
        return x + update


class Downsample(nn.Module):
    """Half the side by a 3 x 3 convolution of stride 2 that is padded at the right and bottom."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        if temporal:
            self.time_conv = CausalConv(channels, channels, (3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.resample(x)
        return out


class Upsample(nn.Module):
    """Double the side by repeating pixels, then a 3 x 3 convolution to half the channels."""

    def __init__(self, channels: int, temporal: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest-exact"), nn.Conv2d(channels, channels // 2, 3, padding=1)
        )
        if temporal:
            self.time_conv = CausalConv(channels, 2 * channels, (3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.resample(x)
        return out


class UpBlock(nn.Module):
    """Residual blocks of one level, then an upsampler unless the level is the last (``temporal`` None)."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int, temporal: bool | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(channels_in if i == 0 else channels_out, channels_out) for i in range(blocks))
        self.upsamplers = nn.ModuleList([Upsample(channels_out, temporal)] if temporal is not None else [])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        for upsampler in self.upsamplers:
            x = upsampler(x)
        return x


def image_to_tensor(image: Image.Image | np.ndarray) -> Tensor:
    """A picture (PIL, or uint8 H x W x C) -> float32 (C, H, W) in [-1, 1]; PIL pictures become RGB, or stay RGBA."""
    if isinstance(image, Image.Image):
        image = np.asarray(image if image.mode in ("RGB", "RGBA") else image.convert("RGB"))
    if image.dtype != np.uint8 or image.ndim != 3:
        raise InputError(f"A picture array must be uint8 of shape (H, W, C), not {image.dtype} of shape {image.shape}.")
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float().div(127.5).sub(1.0)


def tensor_to_images(x_BCHW: Tensor) -> list[Image.Image]:
    """Pictures in [-1, 1] (values beyond are clipped) -> PIL pictures, one per batch entry."""
    x = (x_BCHW.detach().float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).mul(255).round().to(torch.uint8).cpu()
    return [Image.fromarray(array) for array in x.numpy()]
