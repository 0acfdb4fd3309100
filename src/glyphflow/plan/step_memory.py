"""How many bytes a training step computes with beside weights: the real network forwards and backwards, without memory.

A few layers run on PyTorch's meta device, cut as tensor parallelism cuts them, and every tensor that is born and dies is
counted. A step is a straight line in the number of layers and grows with the samples, so two small runs give any of them.
Gradients of weights are dropped as soon as they are there, since sharding sends them on; the plan counts them as buffers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from glyphflow.generate.activations import LiveBytes
from glyphflow.models import MMDiT, MMDiTConfig
from glyphflow.models.parallel import keep_part, split_of

_META = torch.device("meta")
_FEW, _MORE = 2, 4  # layers of the runs between which the line is drawn
_SAMPLES = 2


@dataclass(frozen=True)
class StepTokens:
    """Tokens of one sample: ``target`` image tokens to predict, ``references``, ``text``."""

    target: int
    text: int
    references: int = 0


def step_bytes(
    config: MMDiTConfig,
    tokens: StepTokens,
    batch: int,
    recomputed: int = 0,
    tensor: int = 1,
    sequence: int = 1,
    dtype: torch.dtype = torch.bfloat16,
) -> int:
    """The most bytes alive at once in a step of ``batch`` samples of ``tokens``, ``recomputed`` of the blocks checkpointed.

    ``tensor`` processes share each block by heads, ``sequence`` the tokens: inside attention a process has all tokens of some
    heads, which is as much as some tokens of all heads.
    """

    def line(recompute: bool) -> tuple[float, float]:
        sizes = (config.model_copy(update={"num_layers": layers}) for layers in (_FEW, _MORE))
        few, more = (counted_bytes(size, tokens, _SAMPLES, recompute, tensor, dtype) for size in sizes)
        each = (more - few) / (_MORE - _FEW)
        return few - each * _FEW, each

    start, plain = line(recompute=False)
    short = 0.0
    if recomputed:
        start, short = line(recompute=True)
    return int((start + plain * (config.num_layers - recomputed) + short * recomputed) * batch / _SAMPLES / sequence)


@functools.lru_cache(maxsize=4096)
def counted_bytes(config: MMDiTConfig, tokens: StepTokens, batch: int, recompute: bool, tensor: int, dtype: torch.dtype) -> int:
    """The most bytes alive in one run of the whole of ``config`` on the meta device, inputs included."""
    model = _cut(config, tensor, dtype)
    for block in model.transformer_blocks:
        block.__dict__.pop("forward", None)
        block.forward = functools.partial(flashing, block.forward)  # inside the checkpoint, where it also serves the repetition
        if recompute:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    with _META, LiveBytes() as live:
        training_step(model, tokens, batch, dtype)
    peak: int = live.peak
    return peak


def training_step(model: MMDiT, tokens: StepTokens, batch: int, dtype: torch.dtype) -> None:
    """Inputs, forward, squared error and backward on the current device; gradients of weights go as they come."""
    config, image = model.config, tokens.target + tokens.references
    for parameter in model.parameters():
        if parameter.requires_grad and not getattr(parameter, "_goes", False):
            parameter.register_post_accumulate_grad_hook(_forget)  # type: ignore[no-untyped-call]
            parameter._goes = True  # type: ignore[attr-defined]
    shapes = [(1, 1, tokens.target)] + ([(1, 1, tokens.references)] if tokens.references else [])
    latents = torch.zeros(batch, image, config.in_channels, dtype=dtype)
    text = torch.zeros(batch, tokens.text, config.joint_attention_dim, dtype=dtype)
    sigma = torch.full((batch,), 0.5)
    wanted = torch.zeros(batch, tokens.target, config.patch_size**2 * (config.out_channels or config.in_channels))
    predicted = model(latents, text, sigma, [shapes] * batch, target_tokens=tokens.target)
    (predicted.float() - wanted).square().mean().backward()


def _forget(parameter: Tensor) -> None:
    parameter.grad = None


@dataclass(frozen=True)
class _Seat:
    """The first of ``ranks`` processes that are not there."""

    ranks: int

    def size(self) -> int:
        return self.ranks

    def rank(self) -> int:
        return 0


@functools.lru_cache(maxsize=16)
def _cut(config: MMDiTConfig, tensor: int, dtype: torch.dtype) -> MMDiT:
    """A weightless model with one process's heads; modulations stay whole, since their rows are gathered at once."""
    with _META:
        model = MMDiT(config).to(dtype)
    for name in [name for name, _ in model.named_parameters() if "_mod." not in name]:
        keep_part(model, name, cast(ProcessGroup, _Seat(tensor)))
    return model


@functools.lru_cache(maxsize=64)
def parameters(config: MMDiTConfig, tensor: int = 1) -> tuple[int, int]:
    """Parameters that one of ``tensor`` processes has of the whole model, and of its largest block."""
    with _META:
        model = MMDiT(config)
    count: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        path, _, leaf = name.rpartition(".")
        split = split_of(path)
        cut = split is not None and not (split == "rows" and leaf == "bias")
        block = name.split(".")[1] if name.startswith("transformer_blocks.") else ""
        count[block] = count.get(block, 0) + parameter.numel() // (tensor if cut else 1)
    return sum(count.values()), max(number for block, number in count.items() if block)


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, heads, queries, _ = q.shape
        out = torch.empty(batch, queries, heads, v.shape[-1], dtype=q.dtype, device=q.device).transpose(1, 2)
        ctx.save_for_backward(q, k, v, out, torch.empty(batch, heads, queries, dtype=torch.float32, device=q.device))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


def flashing(forward: Callable[..., Any], *args: Any) -> Any:
    """``forward`` with attention that keeps its inputs, its output and one number per query, and not the whole matrix."""
    with _FlashAttention():
        return forward(*args)


class _FlashAttention(TorchFunctionMode):
    """Attention keeps its inputs, its output and one number per query: the meta device would write out the whole matrix."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return _Flash.apply(*args[:3])  # type: ignore[no-untyped-call]
