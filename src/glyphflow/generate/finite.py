"""Whether results are numbers at all: nan and inf would be saved as a black picture, so they end the call with a sentence."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensor

from glyphflow.core.errors import InputError


def finite(values: torch.Tensor) -> torch.Tensor | None:
    """Whether all of ``values`` are finite, as a tensor that waits for no device; None where there are no values to look at."""
    if values.is_meta or isinstance(values, FakeTensor) or not values.numel():
        return None  # memory is being planned
    low, high = torch.aminmax(values)  # nan passes through; unlike isfinite this takes no memory beside the values
    return torch.isfinite(low) & torch.isfinite(high)


def require_finite(values: torch.Tensor, sentence: str) -> torch.Tensor:
    """``values``; raises :class:`InputError` with ``sentence`` where they hold nan or inf."""
    answer = finite(values)
    if answer is not None and not bool(answer):
        raise InputError(sentence)
    return values
