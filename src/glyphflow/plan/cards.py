"""What cards and the machines around them can do: numbers of their makers, without the sparsity that doubles them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from glyphflow.core.errors import InputError


@dataclass(frozen=True)
class Card:
    """One accelerator. Rates are per second and card: operations, or bytes in one direction."""

    memory: float
    flops: float
    """Dense bfloat16 with float32 sums."""
    bandwidth: float
    """To its own memory."""
    link: float
    """To cards of the same machine."""
    network: float
    """To other machines: its own network port."""
    bus: float
    """From main memory: PCIe x16 as large copies reach it."""
    machine: int
    """Cards of a machine."""
    source: str


CARDS = {
    "A100": Card(
        80e9, 312e12, 2.04e12, 300e9, 25e9, 25e9, 8, "A100 80GB SXM data sheet; DGX A100: NVLink 600 GB/s, 8 x 200 Gb/s"
    ),
    "H100": Card(80e9, 989e12, 3.35e12, 450e9, 50e9, 50e9, 8, "H100 SXM data sheet; DGX H100: NVLink 900 GB/s, 8 x 400 Gb/s"),
    "H200": Card(141e9, 989e12, 4.8e12, 450e9, 50e9, 50e9, 8, "H200 SXM data sheet; DGX H200: NVLink 900 GB/s, 8 x 400 Gb/s"),
    "B200": Card(180e9, 2250e12, 8e12, 900e9, 50e9, 50e9, 8, "DGX B200 data sheet: 1,440 GB, NVLink 1.8 TB/s, 8 x 400 Gb/s"),
    "L40S": Card(48e9, 362e12, 0.864e12, 25e9, 12.5e9, 25e9, 8, "L40S data sheet; PCIe 4.0 x16 as measured, 100 Gb/s assumed"),
    "RTX4090": Card(
        24e9, 165.2e12, 1.008e12, 20e9, 1.25e9, 25e9, 4, "Ada whitepaper; PCIe 4.0 through the host, 10 Gb/s assumed"
    ),
    "RTXPRO6000": Card(
        96e9, 503.8e12, 1.792e12, 40e9, 1.25e9, 50e9, 4, "RTX PRO 6000 Blackwell data sheet; PCIe 5.0, 10 Gb/s assumed"
    ),
    "RTX5090": Card(32e9, 209.5e12, 1.792e12, 40e9, 1.25e9, 50e9, 4, "RTX Blackwell whitepaper; PCIe 5.0, 10 Gb/s assumed"),
}
"""NVLink rates of data sheets count both directions, the table one."""


def smallest(memory: float) -> str:
    """The name of the card that one would have who says that a card has so many bytes. Raises InputError above the largest."""
    fitting = [(card.memory, card.flops, name) for name, card in CARDS.items() if card.memory >= memory]
    if not fitting:
        largest = max(card.memory for card in CARDS.values())
        raise InputError(f"No card that is known has {memory / 1e9:.0f} GB; the largest has {largest / 1e9:.0f} GB.")
    return min(fitting)[2]


def parse_gpus(text: str) -> tuple[int, str]:
    """ "8xH200" -> (8, "H200"). Raises InputError for other forms and unknown cards."""
    match = re.fullmatch(r"(?:(\d+)x)?([A-Za-z]\w*)", text.strip())
    name = match[2].upper() if match else ""
    if match is None or name not in CARDS or int(match[1] or 1) < 1:
        raise InputError(f"{text!r} is not a number of known cards; write it like 8xH200, with one of {', '.join(CARDS)}.")
    return int(match[1] or 1), name
