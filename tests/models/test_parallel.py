"""The MMDiT over several processes against the same network in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from glyphflow.core.errors import InputError
from glyphflow.models import MMDiT, MMDiTConfig
from glyphflow.models.parallel import TENSOR_PLAN, check_heads, load_parallel, parallelise, split_of
from ranks import run_ranks
from tiny import seeded_weights

TINY: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 24,
    "axes_dims_rope": (8, 4, 4),
}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "zero_cond_t": {"zero_cond_t": True},
    "layered": {"use_additional_t_cond": True, "use_layer3d_rope": True},
}
MESHES = {"ulysses": (2, 1), "tensor": (1, 2)}
ODD, REFERENCES = [(1, 5, 3)], [(1, 5, 3), (1, 3, 7), (1, 1, 1)]
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "one image token": {"shapes": [(1, 1, 1)]},
    "references": {"shapes": REFERENCES, "target": 15},
    "references, every token read": {"shapes": REFERENCES},
    "target within a picture": {"shapes": REFERENCES, "target": 4},
    "zero_cond_t": {"kind": "zero_cond_t", "shapes": REFERENCES, "target": 15},
    "zero_cond_t, every token read": {"kind": "zero_cond_t", "shapes": REFERENCES},
    "layered": {"kind": "layered", "shapes": [(1, 5, 3)] * 3, "target": 30},
    "padded text": {"mask": [[1] * 7, [1] * 4 + [0] * 3]},
    "text with holes": {"mask": [[1, 1, 0, 1, 1, 0, 1], [0, 1, 1, 1, 0, 0, 0]], "shapes": REFERENCES, "target": 15},
    "ragged texts": {"lengths": (7, 4), "shapes": REFERENCES, "target": 15},
    "a text of one token": {"lengths": (1, 6)},
    "a schedule's modulation": {"lengths": (7, 4), "table": True, "kind": "zero_cond_t", "shapes": REFERENCES, "target": 15},
    "ControlNet": {"residuals": 2, "target": 15},
    "step cache": {"cache": True, "shapes": REFERENCES, "target": 15},
    "bfloat16": {"dtype": torch.bfloat16, "shapes": REFERENCES, "target": 15},
}


def network(kind: str = "plain", dtype: torch.dtype = torch.float32) -> MMDiT:
    model = MMDiT(MMDiTConfig(**{**TINY, **KINDS[kind]}))
    seeded_weights(model, 0)
    return model.to(dtype).eval()


class EveryOther:
    """Answers every second time, with what it kept; what it is asked and told can be looked at."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.last: Tensor | None = None

    def recall(self, first: Tensor, tokens: int) -> Tensor | None:
        self.seen.append(first)
        known, self.last = self.last, None
        return None if known is None else known + 0.5 * first[:, :tokens]

    def remember(self, first: Tensor, last: Tensor) -> None:
        self.seen += [first, last]
        self.last = last


def velocity(model: MMDiT, case: dict[str, Any]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    dtype, shapes = case.get("dtype", torch.float32), case.get("shapes", ODD)
    tokens = sum(f * h * w for f, h, w in shapes)
    latents = torch.randn(2, tokens, 16, generator=generator).to(dtype)
    text = torch.randn(2, 7, 24, generator=generator).to(dtype)
    sigma = torch.tensor([0.937, 0.0213], dtype=dtype)
    more: dict[str, Any] = {"target_tokens": case.get("target")}
    if "lengths" in case:
        text, sigma = [row[:length] for row, length in zip(text, case["lengths"], strict=True)], sigma[:1]
    if "mask" in case:
        more["encoder_hidden_states_mask"] = torch.tensor(case["mask"])
    if case.get("kind") == "layered":
        more["additional_t_cond"] = torch.tensor([1, 0])
    if "table" in case:
        more["modulation"] = model.modulation(torch.tensor([0.9, 0.4, 0.1])).row(1)
    if "residuals" in case:
        more["controlnet_block_samples"] = [torch.randn(2, tokens, 64, generator=generator) for _ in range(case["residuals"])]
    if "cache" not in case:
        return model(latents, text, sigma, [shapes] * 2, **more)
    cache = EveryOther()
    out = [model(scale * latents, text, sigma, [shapes] * 2, **more, step_cache=cache) for scale in (1, 1.1, 1.2)]
    return torch.cat([x.flatten() for x in (*out, *cache.seen)])


def gradients(model: MMDiT) -> dict[str, Tensor]:
    """Of a loss of everything that training uses; biases that left their linear under their old names."""
    model.zero_grad(set_to_none=True)
    out = velocity(model, CASES["zero_cond_t, every token read"])
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).square().sum().backward()
    moved = {"attn.image_bias": "attn.to_out.0.bias", "attn.text_bias": "attn.to_add_out.bias", "_mlp.bias": "_mlp.net.2.bias"}
    grads = {}
    for name, parameter in model.named_parameters():
        for new, old in moved.items():
            name = name.replace(new, old)
        grads[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return grads


def on_mesh(axes: tuple[int, int], names: list[str], directory: str | None) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", axes, mesh_dim_names=("sp", "tp"))
    found: dict[str, Any] = {}
    with torch.no_grad():
        for name in names:
            case = CASES[name]
            model = parallelise(network(case.get("kind", "plain"), case.get("dtype", torch.float32)), mesh)
            found[name] = velocity(model, case)
        if directory is not None:
            model = load_parallel(directory, mesh, torch.float32)
            found["loaded"] = velocity(model, CASES["plain"])
            found["bytes"] = sum(p.untyped_storage().nbytes() for p in model.parameters())
            rounded = load_parallel(directory, mesh, torch.float32, quantize="int8")
            found["int8"] = velocity(rounded, CASES["plain"])
            try:
                model.save_pretrained(Path(directory) / "again")
            except InputError as error:
                found["refused"] = str(error)
    found["gradients"] = gradients(parallelise(network("zero_cond_t"), mesh))
    return found


@pytest.fixture(scope="module", params=MESHES)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, list[dict[str, Any]]]:
    directory = tmp_path_factory.mktemp("transformer")
    network().save_pretrained(directory)
    return request.param, directory, run_ranks(2, on_mesh, MESHES[request.param], list(CASES), str(directory))


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_every_rank_has_the_single_devices_velocity(name: str, ranks: tuple[str, Path, list[dict[str, Any]]]) -> None:
    case = CASES[name]
    expected = velocity(network(case.get("kind", "plain"), case.get("dtype", torch.float32)), case)
    first, second = (found[name] for found in ranks[2])
    assert torch.equal(first, second)
    close = 0.15 if case.get("dtype") == torch.bfloat16 else 1e-5
    torch.testing.assert_close(first, expected, atol=close, rtol=1e-5)


def test_gradients_are_those_of_one_device(ranks: tuple[str, Path, list[dict[str, Any]]]) -> None:
    mesh, _, found = ranks
    first, second = (each["gradients"] for each in found)
    for name, expected in gradients(network("zero_cond_t")).items():
        split = split_of(name.rpartition(".")[0])
        if mesh == "ulysses":
            got = (first[name] + second[name]) / 2
        elif split is None or (split == "rows" and name.endswith("bias")):
            torch.testing.assert_close(first[name], second[name], atol=0, rtol=0, msg=name)
            got = first[name]
        else:
            got = torch.cat([first[name], second[name]], dim=0 if split == "columns" else 1)
        scale = float(expected.abs().max())
        torch.testing.assert_close(got, expected, atol=2e-6 * max(scale, 1.0), rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@torch.no_grad()
def test_loading_keeps_only_the_part(ranks: tuple[str, Path, list[dict[str, Any]]]) -> None:
    mesh, directory, found = ranks
    model = MMDiT.from_pretrained(directory, torch.float32)
    expected, rounded = velocity(model, CASES["plain"]), MMDiT.from_pretrained(directory, torch.float32, quantize="int8")
    names = {f"transformer_blocks.{i}.{name}" for i in range(3) for name in TENSOR_PLAN}
    split = sum(p.nbytes for n, p in model.named_parameters() if n.rpartition(".")[0] in names)
    for each in found:
        torch.testing.assert_close(each["loaded"], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(each["int8"], velocity(rounded, CASES["plain"]), atol=1e-5, rtol=0)
        if mesh == "tensor":
            whole = sum(p.nbytes for p in model.parameters())
            assert each["bytes"] < whole - 0.49 * split
            assert each["refused"].startswith("These weights are split over 2 processes")


def test_the_plan_names_linears_of_a_block() -> None:
    linears = {name for name, part in network().transformer_blocks[0].named_modules() if isinstance(part, torch.nn.Linear)}
    assert set(TENSOR_PLAN) == linears


def test_heads_that_cannot_be_shared() -> None:
    with pytest.raises(InputError, match="4 attention heads, which ulysses=3 times tensor=2 = 6 processes cannot share"):
        check_heads(MMDiTConfig(**TINY), 3, 2)


@pytest.mark.slow
@torch.no_grad()
def test_both_at_once_on_four_ranks() -> None:
    names = [name for name in CASES if name not in ("bfloat16",)]
    found = run_ranks(4, on_mesh, (2, 2), names, None)
    for name in names:
        expected = velocity(network(CASES[name].get("kind", "plain")), CASES[name])
        for each in found:
            torch.testing.assert_close(each[name], expected, atol=1e-5, rtol=1e-5)
