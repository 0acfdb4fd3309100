"""The optimizer of a run, and its learning rate over time."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from glyphflow.core.errors import InputError
from glyphflow.train.lean import Adafactor, AdamW8bit
from glyphflow.train.recipe import TrainConfig


def make_optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of ``settings`` for the parameters of ``model`` that take gradients.

    "adamw": fused AdamW, 8 bytes a parameter; "adamw8bit": the same in 2.03; "adafactor": next to none. Norms and biases
    (parameters with a single axis of more than one entry) get no weight decay. Raises InputError for Adafactor on sharded
    weights, whose rows and columns no process has whole.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.squeeze().ndim >= 2]
    plain = [p for p in trained if p.squeeze().ndim < 2]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "adamw8bit":
        return AdamW8bit(groups, lr=settings.lr, betas=settings.betas)
    if settings.optimizer == "adafactor":
        if any(isinstance(p, DTensor) for p in trained):
            raise InputError("train.optimizer is adafactor and the weights are sharded; use adamw8bit, or one process.")
        return Adafactor(groups, lr=settings.lr)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)


def learning_rate(step: int, settings: TrainConfig) -> float:
    """Learning rate of ``step`` (from 0): linear warm-up, then constant, or a cosine down to ``lr_floor`` x ``lr``."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    wave = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
    return settings.lr * (settings.lr_floor + (1.0 - settings.lr_floor) * wave)
