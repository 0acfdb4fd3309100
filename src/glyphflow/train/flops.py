"""Floating-point operations of an MMDiT: a multiplication and an addition are two.

What works on tokens grows with tokens, and what works on the timestep, the modulations, with samples: they are a third of the
parameters and almost none of the work. Counting them per token would promise half as much again as is done.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from glyphflow.feed.batches import EncodedBatch
from glyphflow.models import MMDiTConfig

_WAVE = 256  # features of the timestep's sinusoid
_SIDE = 1024  # of the matrices that a rate is measured with: large enough for the caches to be used as in a model


@dataclass(frozen=True)
class SampleFlops:
    """One sample's forward pass, in parts."""

    embed: int
    """Inputs to tokens, and the first layer of the timestep: their inputs need no gradient."""
    blocks: int
    modulation: int
    head: int

    @property
    def forward(self) -> int:
        """Everything once."""
        return self.embed + self.blocks + self.modulation + self.head

    @property
    def train(self) -> int:
        """Forward and backward: twice more for the gradients of weights and inputs."""
        return 3 * self.forward - self.embed

    @property
    def adapt(self) -> int:
        """Forward and backward through frozen weights: gradients of the inputs only."""
        return 2 * self.forward - self.embed

    def recomputed(self, share: float) -> float:
        """What activation checkpointing of a ``share`` of the blocks repeats in the backward pass."""
        return share * (self.blocks + self.modulation)


def sample_flops(config: MMDiTConfig, text: int, target: int, references: int = 0) -> SampleFlops:
    """Operations for one sample of ``text`` tokens, ``target`` image tokens to predict and ``references`` clean ones."""
    width, image = config.width, target + references
    rows = 2 if config.zero_cond_t else 1
    square = width * width
    per_token, joint = 2 * 12 * square, image + text  # four projections and an MLP of 4 D
    inner = joint * per_token + 4 * joint * joint * width
    # The last block asks for the target only, and its text is needed only as keys and values.
    last = target * 2 * 10 * square + (image + text) * 2 * 2 * square + 4 * target * joint * width
    return SampleFlops(
        embed=2 * width * (image * config.in_channels + text * config.joint_attention_dim + rows * _WAVE),
        blocks=(config.num_layers - 1) * inner + last,
        modulation=config.num_layers * 2 * 6 * square * (rows + 1),
        head=2 * square * (rows + 2) + 2 * target * width * config.patch_size**2 * (config.out_channels or config.in_channels),
    )


def batch_flops(batch: EncodedBatch, config: MMDiTConfig, *, frozen: bool = False) -> int:
    """Operations that a training step on ``batch`` needs, with the padding of its texts, which is computed, too.

    ``frozen``: only an adapter learns, whose own work is too little to count. What activation checkpointing repeats is not
    progress and not counted.
    """
    references = 0 if batch.references is None else batch.references.shape[1]
    sample = sample_flops(config, batch.embeds.shape[1], batch.latents.shape[1], references)
    return len(batch.ids) * (sample.adapt if frozen else sample.train)


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """Operations a second of a square matrix product on ``device``, the best of several: what a CPU can be measured against."""
    a, b = (torch.randn(_SIDE, _SIDE, device=device).to(dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        began = time.perf_counter()
        float((a @ b)[0, 0])  # reading a number waits for the device
        best = min(best, time.perf_counter() - began)
    return 2 * _SIDE**3 / best
