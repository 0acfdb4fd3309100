"""Weights on disk: what we save diffusers opens and the reverse; what does not fit is refused with both values."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glyphflow.core.errors import InputError
from glyphflow.models import VAE, MMDiT, MMDiTConfig, VAEConfig, load_weights, weights_hash
from glyphflow.models.control import ControlNet
from glyphflow.models.weights import open_parts

CONFIG = MMDiTConfig(
    in_channels=16,
    out_channels=4,
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=24,
    axes_dims_rope=(8, 4, 4),
)


@pytest.fixture
def model() -> MMDiT:
    torch.manual_seed(0)
    return MMDiT(CONFIG).eval()


def call(model: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents, text = torch.randn(1, 4, 16, generator=generator), torch.randn(1, 3, 24, generator=generator)
    with torch.no_grad():
        out = model(hidden_states=latents, encoder_hidden_states=text, timestep=torch.tensor([0.5]), img_shapes=[[(1, 2, 2)]])
    return out if isinstance(out, torch.Tensor) else out.sample


def test_diffusers_opens_what_we_save(model: MMDiT, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    model.save_pretrained(tmp_path, max_shard_bytes=100_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    theirs = diffusers.QwenImageTransformer2DModel.from_pretrained(tmp_path)
    torch.testing.assert_close(call(theirs), call(model), atol=1e-6, rtol=0)


def test_we_open_what_diffusers_saves(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.QwenImageTransformer2DModel(**CONFIG.model_dump()).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    torch.testing.assert_close(call(MMDiT.from_pretrained(tmp_path, dtype=torch.float32)), call(theirs), atol=1e-6, rtol=0)


def test_vae_goes_to_diffusers_and_back(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    ours = VAE(VAEConfig(base_dim=8, dim_mult=(1, 1, 1, 1), num_res_blocks=1)).init_weights()
    layer = ours.encoder.down_blocks[1].resample[1].to(memory_format=torch.channels_last)
    assert not layer.weight.is_contiguous()  # as a training in channels_last may leave it
    ours.save_pretrained(tmp_path / "a")
    theirs = diffusers.AutoencoderKLQwenImage.from_pretrained(tmp_path / "a")
    theirs.save_pretrained(tmp_path / "b")
    back = VAE.from_pretrained(tmp_path / "b", dtype=torch.float32)
    assert back.config == ours.config
    for (name, a), (_, b) in zip(ours.state_dict().items(), back.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_loading_sets_dtype_and_leaves_gradients_off(model: MMDiT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = MMDiT.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in loaded.parameters()) and not loaded.training


def test_existing_parameters_are_overwritten_in_place(model: MMDiT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    other = MMDiT(CONFIG)
    kept = other.proj_out.weight
    load_weights(other, tmp_path, torch.bfloat16, torch.device("cpu"))
    assert other.proj_out.weight is kept and kept.dtype == torch.float32 and torch.equal(kept, model.proj_out.weight)


def test_saving_again_with_other_shards_leaves_one_set(model: MMDiT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_bytes=100_000)
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_hash_follows_the_values(model: MMDiT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "a")
    model.save_pretrained(tmp_path / "b")
    assert weights_hash(tmp_path / "a") == weights_hash(tmp_path / "b") and len(weights_hash(tmp_path / "a")) == 16
    with torch.no_grad():
        model.proj_out.bias[0] += 1
    model.save_pretrained(tmp_path / "b")
    assert weights_hash(tmp_path / "a") != weights_hash(tmp_path / "b")
    (tmp_path / "c").mkdir()
    with pytest.raises(InputError, match=r"no \.safetensors"):
        weights_hash(tmp_path / "c")


def test_wrong_shape_names_both_and_changes_nothing(model: MMDiT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["proj_out.weight"] = torch.zeros(8, 32)
    save_file(tensors, file)
    before = model.img_in.weight.clone()
    with pytest.raises(InputError, match=r"proj_out.weight .* \(8, 32\), but config.json describes \(16, 32\)"):
        load_weights(model, tmp_path, torch.float32, torch.device("cpu"))
    assert torch.equal(model.img_in.weight, before)


def test_missing_and_unexpected_tensors_are_named(model: MMDiT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["stranger"] = tensors.pop("proj_out.bias")
    save_file(tensors, file)
    with pytest.raises(InputError, match=r"1 tensors are missing \(proj_out.bias\) and 1 .*\(stranger\)"):
        MMDiT.from_pretrained(tmp_path)


def test_broken_or_absent_files_are_one_sentence(model: MMDiT, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        MMDiT.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"is 1000 bytes, less than its header of \d+"):
        MMDiT.from_pretrained(tmp_path)
    file.unlink()
    with pytest.raises(InputError, match="holds neither"):
        MMDiT.from_pretrained(tmp_path)


def test_a_cut_shard_is_named_with_both_sizes(model: MMDiT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_bytes=100_000)
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    whole = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(InputError, match=rf"{shard.name} is {whole - 7} bytes, but its header describes {whole}"):
        MMDiT.from_pretrained(tmp_path)


def test_a_missing_shard_is_named_with_both_sizes(model: MMDiT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, max_shard_bytes=100_000)
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    here = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    total = sum(p.nbytes for p in model.parameters())
    with pytest.raises(InputError, match=rf"{shard.name} of .* is missing \(1 of .* {total} bytes .* {here} are here"):
        MMDiT.from_pretrained(tmp_path)


def test_a_git_lfs_pointer_is_called_so(model: MMDiT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(InputError, match="git-lfs pointer of 56 bytes"):
        MMDiT.from_pretrained(tmp_path)


def test_loading_holds_one_tensor_beside_the_weights(tmp_path: Path) -> None:
    """In another dtype than the file's, where views of the file are no help; measured in a process of its own."""
    import subprocess
    import sys

    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    config = CONFIG.model_copy(update={"num_layers": 4, "attention_head_dim": 128, "axes_dims_rope": (16, 56, 56)})
    MMDiT(config).save_pretrained(tmp_path, max_shard_bytes=10**7)
    code = f"""
import re, torch
from pathlib import Path
from glyphflow.models import MMDiT, MMDiTConfig, load_weights
own = lambda: int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
MMDiT.from_pretrained({str(tmp_path)!r}, torch.float16)  # what loading itself takes once
with torch.device("meta"):
    model = MMDiT(MMDiTConfig(**{config.model_dump()!r}))
before, highest = own(), 0
def placed(module, name):
    global highest
    highest = max(highest, own())
load_weights(model, Path({str(tmp_path)!r}), torch.float64, torch.device("cpu"), placed)
print(highest - before, sum(p.nbytes for p in model.parameters()), max(p.nbytes for p in model.parameters()))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    highest, size, largest = map(int, out.stdout.split())
    assert highest < 1.05 * size + 2 * largest


def test_keys_of_a_writer_that_nothing_reads_are_said(model: MMDiT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"window_size": 768}))
    with pytest.warns(UserWarning, match="window_size"):
        MMDiT.from_pretrained(tmp_path)
    path.write_text(json.dumps(content | {"pooled_projection_dim": 768}))  # in the released file, and read by nothing
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MMDiT.from_pretrained(tmp_path)


def test_a_configuration_of_another_network_is_named_before_weights_are_opened(model: MMDiT, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "QwenImage21Transformer2DModel", "hidden_size": 8}))
    with pytest.raises(InputError, match="class QwenImage21Transformer2DModel, and QwenImageTransformer2DModel is"):
        MMDiT.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="AutoencoderKLQwenImage or AutoencoderKLWan is needed"):
        VAE.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="QwenImageControlNetModel is needed"):
        ControlNet.from_pretrained(tmp_path)
    for content, words in (
        ("[]", "holds a list"),
        ('"a"', "holds a str"),
        ('{"num_layers": "many"}', "num_layers = 'many' is refused"),
        ('{"quantization_config": {"quant_method": "bitsandbytes"}}', "quantised by bitsandbytes, which is not read"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(InputError, match=words):
            MMDiT.from_pretrained(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(model: MMDiT, tmp_path: Path, value: float) -> None:
    with torch.no_grad():
        model.transformer_blocks[1].attn.to_q.weight[3, 4] = value
    model.save_pretrained(tmp_path)
    words = r"blocks\.1\.attn\.to_q\.weight in .*model\.safetensors has 1 of 1024 values that are not finite"
    with pytest.raises(InputError, match=words):
        MMDiT.from_pretrained(tmp_path)
    with pytest.raises(InputError, match=words):
        read = open_parts(tmp_path, {name: tuple(p.shape) for name, p in model.named_parameters()})
        read("transformer_blocks.1.attn.to_q.weight", (slice(0, 32),))


def test_models_import_without_transformers() -> None:
    import subprocess
    import sys

    code = "import sys, glyphflow.models; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
