"""The reference's VAE and ours with the same weights, at toy size."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from glyphflow.models import VAE, VAEConfig

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


def pixels(*shape: int, seed: int = 1) -> torch.Tensor:
    """Noise in [-1, 1]."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
