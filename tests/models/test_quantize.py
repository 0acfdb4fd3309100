"""Weights in 8 and 4 bits: bounded by their step, made while loading, counted right, and moved like any module."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from glyphflow.core.errors import InputError
from glyphflow.models import MMDiT, MMDiTConfig, load_weights
from glyphflow.models.quantize import GROUP, Quantize, QuantLinear, quantise_as_placed, quantise_weight, weight_bytes
from tiny import seeded_weights

CONFIG = MMDiTConfig(
    num_layers=2, attention_head_dim=32, num_attention_heads=4, joint_attention_dim=64, axes_dims_rope=(4, 14, 14)
)


@pytest.fixture
def model() -> MMDiT:
    model = MMDiT(CONFIG)
    seeded_weights(model, 0)
    return model.eval().requires_grad_(False)


def call(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    dtype = next(model.parameters()).dtype
    latents, text = (torch.randn(1, *size, generator=generator).to(dtype) for size in ((16, 64), (5, 64)))
    out: Tensor = model(latents, text, torch.tensor([0.5], dtype=dtype), [[(1, 4, 4)]])
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_int8_is_within_half_a_step_of_each_row(dtype: torch.dtype) -> None:
    # float16 cannot hold a small row's scale better than to 2**-25, so rows begin at a hundredth there.
    weight = (torch.randn(48, 96) * torch.logspace(-2 if dtype == torch.float16 else -4, 1, 48)[:, None]).to(dtype)
    step = weight.float().abs().amax(dim=1, keepdim=True) / 127
    expanded = QuantLinear(weight, None, "int8").expand()
    rounding = torch.finfo(dtype).eps * weight.float().abs()
    slack = 127 * (torch.finfo(dtype).eps * step + (2**-24 if dtype == torch.float16 else 0))  # rounding of the scale
    assert expanded.dtype == dtype and ((expanded.float() - weight.float()).abs() <= 0.5 * step + slack + rounding).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int4_is_within_half_a_step_of_each_group(dtype: torch.dtype) -> None:
    weight = (torch.randn(48, 3 * GROUP) + 0.3).to(dtype)
    groups = weight.float().view(48, 3, GROUP)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    expanded = QuantLinear(weight, None, "int4").expand().float().view(48, 3, GROUP)
    slack = 16 * torch.finfo(dtype).eps * (high - low) + torch.finfo(dtype).eps * low.abs()
    assert ((expanded - groups).abs() <= 0.5 * (high - low) / 15 + slack).all()


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_rows_of_equal_weights_stay(kind: Quantize) -> None:
    weight = torch.tensor([0.0, 0.5, -2.0])[:, None].expand(3, GROUP)
    torch.testing.assert_close(QuantLinear(weight, None, kind).expand(), weight, atol=1e-6, rtol=0)


def test_only_the_linears_of_blocks_are_rounded(model: MMDiT) -> None:
    for name in [name for name, _ in model.named_parameters()]:
        quantise_weight(model, name, "int8")
    kinds = {name: type(module) for name, module in model.named_modules() if isinstance(module, nn.Linear | QuantLinear)}
    rounded = {name for name, kind in kinds.items() if kind is QuantLinear}
    assert len(rounded) == 2 * 12
    assert not any(part in name for name in rounded for part in ("mod", "norm", "img_in", "txt_in", "proj_out", "time"))


@pytest.mark.parametrize(("kind", "decibels"), [("int8", 40.0), ("int4", 20.0)])
def test_loading_rounds_what_is_loaded(model: MMDiT, tmp_path: Path, kind: Quantize, decibels: float) -> None:
    model.save_pretrained(tmp_path, max_shard_bytes=200_000)
    loaded = MMDiT.from_pretrained(tmp_path, torch.float32, quantize=kind)
    exact, rounded = call(model), call(loaded)
    assert 10 * torch.log10(exact.pow(2).mean() / (exact - rounded).pow(2).mean()) > decibels
    later = copy.deepcopy(model)
    for name in [name for name, _ in model.named_parameters()]:
        quantise_weight(later, name, kind)
    for (name, one), (_, other) in zip(later.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    torch.testing.assert_close(call(later), rounded, atol=1e-4, rtol=0)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert weight_bytes(shapes, torch.float32, kind) == sum(p.nbytes for p in loaded.parameters())
    assert weight_bytes(shapes, torch.float32) == sum(p.nbytes for p in model.parameters())


def test_moving_and_casting(model: MMDiT) -> None:
    for name in [name for name, _ in model.named_parameters()]:
        quantise_weight(model, name, "int4")
    linear = model.get_submodule("transformer_blocks.0.attn.to_q")
    assert linear.to("meta").packed.is_meta
    half = model.transformer_blocks[1].to(torch.bfloat16).attn.to_q
    assert half.packed.dtype == torch.uint8 and half.scale.dtype == torch.bfloat16


def test_each_weight_is_rounded_before_the_next_is_read(model: MMDiT, tmp_path: Path) -> None:
    """So the unrounded whole never exists."""
    model.save_pretrained(tmp_path, max_shard_bytes=200_000)
    with torch.device("meta"):
        loaded = MMDiT(CONFIG)
    rounding, seen = quantise_as_placed("int8"), 0

    def whole() -> int:
        blocks = [part for name, part in loaded.named_modules() if ".attn." in name or "_mlp." in name]
        return sum(isinstance(part, nn.Linear) and not part.weight.is_meta for part in blocks)

    def placed(module: nn.Module, name: str) -> None:
        nonlocal seen
        seen = max(seen, whole())
        rounding(module, name)
        assert whole() == 0

    load_weights(loaded, tmp_path, torch.float32, torch.device("cpu"), placed)
    assert seen == 1 and not any(p.is_meta for p in loaded.parameters())


def test_refusals(model: MMDiT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="quantize is 'int2'; it can be 'int8' or 'int4'"):
        MMDiT.from_pretrained(tmp_path, quantize="int2")  # type: ignore[arg-type]
    loaded = MMDiT.from_pretrained(tmp_path, quantize="int8")
    with pytest.raises(InputError, match="no place in the released layout"):
        loaded.save_pretrained(tmp_path / "again")
