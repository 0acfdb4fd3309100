"""Objectives: (model, batch, rng) -> loss, metrics. The loop knows nothing about what they compute.

The loss is a mean over what :func:`predicted_elements` counts, so that the loop can join batches of different shapes. ``rng``
stands for the whole global batch: what is random about a sample comes from a generator of its own, derived from ``rng``'s seed
and the sample's global number, so that no split over processes or micro-batches changes it.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from glyphflow.core.hashing import derive_seed
from glyphflow.feed.batches import EncodedBatch, PixelBatch
from glyphflow.flow import ScheduleConfig, interpolate, logit_normal_sigmas, velocity_target
from glyphflow.models import VAE
from glyphflow.train.recipe import FlowObjective, VAEObjective

EDGE_SCALES = 3
"""Gradients are compared at full, half and quarter resolution."""

_SAMPLER = ScheduleConfig(use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192)  # the released one


def flow_matching(
    model: nn.Module, batch: EncodedBatch, rng: torch.Generator, *, times: FlowObjective
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Mean squared error of the predicted velocity, every target token alike; each sample has its own sigma and noise."""
    shift = math.exp(_SAMPLER.mu(batch.latents.shape[1])) if times.shift == "sampler" else times.shift
    drawn = []
    for generator in sample_generators(rng, batch.first, len(batch.ids)):
        sigma = logit_normal_sigmas(1, generator, times.mean, times.std, shift)
        drawn.append((sigma, torch.randn(batch.latents.shape[1:], generator=generator)))
    sigmas, noise = torch.cat([sigma for sigma, _ in drawn]), torch.stack([noise for _, noise in drawn])
    return velocity_errors(model, batch, sigmas, noise).mean(), {}


def velocity_errors(model: nn.Module, batch: EncodedBatch, sigma: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Squared error per sample, mean over its target tokens and features: (B,) float32.

    ``sigma`` (B,) and ``noise`` (B, N, 4C) come from the CPU and are the same on every device. References are clean and follow
    the noisy target; nothing is asked of their tokens.
    """
    x0 = batch.latents.float()
    noise, sigma = noise.to(x0.device, non_blocking=True), sigma.to(x0.device, non_blocking=True)
    image, target = interpolate(x0, noise, sigma), None
    if batch.references is not None:
        image, target = torch.cat([image, batch.references.float()], dim=1), x0.shape[1]
    predicted = model(image, batch.embeds.float(), sigma, batch.shapes, batch.mask, target_tokens=target)
    errors: torch.Tensor = (predicted.float() - velocity_target(x0, noise)).square().flatten(1).mean(1)
    return errors


def sample_generators(rng: torch.Generator, first: int, count: int) -> list[torch.Generator]:
    """A generator for each of the samples ``first``, ``first`` + 1, … of the global batch that ``rng`` stands for."""
    return [torch.Generator().manual_seed(derive_seed(rng.initial_seed(), i)) for i in range(first, first + count)]


def predicted_elements(batch: EncodedBatch | PixelBatch) -> int:
    """How many tokens or pixels the loss of a batch is the mean of: its weight among batches of other shapes."""
    if isinstance(batch, PixelBatch):
        return batch.pixels.shape[0] * batch.pixels.shape[-2] * batch.pixels.shape[-1]
    return batch.latents.shape[0] * batch.latents.shape[1]


def image_tokens(batch: EncodedBatch) -> int:
    """Image tokens that a batch puts through the model, references included: the same on every data-parallel rank."""
    references = 0 if batch.references is None else batch.references.shape[1]
    return batch.latents.shape[0] * (batch.latents.shape[1] + references)


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
    generators = sample_generators(rng, batch.first, len(batch.ids))
    noise = torch.stack([torch.randn(mean.shape[1:], generator=generator) for generator in generators]).to(mean.device)
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
