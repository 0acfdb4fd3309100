"""Adapters: every key family means the same, branches follow their closed form, fusing is undone to the bit."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from glyphflow.core.errors import InputError, MissingError
from glyphflow.models import MMDiT, MMDiTConfig, lora
from glyphflow.models.lora_file import Kronecker, LoRA, LowRank
from glyphflow.models.quantize import quantise_weight
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
RANK, ALPHA = 4, 2.0
TO_Q, PROJ, MOD = "transformer_blocks.0.attn.to_q", "transformer_blocks.1.img_mlp.net.0.proj", "transformer_blocks.0.img_mod.1"


@pytest.fixture
def model() -> MMDiT:
    model = MMDiT(CONFIG)
    seeded_weights(model, 0)
    return model.eval().requires_grad_(False)


@pytest.fixture
def shapes(model: MMDiT) -> dict[str, tuple[int, int]]:
    return lora.linear_shapes(model)


def factors(shapes: dict[str, tuple[int, int]], seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """(down, up) for every linear."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(RANK, shape[1], generator=generator) * shape[1] ** -0.5,
            torch.randn(shape[0], RANK, generator=generator) * 0.1,
        )
        for name, shape in shapes.items()
    }


def call(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    dtype = next(model.parameters()).dtype
    latents, text = (torch.randn(1, *size, generator=generator).to(dtype) for size in ((4, 16), (3, 24)))
    out: Tensor = model(latents, text, torch.tensor([0.5], dtype=dtype), [[(1, 2, 2)]])
    return out


def with_deltas(model: MMDiT, deltas: dict[str, Tensor]) -> MMDiT:
    changed = copy.deepcopy(model)
    for name, delta in deltas.items():
        changed.get_submodule(name).weight += delta
    return changed


FAMILIES = {
    "diffusers": ("transformer.{}.lora_A.weight", "transformer.{}.lora_B.weight", "transformer.{}.alpha"),
    "comfy": ("diffusion_model.{}.lora_down.weight", "diffusion_model.{}.lora_up.weight", "diffusion_model.{}.alpha"),
    "bare": ("{}.lora_down.weight", "{}.lora_up.weight", "{}.alpha"),
    "default": ("{}.lora_A.default.weight", "{}.lora_B.default.weight", "{}.alpha"),
    "default before": ("transformer.{}.default.lora_A.weight", "transformer.{}.default.lora_B.weight", "transformer.{}.alpha"),
    "peft": ("base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight", "base_model.model.{}.alpha"),
    "kohya": ("lora_unet_{}.lora_down.weight", "lora_unet_{}.lora_up.weight", "lora_unet_{}.alpha"),
}


def in_family(family: str, pairs: dict[str, tuple[Tensor, Tensor]], alpha: float | None = ALPHA) -> dict[str, Tensor]:
    keys, tensors = FAMILIES[family], {}
    for name, (down, up) in pairs.items():
        name = name.replace(".", "_") if family == "kohya" else name
        tensors |= {keys[0].format(name): down.clone(), keys[1].format(name): up.clone()}
        if alpha is not None:
            tensors[keys[2].format(name)] = torch.tensor(alpha)
    return tensors


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("alpha", [ALPHA, None])
def test_every_family_has_its_closed_form(model: MMDiT, family: str, alpha: float | None) -> None:
    """On all linears, those of the modulation and the head included, in float64."""
    model = model.double()
    pairs = factors(lora.linear_shapes(model))
    scale = 1.0 if alpha is None else alpha / RANK
    expected = call(with_deltas(model, {n: 0.7 * scale * (up.double() @ down.double()) for n, (down, up) in pairs.items()}))
    lora.attach(model, "a", lora.read_lora(in_family(family, pairs, alpha), lora.linear_shapes(model)), 0.7)
    assert (expected - call(with_deltas(model, {}))).abs().max() < 1e-12  # a copy carries its branches
    torch.testing.assert_close(call(model), expected, atol=1e-12, rtol=0)


def test_a_modulation_table_is_of_the_adapters_in_force(model: MMDiT, shapes: dict[str, tuple[int, int]]) -> None:
    pairs = factors({MOD: shapes[MOD]})
    lora.attach(model, "a", lora.read_lora(in_family("comfy", pairs), shapes))
    table = model.modulation(torch.tensor([0.5]))
    generator = torch.Generator().manual_seed(1)
    latents, text = (torch.randn(1, *size, generator=generator) for size in ((4, 16), (3, 24)))
    with_table = model(latents, text, torch.tensor([0.5]), [[(1, 2, 2)]], modulation=table.row(0))
    torch.testing.assert_close(with_table, call(model), atol=1e-6, rtol=0)
    lora.detach(model)
    assert (call(model) - with_table).abs().max() > 1e-3


@pytest.mark.parametrize("where", ["diffusers", "rslora", "pattern", "adapter_config"])
def test_alpha_beside_the_tensors(tmp_path: Path, shapes: dict[str, tuple[int, int]], where: str) -> None:
    pairs = factors({TO_Q: shapes[TO_Q], PROJ: shapes[PROJ]})
    tensors = in_family("peft" if where == "adapter_config" else "diffusers", pairs, None)
    settings: dict[str, Any] = {"r": RANK, "lora_alpha": 8, "use_rslora": where == "rslora"}
    if where == "pattern":
        settings["alpha_pattern"] = {"img_mlp.net.0.proj": 16}
    if where == "adapter_config":
        path = tmp_path / "adapter_model.safetensors"
        save_file(tensors, path)
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"peft_type": "LORA"}))
    else:
        path = tmp_path / "pytorch_lora_weights.safetensors"
        content = json.dumps({f"transformer.{key}": value for key, value in settings.items()})
        save_file(tensors, path, {"lora_adapter_metadata": content})
    layers = lora.read_lora(tmp_path, shapes).layers
    assert layers[TO_Q].scale == (4.0 if where == "rslora" else 2.0)
    assert layers[PROJ].scale == {"rslora": 4.0, "pattern": 4.0}.get(where, 2.0)


def test_dora_brings_rows_to_their_length(model: MMDiT) -> None:
    model = model.double()
    linear = model.get_submodule(TO_Q)
    shapes = lora.linear_shapes(model)
    down, up = factors(shapes)[TO_Q]
    length = torch.rand(len(up)) + 0.5
    for magnitude in (
        {f"transformer.{TO_Q}.lora_magnitude_vector": length},
        {f"transformer.{TO_Q}.lora_magnitude_vector.default.weight": length},
        {f"diffusion_model.{TO_Q}.dora_scale": length[:, None]},
    ):
        found = lora.read_lora(in_family("comfy", {TO_Q: (down, up)}) | magnitude, shapes)
        whole = linear.weight + 0.7 * ALPHA / RANK * (up.double() @ down.double())
        whole = whole * (length.double() / whole.norm(dim=1))[:, None]
        expected = call(with_deltas(model, {TO_Q: whole - linear.weight}))
        lora.attach(model, "a", found, 0.7)
        torch.testing.assert_close(call(model), expected, atol=1e-6, rtol=0)  # lengths are found in float32
        lora.fuse(model)
        torch.testing.assert_close(call(model), expected, atol=1e-6, rtol=0)
        lora.detach(model)


@pytest.mark.parametrize("split", [(), ("w1",), ("w2",), ("w1", "w2")])
def test_lokr_is_a_kronecker_product(model: MMDiT, split: tuple[str, ...]) -> None:
    model = model.double()
    shapes = lora.linear_shapes(model)
    generator = torch.Generator().manual_seed(0)
    parts, sides = {}, {}
    for side, (rows, columns) in {"w1": (8, 4), "w2": (shapes[PROJ][0] // 8, shapes[PROJ][1] // 4)}.items():
        if side in split:
            a, b = torch.randn(rows, 2, generator=generator), torch.randn(2, columns, generator=generator)
            parts |= {f"{side}_a": a, f"{side}_b": b}
            sides[side] = a @ b
        else:
            parts[side] = sides[side] = torch.randn(rows, columns, generator=generator)
    tensors = {f"lycoris_{PROJ.replace('.', '_')}.lokr_{key}": value for key, value in parts.items()}
    tensors[f"lycoris_{PROJ.replace('.', '_')}.alpha"] = torch.tensor(1.0)
    scale = 0.5 if split else 1.0  # alpha / rank where there is a rank
    delta = 0.1 * scale * torch.kron(sides["w1"].double(), sides["w2"].double())
    expected = call(with_deltas(model, {PROJ: delta}))
    lora.attach(model, "a", lora.read_lora(tensors, shapes), 0.1)
    torch.testing.assert_close(call(model), expected, atol=1e-10, rtol=0)
    lora.fuse(model)
    torch.testing.assert_close(call(model), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fuse_and_back_to_the_bit(model: MMDiT, shapes: dict[str, tuple[int, int]], dtype: torch.dtype) -> None:
    model = model.to(dtype)
    before, plain = {name: value.clone() for name, value in model.state_dict().items()}, call(model)
    for seed, name in enumerate(("a", "b")):
        lora.attach(model, name, lora.read_lora(in_family("comfy", factors(shapes, seed)), shapes), 0.5 + seed)
    beside = call(model)
    lora.fuse(model)
    assert lora.fused(model) and not torch.equal(model.state_dict()[f"{TO_Q}.weight"], before[f"{TO_Q}.weight"])
    torch.testing.assert_close(call(model), beside, atol=1e-5 if dtype == torch.float32 else 0.1, rtol=0)
    for refused in (lambda: lora.set_weights(model, {"a": 1}), lambda: lora.attach(model, "c", LoRA({}, ""))):
        with pytest.raises(InputError, match="unfuse_lora first"):
            refused()
    lora.unfuse(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(call(model), beside)
    lora.fuse(model)
    lora.detach(model, "a")  # the other stays, and stays fused
    assert lora.fused(model)
    lora.detach(model)
    assert torch.equal(call(model), plain) and not any(hasattr(module, "lora") for module in model.modules())


def test_weights_choose_and_mix(model: MMDiT, shapes: dict[str, tuple[int, int]]) -> None:
    plain = call(model)
    for seed, name in enumerate(("a", "b")):
        lora.attach(model, name, lora.read_lora(in_family("comfy", factors(shapes, seed)), shapes))
    lora.set_weights(model, {"a": 1.0})
    alone = call(model)
    lora.set_weights(model, {"b": 1.0, "a": 0.5})
    assert not torch.equal(call(model), alone)
    lora.set_weights(model, {})
    assert torch.equal(call(model), plain)
    lora.detach(model, "b")
    lora.set_weights(model, {"a": 1.0})
    assert torch.equal(call(model), alone)
    with pytest.raises(InputError, match="no adapter 'b'; loaded are a"):
        lora.set_weights(model, {"b": 1.0})
    with pytest.raises(InputError, match="no adapter 'b'"):
        lora.detach(model, "b")
    with pytest.raises(InputError, match="an adapter 'a' already"):
        lora.attach(model, "a", LoRA({}, ""))


def test_compiled_code_notices_every_change() -> None:
    """A compiler does not look at hooks that come later."""
    same = nn.Sequential(nn.Linear(8, 8), nn.SiLU()).requires_grad_(False)
    compiled = copy.deepcopy(same)
    run = torch.compile(compiled, backend="eager")
    adapter = LoRA({"0": LowRank(torch.randn(2, 8), torch.randn(8, 2), 1.0)}, "")
    x, seen = torch.randn(3, 8), []
    for change in (
        lambda each: None,
        lambda each: lora.attach(each, "a", adapter),
        lambda each: lora.set_weights(each, {"a": 0.5}),
        lora.fuse,
        lora.unfuse,
        lora.detach,
    ):
        for each in (same, compiled):
            change(each)
        seen.append(run(x))
        torch.testing.assert_close(seen[-1], same(x), atol=1e-6, rtol=0)
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2]) and torch.equal(seen[0], seen[-1])


def test_branches_are_no_part_of_the_saved_model(model: MMDiT, shapes: dict[str, tuple[int, int]], tmp_path: Path) -> None:
    names = list(model.state_dict())
    lora.attach(model, "a", lora.read_lora(in_family("comfy", factors(shapes)), shapes))
    assert list(model.state_dict()) == names
    assert any(".lora." in name for name, _ in model.named_parameters())  # yet they go where the model goes
    model.save_pretrained(tmp_path)
    lora.detach(model)
    assert torch.equal(call(MMDiT.from_pretrained(tmp_path, torch.float32)), call(model))


def test_on_quantised_linears_beside_but_not_inside(model: MMDiT, shapes: dict[str, tuple[int, int]]) -> None:
    for name in [name for name, _ in model.named_parameters() if name.endswith("weight")]:
        quantise_weight(model, name, "int8")
    assert lora.linear_shapes(model) == shapes
    pairs = factors(shapes)
    dense = copy.deepcopy(model)
    for name, (down, up) in pairs.items():
        linear = dense.get_submodule(name)
        weight = linear.weight if isinstance(linear, nn.Linear) else linear.expand()
        whole = nn.Linear(*weight.shape[::-1])
        whole.weight, whole.bias = nn.Parameter(weight + ALPHA / RANK * up @ down), linear.bias
        parent, _, leaf = name.rpartition(".")
        setattr(dense.get_submodule(parent), leaf, whole)
    lora.attach(model, "a", lora.read_lora(in_family("kohya", pairs), shapes))
    torch.testing.assert_close(call(model), call(dense), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="Quantised weights cannot take"):
        lora.fuse(model)


def test_what_does_not_fit_is_one_sentence(shapes: dict[str, tuple[int, int]], tmp_path: Path) -> None:
    def refused(tensors: dict[str, Tensor], match: str) -> None:
        with pytest.raises(InputError, match=match) as caught:
            lora.read_lora(tensors, shapes)
        assert "\n" not in str(caught.value)

    pair = factors({TO_Q: shapes[TO_Q]})
    good = in_family("diffusers", pair)
    down, up = pair[TO_Q]
    refused({}, "holds no LoRA weights")
    refused(
        in_family("diffusers", {"single_transformer_blocks.0.attn.to_q": pair[TO_Q]}),
        r"3 of its 3 keys, such as transformer.single_\S+.to_q, belong to no layer, of which img_in is one; .* a FLUX",
    )
    refused(
        good | in_family("diffusers", {"transformer_blocks.9.attn.to_q": pair[TO_Q]}), "3 of its 6 keys, such as .*blocks.9"
    )
    refused(
        in_family("diffusers", {TO_Q: (down[:, :-1], up)}), r"made for a weight of \(64, 63\), but the model's is \(64, 64\)"
    )
    refused(in_family("diffusers", {TO_Q: (down, up[:, :-1])}), "rank 4 downwards and 3 upwards")
    refused({f"transformer.{TO_Q}.lora_A.weight": down}, "has down only")
    refused({f"transformer.{TO_Q}.hada_w1_a": down}, r"holds LoHa \(.*hada_w1_a\)")
    refused(good | {f"transformer.{TO_Q}.diff": down}, "full weight differences")
    refused(good | {f"transformer.{TO_Q}.oft_blocks": down}, "OFT")
    refused(good | {f"transformer.{TO_Q}.lora_B.bias": down}, "LoRA with biases")
    refused(good | {f"transformer.{TO_Q}.strange": down}, "no key of a LoRA that is known")
    refused(good | {f"transformer.{TO_Q}.dora_scale": torch.ones(1, 64)}, r"DoRA magnitudes of shape \(1, 64\)")
    refused({f"{TO_Q}.lokr_w1": torch.ones(2, 2)}, "LoKr without lokr_w2")
    with pytest.raises(MissingError, match="no LoRA file"):
        lora.read_lora(tmp_path / "a.safetensors", shapes)
    for name in ("a", "b"):
        save_file(good, tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match=r"2 .safetensors files \(a.safetensors, b.safetensors\); choose"):
        lora.read_lora(tmp_path, shapes)
    (tmp_path / "c.bin").touch()
    with pytest.raises(InputError, match=r"not a \.safetensors file"):
        lora.read_lora(tmp_path / "c.bin", shapes)


def test_saved_and_read_again(model: MMDiT, shapes: dict[str, tuple[int, int]], tmp_path: Path) -> None:
    layers: dict[str, LowRank | Kronecker] = {
        name: LowRank(down, up, 0.5 if name == PROJ else 2.0) for name, (down, up) in factors(shapes).items()
    }
    layers[TO_Q] = layers[TO_Q]._replace(magnitude=torch.rand(64))
    lora.attach(model, "a", LoRA(layers, ""))
    lora.save_lora(tmp_path / "a.safetensors", lora.collect(model, "a"))
    assert f"transformer.{TO_Q}.lora_A.weight" in load_file(tmp_path / "a.safetensors")
    back = lora.read_lora(tmp_path / "a.safetensors", shapes)
    assert back.layers.keys() == layers.keys() and len(back.identity) == 16
    for name, layer in back.layers.items():
        for mine, theirs in zip(layer, layers[name], strict=True):
            assert torch.equal(mine, theirs) if isinstance(mine, Tensor) else mine == theirs, name
    with pytest.raises(InputError, match="is a LoKr layer"):
        lora.save_lora(tmp_path / "b.safetensors", LoRA({TO_Q: Kronecker(torch.ones(2, 2), torch.ones(32, 32), 1.0)}, ""))


@pytest.mark.parametrize("family", ["comfy", "bare", "default", "default before", "kohya"])
def test_diffusers_reads_the_same_from_every_family(shapes: dict[str, tuple[int, int]], family: str) -> None:
    conversion = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
    tensors = in_family(family, factors(shapes))
    tensors = {key.removeprefix("transformer."): value for key, value in tensors.items()}  # as its loader does before
    theirs = conversion._convert_non_diffusers_qwen_lora_to_diffusers(dict(tensors))
    theirs = {key.removeprefix("transformer."): value for key, value in theirs.items()}
    layers = lora.read_lora(tensors, shapes).layers
    assert {key.rsplit(".lora_", 1)[0] for key in theirs} == set(layers)
    for name, layer in layers.items():
        assert isinstance(layer, LowRank)
        product = theirs[f"{name}.lora_B.weight"] @ theirs[f"{name}.lora_A.weight"]
        torch.testing.assert_close(layer.up @ layer.down * layer.scale, product, atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize("dora", [False, True])
def test_diffusers_and_peft_make_the_same(tmp_path: Path, model: MMDiT, dora: bool) -> None:
    """They read what we save, weights and scales included, and their output is ours."""
    pytest.importorskip("peft")
    diffusers = pytest.importorskip("diffusers")
    shapes = {name: shape for name, shape in lora.linear_shapes(model).items() if ".attn." in name or "_mlp" in name}
    layers: dict[str, LowRank | Kronecker] = {
        name: LowRank(down, up, 0.5 if name == PROJ else 2.0, up.norm(dim=1) + 1 if dora else None)
        for name, (down, up) in factors(shapes).items()
    }
    lora.attach(model, "a", LoRA(layers, ""), 0.75)
    lora.save_lora(tmp_path / "pytorch_lora_weights.safetensors", lora.collect(model, "a"))
    model.save_pretrained(tmp_path / "model")
    theirs = diffusers.QwenImageTransformer2DModel.from_pretrained(tmp_path / "model").eval()
    theirs.load_lora_adapter(tmp_path, weight_name="pytorch_lora_weights.safetensors", adapter_name="a", prefix="transformer")
    theirs.set_adapters("a", 0.75)
    generator = torch.Generator().manual_seed(1)
    latents, text = (torch.randn(1, *size, generator=generator) for size in ((4, 16), (3, 24)))
    with torch.no_grad():
        out = theirs(
            hidden_states=latents, encoder_hidden_states=text, timestep=torch.tensor([0.5]), img_shapes=[[(1, 2, 2)]]
        ).sample
    torch.testing.assert_close(call(model), out, atol=1e-5 if dora else 2e-6, rtol=0)
