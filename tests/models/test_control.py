"""The ControlNet against diffusers' (same weights, same inputs)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from glyphflow.core.errors import InputError
from glyphflow.models.control import ControlNet, ControlNetConfig

diffusers = pytest.importorskip("diffusers")

TINY: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 3,
    "joint_attention_dim": 24,
    "axes_dims_rope": (8, 4, 4),
}
MASKS = {"none": None, "padded": [[1] * 7, [1] * 4 + [0] * 3], "holes": [[1, 1, 0, 1, 1, 0, 1], [0, 1, 1, 1, 0, 0, 0]]}


@functools.cache
def twins(dtype: torch.dtype, extra: int = 0) -> tuple[Any, ControlNet]:
    """The reference with random weights everywhere (also where training starts at zero), and ours with the same."""
    torch.manual_seed(0)
    reference = diffusers.QwenImageControlNetModel(**TINY, extra_condition_channels=extra).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    reference = reference.to(dtype)
    ours = ControlNet(ControlNetConfig(**TINY, extra_condition_channels=extra)).to(dtype).eval()
    ours.load_state_dict(reference.state_dict())
    return reference, ours


def inputs(
    dtype: torch.dtype, mask: list[list[int]] | None = None, extra: int = 0, shape: tuple[int, int, int] = (1, 5, 3)
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    tokens = shape[1] * shape[2]
    return {
        "hidden_states": torch.randn(2, tokens, 16, generator=generator).to(dtype),
        "controlnet_cond": torch.randn(2, tokens, 16 + extra, generator=generator).to(dtype),
        "encoder_hidden_states": torch.randn(2, 7, 24, generator=generator).to(dtype),
        "timestep": torch.tensor([0.937, 0.0213], dtype=dtype),
        "img_shapes": [[shape]] * 2,
        "encoder_hidden_states_mask": None if mask is None else torch.tensor(mask),
    }


@torch.no_grad()
def theirs_and_ours(dtype: torch.dtype, scale: float, extra: int = 0, **call: Any) -> tuple[list[Tensor], list[Tensor]]:
    reference, ours = twins(dtype, extra)
    call = inputs(dtype, extra=extra) | call
    return reference(**call, conditioning_scale=scale, return_dict=False), ours(**call, conditioning_scale=scale)


@pytest.mark.parametrize("extra", [0, 4])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 5, 3)])
def test_residuals_equal_the_reference(shape: tuple[int, int, int], mask: str, extra: int) -> None:
    call = inputs(torch.float32, MASKS[mask], extra, shape)
    theirs, ours = theirs_and_ours(torch.float32, 0.7, extra, **call)
    assert len(theirs) == len(ours) == 3
    for a, b in zip(theirs, ours, strict=True):
        assert b.shape == a.shape and (a - b).abs().max() <= 1e-5


@pytest.mark.parametrize("mask", MASKS)
def test_bf16_residuals_are_the_references_to_the_bit(mask: str) -> None:
    theirs, ours = theirs_and_ours(torch.bfloat16, 0.7, **inputs(torch.bfloat16, MASKS[mask]))
    for a, b in zip(theirs, ours, strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_several_conditions_are_summed_as_the_reference_does(dtype: torch.dtype) -> None:
    reference, ours = twins(dtype)
    call = inputs(dtype)
    call["controlnet_cond"] = [call["controlnet_cond"], -0.5 * call["controlnet_cond"]]
    union = diffusers.QwenImageMultiControlNetModel([reference])
    theirs = union(**call, conditioning_scale=[0.9, 0.4], return_dict=False)
    for a, b in zip(theirs, ours(**call, conditioning_scale=[0.9, 0.4]), strict=True):
        assert torch.equal(a, b) if dtype == torch.bfloat16 else (a - b).abs().max() <= 1e-5


@torch.no_grad()
def test_one_sigma_serves_the_batch() -> None:
    _, ours = twins(torch.float32)
    call = inputs(torch.float32)
    one = ours(**call | {"timestep": torch.tensor([0.5])}, conditioning_scale=1.0)
    each = ours(**call | {"timestep": torch.tensor([0.5, 0.5])}, conditioning_scale=1.0)
    assert max((a - b).abs().max() for a, b in zip(one, each, strict=True)) <= 1e-6


@torch.no_grad()
def test_prompts_of_different_lengths_need_no_mask() -> None:
    _, ours = twins(torch.float32)
    call = inputs(torch.float32, MASKS["padded"]) | {"timestep": torch.tensor([0.5])}
    texts = [call["encoder_hidden_states"][0], call["encoder_hidden_states"][1, :4]]
    masked = ours(**call, conditioning_scale=1.0)
    ragged = ours(**call | {"encoder_hidden_states": texts, "encoder_hidden_states_mask": None}, conditioning_scale=1.0)
    assert max((a - b).abs().max() for a, b in zip(masked, ragged, strict=True)) <= 1e-5


def test_directories_are_exchanged_with_the_reference(tmp_path: Path) -> None:
    reference, ours = twins(torch.float32, 4)
    ours.save_pretrained(tmp_path / "ours")
    reference.save_pretrained(tmp_path / "theirs")
    theirs = diffusers.QwenImageControlNetModel.from_pretrained(tmp_path / "ours")
    again = ControlNet.from_pretrained(tmp_path / "theirs", torch.float32)
    assert theirs.config.extra_condition_channels == again.config.extra_condition_channels == 4
    assert not any(parameter.requires_grad for parameter in again.parameters())
    for name, value in ours.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], value) and torch.equal(again.state_dict()[name], value)


def test_contradictions_are_one_sentence() -> None:
    _, ours = twins(torch.float32)
    call = inputs(torch.float32)
    with pytest.raises(InputError, match=r"\(2, 15, 20\).*\(2, 15, 16\).*inpainting"):
        ours(**call | {"controlnet_cond": torch.zeros(2, 15, 20)}, conditioning_scale=1.0)
    with pytest.raises(InputError, match="1 control pictures and 2 scales"):
        ours(**call, conditioning_scale=[1.0, 0.5])
    with pytest.raises(InputError, match="16 tokens, but hidden_states has 15"):
        ours(**call | {"img_shapes": [[(1, 4, 4)]] * 2}, conditioning_scale=1.0)
