"""Objectives: (model, batch, rng) -> loss, metrics. The loop knows nothing about what they compute.

The loss is a mean over what :func:`predicted_elements` counts, so that the loop can join batches of different shapes. ``rng``
stands for the whole global batch: what is random about a sample comes from a generator of its own, derived from ``rng``'s seed
and the sample's global number, so that no split over processes or micro-batches changes it.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from glyphflow.core.hashing import derive_seed
from glyphflow.feed.batches import EncodedBatch, PixelBatch
from glyphflow.flow import ScheduleConfig, interpolate, logit_normal_sigmas, velocity_target
from glyphflow.train.recipe import FlowObjective

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
