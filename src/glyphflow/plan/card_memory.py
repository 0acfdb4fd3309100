"""How many bytes a training step takes on one card: the layout that training uses, run on tensors without memory.

As in :mod:`glyphflow.plan.step_memory`, and with :class:`glyphflow.train.lowmem.LowMemory` around the network: blocks that
stay, are computed again, or come and go. Work is a straight line in the layers of each kind and in the samples.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from glyphflow.generate.activations import LiveBytes
from glyphflow.generate.streaming import Weights
from glyphflow.models import MMDiT, MMDiTConfig
from glyphflow.models.block import Block
from glyphflow.models.lora import linear_shapes
from glyphflow.models.quantize import Quantize, expanding_bytes, quantise_as_placed
from glyphflow.plan.step_memory import StepTokens, flashing, training_step
from glyphflow.train.lean import CHUNK, Adafactor, AdamW8bit, LeanOptimizer
from glyphflow.train.lora import LoRAConfig, inject_lora, targets
from glyphflow.train.lowmem import LowMemory

_META = torch.device("meta")
_HALF = torch.bfloat16
_LAYERS = (2, 3)  # the last is unlike the others
_SAMPLES = (1, 2)

Stay = Literal["kept", "again", "away"]
"""A block on the card that keeps its activations, one that computes them again, one that comes from main memory."""
Learns = LoRAConfig | Literal["adamw8bit", "adafactor"]
"""An adapter, or all weights by this optimizer."""
_KINDS: dict[str, type[AdamW8bit] | type[Adafactor]] = {"adamw8bit": AdamW8bit, "adafactor": Adafactor}
STAYS: tuple[Stay, ...] = ("kept", "again", "away")


@dataclass(frozen=True)
class WeightBytes:
    """Bytes of the network's parts: around the blocks, of one block without its modulations, of one block's modulations."""

    around: int
    block: int
    rows: int


@functools.lru_cache(maxsize=64)
def weight_bytes(config: MMDiTConfig, base: Quantize | None) -> WeightBytes:
    """Blocks in bfloat16, their linears in ``base`` if it says so; what is around them in float32."""
    model = _network(config.model_copy(update={"num_layers": 1}), base)
    for name, part in model.named_children():
        if name != "transformer_blocks":
            part.float()
    block = cast(Block, model.transformer_blocks[0])
    rows = [block.img_mod, block.txt_mod]
    sizes = Weights([model], apart=[block]), Weights([block], apart=rows), Weights(rows)
    return WeightBytes(*(part.nbytes for part in sizes))


@functools.lru_cache(maxsize=64)
def adapter_parameters(config: MMDiTConfig, lora: LoRAConfig) -> int:
    """Numbers that an adapter trains."""
    with _META:
        shapes = linear_shapes(MMDiT(config))
    return sum(lora.rank * sum(shapes[name]) for name in targets(lora, shapes))


@functools.lru_cache(maxsize=64)
def optimizer_bytes(config: MMDiTConfig, kind: Literal["adamw8bit", "adafactor"]) -> int:
    """State of all weights."""
    with _META:
        model = MMDiT(config)
    optimizer = _KINDS[kind](model.parameters())
    return sum(tensor.nbytes for p in model.parameters() for tensor in optimizer.empty_state(p).values())


def work_bytes(
    config: MMDiTConfig,
    tokens: StepTokens,
    batch: int,
    blocks: dict[Stay, int],
    learns: Learns,
    base: Quantize | None = None,
) -> int:
    """The most bytes alive beside weights, buffers and optimizer in a step of ``batch`` samples of ``tokens``.

    ``blocks`` says how many of them stay how; the linears of frozen ones are in ``base``. Gradients of all weights are applied
    as they come; those of adapters do not count here.
    """
    start, layers = 0.0, 0.0
    for stay, count in blocks.items():
        if count:
            fixed, each = _line(config, tokens, batch, stay, learns)
            start, layers = max(start, fixed), layers + count * each
    return int(start + layers) + expanding_bytes(config.width, _HALF, base)


def _line(config: MMDiTConfig, tokens: StepTokens, batch: int, stay: Stay, learns: Learns) -> tuple[float, float]:
    """(start, for each block) of a step of ``batch`` samples."""
    (few, more), (one, two) = _LAYERS, _SAMPLES
    found = {}
    for layers in _LAYERS:
        size = config.model_copy(update={"num_layers": layers})
        at_one = _counted(size, tokens, one, stay, learns)
        more_each = 0.0 if batch == one else (_counted(size, tokens, two, stay, learns) - at_one) / (two - one)
        found[layers] = at_one + more_each * (batch - one)
    each = (found[more] - found[few]) / (more - few)
    return found[few] - few * each, each


@functools.lru_cache(maxsize=4096)
def _counted(config: MMDiTConfig, tokens: StepTokens, batch: int, stay: Stay, learns: Learns) -> int:
    model = _network(config, None)
    for block in model.transformer_blocks:
        # Inside of what computes a block again, where it serves the repetition, too.
        block.forward = functools.partial(flashing, block.forward)
    if isinstance(learns, LoRAConfig):
        inject_lora(model.requires_grad_(False), learns, 0)
        model.to(_META)  # adapters have values
    away = config.num_layers if stay == "away" else 0
    with LowMemory(model, _META, offload=away, every=int(stay == "again")) as low:
        if not isinstance(learns, LoRAConfig):
            low.fuse(_weightless(_KINDS[learns](model.parameters())))
        with _META, LiveBytes() as live:
            training_step(model, tokens, batch, torch.float32)
    sizes = weight_bytes(config, None)
    return int(live.peak) - (2 * (sizes.block + sizes.rows) if away else 0)


def _weightless(optimizer: LeanOptimizer) -> LeanOptimizer:
    """``optimizer`` without generators, which tensors without memory have not.

    It updates as much of a weight as it treats together, and of the largest weights only: the others take less.
    """

    def part(tensor: Tensor) -> Tensor:
        rows = max(1, CHUNK // tensor[0].numel())
        return tensor.detach()[:rows]

    weights = optimizer.param_groups[0]["params"]
    large = max(weight.numel() for weight in weights) // 2
    states = {weight.shape: optimizer.empty_state(part(weight)) for weight in weights if weight.numel() > large}

    @torch.no_grad()
    def update(parameter: Tensor, weight: Tensor, grad: Tensor) -> None:
        if parameter.shape in states:
            optimizer.apply(optimizer.param_groups[0], states[parameter.shape], 1, part(weight), part(grad), None)

    optimizer.update = update  # type: ignore[method-assign]
    return optimizer


def _network(config: MMDiTConfig, base: Quantize | None) -> MMDiT:
    with _META:
        model = MMDiT(config).to(_HALF)
    if base is not None:
        placed = quantise_as_placed(base)
        for name in [name for name, _ in model.named_parameters()]:
            placed(model, name)
    return model
