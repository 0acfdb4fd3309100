"""One picture through the VAE against the reference.

    python benchmarks/models/vae.py [--size 512] [--rounds 3] [--quick] [--cpu-time]

Full width (96 channels), random weights, one picture of noise. Both sides get the same weights and inputs in the same process,
taking turns; each in both of its memory formats, and the ratio compares the better ones (the reference's channels_last is
channels_last_3d). Memory is what LiveBytes counts: the most bytes of tensors alive at once beside weights and input. Medians
are printed as Markdown. ``--quick`` is a smaller picture, once; ``--cpu-time`` is for a machine that is not quiet, with
OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor

from glyphflow.generate.activations import LiveBytes
from glyphflow.models import QWEN_IMAGE_VAE, VAE

FORMATS = {
    "contiguous": (torch.contiguous_format, torch.contiguous_format),
    "channels_last": (torch.channels_last, torch.channels_last_3d),
}
Work = Callable[[], Tensor]


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
    works: dict[tuple[str, str], Work], rounds: int, clock: Callable[[], float]
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
def compare(verb: str, side: int, dtype: torch.dtype, rounds: int, pair: tuple[Any, VAE], clock: Callable[[], float]) -> str:
    """Print a row for each side and format; return the row of ratios."""
    seconds, peaks, results = measure(jobs(*pair, verb, side, dtype), rounds, clock)
    kind = f"{verb}, {str(dtype).removeprefix('torch.')}"
    truth = results["reference", "contiguous"].float()
    for (who, name), result in results.items():
        key = (who, name)
        apart = (result.float() - truth).abs().max().item()
        per_pixel = peaks[key] / side**2
        print(f"| {kind} | {who} | {name} | {seconds[key]:.2f} | {per_pixel:.0f} | {apart:.1e} |", flush=True)
    time_, memory = (
        {who: min(values[who, name] for name in FORMATS) for who in ("reference", "ours")} for values in (seconds, peaks)
    )
    return f"| {kind} | {time_['reference'] / time_['ours']:.2f} | {memory['ours'] / memory['reference']:.2f} |"


def tiles(side: int, dtype: torch.dtype, vae: VAE, clock: Callable[[], float]) -> None:
    """What tiling costs and saves, in channels_last."""
    z = torch.randn(1, 16, side // 8, side // 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    z = z.contiguous(memory_format=torch.channels_last)
    print("\n| decode | seconds | peak MiB |\n| --- | --- | --- |")
    for tile in (None, side // 2, side // 4):
        with LiveBytes() as live, torch.no_grad():
            start = clock()
            vae.decode(z, tile)
        label = "whole" if tile is None else f"tiles of {tile}"
        print(f"| {label} | {clock() - start:.2f} | {live.peak / 2**20:.0f} |", flush=True)


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
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads; PyTorch {torch.__version__}, "
        f"diffusers {diffusers.__version__}; one picture of {side} x {side}, medians of {rounds}"
        f"{', CPU time' * options.cpu_time}\n"
    )
    print("| what | side | memory format | seconds | peak bytes per pixel | largest difference from the reference |")
    print("| --- | --- | --- | --- | --- | --- |")
    summary = []
    for dtype in (torch.bfloat16, torch.float32):
        pair = networks(dtype)
        summary += [compare(verb, side, dtype, rounds, pair, clock) for verb in ("decode", "encode")]
    print("\n| better format of each side | times faster | share of the memory |\n| --- | --- | --- |")
    print("\n".join(summary))
    tiles(side, torch.float32, pair[1], clock)


if __name__ == "__main__":
    main()
