"""Several processes begin with the weights that one would, and none of them ever has the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parallel_runs import CONFIG, assembled, loss_of
from torch import Tensor

from glyphflow.models import MMDiT
from glyphflow.models.parallel import released_name
from glyphflow.models.weights import open_parts
from glyphflow.train.lora import LoRAConfig, TrainedLoRA, inject_lora
from glyphflow.train.parallel import ParallelConfig, World
from glyphflow.train.pieces import pieces
from glyphflow.train.run import _fresh, _generator
from ranks import run_ranks
from tiny import seeded_weights

SHAPES = {name: tuple(p.shape) for name, p in MMDiT(CONFIG).named_parameters()}
CASES = [
    ("stored", "dp_shard"),
    ("stored", "tp"),
    ("stored", "sp"),
    ("fresh", "dp_shard"),
    ("fresh", "tp"),
    ("adapter", "dp_shard"),
]


def loaded(config: dict[str, Any], source: Path | None, adapter: bool) -> dict[str, Any]:
    """What this process holds, what it read for it, and the loss of a step."""
    world = World.start(ParallelConfig(**config), "cpu")
    read, sizes = (_fresh(1, SHAPES) if source is None else open_parts(source, SHAPES)), []

    def counted(name: str, window: tuple[slice, ...]) -> Tensor:
        part = read(name, window)
        sizes.append(part.numel())
        return part

    with torch.device("meta"):
        model = MMDiT(CONFIG)
    model.requires_grad_(True)
    if adapter:
        inject_lora(model, LoRAConfig(rank=2), 3)
    model = world.apply(model, torch.float32, counted)  # type: ignore[assignment]
    with torch.no_grad():
        loss = float(loss_of(model, 0, world.part, 0, 1))
    held = {released_name(name): piece.like(piece.data.clone()) for name, piece in pieces(model).items()}
    trained = [name for name, _ in TrainedLoRA(model).named_parameters()] if adapter else []
    return {"pieces": held, "read": sizes, "loss": loss, "trained": len(trained)}


@pytest.mark.parametrize(("kind", "axis"), CASES)
def test_each_process_reads_its_pieces_alone(kind: str, axis: str, tmp_path: Path) -> None:
    alone = MMDiT(CONFIG)
    seeded_weights(alone, 0)
    if kind == "fresh":
        alone.init_weights(_generator(1))
    alone.save_pretrained(tmp_path)
    ranks = run_ranks(2, loaded, {axis: 2}, None if kind == "fresh" else tmp_path, kind == "adapter")
    whole = assembled([rank["pieces"] for rank in ranks])
    expected = dict(alone.named_parameters())
    assert all(torch.equal(whole[name], value) for name, value in expected.items())
    assert kind == "adapter" or whole.keys() == expected.keys()
    total = sum(value.numel() for value in expected.values())
    for rank in ranks:
        assert sum(rank["read"]) < 0.75 * total and max(rank["read"]) < max(v.numel() for v in expected.values())
        assert (rank["trained"] > 0) == (kind == "adapter")
    losses = [rank["loss"] for rank in ranks]
    with torch.no_grad():
        one = float(loss_of(alone, 0, World.start(ParallelConfig(), "cpu").part, 0, 1))
    assert sum(losses) / 2 == pytest.approx(one, rel=1e-5)
