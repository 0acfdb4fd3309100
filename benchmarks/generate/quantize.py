"""What int8 and int4 weights cost and save.

    python -m benchmarks.generate.quantize [--rounds 5] [--cpu-time] [--out DIRECTORY]

Pictures: the nano weights (trained, shipped with the package) make pictures of held-out prompts exactly and with rounded
weights, from the same noise; PSNR of the pixels in [0, 255]. Steps: one forward pass of a random MMDiT of width 1024 with 8
blocks, 1024 image and 96 text tokens, bfloat16, the variants taking turns. Memory: bytes of the released 20.4 B transformer in
each form, counted on tensors without memory. ``--out`` keeps the pictures; ``--cpu-time`` is for a machine that is not quiet.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import machine, table, take_turns
from glyphflow import Pipeline
from glyphflow.generate.sizes import ModelConfig
from glyphflow.models import MMDiT, MMDiTConfig
from glyphflow.models.quantize import KINDS, Quantize, quantise_as_placed

FORMS: tuple[Quantize | None, ...] = (None, *KINDS)
PROMPTS = 8  # of the held-out ones


def pictures(out: Path | None) -> dict[str, list[float]]:
    """PSNR in dB of each prompt's picture against the exact one, by form."""
    lines = (files("glyphflow") / "evaluate/data/nano16.jsonl").read_text(encoding="utf-8").splitlines()[:PROMPTS]
    cases = [json.loads(line) for line in lines]
    made: dict[Quantize | None, np.ndarray] = {}
    for form in FORMS:
        pipeline = Pipeline.from_pretrained("nano", quantize=form)
        generators = [torch.Generator().manual_seed(case["seed"]) for case in cases]
        prompts = [case["prompt"] for case in cases]
        result = pipeline.generate(prompts, true_cfg_scale=4.0, generator=generators, progress=False)
        made[form] = np.stack([np.asarray(image, dtype=np.float64) for image in result.images])
        for index, image in enumerate(result.images if out is not None else ()):
            image.save(out / f"{form or 'exact'}-{index}.png")
    errors = {form: ((made[form] - made[None]) ** 2).mean(axis=(1, 2, 3)) for form in KINDS}
    return {form: [float(10 * np.log10(255**2 / max(e, 1e-9))) for e in each] for form, each in errors.items()}


def forward(form: Quantize | None, device: str) -> Callable[[], object]:
    """A forward pass of the random model."""
    config = MMDiTConfig(num_layers=8, attention_head_dim=128, num_attention_heads=8, joint_attention_dim=1024)
    torch.manual_seed(0)
    model = MMDiT(config).to(torch.bfloat16).eval().requires_grad_(False)
    if form is not None:
        placed = quantise_as_placed(form)
        for name in [name for name, _ in model.named_parameters()]:
            placed(model, name)
    model.to(device)
    latents = torch.randn(1, 1024, 64, dtype=torch.bfloat16, device=device)
    text = torch.randn(1, 96, 1024, dtype=torch.bfloat16, device=device)
    sigma = torch.tensor([0.5], dtype=torch.bfloat16, device=device)

    def run() -> object:
        with torch.inference_mode():
            return model(latents, text, sigma, [[(1, 32, 32)]])

    return run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ratios = pictures(arguments.out)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    seconds = take_turns({form or "exact": forward(form, device) for form in FORMS}, arguments.rounds, clock)
    rows: list[tuple[object, ...]] = []
    for form in FORMS:
        size = ModelConfig().part_sizes(torch.bfloat16, form)["transformer"]
        found = ["exact"] if form is None else [f"{pick(ratios[form]):.1f}" for pick in (min, statistics.median, max)]
        step = seconds[form or "exact"]
        whole, blocks = (size.total + sum(size.passing)) / 1e9, sum(size.blocks) / 1e9
        times = f"{step:.2f}", f"{step / seconds['exact']:.2f}"
        rows.append((form or "exact", ", ".join(found), *times, f"{whole:.1f}", f"{blocks:.1f}"))
    print(machine("glyphflow", device=device) + "\n")
    header = ("weights", "PSNR, dB: worst, median, best", "step, s", "to exact", "20 B transformer, GB", "its blocks, GB")
    print(table(header, rows))


if __name__ == "__main__":
    main()
