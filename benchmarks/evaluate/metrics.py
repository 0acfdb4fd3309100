"""The arithmetic of scoring against the plain ways of doing it.

`python benchmarks/evaluate/metrics.py [--rounds 5]`

PSNR and SSIM: a batch of pictures at once against scikit-image one by one (the same formula; the largest difference is
printed). Edit distance: two columns of bits against the table that public benchmark code fills in Python or numpy. Both sides
take turns in one process on one thread; medians of CPU time, because a machine is seldom quiet.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import skimage
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from glyphflow.evaluate.metrics.pixels import psnr, ssim
from glyphflow.evaluate.metrics.text import levenshtein


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
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(
        f"One thread of {platform.processor() or platform.machine()}; Python {platform.python_version()}, "
        f"PyTorch {torch.__version__}, scikit-image {skimage.__version__}, numpy {np.__version__}.\n"
    )
    print("| what | plain ms | ours ms | ratio | largest difference |\n| --- | --- | --- | --- | --- |")
    for name, theirs, ours in (pixels(256, 16), pixels(1024, 2), distances(30, 50), distances(150, 20), distances(600, 2)):
        times: tuple[list[float], list[float]] = ([], [])
        difference = max(abs(a - b) for a, b in zip(theirs(), ours(), strict=True))
        for _ in range(rounds):
            for side, kept in zip((theirs, ours), times, strict=True):
                start = time.process_time()
                side()
                kept.append(1000 * (time.process_time() - start))
        a, b = (statistics.median(kept) for kept in times)
        print(f"| {name} | {a:.1f} | {b:.1f} | {a / b:.1f} | {difference:.1e} |")


if __name__ == "__main__":
    main()
