"""The moving average of the trained weights: what is looked at, measured and exported."""

from __future__ import annotations

import torch
from torch import nn

from glyphflow.train.pieces import local


class EMA:
    """Exponential moving average of a model's trained parameters in float32, of each process's own part of them.

    The decay of update ``n`` (from 0) is min(decay, (1 + n) / (10 + n)): the random start is forgotten quickly. Make it behind
    :meth:`glyphflow.train.parallel.World.apply`, which changes the parameters.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._decay = decay
        self._names = [name for name, _ in trained]
        self._parameters = [p for _, p in trained]
        self._average = [local(p).float().clone() for p in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after optimizer step number ``step`` (from 0)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        now = [local(p).float() for p in self._parameters]  # no copy where they are float32
        torch._foreach_lerp_(self._average, now, 1.0 - decay)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The averages by parameter name, the very tensors that :meth:`update` changes; this process's parts."""
        return dict(zip(self._names, self._average, strict=True))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange averages and parameters; a second call restores both exactly.

        Values move and storage stays, because sharded parameters are views of buffers that are gathered.
        """
        for parameter, average in zip(self._parameters, self._average, strict=True):
            mine = local(parameter)
            kept = mine.clone()
            mine.copy_(average)
            average.copy_(kept)
