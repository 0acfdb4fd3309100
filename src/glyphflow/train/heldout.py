"""The held-out loss of the MMDiT: the same samples, noise levels and noise at every measurement, so that runs compare."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from glyphflow.core.hashing import derive_seed
from glyphflow.feed.feed import EncodedBatch
from glyphflow.flow import stratified_sigmas
from glyphflow.train.objectives import velocity_errors

BINS = 8


def heldout_velocity(model: nn.Module, *, batches: Sequence[EncodedBatch], seed: int) -> dict[str, float]:
    """``heldout_loss``: mean squared velocity error over :data:`BINS` noise levels, and ``heldout_loss_sigma_…`` for each.

    Samples take the levels in turn. The level decides most of the error, so a mean over random levels would mostly measure
    luck.
    """
    levels = stratified_sigmas(BINS)
    sums, counts, seen = torch.zeros(BINS), torch.zeros(BINS), 0
    for number, batch in enumerate(batches):
        turn = (torch.arange(len(batch.ids)) + seen) % BINS
        rng = torch.Generator().manual_seed(derive_seed(seed, "heldout", number))
        errors = velocity_errors(model, batch, levels[turn], rng).cpu()
        sums.index_add_(0, turn, errors)
        counts.index_add_(0, turn, torch.ones(len(batch.ids)))
        seen += len(batch.ids)
    means = {f"heldout_loss_sigma_{float(levels[i]):.2f}": float(sums[i] / counts[i]) for i in range(BINS) if counts[i]}
    return {"heldout_loss": sum(means.values()) / len(means), **means}
