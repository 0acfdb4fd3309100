"""One picture through the VAE against the reference.

    python -m benchmarks.models.vae [--size 512] [--rounds 3] [--quick] [--cpu-time]

Full width (96 channels), random weights, one picture of noise. Both sides get the same weights and inputs in the same process,
taking turns; each in both of its memory formats, and the ratio compares the better ones (the reference's channels_last is
channels_last_3d). Memory is what LiveBytes counts: the most bytes of tensors alive at once beside weights and input. Medians
are printed as Markdown. ``--quick`` is a smaller picture, once; ``--cpu-time`` is for a machine that is not quiet, with
OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor

from benchmarks.common import Clock, machine, table
from glyphflow.generate.activations import LiveBytes
from glyphflow.models import QWEN_IMAGE_VAE, VAE

FORMATS = {
    "contiguous": (torch.contiguous_format, torch.contiguous_format),
    "channels_last": (torch.channels_last, torch.channels_last_3d),
}
Work = Callable[[], Tensor]
Row = tuple[object, ...]


def networks(dtype: torch.dtype) -> tuple[Any, VAE]:
    """The reference and ours with the same random weights."""
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKLQwenImage().eval().requires_grad_(False)
    ours = VAE(QWEN_IMAGE_VAE).eval().requires_grad_(False)
    ours.load_state_dict(theirs.state_dict())
    return theirs.to(dtype), ours.to(dtype)


def jobs(theirs: Any, ours: VAE, verb: str, side: int, dtype: torch.dtype) -> dict[tuple[str, str], Work]:
    """(which side, memory format) -> one picture through it; all give (1, C, H, W)."""
    generator = torch.Generator().manual_seed(1)
    found: dict[tuple[str, str], Work] = {}
    if verb == "decode":
        x = torch.randn(1, 16, side // 8, side // 8, generator=generator).to(dtype)
        run = (lambda x: theirs.decode(x).sample[:, :, 0]), ours.decode
    else:
        x = (torch.rand(1, 3, side, side, generator=generator) * 2 - 1).to(dtype)
        run = (lambda x: theirs.encode(x).latent_dist.mean[:, :, 0]), (lambda x: ours.encode(x).mean)
    for name, (flat, deep) in FORMATS.items():
        picture, clip = x.contiguous(memory_format=flat), x[:, :, None].contiguous(memory_format=deep)
        found["reference", name] = lambda clip=clip: run[0](clip)  # type: ignore[misc]
        found["ours", name] = lambda picture=picture: run[1](picture)  # type: ignore[misc]
    return found


def measure(
    works: dict[tuple[str, str], Work], rounds: int, clock: Clock
) -> tuple[dict[Any, float], dict[Any, int], dict[Any, Tensor]]:
    """Median seconds, peak bytes and results of all ``works``, which take turns; the first turn counts bytes and warms up."""
    times: dict[Any, list[float]] = {key: [] for key in works}
    peaks, results = {}, {}
    for key, work in works.items():
        with LiveBytes() as live:
            results[key] = work()
        peaks[key] = live.peak
    for _ in range(rounds):
        for key, work in works.items():
            start = clock()
            work()
            times[key].append(clock() - start)
    return {key: statistics.median(times[key]) for key in works}, peaks, results


@torch.no_grad()
def compare(works: dict[tuple[str, str], Work], kind: str, side: int, rounds: int, clock: Clock) -> tuple[list[Row], Row]:
    """A row for each side and format, and the row of ratios; pictures are ``side`` x ``side``."""
    seconds, peaks, results = measure(works, rounds, clock)
    truth = results["reference", "contiguous"].float()
    rows: list[Row] = []
    for (who, name), result in results.items():
        apart = (result.float() - truth).abs().max().item()
        rows.append((kind, who, name, f"{seconds[who, name]:.2f}", f"{peaks[who, name] / side**2:.0f}", f"{apart:.1e}"))
    best, least = (
        {who: min(values[who, name] for name in FORMATS) for who in ("reference", "ours")} for values in (seconds, peaks)
    )
    return rows, (kind, f"{best['reference'] / best['ours']:.2f}", f"{least['ours'] / least['reference']:.2f}")


@torch.no_grad()
def tiles(side: int, vae: VAE, clock: Clock) -> list[Row]:
    """What tiling costs and saves, in channels_last and float32."""
    z = torch.randn(1, 16, side // 8, side // 8, generator=torch.Generator().manual_seed(1))
    z = z.contiguous(memory_format=torch.channels_last)
    rows: list[Row] = []
    for tile in (None, side // 2, side // 4):
        with LiveBytes() as live:
            start = clock()
            vae.decode(z, tile)
        label = "whole" if tile is None else f"tiles of {tile}"
        rows.append((label, f"{clock() - start:.2f}", f"{live.peak / 2**20:.0f}"))
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="side of the picture in pixels, a multiple of 32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    side, rounds = (128, 1) if options.quick else (options.size, options.rounds)
    diffusers.utils.logging.set_verbosity_error()
    print(f"{machine('diffusers')}; {side} x {side}, medians of {rounds}{', CPU time' * options.cpu_time}\n")
    rows: list[Row] = []
    ratios: list[Row] = []
    for dtype in (torch.bfloat16, torch.float32):
        pair = networks(dtype)
        for verb in ("decode", "encode"):
            kind = f"{verb}, {str(dtype).removeprefix('torch.')}"
            found, ratio = compare(jobs(*pair, verb, side, dtype), kind, side, rounds, clock)
            rows += found
            ratios.append(ratio)
    difference = "largest difference from the reference"
    print(table(("what", "side", "memory format", "seconds", "peak bytes per pixel", difference), rows))
    print("\n" + table(("better format of each side", "times faster", "share of the memory"), ratios))
    print("\n" + table(("decode, float32", "seconds", "peak MiB"), tiles(side, pair[1], clock)))


if __name__ == "__main__":
    main()
