"""Weights that pass through the card: the same losses and gradients as with weights that stay, counted copy by copy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from glyphflow.models import MMDiT, MMDiTConfig
from glyphflow.models.quantize import quantise_weight
from glyphflow.train.lora import LoRAConfig, inject_lora
from glyphflow.train.lowmem import LowMemory
from tiny import seeded_weights

CONFIG = MMDiTConfig(
    in_channels=16,
    out_channels=4,
    num_layers=5,
    attention_head_dim=32,
    num_attention_heads=4,
    joint_attention_dim=64,
    axes_dims_rope=(8, 12, 12),
)
CPU = torch.device("cpu")
LORA = LoRAConfig(rank=4, alpha=8.0)


def network(dtype: torch.dtype = torch.float32, base: str | None = None) -> MMDiT:
    model = MMDiT(CONFIG)
    seeded_weights(model, 0)
    model = model.to(dtype).requires_grad_(False).train()
    for name in [name for name, _ in model.named_parameters()] if base else []:
        quantise_weight(model, name, base)  # type: ignore[arg-type]
    return model


def adapted(dtype: torch.dtype = torch.float32, base: str | None = None, lora: LoRAConfig = LORA) -> tuple[MMDiT, nn.Module]:
    """A frozen model and an adapter that is no longer at its start, where half of its gradients are 0."""
    model = network(dtype, base)
    trained = inject_lora(model, lora, 3)
    generator = torch.Generator().manual_seed(4)
    for parameter in trained.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model, trained


def loss_of(model: nn.Module, step: int = 0, precision: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(100 + step)
    latents, text = (torch.randn(2, *size, generator=generator) for size in ((24, 16), (7, 64)))
    sigma, wanted = torch.rand(2, generator=generator), torch.randn(2, 24, 16, generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision):
        velocity = model(latents, text, sigma, [[(1, 4, 6)]] * 2)
    return (velocity.float() - wanted).square().mean()


def gradients(model: nn.Module, trained: nn.Module, precision: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    loss = loss_of(model, precision=precision)
    loss.backward()
    found = {name: p.grad.clone() for name, p in trained.named_parameters() if p.grad is not None}
    trained.zero_grad()
    return loss.detach(), found


LAYOUTS = [(0, "host", 0), (0, "card", 1), (2, "card", 2), (3, "host", 1), (5, "host", 0), (5, "card", 1)]


@pytest.mark.parametrize(("offload", "modulation", "every"), LAYOUTS)
@pytest.mark.parametrize("base", [None, "int8", "int4"])
def test_an_adapter_gets_the_gradients_of_resident_weights(offload: int, modulation: str, every: int, base: str | None) -> None:
    dtype, half = (torch.bfloat16, True) if base else (torch.float32, False)
    model, trained = adapted(dtype, base)
    loss, wanted = gradients(model, trained, half)
    assert len(wanted) == 2 * 12 * CONFIG.num_layers - 8  # nothing asks for the text behind the last block
    with LowMemory(model, CPU, offload=offload, modulation=modulation, every=every):  # type: ignore[arg-type]
        for _ in range(2):
            again, found = gradients(model, trained, half)
            assert torch.equal(again, loss)
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert torch.equal(gradients(model, trained, half)[0], loss)  # closed: as it was
