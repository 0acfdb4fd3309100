"""Weights that pass through the card: the same losses and gradients as with weights that stay, counted copy by copy."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from glyphflow.core.errors import ConfigError
from glyphflow.generate.activations import LiveBytes
from glyphflow.generate.streaming import Weights
from glyphflow.models import MMDiT, MMDiTConfig
from glyphflow.models.quantize import QuantLinear, quantise_weight
from glyphflow.train.lean import Adafactor, AdamW8bit
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


def resident(model: MMDiT, half: bool) -> contextlib.AbstractContextManager[object]:
    """The plain model; in half precision without autocast inside of blocks, as all weights that are half compute."""
    return LowMemory(model, CPU, every=0) if half else contextlib.nullcontext()


LAYOUTS = [(0, "host", 0), (0, "card", 1), (2, "card", 2), (3, "host", 1), (5, "host", 0), (5, "card", 1)]


@pytest.mark.parametrize(("offload", "modulation", "every"), LAYOUTS)
@pytest.mark.parametrize("base", [None, "int8", "int4"])
def test_an_adapter_gets_the_gradients_of_resident_weights(offload: int, modulation: str, every: int, base: str | None) -> None:
    dtype, half = (torch.bfloat16, True) if base else (torch.float32, False)
    model, trained = adapted(dtype, base)
    with resident(model, half):
        loss, wanted = gradients(model, trained, half)
    assert len(wanted) == 2 * 12 * CONFIG.num_layers - 8  # nothing asks for the text behind the last block
    with LowMemory(model, CPU, offload=offload, modulation=modulation, every=every):  # type: ignore[arg-type]
        for _ in range(2):
            again, found = gradients(model, trained, half)
            assert torch.equal(again, loss)
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    with resident(model, half):
        assert torch.equal(gradients(model, trained, half)[0], loss)  # closed: as it was


def test_half_precision_is_near_the_whole() -> None:
    _, wanted = gradients(*adapted())

    def far(found: dict[str, Tensor]) -> float:
        return sum(float((found[name] - g).norm() / g.norm()) for name, g in wanted.items()) / len(wanted)

    cast = far(gradients(*adapted(), precision=True)[1])  # float32 weights under autocast
    model, trained = adapted(torch.bfloat16)
    with LowMemory(model, CPU, offload=2, modulation="host"):
        found = far(gradients(model, trained, precision=True)[1])
    assert cast < found < 0.017  # autocast keeps scores and modulation in float32, half weights do not
    model, trained = adapted(torch.bfloat16)
    assert far(gradients(model, trained, precision=True)[1]) > 4 * cast  # the timestep in bfloat16, too


def test_copies_are_what_passes_and_no_more() -> None:
    model, trained = adapted()
    blocks = list(model.transformer_blocks)
    modulations = [part for block in blocks for part in (block.img_mod, block.txt_mod)]
    adapters = [part for part in model.modules() if type(part).__name__ == "Branches"]
    with LowMemory(model, CPU, offload=3, modulation="host", every=1) as low:
        away = [blocks[index] for index in low.offloaded]
        assert len(away) == 3
        each = [Weights([block], apart=[*modulations, *adapters]).nbytes for block in away]
        rows = Weights(modulations).nbytes
        gradients(model, trained)
        # Forwards every block; backwards the last two are still there.
        assert low.copied == sum(each) + each[0] + rows
        before = low.copied
        gradients(model, trained)  # the first two are still there from the last backward pass
        assert low.copied - before == each[2] + each[0] + rows


def test_the_card_never_holds_more_than_it_was_given() -> None:
    """Bytes alive in a step beside the model's own: two buffers, one block's work, and no weight that passed."""
    peaks = {}
    for offload in (0, 5):
        model, trained = adapted()
        with LowMemory(model, CPU, offload=offload, modulation="card", every=1), LiveBytes() as live:
            gradients(model, trained)
        peaks[offload] = live.peak
    block = Weights([MMDiT(CONFIG).transformer_blocks[0]]).nbytes
    assert 2 * block < peaks[5] < peaks[0] + 2.1 * block


def test_expanded_weights_are_not_kept_for_the_backward_pass() -> None:
    linear = QuantLinear(torch.randn(256, 256), nn.Parameter(torch.randn(256)), "int4")
    reference = nn.Linear(256, 256)
    reference.load_state_dict({"weight": linear.expand(), "bias": linear.bias})
    x = torch.randn(3, 5, 256)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        ours = x.clone().requires_grad_()
        out = linear(ours)
    out.square().sum().backward()
    theirs = x.clone().requires_grad_()
    reference(theirs).square().sum().backward()
    assert torch.equal(out, reference(theirs))
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-5)
    assert torch.allclose(linear.bias.grad, reference.bias.grad, rtol=1e-5)
    assert max(kept, default=0) <= out.numel()


@pytest.mark.parametrize(("kind", "offload"), [(AdamW8bit, 0), (AdamW8bit, 2), (Adafactor, 5)])
def test_all_weights_are_trained_from_main_memory_with_the_same_bits(kind: type, offload: int) -> None:
    """Applied in the backward pass, off the card or on it, or afterwards by the plain way: the same weights after 3 steps."""

    def trained(layout: int | None) -> tuple[MMDiT, list[float], list[float], int]:
        model = network(torch.bfloat16).requires_grad_(True)
        model.time_text_embed.requires_grad_(False)  # the blocks' gradients for it are summed in another order, see below
        optimizer, losses, norms = kind([p for p in model.parameters() if p.requires_grad], lr=1e-3), [], []
        low = LowMemory(model, CPU, offload=layout or 0, every=layout is not None)
        if layout is not None:
            low.fuse(optimizer)
        for step in range(3):
            loss = loss_of(model, step, precision=True)
            loss.backward()
            losses.append(float(loss.detach()))
            if layout is None:
                norms.append(float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])))
                optimizer.step()
                optimizer.zero_grad()
            else:
                norms.append(low.norm())
                assert all(p.grad is None for p in model.parameters())
        low.close()
        return model, losses, norms, low.copied

    plain, wanted, long, _ = trained(None)
    model, losses, norms, copied = trained(offload)
    assert losses == wanted
    assert norms == pytest.approx(long, rel=1e-2)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
    assert (copied > 0) == (offload > 0)


def test_the_gradient_of_what_all_blocks_share_is_right() -> None:
    class Watch(Adafactor):
        def update(self, parameter: Tensor, weight: Tensor, grad: Tensor) -> None:
            found[names[parameter]] = grad.clone()

    model, found = network().requires_grad_(True), {}
    names = {p: name for name, p in model.named_parameters()}
    _, wanted = gradients(model, model)
    with LowMemory(model, CPU, offload=3, every=1) as low:
        low.fuse(Watch(model.parameters()))
        loss_of(model).backward()
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)


def test_gradients_exist_for_one_block_at_a_time() -> None:
    model = network(torch.bfloat16).requires_grad_(True)
    optimizer = Adafactor(model.parameters(), lr=1e-3)
    sizes = []
    with LowMemory(model, CPU, offload=5, every=1) as low:
        low.fuse(optimizer)
        update = optimizer.update

        def watched(parameter: Tensor, weight: Tensor, grad: Tensor) -> None:
            sizes.append(sum(p.grad.nbytes for p in model.parameters() if p.grad is not None))
            update(parameter, weight, grad)

        optimizer.update = watched  # type: ignore[method-assign]
        loss_of(model, precision=True).backward()
    block = sum(p.nbytes for p in model.transformer_blocks[0].parameters())
    rest = sum(p.nbytes for name, p in model.named_parameters() if not name.startswith("transformer_blocks."))
    assert max(sizes) <= block + rest


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="6 and the model has 5 blocks"):
        LowMemory(network(), CPU, offload=6)
    with pytest.raises(ConfigError, match="modulations are trained"):
        LowMemory(network().requires_grad_(True), CPU, modulation="host")
    model = network(torch.bfloat16).requires_grad_(True)
    with LowMemory(model, CPU, offload=1, every=1), pytest.raises(ConfigError, match="adamw8bit or adafactor"):
        loss_of(model, precision=True).backward()
