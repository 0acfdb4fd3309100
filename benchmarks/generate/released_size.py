"""A step of the released 20.4 B MMDiT on one card: seconds and TFLOP/s beside the reference, with and without compiling.

    python -m benchmarks.generate.released_size [--size 1024] [--rounds 5] [--reference] [--peak 989]

Random weights in bfloat16 (41 GB), 128 and 16 text tokens, guidance 4: a step is both passes. ``--reference`` measures
diffusers first, in the same process, and frees it. One share is of ``--peak`` TFLOP/s (989: H200, dense bf16); the other
is of the rate that one large matrix product reaches in the same run. ``--device cpu --layers 1`` shows that the script runs.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import machine, table, take_turns
from glyphflow.flow import true_cfg
from glyphflow.models import QWEN_IMAGE_MMDIT, MMDiT
from glyphflow.models.kernels import EAGER, fused

TEXTS = (128, 16)


def randomised(network: nn.Module, device: str) -> nn.Module:
    """``network``, built on the meta device, with random weights on ``device``."""
    network.to_empty(device=device)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.02)
    return network.eval().requires_grad_(False)


def work_of(layers: int, tokens: int) -> float:
    """FLOP of one step: two passes, their products and their attention."""
    width, total = QWEN_IMAGE_MMDIT.width, 0.0
    for text in TEXTS:
        joint = tokens + text
        total += layers * (2 * 12 * width**2 * joint + 4 * joint**2 * width)
    return total


def our_steps(layers: int, inputs: dict[str, Any], device: str, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    """Name -> one guided step of ours."""
    with torch.device("meta"):
        empty = MMDiT(QWEN_IMAGE_MMDIT.model_copy(update={"num_layers": layers})).to(torch.bfloat16)
    network = randomised(empty, device)
    assert isinstance(network, MMDiT)
    rows = network.modulation(inputs["sigma"])
    both, tokens = torch.cat([inputs["latents"]] * 2), inputs["latents"].shape[1]

    def step() -> Tensor:
        out = network(both, inputs["texts"], inputs["sigma"], [inputs["shapes"]] * 2, modulation=rows, target_tokens=tokens)
        return true_cfg(*out.chunk(2), 4.0)

    def with_kernels(kernels: object) -> Callable[[], Tensor]:
        def run() -> Tensor:
            network.use_kernels(kernels)  # type: ignore[arg-type]
            return step()

        return run

    if compiled:
        network.compile_blocks()
        return {"ours, compiled": step}
    return {"ours, eager": with_kernels(EAGER), "ours, fused": with_kernels(fused())}


def their_steps(layers: int, inputs: dict[str, Any], device: str, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    """Name -> one guided step of the reference."""
    import diffusers

    with torch.device("meta"):
        empty = diffusers.QwenImageTransformer2DModel(num_layers=layers).to(torch.bfloat16)
    network: Any = randomised(empty, device)
    network.pos_embed = type(network.pos_embed)(
        theta=10000, axes_dim=[16, 56, 56], scale_rope=True
    )  # its tables are no weights
    if compiled:
        network.compile_repeated_blocks()

    def one(text: Tensor) -> Tensor:
        shapes = [inputs["shapes"]]
        out: Tensor = network(inputs["latents"], text[None], None, inputs["sigma"], shapes, return_dict=False)[0]
        return out

    def step() -> Tensor:
        return true_cfg(one(inputs["texts"][0]), one(inputs["texts"][1]), 4.0)

    return {"reference, compiled" if compiled else "reference, eager": step}


def product_rate(device: str) -> float:
    """TFLOP/s of one large bf16 product."""
    side = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(side, side, dtype=torch.bfloat16, device=device) for _ in "ab")
    seconds = take_turns({"product": lambda: a @ b}, 20)["product"]
    return 2 * side**3 / seconds / 1e12


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s")
    parser.add_argument("--reference", action="store_true")
    options = parser.parse_args()
    device, side = options.device, options.size // 16
    inputs: dict[str, Any] = {
        "latents": torch.randn(1, side * side, 64, dtype=torch.bfloat16, device=device),
        "texts": [torch.randn(length, 3584, dtype=torch.bfloat16, device=device) for length in TEXTS],
        "sigma": torch.tensor([0.5], dtype=torch.bfloat16, device=device),
        "shapes": [(1, side, side)],
    }
    rate, flop = product_rate(device), work_of(options.layers, side * side)
    rows: list[tuple[object, ...]] = []
    for build in ([their_steps] if options.reference else []) + [our_steps]:
        for compiled in (False, True):
            steps = build(options.layers, inputs, device, compiled)
            for name, seconds in take_turns(steps, options.rounds).items():
                done = flop / seconds / 1e12
                shares = (f"{100 * done / options.peak:.0f} %", f"{100 * done / rate:.0f} %")
                rows.append((name, f"{seconds * 1e3:.0f}", f"{done:.0f}", *shares))
            steps.clear()
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()
    print(
        f"{machine(device=device)}; {options.size} x {options.size}, {options.layers} layers, {flop / 1e12:.0f} TFLOP a step, ",
        end="",
    )
    print(f"one large product: {rate:.0f} TFLOP/s\n")
    print(table(("step", "ms", "TFLOP/s", "of the peak", "of the product's rate"), rows))


if __name__ == "__main__":
    main()
