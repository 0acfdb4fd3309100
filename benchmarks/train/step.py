"""One training step of a 100 M-parameter MMDiT against the same step written with diffusers' model and a plain loop.

    python -m benchmarks.train.step [--rounds 5] [--compiled] [--batch 4] [--side 16] [--memory ours|reference]

Width 512, 10 blocks, side x side image and 64 text tokens without padding, flow matching, bfloat16 autocast over float32
parameters, gradient clipping, AdamW. Same weights and inputs; the two sides take turns in one process. ``--memory`` runs one
side alone and prints its peak resident memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from benchmarks.common import machine, table, take_turns
from glyphflow.core.hardware import peak_memory_bytes
from glyphflow.models import MMDiT, MMDiTConfig
from glyphflow.train.optimizer import make_optimizer
from glyphflow.train.recipe import TrainConfig

WIDTH, BLOCKS, TEXT = 512, 10, 64
SIZES: dict[str, Any] = {
    "num_layers": BLOCKS,
    "attention_head_dim": 64,
    "num_attention_heads": WIDTH // 64,
    "joint_attention_dim": 512,
    "axes_dims_rope": (8, 28, 28),
}


def inputs(batch: int, side: int) -> tuple[Tensor, Tensor, Tensor, list[list[tuple[int, int, int]]]]:
    """Latents, text, sigma and shapes of a batch."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(batch, side * side, 64, generator=generator)
    text = torch.randn(batch, TEXT, 512, generator=generator)
    return latents, text, torch.rand(batch, generator=generator), [[(1, side, side)]] * batch


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, predict: Callable[[Tensor], Tensor], x0: Tensor, sigma: Tensor
) -> float:
    """Noise, forward, backward, clip, update; the loss."""
    noise = torch.randn(x0.shape)
    mixed = (1 - sigma)[:, None, None] * x0 + sigma[:, None, None] * noise
    with torch.autocast("cpu", torch.bfloat16):
        predicted = predict(mixed)
    loss = (predicted.float() - (noise - x0)).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def reference_side(batch: int, side: int, compiled: bool) -> Callable[[], float]:
    """The step as it is written with diffusers."""
    x0, text, sigma, shapes = inputs(batch, side)
    torch.manual_seed(0)
    model = diffusers.QwenImageTransformer2DModel(**SIZES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.001)
    if compiled:
        model.compile_repeated_blocks()

    def predict(mixed: Tensor) -> Tensor:
        found: Tensor = model(mixed, text, None, sigma, shapes, return_dict=False)[0]
        return found

    return lambda: step(model, optimizer, predict, x0, sigma)


def our_side(batch: int, side: int, compiled: bool) -> Callable[[], float]:
    """Our step: our network and optimizer."""
    x0, text, sigma, shapes = inputs(batch, side)
    torch.manual_seed(0)
    model = MMDiT(MMDiTConfig(**SIZES))
    model.load_state_dict(diffusers.QwenImageTransformer2DModel(**SIZES).state_dict())
    optimizer = make_optimizer(model, TrainConfig(steps=1, lr=1e-4))
    if compiled:
        model.compile_blocks()
    return lambda: step(model, optimizer, lambda mixed: model(mixed, text, sigma, shapes), x0, sigma)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--memory", choices=("ours", "reference"))
    given = parser.parse_args()
    sides = {"reference": reference_side, "ours": our_side}
    if given.memory:
        work = sides[given.memory](given.batch, given.side, given.compiled)
        for _ in range(3):
            work()
        print(f"{given.memory}: peak {peak_memory_bytes() / 2**20:.0f} MiB")
        return
    seconds = take_turns({name: make(given.batch, given.side, given.compiled) for name, make in sides.items()}, given.rounds)
    kind = "compiled" if given.compiled else "eager"
    rows = [
        (f"{name}, {kind}", f"{value:.3f}", f"{given.batch / value:.2f}", f"{seconds['reference'] / value:.2f}x")
        for name, value in seconds.items()
    ]
    print(machine("diffusers"))
    print(table(("step", "seconds", "pictures/s", "throughput"), rows))


if __name__ == "__main__":
    main()
