"""Adapters: every key family means the same, branches follow their closed form, fusing is undone to the bit."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
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
    refused(good | {f"transformer.{TO_Q}.dora_scale": torch.ones(1, 63)}, r"DoRA magnitudes of shape \(1, 63\)")
    refused(good | {f"transformer.{TO_Q}.alpha": torch.ones(2)}, "has 2 values, and an alpha is one")
    refused(good | {f"diffusion_model.{TO_Q}.lora_down.weight": down}, "says down of .*to_q twice")
    refused(in_family("diffusers", {TO_Q: (down.to(torch.int8), up)}), r"holds torch\.int8, and only floating")
    refused(in_family("diffusers", {TO_Q: (down[:0], up[:, :0])}), r"is empty, of shape \(0, 64\)")
    refused(in_family("diffusers", {TO_Q: (down[0], up)}), r"a part of shape \(64,\), and a linear layer's is a matrix")
    refused(in_family("diffusers", {TO_Q: (down[..., None, None].expand(-1, -1, 3, 3), up)}), "is a matrix")
    refused({f"{TO_Q}.lokr_w1_a": torch.ones(2, 3), f"{TO_Q}.lokr_w1_b": torch.ones(2, 2)}, "do not fit each other")
    refused({f"{TO_Q}.weight": down, "txt_norm.weight": down}, "holds a Qwen-Image transformer and no LoRA")
    for value in (float("nan"), float("inf"), -float("inf")):
        for key, tensor in good.items():
            wrong = tensor.clone()
            wrong.view(-1)[0] = value
            refused(good | {key: wrong}, rf"{key} in .* has 1 of \d+ values that are not finite")
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
        then = layers[name]
        assert isinstance(layer, LowRank) and isinstance(then, LowRank)
        assert layer.scale == 1 and torch.equal(layer.up, then.up * then.scale) and torch.equal(layer.down, then.down)
        assert (layer.magnitude is None) == (then.magnitude is None)
    assert torch.equal(back.layers[TO_Q].magnitude, layers[TO_Q].magnitude)
    with pytest.raises(InputError, match="is a LoKr layer"):
        lora.save_lora(tmp_path / "b.safetensors", LoRA({TO_Q: Kronecker(torch.ones(2, 2), torch.ones(32, 32), 1.0)}, ""))
    with pytest.raises(InputError, match="magnitudes along its input"):
        layers[TO_Q] = layers[TO_Q]._replace(magnitude=torch.rand(1, 64))
        lora.save_lora(tmp_path / "b.safetensors", LoRA(layers, ""))


@pytest.mark.parametrize("scale", [0.25, 3.0])
def test_every_program_reads_the_same_strength_from_what_is_saved(
    shapes: dict[str, tuple[int, int]], tmp_path: Path, scale: float
) -> None:
    """ComfyUI takes alpha from tensors, and 1 without; peft takes it from the metadata."""
    layers: dict[str, LowRank | Kronecker] = {
        name: LowRank(down[: 1 + n % RANK], up[:, : 1 + n % RANK], scale)
        for n, (name, (down, up)) in enumerate(factors(shapes).items())
    }
    lora.save_lora(tmp_path / "a.safetensors", LoRA(layers, ""))
    tensors = load_file(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        told = {k.removeprefix("transformer."): v for k, v in json.loads(file.metadata()["lora_adapter_metadata"]).items()}
    for name, layer in layers.items():
        down, up = (tensors[f"transformer.{name}.lora_{side}.weight"] for side in "AB")
        rank = told["rank_pattern"].get(name, told["r"])
        assert f"transformer.{name}.alpha" not in tensors and rank == len(down)
        assert told["alpha_pattern"].get(name, told["lora_alpha"]) == rank
        torch.testing.assert_close(up @ down, scale * layer.up @ layer.down)


PREFIXES = [
    "pipe.dit.{}.lora_A.default.weight",
    "pipe.dit.{}.lora_A.weight",
    "dit.{}.lora_down.weight",
    "model.{}.lora_A.weight",
    "unet.{}.lora_A.weight",
    "model.diffusion_model.{}.lora_A.weight",
    "base_model.model.transformer.{}.lora_A.weight",
    "transformer.{}.lora_A.my_style.weight",
    "transformer.{}.lora.down.weight",
    "transformer.transformer_blocks.0._orig_mod.attn.to_q.lora_A.weight",
    "_fsdp_wrapped_module.{}.lora_A.weight",
    "lycoris_{flat}.lora_down.weight",
    "lora_transformer_{flat}.lora_down.weight",
]


@pytest.mark.parametrize("key", PREFIXES)
def test_prefixes_of_all_writers(shapes: dict[str, tuple[int, int]], key: str) -> None:
    down, up = factors({TO_Q: shapes[TO_Q]})[TO_Q]
    name = key.format(TO_Q, flat=TO_Q.replace(".", "_"))
    other = name.replace("lora_A", "lora_B").replace("down", "up")
    layer = lora.read_lora({name: down, other: up}, shapes).layers[TO_Q]
    assert torch.equal(layer.down, down) and torch.equal(layer.up, up) and layer.scale == 1


OTHERS = {
    "a Wan transformer": [
        "lora_unet_blocks_0_cross_attn_q",
        "diffusion_model.blocks.3.ffn.0",
        "transformer.blocks.0.attn1.to_q",
    ],
    "a FLUX or HunyuanVideo": ["lora_unet_double_blocks_0_img_attn_qkv", "transformer.single_transformer_blocks.0.attn.to_q"],
    "a Stable Diffusion UNet": ["lora_unet_down_blocks_1_attentions_0_proj_in", "lora_unet_input_blocks_4_1_proj_in"],
    "a Stable Diffusion 3": ["lora_unet_joint_blocks_0_context_block_attn_qkv"],
    "a HiDream": ["diffusion_model.double_stream_blocks.0.block.attn1.to_q"],
    "a Lumina or Z-Image": ["diffusion_model.layers.0.attention.to_q", "lora_unet_layers_0_attention_qkv"],
    "an LTX-Video": ["diffusion_model.transformer_blocks.0.attn1.to_q"],
    "a Qwen-Image transformer of another size": ["transformer.transformer_blocks.59.img_mlp.net.2"],
}


@pytest.mark.parametrize(("kind", "module"), [(kind, module) for kind, modules in OTHERS.items() for module in modules])
def test_adapters_of_other_models_are_named(shapes: dict[str, tuple[int, int]], kind: str, module: str) -> None:
    tensors = {f"{module}.lora_down.weight": torch.zeros(4, 8), f"{module}.lora_up.weight": torch.zeros(8, 4)}
    with pytest.raises(InputError, match=f"does not fit this model.*seems to be made for {kind}"):
        lora.read_lora(tensors | {f"{module}.alpha": torch.tensor(4.0)}, shapes)


def test_adapters_of_text_encoders_are_named(shapes: dict[str, tuple[int, int]]) -> None:
    encoder = {f"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_{part}.weight": torch.zeros(4, 4) for part in ("down", "up")}
    with pytest.raises(InputError, match=r"adapts a text encoder \(2 of its 2 keys"):
        lora.read_lora(encoder, shapes)
    with pytest.raises(InputError, match=r"adapts a text encoder \(2 of its 5 keys"):
        lora.read_lora(encoder | in_family("diffusers", factors({TO_Q: shapes[TO_Q]})), shapes)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("{", "cannot be read"),
        ("3", "cannot be read"),
        ('{"transformer.alpha_pattern": {"(": 4}}', "say no alpha"),
        ('{"transformer.alpha_pattern": 3}', "say no alpha"),
        ('{"transformer.lora_alpha": "many"}', "say no alpha"),
        ('{"transformer.lora_alpha": NaN}', "is nan, which is no number"),
        ('{"transformer.init_lora_weights": "pissa_niter_16"}', "pissa_niter_16.*changes the model's own weights"),
        ('{"transformer.peft_type": "LOHA"}', "of the kind LOHA"),
    ],
)
def test_settings_that_cannot_be_used(shapes: dict[str, tuple[int, int]], tmp_path: Path, settings: str, words: str) -> None:
    tensors = in_family("diffusers", factors({TO_Q: shapes[TO_Q]}), alpha=None)
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": settings})
    with pytest.raises(InputError, match=words):
        lora.read_lora(tmp_path / "a.safetensors", shapes)


@pytest.mark.parametrize("kind", ["lora", "lokr"])
@pytest.mark.parametrize("axis", ["rows", "columns"])
@pytest.mark.parametrize("name", [TO_Q, PROJ])
def test_dora_along_either_axis(model: MMDiT, shapes: dict[str, tuple[int, int]], kind: str, axis: str, name: str) -> None:
    """W' = (W + D) times what brings its rows, or its columns (LyCORIS, OneTrainer), to the lengths that the file says."""
    model = model.double()
    out, into = shapes[name]
    weight = model.get_submodule(name).weight
    down, up = (t.double() for t in factors({name: (out, into)})[name])
    generator = torch.Generator().manual_seed(2)
    left, right = (torch.randn(*size, generator=generator).double() for size in ((2, 4), (out // 2, into // 4)))
    parts = {"lora_down.weight": down, "lora_up.weight": up} if kind == "lora" else {"lokr_w1": left, "lokr_w2": right}
    delta = 0.6 * (up @ down if kind == "lora" else torch.kron(left, right))
    dim = 1 if axis == "rows" else 0
    scale = 1.3 * weight.norm(dim=dim, keepdim=True)
    whole = weight + delta
    wanted = whole * scale / whole.norm(dim=dim, keepdim=True)
    expected = call(with_deltas(model, {name: wanted - weight}))
    tensors = {f"lycoris_{name.replace('.', '_')}.{part}": tensor for part, tensor in parts.items()}
    tensors[f"lycoris_{name.replace('.', '_')}.dora_scale"] = scale
    lora.attach(model, "a", lora.read_lora(tensors, shapes), 0.6)
    torch.testing.assert_close(call(model), expected, atol=1e-6, rtol=0)
    lora.fuse(model)
    torch.testing.assert_close(model.get_submodule(name).weight, wanted, atol=1e-6, rtol=1e-6)


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
