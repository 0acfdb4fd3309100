"""The frozen encoders: one dtype, one device and one budget for encode, producers and previews."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from glyphflow.core.errors import InputError
from glyphflow.feed.encode import Encoders
from glyphflow.feed.frozen import FrozenEncoders, encoders_bytes
from glyphflow.generate.residency import DECODER, ENCODER, Residency
from glyphflow.generate.sizes import EncoderConfig
from glyphflow.models import QWEN_IMAGE_VAE
from tiny import tiny_pipeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("frozen") / "model")


def test_the_released_encoders_fit_a_card_of_24_gb_in_its_own_type_only() -> None:
    # Qwen2.5-VL-7B: 28 layers, the vocabulary, and a vision tower of 0.68 B; each weight 2 bytes
    layer = 2 * 3584 * 3584 + 2 * 3584 * 512 + 3 * 3584 * 18944
    language = 28 * layer + 152064 * 3584
    found = encoders_bytes(EncoderConfig(), QWEN_IMAGE_VAE, torch.bfloat16, 512)
    assert 2 * (language + 0.6e9) < found < 22e9 < encoders_bytes(EncoderConfig(), QWEN_IMAGE_VAE, torch.float32, 512)


def test_weights_are_in_the_compute_type_and_the_vae_in_float32(model: Path) -> None:
    frozen = FrozenEncoders(model, torch.device("cpu"), torch.bfloat16)
    assert frozen.condition.dtype == torch.bfloat16 and next(frozen.vae.parameters()).dtype == torch.float32
    assert frozen.embed(["a"])[0].dtype == torch.bfloat16
    assert Encoders(model, torch.device("cpu"), torch.bfloat16).condition.dtype == torch.bfloat16


def test_under_a_budget_they_take_turns_and_give_the_same_bits(model: Path) -> None:
    cpu = torch.device("cpu")
    whole, turns = (FrozenEncoders(model, cpu, torch.float32) for _ in range(2))
    parts: dict[str, nn.Module] = {ENCODER: turns.condition, DECODER: turns.vae}  # type: ignore[dict-item]
    turns._residency = Residency(parts, cpu, 0)  # a card's budget, with real copies
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        assert torch.equal(turns.modes(pixels), whole.modes(pixels))
        assert torch.equal(turns.embed(["two words"])[0], whole.embed(["two words"])[0])
    assert turns._residency.placement is not None and turns.release() is turns.vae
    with pytest.raises(InputError, match="device is cpu"):
        FrozenEncoders(model, cpu, torch.float32, "12GB")
