"""The held-out loss of the MMDiT: the same samples, noise levels and noise at every measurement, so that runs compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from glyphflow.core.hashing import derive_seed
from glyphflow.feed.batches import EncodedBatch
from glyphflow.flow import stratified_sigmas
from glyphflow.train.objectives import sample_generators, velocity_errors

BINS = 8

Sum = Callable[[Mapping[str, float]], dict[str, float]]
"""Adds numbers up over the data-parallel ranks."""


def heldout_velocity(
    model: nn.Module,
    *,
    batches: Sequence[EncodedBatch],
    seed: int,
    rank: int = 0,
    world: int = 1,
    total: Sum = dict,
) -> dict[str, float]:
    """``heldout_loss``: mean squared velocity error over :data:`BINS` noise levels, and ``heldout_loss_sigma_…`` for each.

    Samples take the levels in turn, and fewer samples than levels take them in several rounds, so that none is left out. The
    level decides most of the error, so a mean over random levels would mostly measure
    luck. ``world`` processes share the batches and join their sums with ``total``; all make the same number of passes, as
    sharded weights must be gathered by all.
    """
    levels = stratified_sigmas(BINS)
    sums, counts = torch.zeros(BINS), torch.zeros(BINS)
    firsts = [sum(len(batch.ids) for batch in batches[:number]) for number in range(len(batches))]
    samples = sum(len(batch.ids) for batch in batches)
    turns = len(batches) * -(-BINS // samples)
    for turn in range(rank, -(-turns // world) * world, world):
        number = min(turn, turns - 1)
        batch, first = batches[number % len(batches)], firsts[number % len(batches)]
        bins = (torch.arange(len(batch.ids)) + first + number // len(batches) * samples) % BINS
        rng = torch.Generator().manual_seed(derive_seed(seed, "heldout"))
        noise = [torch.randn(batch.latents.shape[1:], generator=g) for g in sample_generators(rng, first, len(batch.ids))]
        errors = velocity_errors(model, batch, levels[bins], torch.stack(noise)).cpu()
        if turn == number:  # a rank without a batch of its own only keeps the others company
            sums.index_add_(0, bins, errors)
            counts.index_add_(0, bins, torch.ones(len(batch.ids)))
    found = total({f"{kind}_{i}": float(value[i]) for kind, value in (("sum", sums), ("count", counts)) for i in range(BINS)})
    means = {
        f"heldout_loss_sigma_{float(levels[i]):.2f}": found[f"sum_{i}"] / found[f"count_{i}"]
        for i in range(BINS)
        if found[f"count_{i}"]
    }
    return {"heldout_loss": sum(means.values()) / len(means), **means}
