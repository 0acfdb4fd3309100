"""Qwen-Image's VAE: pixels in [-1, 1] <-> 16 latent channels at an eighth of the side, for pictures and for clips.

The network is in :mod:`glyphflow.models.vae_layers`, what a clip adds in :mod:`glyphflow.models.vae_video`, tiles in
:mod:`glyphflow.models.vae_tiling`. Parameters keep the released names and 5-D shapes; inputs decide the memory format.

Shapes in names: B batch, C channels, T frames, H and W pixels, h and w latent positions (H / 8, W / 8).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from pydantic import model_validator
from torch import Tensor, nn

from glyphflow.core.config import Config
from glyphflow.core.errors import InputError
from glyphflow.models import weights
from glyphflow.models.channelnorm import ChannelNorm
from glyphflow.models.vae_layers import CausalConv, Decoder, Encoder
from glyphflow.models.vae_tiling import tiled
from glyphflow.models.vae_video import Past, run_clip

_MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508) + (
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
_STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743) + (
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


FRAMES_PER_LATENT = 4

CLASSES = ("AutoencoderKLQwenImage", "AutoencoderKLWan")
"""What released files call this network; Wan's is the same."""


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
    """What the encoder says about a picture: independent normals, ``mean`` and ``logvar`` in raw latents.

    Both are (B, z_dim, h, w) for pictures, (B, z_dim, T, h, w) for clips.
    """

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

    def encode(self, x: Tensor, tile: int | None = None) -> Posterior:
        """Pictures (B, C, H, W) or clips (B, C, T, H, W) in [-1, 1], sides multiples of 8 -> :class:`Posterior`.

        A clip of T frames gives 1 + (T - 1) // 4 latent frames; frames after the last whole group of 4 are left out. ``tile``
        bounds the memory, see :meth:`decode`. Raises InputError for shapes that do not fit.
        """
        self._check_pixels(x)
        factor = self.config.spatial_factor
        mean, logvar = self._run(self._moments, x, tile, FRAMES_PER_LATENT, factor, 1).chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30.0, 20.0))

    def decode(self, z: Tensor, tile: int | None = None) -> Tensor:
        """Raw latents (B, z_dim, h, w) -> pictures (B, C, 8h, 8w); (B, z_dim, T, h, w) -> clips of 4 T - 3 frames.

        Values are clamped to [-1, 1] when no gradient is asked for. Training needs the unclamped value: beyond the range a
        clamp has no gradient to come back by.

        With ``tile``, a larger picture is made of overlapping tiles of that many pixels a side (a multiple of 8, at least 16),
        cross-faded over a quarter of a tile: less memory, and a slightly different picture, since no tile sees beyond its
        borders. 256 gives what the released pipeline's tiling gives.
        """
        if z.ndim not in (4, 5) or z.shape[1] != self.config.z_dim or not z.numel():
            raise InputError(
                f"Latents of shape {tuple(z.shape)} cannot be decoded; this VAE takes (batch, {self.config.z_dim}, h, w) for "
                f"pictures or (batch, {self.config.z_dim}, frames, h, w) for video."
            )
        x = self._run(self._pixels, z, tile, 1, 1, self.config.spatial_factor)
        return x if x.requires_grad else x.clamp_(-1.0, 1.0)

    def _moments(self, x: Tensor, past: Past | None = None) -> Tensor:
        moments: Tensor = self.quant_conv(self.encoder(x, past))
        return moments

    def _pixels(self, z: Tensor, past: Past | None = None) -> Tensor:
        x: Tensor = self.decoder(self.post_quant_conv(z), past)
        return x

    def _run(
        self, network: Callable[..., Tensor], x: Tensor, tile: int | None, group: int, unit_in: int, unit_out: int
    ) -> Tensor:
        """``network`` over a picture or a clip (by ``group`` frames), whole or in tiles; units: pixels per latent position."""
        whole = network if x.ndim == 4 else partial(run_clip, network, group=group)
        if tile is None:
            return whole(x)
        factor = self.config.spatial_factor
        if tile % factor or tile < 2 * factor:
            raise InputError(f"A tile of {tile} pixels cannot be used; give a multiple of {factor} from {2 * factor} up.")
        side = tile // factor
        fits = max(x.shape[-2:]) <= side * unit_in
        return whole(x) if fits else tiled(whole, x, side, unit_in, unit_out)

    def standardise(self, z_BChw: Tensor) -> Tensor:
        """Raw latents -> zero mean and unit variance per channel, by the config's latents_mean and latents_std."""
        mean, std = self._statistics(z_BChw)
        return (z_BChw - mean) / std

    def unstandardise(self, z_BChw: Tensor) -> Tensor:
        """Inverse of :meth:`standardise`; divides by the rounded 1 / std, as the released pipeline does."""
        mean, std = self._statistics(z_BChw)
        return z_BChw / (1.0 / std) + mean

    def _statistics(self, z: Tensor) -> tuple[Tensor, Tensor]:
        values = (self.config.latents_mean, self.config.latents_std)
        mean, std = (torch.tensor(v).to(z).view(-1, *(1,) * (z.ndim - 2)) for v in values)
        return mean, std

    def _check_pixels(self, x: Tensor) -> None:
        channels, factor = self.config.input_channels, self.config.spatial_factor
        if x.ndim not in (4, 5) or x.shape[1] != channels or not x.numel():
            raise InputError(
                f"Pictures of shape {tuple(x.shape)} do not fit; this VAE takes (batch, {channels}, height, width), or "
                f"(batch, {channels}, frames, height, width) for video."
            )
        height, width = x.shape[-2:]
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
        return weights.build(cls, weights.read_config(Path(directory), VAEConfig, CLASSES), directory, dtype, device)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json and safetensors that diffusers' AutoencoderKLQwenImage opens, too."""
        weights.save_weights(self, Path(directory), weights.released_config(CLASSES[0], self.config))


@torch.no_grad()
def _init_convolution(module: CausalConv | nn.Conv2d, scale: float, generator: torch.Generator | None) -> None:
    nn.init.zeros_(module.weight)
    kernel = module.weight[:, :, -1] if module.weight.ndim == 5 else module.weight
    bound = scale / math.sqrt(kernel[0].numel())
    kernel.uniform_(-math.sqrt(3) * bound, math.sqrt(3) * bound, generator=generator)
    cast(Tensor, module.bias).uniform_(-bound, bound, generator=generator)


def image_to_tensor(image: Image.Image | np.ndarray) -> Tensor:
    """A picture (PIL, or uint8 H x W x C) -> float32 (C, H, W) in [-1, 1]; PIL pictures become RGB, or stay RGBA."""
    if isinstance(image, Image.Image):
        image = np.asarray(image if image.mode in ("RGB", "RGBA") else image.convert("RGB"))
    if image.dtype != np.uint8 or image.ndim != 3:
        raise InputError(f"A picture array must be uint8 of shape (H, W, C), not {image.dtype} of shape {image.shape}.")
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float().div(127.5).sub(1.0)


def tensor_to_images(x_BCHW: Tensor) -> list[Image.Image]:
    """Pictures (B, 3 or 4, H, W) in [-1, 1] (values beyond are clipped) -> PIL pictures, RGB or RGBA, one per batch entry."""
    if x_BCHW.ndim != 4 or x_BCHW.shape[1] not in (3, 4):
        raise InputError(f"A tensor of shape {tuple(x_BCHW.shape)} holds no pictures; they are (batch, 3 or 4, height, width).")
    x = (x_BCHW.detach().float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).mul(255).round().to(torch.uint8).cpu()
    return [Image.fromarray(array) for array in x.numpy()]
