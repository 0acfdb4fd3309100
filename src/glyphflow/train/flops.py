"""Floating-point operations of an MMDiT: a multiplication and an addition are two.

What works on tokens grows with tokens, and what works on the timestep, the modulations, with samples: they are a third of the
parameters and almost none of the work. Counting them per token would promise half as much again as is done.
"""

from __future__ import annotations

from dataclasses import dataclass

from glyphflow.models import MMDiTConfig

_WAVE = 256  # features of the timestep's sinusoid


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
