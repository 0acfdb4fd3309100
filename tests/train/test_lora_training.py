"""Adapters that are trained: what they change, what they are saved as, and who else can read that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from glyphflow.core.errors import ConfigError
from glyphflow.models import MMDiT, MMDiTConfig, lora
from glyphflow.train.lora import FILE, LoRAConfig, TrainedLoRA, inject_lora, targets
from tiny import seeded_weights

CONFIG = MMDiTConfig(
    in_channels=16,
    out_channels=4,
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=4,
    joint_attention_dim=24,
    axes_dims_rope=(8, 4, 4),
)


def network() -> MMDiT:
    model = MMDiT(CONFIG)
    seeded_weights(model, 0)
    return model


def call(model: MMDiT) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    latents, text = (torch.randn(1, *size, generator=generator) for size in ((4, 16), (3, 24)))
    out: Tensor = model(latents, text, torch.tensor([0.5]), [[(1, 2, 2)]])
    return out


def learn(model: MMDiT, trained: TrainedLoRA, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        call(model).square().mean().backward()
        optimizer.step()


def test_a_new_adapter_changes_nothing_and_is_all_that_learns() -> None:
    model = network()
    before = call(model).detach()
    trained = inject_lora(model, LoRAConfig(rank=4), 0)
    assert torch.equal(call(model), before)
    assert {p for p in model.parameters() if p.requires_grad} == set(trained.parameters())
    base = {name: p.clone() for name, p in model.state_dict().items()}
    learn(model, trained)
    assert not torch.equal(call(model), before)
    assert base.keys() == model.state_dict().keys()  # the adapter is no part of the model
    assert all(torch.equal(p, base[name]) for name, p in model.state_dict().items())


def test_targets_are_groups_or_patterns() -> None:
    shapes = lora.linear_shapes(network())
    assert len(targets(LoRAConfig(), shapes)) == 2 * (8 + 4)
    assert len(targets(LoRAConfig(targets=("modulation",)), shapes)) == 4
    assert targets(LoRAConfig(targets=("*.1.attn.to_q", "proj_out")), shapes) == ["transformer_blocks.1.attn.to_q", "proj_out"]
    with pytest.raises(ConfigError, match="'atention', which is none of"):
        targets(LoRAConfig(targets=("attention", "atention")), shapes)


def test_the_start_depends_on_the_seed_and_the_linear_alone() -> None:
    whole = inject_lora(network(), LoRAConfig(rank=4), 5)
    part = inject_lora(network(), LoRAConfig(rank=4, targets=("*.1.attn.to_q",)), 5)
    for name, parameter in part.named_parameters():
        assert torch.equal(parameter, whole.get_parameter(name))
    other = inject_lora(network(), LoRAConfig(rank=4, targets=("*.1.attn.to_q",)), 6)
    down = "transformer_blocks.1.attn.to_q.lora_A.weight"
    assert not torch.equal(other.get_parameter(down), part.get_parameter(down))
    assert part.get_parameter(down).abs().max() <= CONFIG.width**-0.5  # peft's start


def test_masters_are_float32_beside_weights_in_half_precision() -> None:
    model = network().to(torch.bfloat16)
    trained = inject_lora(model, LoRAConfig(rank=4), 0)
    assert {p.dtype for p in trained.parameters()} == {torch.float32}
    out = model(torch.zeros(1, 4, 16).bfloat16(), torch.zeros(1, 3, 24).bfloat16(), torch.ones(1).bfloat16(), [[(1, 2, 2)]])
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert trained.get_parameter("transformer_blocks.0.attn.to_q.lora_B.weight").grad.dtype == torch.float32


def test_the_file_gives_the_trained_model_to_us_and_to_diffusers(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    model = network()
    model.save_pretrained(tmp_path / "base")
    trained = inject_lora(model, LoRAConfig(rank=4, alpha=6.0, targets=("attention", "mlp", "modulation")), 0)
    learn(model, trained)
    wanted = call(model).detach()
    trained.save(tmp_path / "adapter")

    ours = MMDiT.from_pretrained(tmp_path / "base", torch.float32)
    lora.attach(ours, "it", lora.read_lora(tmp_path / "adapter" / FILE, lora.linear_shapes(ours)))
    torch.testing.assert_close(call(ours), wanted, rtol=1e-5, atol=2e-6)

    theirs = diffusers.QwenImageTransformer2DModel.from_pretrained(tmp_path / "base")
    before = theirs_call(theirs)
    theirs.load_lora_adapter(str(tmp_path / "adapter"), weight_name=FILE, prefix="transformer")
    assert (before - wanted).abs().max() > 100 * (theirs_call(theirs) - wanted).abs().max()
    torch.testing.assert_close(theirs_call(theirs), wanted, rtol=1e-4, atol=1e-5)

    with safe_open(tmp_path / "adapter" / FILE, framework="pt") as file:
        settings = json.loads(file.metadata()["lora_adapter_metadata"])
        names = list(file.keys())
    assert (settings["transformer.r"], settings["transformer.lora_alpha"]) == (4, 4)  # 6 / 4 is in lora_B
    assert len(names) == 2 * 2 * (8 + 4 + 2)


@torch.no_grad()
def theirs_call(model: torch.nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    latents, text = (torch.randn(1, *size, generator=generator) for size in ((4, 16), (3, 24)))
    out: Tensor = model(
        hidden_states=latents,
        encoder_hidden_states=text,
        encoder_hidden_states_mask=torch.ones(1, 3, dtype=torch.bool),
        timestep=torch.tensor([0.5]),
        img_shapes=[[(1, 2, 2)]],
        return_dict=False,
    )[0]
    return out


def test_averages_are_saved_by_the_same_names(tmp_path: Path) -> None:
    model = network()
    trained = inject_lora(model, LoRAConfig(rank=2, targets=("*.0.attn.to_q",)), 0)
    trained.save(tmp_path / "average.safetensors", {name: p.detach() + 1 for name, p in trained.named_parameters()})
    with safe_open(tmp_path / "average.safetensors", framework="pt") as file:
        up = file.get_tensor("transformer.transformer_blocks.0.attn.to_q.lora_B.weight")
    assert torch.equal(up, torch.ones(CONFIG.width, 2))
    assert TrainedLoRA(model).scale == 1.0
    with pytest.raises(ConfigError, match="inject_lora first"):
        TrainedLoRA(network())
