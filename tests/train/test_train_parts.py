"""Objectives, schedule, average: against closed forms."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from glyphflow.core.errors import ConfigError
from glyphflow.core.hardware import multiplies_bfloat16
from glyphflow.core.hashing import derive_seed
from glyphflow.feed.batches import EncodedBatch, PixelBatch
from glyphflow.models import MMDiT, MMDiTConfig
from glyphflow.train.ema import EMA
from glyphflow.train.flops import batch_flops
from glyphflow.train.heldout import heldout_velocity
from glyphflow.train.lora import LoRAConfig, inject_lora
from glyphflow.train.metrics import Metrics, read_metrics
from glyphflow.train.objectives import flow_matching, image_tokens, predicted_elements
from glyphflow.train.optimizer import learning_rate, make_optimizer
from glyphflow.train.recipe import FlowObjective, MMDiTRecipe, TrainConfig, VAERecipe, check_same_run, read_recipe
from glyphflow.train.vae import latent_statistics


class Guess(nn.Module):
    """Predicts the same velocity everywhere and remembers what it was asked."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(
        self,
        x: torch.Tensor,
        text: torch.Tensor,
        sigma: torch.Tensor,
        shapes: object,
        mask: object,
        *,
        target_tokens: int | None = None,
    ) -> torch.Tensor:
        self.x, self.sigma = x, sigma
        return self.value.expand_as(x[:, :target_tokens])


def batch(count: int = 4, tokens: tuple[int, int] = (2, 3), seed: int = 0, *, references: int = 0) -> EncodedBatch:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(count, tokens[0] * tokens[1], 64, generator=generator).to(torch.bfloat16)
    embeds = torch.randn(count, 5, 32, generator=generator).to(torch.bfloat16)
    shapes = [[(1, *tokens)] * (1 + references)] * count
    return EncodedBatch(
        step=0,
        ids=tuple(f"r{i}" for i in range(count)),
        first=0,
        total=count,
        latents=latents,
        references=torch.cat([latents * 0.5] * references, dim=1) if references else None,
        embeds=embeds,
        mask=None,
        shapes=shapes,
        tasks=("ti2i" if references else "t2i",) * count,
        fingerprint="f",
    )


def test_flow_matching_is_the_squared_distance_to_noise_minus_picture() -> None:
    data, model = batch(), Guess(0.25)
    loss, _ = flow_matching(model, data, torch.Generator().manual_seed(9), times=FlowObjective(mean=0.3, std=0.7, shift=2.0))
    sigmas, noises = [], []
    for number in range(4):  # its own generator for each sample
        rng = torch.Generator().manual_seed(derive_seed(9, number))
        sigma = torch.sigmoid(0.3 + 0.7 * torch.randn(1, generator=rng))
        sigmas.append(2 * sigma / (1 + sigma))
        noises.append(torch.randn(data.latents.shape[1:], generator=rng))
    sigma, noise, x0 = torch.cat(sigmas), torch.stack(noises), data.latents.float()
    assert torch.allclose(model.sigma, sigma) and len(set(sigma.tolist())) == 4
    mixed = (1 - sigma[:, None, None]) * x0 + sigma[:, None, None] * noise
    assert torch.allclose(model.x, mixed, atol=1e-6)
    assert float(loss.detach()) == pytest.approx(float((0.25 - (noise - x0)).square().mean()), rel=1e-6)


def test_no_split_changes_the_noise_of_a_sample() -> None:
    data, whole = batch(6), Guess(0.0)
    flow_matching(whole, data, torch.Generator().manual_seed(4), times=FlowObjective())
    for parts in (2, 3, 6):
        seen, losses = [], []
        for piece in data.split(parts):
            model = Guess(0.0)
            losses.append(flow_matching(model, piece, torch.Generator().manual_seed(4), times=FlowObjective())[0])
            seen.append(model.x)
        assert torch.equal(torch.cat(seen), whole.x)


def test_references_stay_clean_and_ask_nothing() -> None:
    data, model = batch(references=2), Guess(0.0)
    loss, _ = flow_matching(model, data, torch.Generator().manual_seed(9), times=FlowObjective())
    plain = Guess(0.0)
    alone, _ = flow_matching(plain, batch(), torch.Generator().manual_seed(9), times=FlowObjective())
    assert torch.equal(model.x[:, :6], plain.x) and torch.equal(model.x[:, 6:], data.references.float())
    assert torch.equal(loss, alone)
    assert image_tokens(data) == 4 * 18 and predicted_elements(data) == 4 * 6


def test_larger_pictures_are_noisier_under_the_samplers_shift() -> None:
    """The released schedule's shift is exp(0.5) at 256 tokens and exp(0.9) at 8,192."""
    for tokens, shift in (((16, 16), math.exp(0.5)), ((64, 128), math.exp(0.9))):
        data, model, plain = batch(2, tokens), Guess(0.0), Guess(0.0)
        flow_matching(model, data, torch.Generator().manual_seed(1), times=FlowObjective(shift="sampler"))
        flow_matching(plain, data, torch.Generator().manual_seed(1), times=FlowObjective())
        odds = (model.sigma / (1 - model.sigma)) / (plain.sigma / (1 - plain.sigma))
        assert torch.allclose(odds, torch.full_like(odds, shift), rtol=1e-3)


def test_held_out_loss_visits_every_noise_level_and_repeats() -> None:
    model, batches = Guess(0.0), [batch(6, seed=s) for s in range(4)]
    with torch.no_grad():
        found = heldout_velocity(model, batches=batches, seed=3)
        assert found == heldout_velocity(model, batches=batches, seed=3)
    bins = {name: value for name, value in found.items() if "sigma" in name}
    assert len(bins) == 8
    assert found["heldout_loss"] == pytest.approx(sum(bins.values()) / 8)


def test_held_out_loss_is_the_same_from_several_processes() -> None:
    model, batches = Guess(0.0), [batch(6, seed=s) for s in range(5)]
    shares: list[dict[str, float]] = []
    with torch.no_grad():
        for rank in range(2):
            heldout_velocity(
                model, batches=batches, seed=3, rank=rank, world=2, total=lambda v: shares.append(dict(v)) or dict(v)
            )
        joined = {name: shares[0][name] + shares[1][name] for name in shares[0]}
        found = heldout_velocity(model, batches=batches, seed=3, rank=0, world=2, total=lambda v: joined)
        assert found == pytest.approx(heldout_velocity(model, batches=batches, seed=3))


def test_learning_rate_warms_up_and_follows_the_cosine_to_its_floor() -> None:
    settings = TrainConfig(steps=110, lr=2.0, warmup_steps=10, schedule="cosine", lr_floor=0.1)
    assert [learning_rate(s, settings) for s in (0, 4, 9)] == pytest.approx([0.2, 1.0, 2.0])
    assert learning_rate(60, settings) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert learning_rate(110, settings) == pytest.approx(0.2)
    assert learning_rate(90, settings.model_copy(update={"schedule": "constant"})) == 2.0


def test_passes_are_in_bfloat16_where_that_is_multiplied_or_asked_for() -> None:
    cpu = torch.device("cpu")
    best = torch.bfloat16 if multiplies_bfloat16(cpu) else torch.float32
    assert TrainConfig(steps=1).computed_in(cpu) == best
    assert TrainConfig(steps=1, compute_dtype="bfloat16").computed_in(cpu) == torch.bfloat16
    assert TrainConfig(steps=1, compute_dtype="float32").computed_in(cpu) == torch.float32
    assert TrainConfig(steps=1, weights="bfloat16").computed_in(cpu) == torch.bfloat16


def test_average_follows_its_recurrence_and_swaps_exactly() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    ema, expected = EMA(model, 0.9), 1.0
    for step in range(200):
        with torch.no_grad():
            model.weight.fill_(math.sin(step))
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * math.sin(step)
    assert float(ema.tensors()["weight"]) == pytest.approx(expected, abs=1e-5)
    before = model.weight.detach().clone()
    ema.swap()
    assert float(model.weight.detach()) == pytest.approx(expected, abs=1e-5)
    ema.swap()
    assert torch.equal(model.weight, before)


def test_norms_and_biases_are_not_decayed() -> None:
    config = MMDiTConfig(
        num_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=8, axes_dims_rope=(4, 6, 6)
    )
    model = MMDiT(config)
    groups = make_optimizer(model, TrainConfig(steps=1, weight_decay=0.5)).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.0 if name.endswith("bias") or ("norm" in name and "linear" not in name) else 0.5), (
            name
        )


def test_latent_statistics_standardise(tmp_path: Path) -> None:
    class Shifted:
        def encode(self, pixels: torch.Tensor) -> object:
            latents = pixels.repeat(1, 2, 1, 1)[:, :4] * torch.tensor([1.0, 2, 3, 4])[:, None, None] + 5

            class Found:
                def mode(self) -> torch.Tensor:
                    return latents

            return Found()

    generator = torch.Generator().manual_seed(0)
    batches = [PixelBatch(0, ("a", "b"), torch.randn(2, 3, 32, 32, generator=generator)) for _ in range(8)]
    mean, std = latent_statistics(Shifted(), batches)  # type: ignore[arg-type]
    assert mean == pytest.approx([5.0] * 4, abs=0.1)
    assert std == pytest.approx([1, 2, 3, 4], rel=0.02)


@pytest.mark.parametrize("frozen", [False, True])
def test_operations_of_a_step_are_those_that_torch_counts(frozen: bool) -> None:
    """Forward and backward, of all weights or through frozen ones to an adapter of rank 1 on the first block."""
    config = MMDiTConfig(
        num_layers=3, attention_head_dim=32, num_attention_heads=4, joint_attention_dim=32, axes_dims_rope=(8, 12, 12)
    )
    model, data = MMDiT(config).init_weights(), batch(2, (6, 7), references=1)
    if frozen:
        inject_lora(model, LoRAConfig(rank=1, targets=("transformer_blocks.0.attn.*",)), 0)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # the counter knows no other on the CPU
        loss, _ = flow_matching(model, data, torch.Generator().manual_seed(0), times=FlowObjective())
        loss.backward()  # type: ignore[no-untyped-call]
    assert batch_flops(data, config, frozen=frozen) == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_metrics_are_cut_at_the_checkpoint(tmp_path: Path) -> None:
    with Metrics(tmp_path, 0) as metrics:
        for step in (10, 20, 30):
            metrics.write(step, {"loss": step / 10})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # the process died here
    with Metrics(tmp_path, 20) as metrics:
        metrics.write(30, {"loss": 7.0})
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(10, 1.0), (20, 2.0), (30, 7.0)]


def test_packaged_recipes_load_and_overrides_are_strict() -> None:
    assert isinstance(read_recipe("nano-vae"), VAERecipe)
    assert isinstance(read_recipe("nano-mmdit-grid"), MMDiTRecipe) and isinstance(read_recipe("nano-mmdit-128"), MMDiTRecipe)
    with pytest.raises(ConfigError, match=r"demo-mmdit, .*nano-vae"):
        read_recipe("nano-mmditt")
    recipe = read_recipe("demo-mmdit", ["train.lr=1e-3", "feed.batch_size=8"])
    assert recipe.train.lr == 1e-3 and recipe.feed.batch_size == 8
    with pytest.raises(ConfigError, match=r"feed\.batchsize.*batch_size"):
        read_recipe("demo-mmdit", ["feed.batchsize=8"])
    with pytest.raises(ConfigError, match="gan"):
        read_recipe("demo-mmdit", ["kind=gan"])


def test_a_run_continues_only_under_the_recipe_that_made_it(tmp_path: Path) -> None:
    recipe = read_recipe("demo-mmdit", [f"out={tmp_path}"])
    check_same_run(recipe, read_recipe("demo-mmdit", [f"out={tmp_path}", "train.steps=999", "train.log_every=1"]))
    check_same_run(recipe, read_recipe("demo-mmdit", [f"out={tmp_path}", "train.lr=0.5"]))
    with pytest.raises(ConfigError, match=rf"train\.clip = {recipe.train.clip}.*0\.5"):
        check_same_run(recipe, read_recipe("demo-mmdit", [f"out={tmp_path}", "train.clip=0.5"]))
