"""The plan for one card against real steps whose bytes are counted, and the choices that it makes for the released sizes."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from glyphflow.cli.main import app
from glyphflow.core.errors import InputError
from glyphflow.generate.activations import LiveBytes
from glyphflow.models import QWEN_IMAGE_MMDIT, MMDiT, MMDiTConfig
from glyphflow.models.quantize import quantise_weight
from glyphflow.plan.card_memory import weight_bytes
from glyphflow.plan.cards import CARDS, smallest
from glyphflow.plan.one_card import NEAR, WORSE, CardPlan, Task, choose, plan_card
from glyphflow.plan.step_memory import StepTokens
from glyphflow.plan.train import Assumptions, Machine, target_tokens
from glyphflow.train.lean import Adafactor, AdamW8bit
from glyphflow.train.lora import LoRAConfig, inject_lora
from glyphflow.train.lowmem import LowMemory

SMALL = MMDiTConfig(
    num_layers=6, attention_head_dim=64, num_attention_heads=4, joint_attention_dim=256, axes_dims_rope=(8, 28, 28)
)
TOKENS = StepTokens(256, 40)
CPU = torch.device("cpu")


def machine(budget: float, card: str = "RTX4090") -> Machine:
    return Machine(CARDS[card], Assumptions(), int(budget))


def released(lora: LoRAConfig | None, side: int, batch: int = 1) -> Task:
    tokens = StepTokens(target_tokens(side), 150)
    return Task(QWEN_IMAGE_MMDIT, lora, side, tokens, batch, average=lora is not None)


def counted(plan: CardPlan) -> int:
    """Bytes on the "card" at the highest point of two real steps laid out by ``plan``."""
    task = plan.task
    model = MMDiT(task.model).to(torch.bfloat16)
    for name in [name for name, _ in model.named_parameters()] if plan.base else []:
        quantise_weight(model, name, plan.base)  # type: ignore[arg-type]
    trained: nn.Module = model
    if task.lora:
        trained = inject_lora(model.requires_grad_(False), task.lora, 0)
    with LowMemory(model, CPU, offload=plan.offload, modulation=plan.modulation, every=plan.every) as low:
        blocks = list(model.transformer_blocks)
        away = {id(p) for index in low.offloaded for p in blocks[index].parameters() if not p.requires_grad or not task.lora}
        if plan.modulation == "host":
            away |= {id(p) for block in blocks for part in (block.img_mod, block.txt_mod) for p in part.parameters()}
        there = {id(p): p.nbytes for p in model.parameters() if id(p) not in away}
        with LiveBytes() as live:
            kinds = {"adamw": torch.optim.AdamW, "adamw8bit": AdamW8bit, "adafactor": Adafactor}
            optimizer = kinds[plan.optimizer](trained.parameters(), lr=1e-3)
            if task.lora is None:
                low.fuse(optimizer)  # type: ignore[arg-type]
            for _ in range(2):
                for _ in range(plan.accumulate):
                    latents, text = torch.randn(plan.micro, 256, 64), torch.randn(plan.micro, 40, 256)
                    wanted = torch.randn(plan.micro, 256, 64)
                    predicted = model(latents, text, torch.full((plan.micro,), 0.5), [[(1, 16, 16)]] * plan.micro)
                    (predicted.float() - wanted).square().mean().backward()
                    del latents, text, wanted, predicted
                if task.lora:
                    optimizer.step()
                    optimizer.zero_grad()
    return sum(there.values()) + int(live.peak)


@pytest.mark.parametrize(
    ("lora", "batch", "share", "base"),
    [
        (LoRAConfig(rank=8), 4, 1.5, None),
        (LoRAConfig(rank=8), 4, 0.7, None),
        (LoRAConfig(rank=8), 4, 0.5, "int8"),
        (LoRAConfig(rank=8, targets=("attention", "modulation")), 2, 0.6, "int4"),
        (None, 2, 6.0, None),
        (None, 2, 1.2, None),
    ],
)
def test_a_real_step_takes_the_memory_of_the_plan(lora: LoRAConfig | None, batch: int, share: float, base: str | None) -> None:
    """``share``: of the weights in bfloat16 that the card has room for."""
    sizes = weight_bytes(SMALL, None)
    task = Task(SMALL, lora, 256, TOKENS, batch, average=False)
    plans = plan_card(task, machine(share * (sizes.around + 6 * (sizes.block + sizes.rows)) + 12e6))
    for plan in [plan for plan in plans if plan.base == base]:
        assert counted(plan) == pytest.approx(plan.memory.total, rel=0.1)


@pytest.mark.parametrize(("memory", "card"), [(16e9, "RTX4090"), (24e9, "RTX4090"), (48e9, "L40S"), (96e9, "RTXPRO6000")])
def test_adapters_and_all_weights_of_the_released_model_fit_on_cards_that_people_have(memory: float, card: str) -> None:
    assert smallest(memory) == card
    for task in (released(LoRAConfig(), 1024, 4), released(None, 1024)):
        plans = plan_card(task, machine(memory, card))
        best = choose(plans)
        assert best.memory.total <= 0.94 * memory
        assert 2 < best.time.total < 20
        if task.lora:
            assert {plan.base for plan in plans} == {None, "int8", "int4"}
            # Copies hide behind four pictures of this size: rounding weights would gain next to nothing.
            assert best.base is None
        elif memory < 48e9:
            assert dataclasses.replace(best, task=dataclasses.replace(task, average=True)).settings()[-1] == "train.ema_decay=0"
            assert (best.optimizer, best.offload > 20) == ("adafactor", True)


def test_weights_are_rounded_where_copies_cannot_hide() -> None:
    plans = plan_card(released(LoRAConfig(), 256), machine(24e9))
    best, whole = choose(plans), next(plan for plan in plans if plan.base is None)
    assert best.base in ("int8", "int4")
    assert best.time.total < 0.9 * whole.time.total


def test_more_memory_is_never_slower() -> None:
    for task in (released(LoRAConfig(), 1024, 4), released(None, 1024)):
        times = [choose(plan_card(task, machine(gb * 1e9))).time.total for gb in (16, 24, 80)]
        assert all(later <= NEAR * WORSE * before for before, later in itertools.pairwise(times))


def test_what_cannot_be_is_refused_with_both_numbers() -> None:
    with pytest.raises(InputError, match=r"needs 5\.\d+ GB on the card, and 0\.94 GB are free"):
        plan_card(released(LoRAConfig(), 1024), machine(1e9))
    with pytest.raises(InputError, match="the largest has 180 GB"):
        smallest(500e9)


def test_the_command_ends_with_the_line_to_run() -> None:
    run = CliRunner().invoke(app, ["plan", "train", "qwen-image-20b/lora", "--memory", "24GB"])
    assert run.exit_code == 0, run.output
    assert "on one RTX4090" in run.output
    last = run.output.strip().splitlines()[-1]
    assert last.startswith("glyphflow train qwen-image-20b/lora train.optimizer=adamw ")
    again = CliRunner().invoke(app, ["plan", "train", "qwen-image-20b/lora", *last.split()[3:], "--memory", "24GB", "--json"])
    assert again.exit_code == 0, again.output  # the settings are settings of a recipe
    (told,) = json.loads(again.output)["resolutions"]
    assert " ".join(told["plans"][told["chosen"]]["settings"]) == " ".join(last.split()[3:])
