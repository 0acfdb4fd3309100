"""AdamW over float32 parameters, its learning rate over time, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from glyphflow.train.recipe import TrainConfig


def make_optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.AdamW:
    """Fused AdamW; norms and biases (parameters with a single axis of more than one entry) get no weight decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.squeeze().ndim >= 2]
    plain = [p for p in trained if p.squeeze().ndim < 2]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.lr, betas=settings.betas, fused=True)


def learning_rate(step: int, settings: TrainConfig) -> float:
    """Learning rate of ``step`` (from 0): linear warm-up, then constant, or a cosine down to ``lr_floor`` x ``lr``."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    wave = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return settings.lr * (settings.lr_floor + (1.0 - settings.lr_floor) * wave)


class EMA:
    """Exponential moving average of a model's parameters in float32.

    The decay of update ``n`` (from 0) is min(decay, (1 + n) / (10 + n)): the random start is forgotten quickly.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._names = [name for name, _ in model.named_parameters()]
        self._parameters = [p for _, p in model.named_parameters()]
        self._average = [p.detach().float().clone() for p in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after optimizer step number ``step`` (from 0)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._average, [p.detach() for p in self._parameters], 1.0 - decay)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The averages by parameter name, the very tensors that :meth:`update` changes."""
        return dict(zip(self._names, self._average, strict=True))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange averages and parameters; a second call restores both exactly."""
        for parameter, average in zip(self._parameters, self._average, strict=True):
            parameter.data, average.data = average.data, parameter.data


def gradient_norm(parameters: Iterable[nn.Parameter], clip: float) -> float:
    """Norm of the whole gradient before it is scaled down to ``clip``."""
    return float(nn.utils.clip_grad_norm_(parameters, clip))
