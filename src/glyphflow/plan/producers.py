"""How many pictures a producer encodes in a second: stated, measured, or from the work that encoding is."""

from __future__ import annotations

import functools
import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from glyphflow.core.errors import InputError
from glyphflow.core.text import read_text, split_lines
from glyphflow.feed.buckets import bucket_sizes
from glyphflow.models import VAE, VAEConfig
from glyphflow.plan.cards import Card

CONDITION_PARAMETERS = 6_525_288_448
"""Weights of Qwen2.5-VL-7B's 28 language layers that every token passes: attention and MLP."""

PREFIX = 34
"""Tokens of the template before the caption: read, but not handed on."""


@dataclass(frozen=True)
class Encoding:
    """Pictures a second of one producer with its caption; ``measured`` (side -> rate) goes before the estimate."""

    card: Card
    measured: Mapping[int, float] = field(default_factory=dict)
    efficiency: float = 0.30
    """Share of the card's dense peak that the two encoders reach."""

    def rate(self, vae: VAEConfig, side: int, caption_tokens: int) -> float:
        """Pictures of ``side`` x ``side`` px a second; a side that was not measured is estimated."""
        if side in self.measured:
            return self.measured[side]
        work = encode_flops(vae, side) + 2 * CONDITION_PARAMETERS * (PREFIX + caption_tokens)
        return self.efficiency * self.card.flops / work


@functools.lru_cache(maxsize=64)
def encode_flops(vae: VAEConfig, side: int) -> int:
    """Operations of encoding a square picture of that area with the VAE, counted on the real network without memory."""
    width, height = bucket_sizes(side * side)[0]
    with torch.device("meta"):
        model, picture = VAE(vae), torch.empty(1, vae.input_channels, height, width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.encode(picture)
    return int(counter.get_total_flops())


def parse_rates(text: str) -> dict[int, float]:
    """ "256=400,640=60" -> pictures a second by side. Raises InputError for other forms."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        rates = {int(side): float(rate) for side, rate in pairs}
    except ValueError as error:
        raise InputError(f"{text!r} are no encode rates; write pictures a second by side, like 256=400,640=60.") from error
    if not all(0 < rate < math.inf and side > 0 for side, rate in rates.items()):
        raise InputError(f"{text!r} has a rate or a side that is not above 0; a producer that encodes nothing feeds nobody.")
    return rates


def read_rates(path: Path) -> dict[int, float]:
    """Median pictures a second by side from a log of producers: JSON lines with ``side``, ``pictures`` and ``seconds``.

    Lines without the three are of other things and skipped. Raises InputError when none has them.
    """
    found: dict[int, list[float]] = {}
    try:
        lines = split_lines(read_text(path))
    except InputError as error:
        raise InputError(f"Cannot read the feed log: {error}") from error
    for line in lines:
        try:
            entry = json.loads(line)
            if {"side", "pictures", "seconds"} <= entry.keys() and 0 < entry["seconds"] < math.inf:
                found.setdefault(int(entry["side"]), []).append(entry["pictures"] / entry["seconds"])
        except (ValueError, TypeError, AttributeError, OverflowError):
            continue  # one that a kill cut short, or of something else
    if not found:
        raise InputError(f"{path} has no line with side, pictures and seconds; give the log of a feed's producers.")
    return {side: statistics.median(rates) for side, rates in found.items()}
