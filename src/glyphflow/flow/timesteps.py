"""At which points of the path a model is trained, and at which it is measured."""

from __future__ import annotations

import torch


def logit_normal_sigmas(
    n: int, generator: torch.Generator | None = None, mean: float = 0.0, std: float = 1.0, shift: float = 1.0
) -> torch.Tensor:
    """``n`` training sigmas in (0, 1), fp32: the sigmoid of N(mean, std), then shifted.

    The report names the distribution and neither mean nor scale. ``mean`` > 0 trains more on noisy points; ``shift`` s maps
    sigma to s sigma / (1 + (s - 1) sigma), which is the sampler's own map and equals adding ln s to the mean.
    """
    logits = mean + std * torch.randn(n, generator=generator, device=generator.device if generator else "cpu")
    sigmas = torch.sigmoid(logits)
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def stratified_sigmas(n: int) -> torch.Tensor:
    """The middles of ``n`` equal parts of (0, 1), fp32: losses measured at fixed points can be compared between runs."""
    return (torch.arange(n, dtype=torch.float32) + 0.5) / n
