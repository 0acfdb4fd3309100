"""The MMDiT of Qwen-Image: text and image as two streams that meet in attention (report, figure of the architecture).

    packed latents ─ img_in ─┐                                   ┌─ norm_out ─ proj_out ─► velocity (noise - picture)
    prompt ─ txt_norm, txt_in┴─► transformer_blocks x num_layers ┘
    sigma ─ time_text_embed ──── modulates every block and norm_out

Shapes in names: B batch, N image tokens (the picture being made, then its references), L text tokens, D width, R modulation
rows, J width of the prompt embeddings. Parameter names are those of the released checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, cast

import torch
from pydantic import model_validator
from torch import Tensor, nn

from glyphflow.core.config import Config
from glyphflow.core.errors import InputError
from glyphflow.models import weights
from glyphflow.models.attention import Layout, RMSNorm
from glyphflow.models.block import Block, FinalNorm, TimeEmbedding
from glyphflow.models.kernels import TRACEABLE, Kernels
from glyphflow.models.msrope import ImageShape
from glyphflow.models.quantize import Quantize, quantise_as_placed
from glyphflow.models.single_file import transformer_fields
from glyphflow.models.stored import open_checkpoint


class StreamsConfig(Config):
    """What the MMDiT and its ControlNets share; names and defaults are those of the released config.json."""

    patch_size: int = 2
    in_channels: int = 64
    out_channels: int | None = 16
    num_layers: int = 60
    attention_head_dim: int = 128
    num_attention_heads: int = 24
    joint_attention_dim: int = 3584
    axes_dims_rope: tuple[int, int, int] = (16, 56, 56)

    @property
    def width(self) -> int:
        """D: features of a token inside the network."""
        return self.num_attention_heads * self.attention_head_dim

    @model_validator(mode="after")
    def _check_axes(self) -> Self:
        if sum(self.axes_dims_rope) != self.attention_head_dim or any(d % 2 for d in self.axes_dims_rope):
            raise InputError(
                f"axes_dims_rope {self.axes_dims_rope} sums to {sum(self.axes_dims_rope)}, but attention_head_dim is "
                f"{self.attention_head_dim}; make three even numbers that sum to it."
            )
        return self


CLASSES = ("QwenImageTransformer2DModel",)
"""What released files call this network."""


class MMDiTConfig(StreamsConfig):
    """Sizes of the network (released: 20.4 B parameters) and what later releases added."""

    guidance_embeds: bool = False
    zero_cond_t: bool = False
    use_additional_t_cond: bool = False
    use_layer3d_rope: bool = False

    @model_validator(mode="after")
    def _check_guidance(self) -> Self:
        if self.guidance_embeds:
            raise InputError("guidance_embeds = true has no released weights and no defined computation; set it to false.")
        return self


class Modulation(NamedTuple):
    """What the timestep says to every layer: shift, scale and gate rows that depend on nothing else.

    ``image[i]`` is (B, R, 6D) and ``text[i]`` (B, 1, 6D) for block i, ``head`` (B, 1, 2D). R is 1, or 2 with ``zero_cond_t``:
    the second row, evaluated at sigma = 0, is for reference tokens. A third of the released parameters serves only to compute
    these rows, so a sampler may compute them once per schedule and drop those weights.
    """

    image: tuple[Tensor, ...]
    text: tuple[Tensor, ...]
    head: Tensor

    def row(self, index: int) -> Modulation:
        """The rows of batch entry ``index``, to broadcast over any batch."""
        pick = slice(index, index + 1)
        return Modulation(tuple(t[pick] for t in self.image), tuple(t[pick] for t in self.text), self.head[pick])


class StepCache(Protocol):
    """Approximate sampling: may answer for all blocks but the first, from what they did at an earlier step."""

    def recall(self, first: Tensor, tokens: int) -> Tensor | None:
        """The first ``tokens`` of the image stream behind all blocks, or None: compute. ``first``: the one behind block 0."""

    def remember(self, first: Tensor, last: Tensor) -> None:
        """The image stream behind block 0 and, where it was computed, behind the last block."""


class MMDiT(nn.Module):
    """Predicts the velocity ``noise - picture`` of packed latents."""

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.img_in = nn.Linear(config.in_channels, width)
        self.txt_norm = RMSNorm(config.joint_attention_dim)
        self.txt_in = nn.Linear(config.joint_attention_dim, width)
        self.time_text_embed = TimeEmbedding(width, config.use_additional_t_cond)
        last = config.num_layers - 1
        self.transformer_blocks = nn.ModuleList(
            Block(width, config.attention_head_dim, last=index == last) for index in range(config.num_layers)
        )
        self.norm_out = FinalNorm(width)
        self.proj_out = nn.Linear(width, config.patch_size**2 * (config.out_channels or config.in_channels))
        self._compiled: list[tuple[nn.Module, object, Any]] = []  # (block, its compiled forward pass, what was there before)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | Sequence[Tensor],
        timestep: Tensor,
        img_shapes: Sequence[Sequence[ImageShape]],
        encoder_hidden_states_mask: Tensor | None = None,
        *,
        additional_t_cond: Tensor | None = None,
        controlnet_block_samples: Sequence[Tensor] | None = None,
        modulation: Modulation | None = None,
        target_tokens: int | None = None,
        step_cache: StepCache | None = None,
    ) -> Tensor:
        """Velocity of the first ``target_tokens`` image tokens, all of them by default: (B, N, patch_size^2 * out_channels).

        hidden_states: (B, N, in_channels) packed latents, the noisy picture first, then clean references.
        encoder_hidden_states: (B, L, J) prompt embeddings, padded anywhere; or a list of B of them, (L_i, J), without padding,
            which costs no mask and no work for padding but needs one sigma for all.
        timestep: (B,) or (1,) sigma in (0, 1], 1 = pure noise.
        img_shapes: one list per sample of (frames, height / 16, width / 16); all samples of a batch have the same list.
        encoder_hidden_states_mask: (B, L), true or 1 for real tokens; None when all are real. Padding is never attended.
        additional_t_cond: (B,) or (1,) int, for layered models: 0 for pictures with an alpha channel.
        controlnet_block_samples: K residuals (B, N, D); block i adds number i // ceil(num_layers / K).
        modulation: from :meth:`modulation`, to skip its evaluation (``timestep`` is then not used).

        Raises InputError when shapes contradict each other.
        """
        text, lengths = flat_texts(encoder_hidden_states)
        shapes = self._check(hidden_states, text, lengths, img_shapes, encoder_hidden_states_mask)
        time = None if modulation is not None else self.embed_time(timestep, additional_t_cond)
        rows = len(modulation.head if modulation is not None else cast(Tensor, time))
        if lengths is not None and rows != 1:
            raise InputError(
                f"Prompts of different lengths {lengths} share one sigma, but there are {rows}; pad and mask them."
            )
        layout = Layout.of(
            shapes,
            lengths or text.shape[1],
            self.config.axes_dims_rope,
            hidden_states.device,
            encoder_hidden_states_mask,
            self.config.use_layer3d_rope,
        )
        image, text = self.embed(hidden_states, text)
        target = image.shape[1] if target_tokens is None else target_tokens
        image = self.blocks(image, text, time, layout, shapes, target, modulation, controlnet_block_samples, step_cache)
        return self.head(image, time, modulation)

    def embed(self, hidden_states: Tensor, encoder_hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """Packed latents and prompt embeddings -> image (B, N, D) and text (B, L, D)."""
        return self.img_in(hidden_states), self.txt_in(self.txt_norm(encoder_hidden_states))

    def embed_time(self, timestep: Tensor, additional_t_cond: Tensor | None = None) -> Tensor:
        """sigma (B,) -> (B, R, D). The sinusoid is rounded as the weights are, because the released model was run so."""
        if (additional_t_cond is not None) != self.config.use_additional_t_cond:
            raise InputError(
                f"additional_t_cond was {'given' if additional_t_cond is not None else 'not given'}, but this model has "
                f"use_additional_t_cond = {self.config.use_additional_t_cond}; layered models need it and others have none."
            )
        timestep = timestep.to(self.img_in.weight.dtype)
        rows = [timestep, torch.zeros_like(timestep)] if self.config.zero_cond_t else [timestep]
        time: Tensor = self.time_text_embed(torch.stack(rows, dim=1), additional_t_cond)
        return time

    def blocks(
        self,
        image: Tensor,
        text: Tensor,
        time: Tensor | None,
        layout: Layout,
        shapes: tuple[ImageShape, ...],
        target: int,
        modulation: Modulation | None = None,
        controlnet_block_samples: Sequence[Tensor] | None = None,
        step_cache: StepCache | None = None,
    ) -> Tensor:
        """All transformer blocks: image (B, N, D) -> (B, target, D). Exactly one of ``time`` and ``modulation`` is given."""
        segments = segments_of(shapes, rows=2 if self.config.zero_cond_t else 1)
        first = image
        for index, block in enumerate(self.transformer_blocks):
            rows = None if modulation is None else (modulation.image[index], modulation.text[index])
            image, text = block(image, text, time, layout, segments, rows, target)
            if controlnet_block_samples is not None:
                every = math.ceil(len(self.transformer_blocks) / len(controlnet_block_samples))
                image = image + controlnet_block_samples[index // every][:, : image.shape[1]]
            if index == 0 and step_cache is not None:
                first = image
                if (known := step_cache.recall(first, target)) is not None:
                    return known
        if step_cache is not None:
            step_cache.remember(first, image)
        return image

    def head(self, image: Tensor, time: Tensor | None, modulation: Modulation | None = None) -> Tensor:
        """Image (B, N, D) -> velocity (B, N, patch_size^2 * out_channels)."""
        velocity: Tensor = self.proj_out(self.norm_out(image, time, None if modulation is None else modulation.head))
        return velocity

    def modulation(self, timestep: Tensor, additional_t_cond: Tensor | None = None) -> Modulation:
        """Every modulation row at the sigmas ``timestep`` (S,); ``.row(i)`` then serves any batch at sigma number i."""
        time = self.embed_time(timestep, additional_t_cond)
        rows = [cast(Block, block).modulation_rows(time) for block in self.transformer_blocks]
        return Modulation(tuple(r[0] for r in rows), tuple(r[1] for r in rows), self.norm_out.rows(time))

    def use_kernels(self, kernels: Kernels) -> None:
        """What the blocks compute with between their matrix products: ``EAGER`` (the default) or ``fused()``."""
        for block in self.transformer_blocks:
            block.kernels = block.attn.kernels = kernels  # type: ignore[union-attr, assignment]

    def compile_blocks(self) -> None:
        """Compile the blocks (``torch.compile``): one program serves them all, whatever the number of tokens."""
        self.forget_compiled()
        self.use_kernels(TRACEABLE)
        for block in self.transformer_blocks:
            # The forward pass and not the module: hooks, which stream weights, stay outside.
            before, compiled = block.__dict__.get("forward"), torch.compile(block.forward, dynamic=True)
            block.forward = compiled
            self._compiled.append((block, compiled, before))

    def forget_compiled(self) -> None:
        """Undo :meth:`compile_blocks` but for the kernels; what others put in a forward pass's place stays."""
        for block, compiled, before in self._compiled:
            if block.__dict__.get("forward") is compiled:
                if before is None:
                    del block.forward
                else:
                    block.forward = before
        self._compiled = []

    def init_weights(self, generator: torch.Generator | None = None) -> MMDiT:
        """Start values for training from scratch (adaLN-zero).

        Modulations and the last two linears are zero, so each block begins as the identity and the first prediction is 0;
        every other matrix is Xavier-uniform, biases are 0 and norm weights 1.
        """
        for name, parameter in self.named_parameters():
            init_weight(name, parameter, generator)
        return self

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        dtype: torch.dtype = torch.bfloat16,
        device: str | torch.device = "cpu",
        *,
        config: MMDiTConfig | None = None,
        quantize: Quantize | None = None,
        placed: Callable[[nn.Module, str], None] | None = None,
    ) -> MMDiT:
        """Read a released ``transformer`` directory, or a single .safetensors file, straight to ``device``.

        ``config`` is for a single file: what its shapes do not show (``zero_cond_t``) is taken from there. ``quantize`` keeps
        the blocks' linears in "int8" or "int4" (approximate). ``placed(model, name)`` is called after each tensor and may put
        something smaller in its place. Gradients are off until asked for.
        """
        source = Path(source)
        if source.is_dir():
            config = config or weights.read_config(source, MMDiTConfig, CLASSES)
        else:
            known = None if config is None else config.model_dump()
            config = MMDiTConfig(**transformer_fields(open_checkpoint(source), known))
        steps = [step for step in (None if quantize is None else quantise_as_placed(quantize), placed) if step is not None]

        def after(model: nn.Module, name: str) -> None:
            for step in steps:
                step(model, name)

        return weights.build(cls, config, source, dtype, device, after if steps else None)

    def save_pretrained(self, directory: str | Path, max_shard_bytes: int = weights.MAX_SHARD_BYTES) -> None:
        """Write config.json and safetensors that diffusers' QwenImageTransformer2DModel opens, too."""
        weights.save_weights(self, Path(directory), weights.released_config(CLASSES[0], self.config), max_shard_bytes)

    def _check(
        self,
        image: Tensor,
        text: Tensor,
        lengths: tuple[int, ...] | None,
        img_shapes: Sequence[Sequence[ImageShape]],
        mask: Tensor | None,
    ) -> tuple[ImageShape, ...]:
        shapes = tuple((int(f), int(h), int(w)) for f, h, w in img_shapes[0])
        if any(tuple(map(tuple, other)) != shapes for other in img_shapes):
            raise InputError(f"All samples of a batch need the same image shapes, not {list(img_shapes)}; batch them by size.")
        tokens = sum(math.prod(shape) for shape in shapes)
        if tokens != image.shape[1]:
            raise InputError(f"img_shapes {list(shapes)} are {tokens} tokens, but hidden_states has {image.shape[1]}.")
        if lengths is not None and (mask is not None or len(lengths) != len(image)):
            raise InputError(
                f"There are {len(lengths)} prompts in the list and {len(image)} pictures; give one for each, and no mask."
            )
        if mask is not None and mask.shape != text.shape[:2]:
            raise InputError(
                f"encoder_hidden_states_mask is {tuple(mask.shape)}, but the text is {tuple(text.shape[:2])}; give one entry "
                "per token."
            )
        return shapes


def init_weight(name: str, weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fill ``weight`` with what :meth:`MMDiT.init_weights` gives the parameter ``name``; matrices draw from ``generator``."""
    zero = any(part in name for part in ("img_mod", "txt_mod", "norm_out", "proj_out"))
    if name.endswith("bias") or zero:
        return nn.init.zeros_(weight)
    return nn.init.ones_(weight) if weight.ndim == 1 else nn.init.xavier_uniform_(weight, generator=generator)


def flat_texts(texts: Tensor | Sequence[Tensor]) -> tuple[Tensor, tuple[int, ...] | None]:
    """Prompt embeddings as one tensor, and the lengths where it holds ragged texts in one row."""
    if isinstance(texts, Tensor):
        return texts, None
    lengths = tuple(len(text) for text in texts)
    if len(set(lengths)) == 1:
        return torch.stack(list(texts)), None
    return torch.cat(list(texts))[None], lengths


def segments_of(shapes: tuple[ImageShape, ...], rows: int) -> tuple[int, ...]:
    """Tokens per modulation row: all of them, or (picture, references)."""
    tokens = [math.prod(shape) for shape in shapes]
    return (sum(tokens),) if rows == 1 or len(tokens) == 1 else (tokens[0], sum(tokens[1:]))


def pack_latents(z_BChw: Tensor) -> Tensor:
    """Latents (B, C, h, w) -> tokens (B, h/2 * w/2, 4C) of 2 x 2 patches; feature c * 4 + dy * 2 + dx.

    Raises InputError for odd sizes.
    """
    batch, channels, height, width = z_BChw.shape
    if height % 2 or width % 2:
        raise InputError(
            f"Latents of {height} x {width} cannot be cut into 2 x 2 patches; use picture sides that are multiples of 16."
        )
    patches = z_BChw.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, height // 2 * (width // 2), channels * 4)


def unpack_latents(x_BNC: Tensor, height_px: int, width_px: int) -> Tensor:
    """Tokens (B, N, 4C) of a picture of ``height_px`` x ``width_px`` -> latents (B, C, h, w): inverse of :func:`pack_latents`.

    Sides are rounded down to multiples of 16. Raises InputError when the number of tokens is not that of the picture.
    """
    rows, columns = height_px // 16, width_px // 16
    batch, tokens, features = x_BNC.shape
    if tokens != rows * columns:
        raise InputError(f"{tokens} tokens do not fill a picture of {width_px} x {height_px}, which has {rows * columns}.")
    patches = x_BNC.reshape(batch, rows, columns, features // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(batch, features // 4, rows * 2, columns * 2)
