"""The reference's VAE and ours with the same weights, at toy size."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from glyphflow.models import VAE, VAEConfig
from rounding import assert_same_bfloat16

diffusers = pytest.importorskip("diffusers")

TINY: dict[str, Any] = {"base_dim": 8, "dim_mult": (1, 2, 2, 4), "num_res_blocks": 1}


@functools.cache
def vae_pair(dtype: torch.dtype, channels: int = 3, **sizes: Any) -> tuple[Any, VAE]:
    """(reference, ours); the gammas, which start as ones, are random, so that forgetting one shows."""
    config = VAEConfig(**{**TINY, **sizes}, input_channels=channels)
    torch.manual_seed(0)
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in config.model_dump().items()}
    reference = diffusers.AutoencoderKLQwenImage(**lists).eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if name.endswith("gamma"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    reference = reference.to(dtype)
    ours = VAE(config).to(dtype).eval()
    ours.load_state_dict(reference.state_dict())
    return reference, ours


def assert_same(
    network: VAE,
    run: Callable[[VAE, torch.Tensor], torch.Tensor],
    given: torch.Tensor,
    expected: torch.Tensor,
    atol: float = 0.0,
) -> None:
    """``run(network, given)`` is ``expected``: within 1e-5 in float32, the same (within ``atol``) in bfloat16."""
    found = run(network, given)
    if found.dtype == torch.float32:
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    else:
        assert_same_bfloat16(found, expected, lambda: run(copy.deepcopy(network).float(), given.float()), atol)


def pixels(*shape: int, seed: int = 1) -> torch.Tensor:
    """Noise in [-1, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
