"""The path and its orientation, and where on it training samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from glyphflow.flow import interpolate, logit_normal_sigmas, stratified_sigmas, velocity_target


def test_sigma_one_is_noise() -> None:
    x0, noise = torch.full((2, 3), 5.0), torch.full((2, 3), -1.0)
    assert torch.equal(interpolate(x0, noise, 0.0), x0)
    assert torch.equal(interpolate(x0, noise, 1.0), noise)
    assert torch.equal(interpolate(x0, noise, torch.tensor([0.0, 1.0])), torch.stack([x0[0], noise[0]]))


def test_velocity_is_the_derivative_along_sigma() -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=generator).split(1)
    sigma = torch.tensor([0.37], dtype=torch.float64, requires_grad=True)
    _, derivative = torch.autograd.functional.jvp(lambda s: interpolate(x0, noise, s), sigma, torch.ones_like(sigma))
    assert torch.allclose(derivative, velocity_target(x0, noise), atol=1e-12)
    # From any point of the path the velocity leads to both ends.
    x = interpolate(x0, noise, 0.37)
    assert torch.allclose(x - 0.37 * velocity_target(x0, noise), x0)


@pytest.mark.parametrize(("mean", "std", "shift"), [(0.0, 1.0, 1.0), (0.5, 0.8, 1.0), (0.0, 1.0, 3.0), (-1.0, 1.5, 2.0)])
def test_logit_normal_moments(mean: float, std: float, shift: float) -> None:
    """Mean and variance against the integral over the normal density; a shift s is ln s more mean."""
    drawn = logit_normal_sigmas(200_000, torch.Generator().manual_seed(1), mean, std, shift).double()
    z = np.linspace(-10, 10, 20_001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    values = 1 / (1 + np.exp(-(mean + math.log(shift) + std * z)))
    first, second = float((values * density).sum()), float((values**2 * density).sum())
    error = 4 * math.sqrt((second - first**2) / len(drawn))  # four standard errors
    assert abs(drawn.mean().item() - first) < error
    assert abs(drawn.var().item() - (second - first**2)) < error
    assert drawn.min() > 0 and drawn.max() < 1


def test_draws_belong_to_the_generator() -> None:
    first, again = (logit_normal_sigmas(5, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.dtype == torch.float32


def test_stratified_sigmas() -> None:
    assert stratified_sigmas(4).tolist() == [0.125, 0.375, 0.625, 0.875]
