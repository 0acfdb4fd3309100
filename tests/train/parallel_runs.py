"""A few optimizer steps of a toy MMDiT on any layout, and its state put together from what the processes hold."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from glyphflow.models import MMDiT, MMDiTConfig
from glyphflow.models.parallel import released_name
from glyphflow.train.ema import EMA
from glyphflow.train.parallel import ParallelConfig, World
from glyphflow.train.pieces import local, pieces
from tiny import seeded_weights

CONFIG = MMDiTConfig(
    in_channels=16,
    out_channels=4,
    num_layers=4,
    attention_head_dim=16,
    num_attention_heads=4,
    joint_attention_dim=24,
    axes_dims_rope=(8, 4, 4),
)
STEPS, BATCH = 5, 4
SHAPES = [(1, 5, 3)], [(1, 3, 3), (1, 1, 5)]
"""Of even and odd steps: odd numbers of tokens, without and with a reference."""


class Run(NamedTuple):
    """What one process has."""

    world: World
    model: MMDiT
    optimizer: torch.optim.Optimizer
    ema: EMA


def begin(config: dict[str, Any], dtype: torch.dtype = torch.float32, zero_cond_t: bool = False) -> Run:
    model = MMDiT(CONFIG.model_copy(update={"zero_cond_t": zero_cond_t}))
    seeded_weights(model, 0)
    world = World.start(ParallelConfig(**config), "cpu")
    model = world.apply(model, dtype)  # type: ignore[assignment]
    # With this eps the sign of a gradient that is mostly rounding does not decide a whole step.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-3, fused=True)
    return Run(world, model, optimizer, EMA(model, 0.9))


def train(run: Run, first: int, steps: int, micro: int = 1) -> dict[str, Any]:
    """Losses, gradient norms and, of the first step, this process's pieces of the clipped gradient."""
    found: dict[str, Any] = {"losses": [], "norms": []}
    for step in range(first, first + steps):
        total = 0.0
        for number in range(micro):
            run.world.last_micro(run.model, number == micro - 1)
            with run.world.computing():
                loss = loss_of(run.model, step, run.world.part, number, micro) / micro
            loss.backward()
            total += float(loss.detach())
        parts = run.world.part.world
        found["losses"].append(run.world.sum({"loss": total / parts})["loss"])
        found["norms"].append(run.world.clip(run.model.parameters(), 0.5))
        if step == first:
            held = pieces(run.model)
            found["gradient"] = {
                released_name(name): held[name].like(local(p.grad).clone())
                for name, p in run.model.named_parameters()
                if p.grad is not None
            }
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        run.ema.update(step)
    return found


def loss_of(model: nn.Module, step: int, part: Any, number: int, micro: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    shapes = SHAPES[step % 2]
    tokens = sum(f * h * w for f, h, w in shapes)
    latents, text = torch.randn(BATCH, tokens, 16, generator=generator), torch.randn(BATCH, 7, 24, generator=generator)
    target, sigma = torch.randn(BATCH, tokens, 16, generator=generator), torch.rand(BATCH, generator=generator)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 7, [1] * 2 + [0] * 5]) if step % 2 else None
    count = BATCH // part.world // micro
    mine = slice((part.rank * micro + number) * count, (part.rank * micro + number + 1) * count)
    text_mask = None if mask is None else mask[mine]
    out = model(latents[mine], text[mine], sigma[mine], [shapes] * count, text_mask)
    return (out - target[mine]).square().mean()


def state_pieces(run: Run) -> dict[str, Any]:
    """Copies of this process's pieces of weights and averages under released names."""
    held = {name: piece.like(piece.data.clone()) for name, piece in pieces(run.model).items()}
    found = {f"model.{released_name(name)}": piece for name, piece in held.items()}
    return found | {f"ema.{released_name(name)}": held[name].like(value.clone()) for name, value in run.ema.tensors().items()}


def assembled(parts: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Whole tensors from every process's pieces; what several hold must be equal."""
    whole: dict[str, Tensor] = {}
    for held in parts:
        for name, piece in held.items():
            known = whole.setdefault(name, torch.full(piece.whole, float("nan")))
            window = known[tuple(slice(o, o + n) for o, n in zip(piece.offset, piece.data.shape, strict=True))]
            seen = ~window.isnan()
            assert torch.equal(window[seen], piece.data[seen]), name
            window.copy_(piece.data)
    assert not any(tensor.isnan().any() for tensor in whole.values())
    return whole
