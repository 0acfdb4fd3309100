"""What each switch of :class:`glyphflow.generate.Speed` changes and gains, on real weights.

    python -m benchmarks.generate.switches [--prompts 8] [--steps 20] [--compiled]

The nano weights, prompts of nano16, guidance 4. The exact tier is compared with all switches off (the reference's operations):
largest difference of the latents, PSNR of the pictures. The approximate tier is compared with the default: PSNR, and the steps
whose blocks were skipped. Both dtypes; all settings take turns.
"""

from __future__ import annotations

import argparse
import math
import statistics
from typing import Any

import torch

from benchmarks.common import machine, table, take_turns
from glyphflow.evaluate.benchmarks import load_benchmark
from glyphflow.generate import Pipeline, Speed
from glyphflow.models import unpack_latents

OFF = Speed.reference()
EXACT = {
    "all off": OFF,
    "modulation_table": Speed(packed_cfg=False, fused=False, channels_last=False),
    "packed_cfg": Speed(modulation_table=False, fused=False, channels_last=False),
    "channels_last": Speed(modulation_table=False, packed_cfg=False, fused=False),
    "default": Speed(),
}
COMPILED = {
    "fused": Speed(modulation_table=False, packed_cfg=False, fused=True, channels_last=False),
    "compile": Speed(modulation_table=False, packed_cfg=False, compile=True, channels_last=False),
}
NEAR = {f"step_cache {share:g}": Speed(step_cache=share) for share in (0.02, 0.05, 0.1, 0.2)}


def run(pipeline: Pipeline, speed: Speed, prompt: str, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and pixels in [0, 1] of ``prompt``."""
    pipeline.speed = speed
    call: dict[str, Any] = {"num_inference_steps": steps, "true_cfg_scale": 4.0, "output_type": "latent", "progress": False}
    latents = pipeline.generate(prompt, generator=torch.Generator().manual_seed(0), **call).images
    side = pipeline.facts.native_side
    pixels = pipeline.decode(unpack_latents(latents, side, side)).float().mul(0.5).add(0.5).clamp(0, 1)
    return latents.float(), pixels


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    """In dB, of pictures in [0, 1]."""
    error = (one - other).square().mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


@torch.inference_mode()
def compare(dtype: torch.dtype, prompts: list[str], steps: int, compiled: bool) -> list[tuple[object, ...]]:
    """A row for each setting."""
    pipeline = Pipeline.from_pretrained(dtype=dtype, device="cpu")
    settings = EXACT | (COMPILED if compiled else {}) | NEAR
    made = {name: [run(pipeline, speed, prompt, steps) for prompt in prompts] for name, speed in settings.items()}
    works = {name: lambda speed=speed: run(pipeline, speed, prompts[0], steps) for name, speed in settings.items()}
    seconds = take_turns(works, 5)
    rows: list[tuple[object, ...]] = []
    for name, results in made.items():
        truth = made["default" if name in NEAR else "all off"]
        apart = max((a - b).abs().max().item() for (a, _), (b, _) in zip(results, truth, strict=True))
        levels = [psnr(a, b) for (_, a), (_, b) in zip(results, truth, strict=True)]
        against = "default" if name in NEAR else "all off"
        kind = str(dtype).removeprefix("torch.")
        shown = f"{statistics.median(levels):.1f} ({min(levels):.1f})"
        rows.append((kind, name, against, f"{apart:.1e}", shown, f"{seconds['all off'] / seconds[name]:.2f}"))
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compiled", action="store_true")
    options = parser.parse_args()
    prompts = [sample.prompt for sample in load_benchmark("nano16").samples()][: options.prompts]
    rows = [row for d in (torch.float32, torch.bfloat16) for row in compare(d, prompts, options.steps, options.compiled)]
    print(f"{machine()}; nano weights, {len(prompts)} prompts, {options.steps} steps, guidance 4\n")
    header = ("dtype", "setting", "compared with", "largest latent difference", "PSNR in dB: median (least)", "all off / this")
    print(table(header, rows))


if __name__ == "__main__":
    main()
