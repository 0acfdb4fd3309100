"""One forward pass of the MMDiT against the reference: eager, fused, and compiled.

    python -m benchmarks.models.mmdit [--rounds 7] [--compiled] [--tokens 1024] [--cpu-time]

Width 1024, 8 blocks, 1024 image and 96 text tokens, bfloat16, random weights; same weights and inputs on both sides, taking
turns in one process. ``--compiled`` adds compiled blocks on both sides (half a minute to compile). Below the ratios stands what
the time is made of, and what could be gained at most: matrix products at the rate that this machine reaches for them alone,
attention at the same rate, and nothing else.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor

from benchmarks.common import machine, table, take_turns
from glyphflow.models import MMDiT, MMDiTConfig
from glyphflow.models.kernels import fused

WIDTH, BLOCKS, TEXT = 1024, 8, 96
SIZES: dict[str, Any] = {
    "num_layers": BLOCKS,
    "attention_head_dim": 128,
    "num_attention_heads": WIDTH // 128,
    "joint_attention_dim": 1024,
    "axes_dims_rope": (16, 56, 56),
}


def ours(state: dict[str, Tensor]) -> MMDiT:
    """Our network with the weights ``state``."""
    model = MMDiT(MMDiTConfig(**SIZES)).to(torch.bfloat16).eval().requires_grad_(False)
    model.load_state_dict(state)
    return model


def reference(state: dict[str, Tensor] | None = None) -> Any:
    """The reference's network, with random weights or ``state``."""
    model = diffusers.QwenImageTransformer2DModel(**SIZES).to(torch.bfloat16).eval().requires_grad_(False)
    if state is not None:
        model.load_state_dict(state)
    return model


def passes(side: int, compiled: bool) -> dict[str, Callable[[], Tensor]]:
    """Name -> one forward pass; all with the same weights and inputs."""
    torch.manual_seed(0)
    theirs = reference()
    state = theirs.state_dict()
    latents = torch.randn(1, side * side, 64, dtype=torch.bfloat16)
    text = torch.randn(1, TEXT, 1024, dtype=torch.bfloat16)
    sigma, shapes = torch.tensor([0.5], dtype=torch.bfloat16), [[(1, side, side)]]
    plain, quick = ours(state), ours(state)
    quick.use_kernels(fused())
    rows = plain.modulation(sigma)

    def run_theirs(model: Any) -> Callable[[], Tensor]:
        return lambda: model(latents, text, None, sigma, shapes, return_dict=False)[0]  # type: ignore[no-any-return]

    def run_ours(model: MMDiT) -> Callable[[], Tensor]:
        return lambda: model(latents, text, sigma, shapes, modulation=rows)

    found = {"reference": run_theirs(theirs), "ours": run_ours(plain), "ours, fused": run_ours(quick)}
    if compiled:
        their_blocks, our_blocks = reference(state), ours(state)
        their_blocks.compile_repeated_blocks()
        our_blocks.compile_blocks()
        found |= {"reference, compiled": run_theirs(their_blocks), "ours, compiled": run_ours(our_blocks)}
    return found


def limits(tokens: int, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of the parts of one pass, each alone, and of the least that this machine could need."""
    joint = tokens + TEXT
    x, wide = torch.randn(tokens, WIDTH).bfloat16(), torch.randn(tokens, 4 * WIDTH).bfloat16()
    square, up, down = (torch.randn(*s).bfloat16() for s in ((WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)))
    heads = WIDTH // 128
    q = torch.randn(1, heads, joint, 128).bfloat16()
    linear = torch.nn.functional.linear
    works: dict[str, Callable[[], object]] = {
        "products": lambda: ([linear(x, square) for _ in range(4)], linear(x, up), linear(wide, down)),
        "attention": lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q),
        "gelu": lambda: torch.nn.functional.gelu(wide, approximate="tanh"),
    }
    seconds = take_turns(works, rounds, clock)
    rate = 2 * tokens * 12 * WIDTH**2 / seconds["products"]
    scale = BLOCKS * joint / tokens
    found = {name: BLOCKS * value * (1 if name == "attention" else joint / tokens) for name, value in seconds.items()}
    found["least"] = scale * seconds["products"] + BLOCKS * 4 * joint**2 * WIDTH / rate
    found["rate"] = rate / 1e9
    return found


@torch.inference_mode()
def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=1024, help="image tokens, a square number")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--cpu-time", action="store_true", help="this process's CPU time, for a machine that is not quiet")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    diffusers.utils.logging.set_verbosity_error()
    side = round(options.tokens**0.5)
    works = passes(side, options.compiled)
    truth = works["reference"]()
    apart = {name: (work() - truth).abs().max().item() for name, work in works.items()}
    seconds = take_turns(works, options.rounds, clock)
    print(f"{machine('diffusers')}; medians of {options.rounds}{', CPU time' * options.cpu_time}\n")
    rows = [
        (name, f"{value * 1e3:.0f}", f"{seconds['reference'] / value:.3f}", f"{apart[name]:.1e}")
        for name, value in seconds.items()
    ]
    print(table(("pass", "ms", "reference / this", "largest difference"), [tuple(row) for row in rows]))
    if options.compiled:
        print(f"\nCompiled to compiled: {seconds['reference, compiled'] / seconds['ours, compiled']:.3f}")
    parts = limits(side * side, options.rounds, clock)
    ms = {name: f"{value * 1e3:.0f} ms" for name, value in parts.items()}
    gain = seconds["reference"] / parts["least"]
    print(
        f"\nOf the reference's {seconds['reference'] * 1e3:.0f} ms alone: matrix products {ms['products']} "
        f"({parts['rate']:.0f} GFLOP/s), attention {ms['attention']}, GELU {ms['gelu']}. All products and attention at that "
        f"rate and nothing else: {ms['least']}, {gain:.2f} times as fast as the reference."
    )


if __name__ == "__main__":
    main()
