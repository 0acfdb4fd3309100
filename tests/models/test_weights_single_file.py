"""Transformers as one file: every prefix and number format that is in use; what cannot be known is said, not guessed."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from glyphflow.core.errors import InputError, MissingError
from glyphflow.models import VAE, MMDiT, MMDiTConfig, VAEConfig
from tiny import seeded_weights

CONFIG = MMDiTConfig(
    in_channels=16,
    out_channels=4,
    num_layers=2,
    attention_head_dim=32,
    num_attention_heads=1,
    joint_attention_dim=24,
    axes_dims_rope=(4, 14, 14),
)
MARK = "__index_timestep_zero__"


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    model = MMDiT(CONFIG)
    seeded_weights(model, 0)
    return {name: value.detach() for name, value in model.state_dict().items()}


def opened(path: Path, tensors: dict[str, Tensor], config: MMDiTConfig | None = CONFIG, **metadata: str) -> MMDiT:
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata or None)
    return MMDiT.from_pretrained(path, torch.float32, config=config)


def same(model: MMDiT, state: dict[str, Tensor], atol: float = 0) -> None:
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name].float(), atol=atol, rtol=0, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_prefixes_and_plain_formats(tmp_path: Path, state: dict[str, Tensor], prefix: str, dtype: torch.dtype) -> None:
    stored = {name: value.to(dtype) for name, value in state.items()}
    same(opened(tmp_path / "m.safetensors", {prefix + name: value for name, value in stored.items()}), stored)


def fp8(state: dict[str, Tensor], per_row: bool) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """(stored weights, factors by layer, the values they mean); vectors stay bfloat16, as Comfy writes them."""
    stored, factors, meant = {}, {}, {}
    for name, value in state.items():
        if value.ndim == 2:
            factor = value.abs().amax(dim=1 if per_row else (0, 1), keepdim=per_row) / 448
            stored[name] = (value / factor).to(torch.float8_e4m3fn)
            factors[name.removesuffix(".weight")] = factor
            meant[name] = stored[name].float() * factor
        else:
            stored[name] = meant[name] = value.bfloat16()
    return stored, factors, meant


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("names", [("scale_weight", "scale_input"), ("weight_scale", "input_scale")])
def test_scaled_fp8(tmp_path: Path, state: dict[str, Tensor], per_row: bool, names: tuple[str, str]) -> None:
    stored, factors, meant = fp8(state, per_row)
    extra = {f"{layer}.{names[0]}": factor for layer, factor in factors.items()}
    extra |= {f"{layer}.{names[1]}": torch.ones(()) for layer in factors}
    extra["scaled_fp8"] = torch.empty(2, dtype=torch.float8_e4m3fn)
    tensors = {"model.diffusion_model." + name: value for name, value in (stored | extra).items()}
    same(opened(tmp_path / "m.safetensors", tensors), meant)


def test_format_of_each_layer_in_tensors_or_metadata(tmp_path: Path, state: dict[str, Tensor]) -> None:
    stored, factors, meant = fp8(state, per_row=False)
    scales = {f"{layer}.weight_scale": factor for layer, factor in factors.items()}
    how = {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}
    content = torch.tensor(list(json.dumps(how).encode()), dtype=torch.uint8)
    same(
        opened(tmp_path / "a.safetensors", stored | scales | {f"{layer}.comfy_quant": content.clone() for layer in factors}),
        meant,
    )
    metadata = json.dumps({"format_version": "1.0", "layers": dict.fromkeys(factors, how)})
    same(opened(tmp_path / "b.safetensors", stored | scales, _quantization_metadata=metadata), meant)


def test_int8_with_a_factor_a_row(tmp_path: Path, state: dict[str, Tensor]) -> None:
    name = "transformer_blocks.0.attn.to_q.weight"
    factor = state[name].abs().amax(dim=1, keepdim=True) / 127
    whole = (state[name] / factor).round().to(torch.int8)
    how = torch.tensor(list(json.dumps({"format": "int8_tensorwise"}).encode()), dtype=torch.uint8)
    layer = name.removesuffix(".weight")
    tensors = state | {name: whole, f"{layer}.weight_scale": factor, f"{layer}.comfy_quant": how}
    same(opened(tmp_path / "m.safetensors", tensors), state | {name: whole.float() * factor})


@pytest.mark.parametrize("how", [{"format": "nvfp4"}, {"format": "mxfp8"}, {"format": "int8_tensorwise", "convrot": True}])
def test_formats_that_are_not_read_are_named(tmp_path: Path, state: dict[str, Tensor], how: dict[str, object]) -> None:
    content = torch.tensor(list(json.dumps(how).encode()), dtype=torch.uint8)
    with pytest.raises(InputError, match=rf"img_in in .* is quantised as {how['format']}"):
        opened(tmp_path / "m.safetensors", state | {"img_in.comfy_quant": content})


def test_integers_without_a_factor_and_block_factors_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    whole = {"img_in.weight": torch.zeros(32, 16, dtype=torch.int8)}
    with pytest.raises(InputError, match=r"img_in.weight .* holds integers"):
        opened(tmp_path / "m.safetensors", state | whole)
    with pytest.raises(InputError, match="8 factors for 32 rows"):
        opened(tmp_path / "m.safetensors", state | whole | {"img_in.weight_scale": torch.ones(4, 2)})


def test_sizes_are_read_off_shapes(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with pytest.warns(UserWarning, match="zero_cond_t"):
        model = opened(tmp_path / "m.safetensors", state, None)
    assert model.config == CONFIG


def test_released_sizes_have_the_released_axes(tmp_path: Path) -> None:
    config = MMDiTConfig(num_layers=1, num_attention_heads=1)
    assert sum(config.axes_dims_rope) == 128
    with pytest.warns(UserWarning):
        model = opened(tmp_path / "m.safetensors", dict(MMDiT(config).state_dict()), None)
    assert model.config == config


def test_the_mark_of_2511_decides_and_warns_not(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert opened(tmp_path / "a.safetensors", state | {MARK: torch.empty(0)}, None).config.zero_cond_t
        assert opened(tmp_path / "b.safetensors", state | {MARK: torch.zeros(())}).config.zero_cond_t
        known = CONFIG.model_copy(update={"zero_cond_t": True})
        assert opened(tmp_path / "c.safetensors", state, known).config == known


def test_a_file_of_all_networks_gives_its_transformer(tmp_path: Path, state: dict[str, Tensor]) -> None:
    tensors = {"model.diffusion_model." + name: value for name, value in state.items()}
    same(opened(tmp_path / "m.safetensors", tensors | {"vae.decoder.conv_in.weight": torch.zeros(2)}), state)


def test_other_size_than_the_directory_says(tmp_path: Path, state: dict[str, Tensor]) -> None:
    known = CONFIG.model_copy(update={"num_layers": 3})
    with pytest.raises(InputError, match="num_layers = 2, but the model directory describes 3"):
        opened(tmp_path / "m.safetensors", state, known)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["double_blocks.0.img_attn.qkv.weight", "img_in.weight"], "a FLUX or HunyuanVideo transformer"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "a Stable Diffusion UNet"),
        (["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"], r"a LoRA \(give it to load_lora_weights\)"),
        (["lora_unet_transformer_blocks_0_attn_to_q.alpha"], "a LoRA"),
        (["decoder.conv_in.weight", "encoder.conv_in.weight"], "a VAE"),
        (["model.layers.0.mlp.gate_proj.weight", "visual.blocks.0.attn.qkv.weight"], "a text encoder"),
        (["transformer_blocks.0.attn.to_q.qweight"], "a Nunchaku"),
        (["controlnet_x_embedder.weight", "transformer_blocks.0.attn.to_q.weight"], "a ControlNet"),
        (["abc.def"], r"something unknown \(names begin with abc.def\)"),
    ],
)
def test_the_wrong_kind_is_named(tmp_path: Path, names: list[str], kind: str) -> None:
    with pytest.raises(InputError, match=f"no Qwen-Image transformer; it is {kind}"):
        opened(tmp_path / "m.safetensors", {name: torch.zeros(2, 2) for name in names}, None)


def test_a_vae_directory_with_transformer_weights(tmp_path: Path, state: dict[str, Tensor]) -> None:
    VAE(VAEConfig(base_dim=8, dim_mult=(1, 1, 1, 1), num_res_blocks=1)).init_weights().save_pretrained(tmp_path)
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(InputError, match="looks like a Qwen-Image transformer"):
        VAE.from_pretrained(tmp_path)


def test_paths_that_are_nothing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="There is no file"):
        MMDiT.from_pretrained(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="other formats are not read"):
        MMDiT.from_pretrained(tmp_path / "m.gguf")
