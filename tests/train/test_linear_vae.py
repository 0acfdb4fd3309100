"""The linear starting point of the VAE against principal components computed the plain way."""

import numpy as np
import pytest
import torch

from glyphflow.core.errors import InputError
from glyphflow.models import VAE, VAEConfig
from glyphflow.models.presets import NANO_VAE
from glyphflow.train.linear_vae import init_block_transform


def pictures(count: int) -> list[np.ndarray]:
    """Smooth random grounds with a random box on each: blocks that have a few strong components."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        picture = np.broadcast_to(rng.integers(0, 256, 3), (64, 64, 3)).astype(np.float64).copy()
        y, x = rng.integers(0, 40, 2)
        picture[y : y + rng.integers(6, 24), x : x + rng.integers(6, 24)] = rng.integers(0, 256, 3)
        made.append(picture.astype(np.uint8))
    return made


def blocks(x_BCHW: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.unfold(x_BCHW, 8, stride=8).transpose(1, 2).reshape(-1, 192)


def test_latents_are_the_principal_components_and_the_decoder_returns_the_mean_colour() -> None:
    vae = VAE(NANO_VAE).init_weights(torch.Generator().manual_seed(0))
    shown = pictures(60)
    init_block_transform(vae, shown)
    x = torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        posterior = vae.encode(x)
        decoded = vae.decode(posterior.mean)
    flat = blocks(x).double()
    variance, axes = torch.linalg.eigh(flat.T @ flat / len(flat))
    strongest = axes[:, torch.argsort(variance, descending=True)[:16]]
    expected = flat @ strongest / (flat @ strongest).square().mean(0).sqrt()
    found = posterior.mean.permute(0, 2, 3, 1).reshape(-1, 16).double()
    for k in range(8):  # weaker ones may swap places among equals
        assert abs(torch.corrcoef(torch.stack([expected[:, k], found[:, k]]))[0, 1]) > 0.99
    assert torch.allclose(posterior.logvar, torch.tensor(-6.0), atol=1e-4)

    colour = torch.nn.functional.avg_pool2d(x, 8)
    seen = torch.nn.functional.avg_pool2d(decoded, 8)
    assert torch.corrcoef(torch.stack([colour.flatten(), seen.flatten()]))[0, 1] > 0.95


def test_a_model_that_is_too_narrow_is_refused() -> None:
    with pytest.raises(InputError, match="at least 12, 48, 49 and 49"):
        init_block_transform(VAE(VAEConfig(**{**NANO_VAE.model_dump(), "base_dim": 12})), pictures(2))
