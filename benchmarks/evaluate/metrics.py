"""The arithmetic of scoring against the plain ways of doing it.

    python -m benchmarks.evaluate.metrics [--rounds 5] [--quick]

PSNR and SSIM: a batch of pictures at once against scikit-image one by one (the same formula; the largest difference is
printed). Edit distance: two columns of bits against the table that public benchmark code fills in Python or numpy. Both sides
take turns in one process on one thread; medians of CPU time, because a machine is seldom quiet. ``--quick`` is one round.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from benchmarks.common import machine, table, take_turns
from glyphflow.evaluate.metrics.pixels import psnr, ssim
from glyphflow.evaluate.metrics.strings import levenshtein


def pixels(side: int, count: int) -> tuple[str, Callable[[], Any], Callable[[], Any]]:
    x = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = (x + 0.1 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).clamp(0, 1)
    pairs = [(a.permute(1, 2, 0).numpy().copy(), b.permute(1, 2, 0).numpy().copy()) for a, b in zip(x, y, strict=True)]

    def theirs() -> list[float]:
        return [
            value
            for a, b in pairs
            for value in (
                peak_signal_noise_ratio(a, b, data_range=1),
                structural_similarity(
                    a, b, data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
                ),
            )
        ]

    def ours() -> list[float]:
        return torch.stack([psnr(x, y), ssim(x, y)], dim=1).flatten().tolist()

    return f"PSNR and SSIM of {count} pictures of {side} x {side}", theirs, ours


def distances(length: int, count: int) -> tuple[str, Callable[[], Any], Callable[[], Any]]:
    rng = random.Random(0)
    pairs = []
    for _ in range(count):
        a = [rng.choice("abcdefghij klmnop") for _ in range(length)]
        b = list(a)
        for _ in range(length // 10):
            b[rng.randrange(length)] = "#"
        pairs.append(("".join(a), "".join(b)))

    def theirs() -> list[float]:
        found = []
        for a, b in pairs:
            table = np.zeros((len(a) + 1, len(b) + 1))
            table[:, 0], table[0, :] = np.arange(len(a) + 1), np.arange(len(b) + 1)
            for i in range(1, len(a) + 1):
                for j in range(1, len(b) + 1):
                    change = table[i - 1][j - 1] + (a[i - 1] != b[j - 1])
                    table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, change)
            found.append(float(table[-1, -1]))
        return found

    return (
        f"edit distance of {count} texts of {length} characters",
        theirs,
        lambda: [float(levenshtein(a, b)) for a, b in pairs],
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine('scikit-image', 'numpy')}; medians of {1 if options.quick else options.rounds}\n")
    rows = []
    for name, theirs, ours in (pixels(256, 16), pixels(1024, 2), distances(30, 50), distances(150, 20), distances(600, 2)):
        difference = max(abs(a - b) for a, b in zip(theirs(), ours(), strict=True))
        seconds = take_turns({"plain": theirs, "ours": ours}, 1 if options.quick else options.rounds, time.process_time)
        a, b = (1000 * value for value in seconds.values())
        rows.append((name, f"{a:.1f}", f"{b:.1f}", f"{a / b:.1f}", f"{difference:.1e}"))
    print(table(("what", "plain ms", "ours ms", "ratio", "largest difference"), rows))


if __name__ == "__main__":
    main()
