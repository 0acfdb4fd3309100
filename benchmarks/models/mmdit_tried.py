"""What was tried to make a pass of the MMDiT faster on a CPU, piece by piece.

    python -m benchmarks.models.mmdit_tried [--rounds 9] [--cpu-time]

The pieces of one block at width 1024, 1120 tokens, bfloat16: what is used, and the alternatives with their time and error
against float64. Attention by products of its own rounds the scores to bfloat16, since PyTorch has no product from bfloat16 to
float32 on the CPU; that is faster and several times further from exact, so it is no part of the exact tier.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import machine, table, take_turns
from glyphflow.models.kernels import EAGER, fused
from glyphflow.models.msrope import rotation_table

WIDTH, TOKENS, HEADS, TEXT = 1024, 1120, 8, 96
Works = dict[str, Callable[[], Tensor]]


def attention() -> tuple[Works, Tensor]:
    """Ways to attend, and the exact result."""
    q, k, v = (torch.randn(1, HEADS, TOKENS, WIDTH // HEADS).bfloat16() for _ in range(3))

    def products() -> Tensor:
        heads = []
        for head in range(HEADS):
            scores = F.linear(q[0, head] * q.shape[-1] ** -0.5, k[0, head])
            heads.append(torch.softmax(scores, -1) @ v[0, head])
        return torch.stack(heads)[None]

    def float32() -> Tensor:
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).bfloat16()

    works: Works = {
        "attention, used": lambda: F.scaled_dot_product_attention(q, k, v),
        "attention in float32": float32,
        "attention by products, scores in bfloat16": products,
    }
    return works, F.scaled_dot_product_attention(q.double(), k.double(), v.double())


def projections() -> tuple[Works, Tensor]:
    """q, k and v by three products or by one."""
    x = torch.randn(TOKENS, WIDTH).bfloat16()
    weights = [torch.randn(WIDTH, WIDTH).bfloat16() / 32 for _ in range(3)]
    together = torch.cat(weights)
    works: Works = {
        "q, k, v: three products, used": lambda: torch.cat([F.linear(x, weight) for weight in weights], dim=1),
        "q, k, v: one product": lambda: F.linear(x, together),
    }
    return works, x.double() @ together.double().T


def widening() -> tuple[Works, Tensor]:
    """The first half of an MLP."""
    x, weight, bias = (
        torch.randn(TOKENS, WIDTH).bfloat16(),
        torch.randn(4 * WIDTH, WIDTH).bfloat16() / 32,
        torch.randn(4 * WIDTH),
    )
    rounded = bias.bfloat16()
    works: Works = {
        "linear and GELU, used": lambda: F.gelu(F.linear(x, weight, rounded), approximate="tanh"),
        "linear with GELU inside (oneDNN)": lambda: torch.ops.mkldnn._linear_pointwise(x, weight, rounded, "gelu", [], "tanh"),
    }
    return works, F.gelu(F.linear(x.double(), weight.double(), rounded.double()), approximate="tanh")


def between() -> list[tuple[Works, Tensor]]:
    """The operations between the products: one after the other, and each compiled."""
    side = 32
    table_Sc2 = rotation_table(((1, side, side),), TEXT, (16, 56, 56), torch.device("cpu"))
    x, row = torch.randn(1, TOKENS, WIDTH).bfloat16(), torch.randn(1, 1, WIDTH).bfloat16()
    heads, weight = torch.randn(1, TOKENS, HEADS, 128).bfloat16(), torch.randn(128).bfloat16()
    quick = fused()
    found: list[tuple[Works, Tensor]] = []
    calls: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[object, ...]]] = {
        "norm and modulation": (EAGER.modulate, quick.modulate, (x, row, row)),
        "gate and sum": (EAGER.add_gated, quick.add_gated, (x, row, x)),
        "norm and rotation": (EAGER.norm_rotate, quick.norm_rotate, (heads, weight, 1e-6, table_Sc2)),
    }
    for name, (plain, compiled, given) in calls.items():
        exact = plain(*(v.double() if isinstance(v, Tensor) and v.dtype == torch.bfloat16 else v for v in given))
        works: Works = {
            f"{name}, used": lambda plain=plain, given=given: plain(*given),  # type: ignore[misc]
            f"{name}, compiled": lambda compiled=compiled, given=given: compiled(*given),  # type: ignore[misc]
        }
        found.append((works, exact))
    return found


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cpu-time", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    clock = time.process_time if options.cpu_time else time.perf_counter
    rows: list[tuple[object, ...]] = []
    for works, exact in [attention(), projections(), widening(), *between()]:
        seconds = take_turns(works, options.rounds, clock)
        first = next(iter(seconds.values()))
        for name, work in works.items():
            error = (work().double() - exact).abs().max().item()
            rows.append((name, f"{seconds[name] * 1e3:.2f}", f"{first / seconds[name]:.2f}", f"{error:.1e}"))
    print(f"{machine()}; medians of {options.rounds}{', CPU time' * options.cpu_time}\n")
    print(table(("piece of a block", "ms", "used / this", "largest error"), rows))


if __name__ == "__main__":
    main()
