"""The straight path between a picture and noise.

Orientation, once and for all: **sigma = 1 is noise everywhere in this package**: x_sigma = (1 - sigma) x0 + sigma noise. The
model predicts the velocity d x_sigma / d sigma = noise - x0 at the time input sigma. Equation 1 of the Qwen-Image report runs
the other way (its t = 1 is data, its velocity x0 - noise); the released weights follow the convention used here.
"""

from __future__ import annotations

import torch


def interpolate(x0: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor | float) -> torch.Tensor:
    """The point x_sigma between ``x0`` (sigma = 0) and ``noise`` (sigma = 1).

    ``x0`` and ``noise`` have one shape (B, ...); ``sigma`` is a number in [0, 1] or one per sample, (B,).
    """
    if isinstance(sigma, torch.Tensor) and sigma.ndim:
        sigma = sigma.reshape(-1, *[1] * (x0.ndim - 1))
    return (1 - sigma) * x0 + sigma * noise


def velocity_target(x0: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """What the model learns to predict: noise - x0, the same at every point of the path."""
    return noise - x0
