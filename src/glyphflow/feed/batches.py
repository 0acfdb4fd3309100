"""What a feed hands to training: the samples of a step, or the part of them that one data-parallel rank works on."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch

from glyphflow.core.errors import ConfigError

Shape = tuple[int, int, int]
"""(frames, height, width) of a picture in tokens, 16 x 16 pixels each."""


@dataclass(frozen=True)
class EncodedBatch:
    """Encoded samples of one compound shape: the target and all references have the same sizes in every row."""

    step: int
    ids: tuple[str, ...]
    latents: torch.Tensor
    """(B, N, 4C) packed standardised latents of the targets, bfloat16."""
    embeds: torch.Tensor
    """(B, L, D) text embeddings, zeros behind the shorter ones, bfloat16."""
    mask: torch.Tensor | None
    """(B, L) true at real tokens; None when all are real."""
    shapes: list[list[Shape]]
    """Per sample the shapes of [target, *references]."""
    fingerprint: str
    """Identity of the encoders."""
    references: torch.Tensor | None = None
    """(B, R, 4C) packed latents of all references, one behind the other in order, bfloat16."""
    tasks: tuple[str, ...] = ()
    """Per sample t2i, ti2i or i2i."""
    first: int = 0
    """Place of the first row in the global batch of the step."""
    total: int = 0
    """Rows of the global batch."""

    @property
    def tokens(self) -> int:
        """Image and text tokens, padding and references included: what the model computes on."""
        references = 0 if self.references is None else self.references.shape[1]
        return len(self.ids) * (self.latents.shape[1] + references + self.embeds.shape[1])

    def to(self, device: torch.device) -> EncodedBatch:
        """A copy whose tensors are on ``device``; itself if they are there."""
        return _moved(self, device)

    def split(self, parts: int) -> list[EncodedBatch]:
        """``parts`` micro-batches in order (views, no copies); rows must divide."""
        return _split(self, parts)


@dataclass(frozen=True)
class PixelBatch:
    """Crops of one step."""

    step: int
    ids: tuple[str, ...]
    pixels: torch.Tensor
    """(B, 3, H, W) float32 in [-1, 1], channels last in memory."""
    first: int = 0
    """Place of the first row in the global batch of the step."""
    total: int = 0
    """Rows of the global batch."""

    @property
    def tokens(self) -> int:
        """Latent positions of the batch (8 x 8 pixels each)."""
        return self.pixels.shape[0] * self.pixels.shape[2] * self.pixels.shape[3] // 64

    def to(self, device: torch.device) -> PixelBatch:
        """A copy whose tensors are on ``device``; itself if they are there."""
        return _moved(self, device)

    def split(self, parts: int) -> list[PixelBatch]:
        """``parts`` micro-batches in order (views, no copies); rows must divide."""
        return _split(self, parts)


B = TypeVar("B", EncodedBatch, PixelBatch)


def _moved(batch: B, device: torch.device) -> B:
    tensors: dict[str, Any] = {name: one.to(device, non_blocking=True) for name, one in tensor_fields(batch).items()}
    return replace(batch, **tensors)


def _split(batch: B, parts: int) -> list[B]:
    rows = len(batch.ids)
    if rows % parts:
        raise ConfigError(f"A batch of {rows} samples cannot be cut into {parts} equal micro-batches; use a divisor of {rows}.")
    size = rows // parts
    found = []
    for start in range(0, rows, size):
        changes: dict[str, Any] = {name: tensor[start : start + size] for name, tensor in tensor_fields(batch).items()}
        for name in ("ids", "tasks", "shapes"):
            if hasattr(batch, name):
                changes[name] = getattr(batch, name)[start : start + size]
        found.append(replace(batch, first=batch.first + start, **changes))
    return found


def tensor_fields(batch: Any) -> dict[str, torch.Tensor]:
    """The tensors of a batch by name; fields that are None are left out."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
