"""Objectives: (model, batch, rng) -> loss, metrics. The loop knows nothing about what they compute."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from glyphflow.feed.feed import EncodedBatch
from glyphflow.feed.pixels import PixelBatch
from glyphflow.flow import interpolate, logit_normal_sigmas, velocity_target
from glyphflow.models import VAE
from glyphflow.train.recipe import FlowObjective, VAEObjective

EDGE_SCALES = 3
"""Gradients are compared at full, half and quarter resolution."""


def flow_matching(
    model: nn.Module, batch: EncodedBatch, rng: torch.Generator, *, times: FlowObjective
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Mean squared error of the predicted velocity, every image token alike; each sample has its own sigma and noise."""
    sigma = logit_normal_sigmas(len(batch.ids), rng, times.mean, times.std, times.shift)
    errors = velocity_errors(model, batch, sigma, rng)
    return errors.mean(), {}


def velocity_errors(model: nn.Module, batch: EncodedBatch, sigma: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Squared error per sample, mean over its tokens and features: (B,) float32, for noise levels ``sigma`` (B,).

    The samples of a batch have one shape, so the mean over (B,) weighs every token alike. ``rng`` lives on the CPU: the
    noise is the same on every device.
    """
    x0 = batch.latents.float()
    noise = torch.randn(x0.shape, generator=rng).to(x0.device)
    sigma = sigma.to(x0.device)
    predicted = model(interpolate(x0, noise, sigma), batch.embeds.float(), sigma, batch.shapes, batch.mask)
    errors: torch.Tensor = (predicted.float() - velocity_target(x0, noise)).square().flatten(1).mean(1)
    return errors


def vae_reconstruction(
    model: nn.Module, batch: PixelBatch, rng: torch.Generator, *, weights: VAEObjective
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Encode, sample the posterior, decode: L1 + ``edge`` x gradient term + ``kl`` x KL, all means over elements.

    The gradient term is a cheap stand-in for a perceptual loss: L1 alone prefers blurred strokes, and what a reader needs of a
    glyph is where its edges are. The KL (to N(0, 1), nats per latent element) only keeps the latents bounded and smooth.
    Metrics: ``l1``, ``edge``, ``kl``, ``psnr`` in dB for values in [-1, 1].
    """
    vae = cast(VAE, model)
    pixels = batch.pixels
    posterior = vae.encode(pixels)
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    noise = torch.randn(mean.shape, generator=rng).to(mean.device)
    decoded = vae.decode(mean + noise * torch.exp(0.5 * logvar)).float()
    l1 = (decoded - pixels).abs().mean()
    edge = edge_loss(decoded, pixels)
    kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
    metrics = {"l1": l1, "edge": edge, "kl": kl, "psnr": psnr(decoded, pixels)}
    return l1 + weights.edge * edge + weights.kl * kl, {name: value.detach() for name, value in metrics.items()}


def edge_loss(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of horizontal and vertical gradients, averaged over :data:`EDGE_SCALES` resolutions.

    Both inputs are (B, C, H, W); the scalar has the unit of the values. Gradients are linear, so that of the difference is
    compared.
    """
    difference = found - wanted
    terms = []
    for scale in range(EDGE_SCALES):
        if scale:
            difference = F.avg_pool2d(difference, 2)
        terms.append(difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean())
    return torch.stack(terms).mean()


def psnr(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of the peak signal-to-noise ratio in dB; values in [-1, 1], so the peak is 2."""
    error = (found.clamp(-1, 1) - wanted).square().flatten(1).mean(1).clamp_min(1e-10)
    return (10.0 * torch.log10(4.0 / error)).mean()
