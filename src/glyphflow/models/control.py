"""ControlNet: a short copy of the MMDiT that reads a control picture and answers with what to add to the MMDiT's image stream.

    packed latents ──────── img_in ──────────────┐
    control latents ─ controlnet_x_embedder ─ (+) ┴─► transformer_blocks ─ controlnet_blocks[i] ─► residual i, times scale
    prompt, sigma ── as in the MMDiT ─────────────────────┘

The MMDiT takes the residuals as ``controlnet_block_samples`` and spreads a few of them over many blocks. Shapes in names: B
batch, N image tokens, L text tokens, D width. Parameter names are those of the released checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from glyphflow.core.errors import InputError
from glyphflow.models import weights
from glyphflow.models.attention import Layout, RMSNorm
from glyphflow.models.block import Block, TimeEmbedding
from glyphflow.models.mmdit import StreamsConfig, flat_texts
from glyphflow.models.msrope import ImageShape

_CLASS = "QwenImageControlNetModel"


class ControlNetConfig(StreamsConfig):
    """Sizes of the network, whose num_layers is a few of the 60; its width must be that of the MMDiT it steers.

    ``extra_condition_channels`` are features of a control token beyond ``in_channels``: 4 for inpainting (the mask), else 0.
    """

    extra_condition_channels: int = 0

    @property
    def condition_channels(self) -> int:
        """Features of a packed control token."""
        return self.in_channels + self.extra_condition_channels


class ControlNet(nn.Module):
    """Turns control pictures into residuals for the MMDiT's blocks."""

    def __init__(self, config: ControlNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.time_text_embed = TimeEmbedding(width)
        self.txt_norm = RMSNorm(config.joint_attention_dim)
        self.img_in = nn.Linear(config.in_channels, width)
        self.txt_in = nn.Linear(config.joint_attention_dim, width)
        last = config.num_layers - 1
        self.transformer_blocks = nn.ModuleList(
            Block(width, config.attention_head_dim, last=index == last) for index in range(config.num_layers)
        )
        self.controlnet_blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(config.num_layers))
        self.controlnet_x_embedder = nn.Linear(config.condition_channels, width)

    def forward(
        self,
        hidden_states: Tensor,
        controlnet_cond: Tensor | Sequence[Tensor],
        conditioning_scale: float | Sequence[float],
        encoder_hidden_states: Tensor | Sequence[Tensor],
        timestep: Tensor,
        img_shapes: Sequence[Sequence[ImageShape]],
        encoder_hidden_states_mask: Tensor | None = None,
    ) -> list[Tensor]:
        """``num_layers`` residuals (B, N, D); several conditions give the sum of theirs, each times its own scale.

        hidden_states: (B, N, in_channels) packed noisy latents of the picture.
        controlnet_cond: (B, N, in_channels + extra_condition_channels) packed control latents, or a list of them.
        conditioning_scale: one number for each condition; 1 is what the network was trained with.
        encoder_hidden_states, encoder_hidden_states_mask, img_shapes: as the MMDiT takes them; a list needs a single sigma.
        timestep: (B,) or (1,) sigma in (0, 1].

        Raises InputError when shapes contradict each other.
        """
        conditions = [controlnet_cond] if isinstance(controlnet_cond, Tensor) else list(controlnet_cond)
        scales = [conditioning_scale] if isinstance(conditioning_scale, int | float) else list(conditioning_scale)
        shapes = tuple(img_shapes[0])
        self._check(hidden_states, conditions, scales, shapes)
        flat, lengths = flat_texts(encoder_hidden_states)
        image, text = self.img_in(hidden_states), self.txt_in(self.txt_norm(flat))
        time: Tensor = self.time_text_embed(timestep.to(image.dtype)[:, None])
        axes, mask = self.config.axes_dims_rope, encoder_hidden_states_mask
        layout = Layout.of(shapes, lengths or text.shape[1], axes, image.device, mask)
        total: list[Tensor] = []
        for condition, scale in zip(conditions, scales, strict=True):
            steered = image + self.controlnet_x_embedder(condition)
            residuals = [residual * scale for residual in self._residuals(steered, text, time, layout)]
            total = [a + b for a, b in zip(total, residuals, strict=True)] if total else residuals
        return total

    def _residuals(self, image: Tensor, text: Tensor, time: Tensor, layout: Layout) -> list[Tensor]:
        segments = (image.shape[1],)
        residuals: list[Tensor] = []
        for block, out in zip(self.transformer_blocks, self.controlnet_blocks, strict=True):
            image, text = block(image, text, time, layout, segments)
            residuals.append(out(image))
        return residuals

    def _check(self, latents: Tensor, conditions: list[Tensor], scales: list[float], shapes: tuple[ImageShape, ...]) -> None:
        if len(conditions) != len(scales):
            raise InputError(f"There are {len(conditions)} control pictures and {len(scales)} scales; give one scale for each.")
        tokens = sum(math.prod(shape) for shape in shapes)
        if tokens != latents.shape[1]:
            raise InputError(f"img_shapes {list(shapes)} are {tokens} tokens, but hidden_states has {latents.shape[1]}.")
        wanted = (*latents.shape[:2], self.config.condition_channels)
        for condition in conditions:
            if tuple(condition.shape) != wanted:
                raise InputError(
                    f"A condition of shape {tuple(condition.shape)} does not fit this ControlNet and these latents, which need "
                    f"{wanted}; an inpainting ControlNet also takes the mask, others do not."
                )

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, dtype: torch.dtype = torch.bfloat16, device: str | torch.device = "cpu"
    ) -> ControlNet:
        """Read a released ControlNet directory straight to ``device``; gradients are off until asked for."""
        return weights.build(cls, weights.read_config(Path(directory), ControlNetConfig, (_CLASS,)), directory, dtype, device)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write config.json and safetensors that diffusers' QwenImageControlNetModel opens, too."""
        weights.save_weights(self, Path(directory), weights.released_config(_CLASS, self.config))
