"""The language model and its tokenizer from disk: fp8 with its factors is right, everything that is not right is a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glyphflow.core.errors import InputError, MissingError
from glyphflow.models.condition import ConditionEncoder
from glyphflow.models.qwen_vl import open_qwen_vl, open_tokenizer
from tiny import tiny_encoder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("encoder")
    tiny_encoder().save_pretrained(root)
    return root


@pytest.fixture
def root(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def fp8(file: Path, name: str, per_row: bool) -> dict[str, Tensor]:
    """Store the matrices of the language model's layers as fp8 with factors called ``name``; returns what they mean."""
    stored, meant = {}, {}
    for key, value in load_file(file).items():
        if key.startswith("model.layers.") and value.ndim == 2:
            factor = value.abs().amax(dim=1 if per_row else (0, 1), keepdim=per_row) / 448
            stored[key] = (value / factor).to(torch.float8_e4m3fn)
            stored[key.removesuffix("weight") + name] = factor
            stored[key.removesuffix("weight") + "scale_input"] = torch.ones(())
            meant[key] = stored[key].float() * factor
        else:
            stored[key] = value
    save_file(stored | {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}, file)
    return meant


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("name", ["scale_weight", "weight_scale"])
def test_scaled_fp8_is_multiplied_by_its_factors(root: Path, name: str, per_row: bool) -> None:
    meant = fp8(root / "text_encoder/model.safetensors", name, per_row)
    model, missing = open_qwen_vl(root / "text_encoder", torch.float32)
    assert not missing and len(meant) > 6
    for key, value in meant.items():
        own = key.replace("model.", "model.language_model.", 1)
        assert torch.equal(model.get_parameter(own), value), key
    ConditionEncoder.from_pretrained(root, torch.bfloat16).encode(["a cat"])


def test_plain_fp8_is_read_as_it_is(root: Path) -> None:
    file = root / "text_encoder/model.safetensors"
    key = "model.layers.0.self_attn.q_proj.weight"
    content = load_file(file)
    content[key] = content[key].to(torch.float8_e4m3fn)
    save_file(content, file)
    model, _ = open_qwen_vl(root / "text_encoder", torch.float32)
    own = model.get_parameter("model.language_model.layers.0.self_attn.q_proj.weight")
    assert torch.equal(own, content[key].float())


def test_tensors_that_mean_something_unknown_are_refused(root: Path) -> None:
    file = root / "text_encoder/model.safetensors"
    content = load_file(file)
    save_file(content | {"model.layers.0.self_attn.q_proj.weight_scale_inv": torch.ones(1, 1)}, file)
    with pytest.raises(InputError, match=r"1 tensors that are no part of .* weight_scale_inv|weight_scale_inv"):
        open_qwen_vl(root / "text_encoder", torch.float32)
    key = "model.norm.weight"
    save_file(content | {key: content[key] * float("nan")}, file)
    with pytest.raises(InputError, match=r"norm\.weight in .* values that are not finite"):
        open_qwen_vl(root / "text_encoder", torch.float32)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds a list"),
        ('{"model_type": "t5"}', "describes a t5, and a qwen2_5_vl is needed"),
        ("{}", "describes a model of no type"),
        ('{"model_type": "qwen2_5_vl", "quantization_config": {"quant_method": "awq"}}', "quantised by awq"),
        ('{"model_type": "qwen2_5_vl", "text_config": 3}', "cannot be read as Qwen2.5-VL"),
    ],
)
def test_a_configuration_of_another_model_or_of_none(root: Path, content: str, words: str) -> None:
    (root / "text_encoder/config.json").write_text(content)
    with pytest.raises(InputError, match=words):
        open_qwen_vl(root / "text_encoder", torch.float32)


def test_files_that_were_cut_off_or_are_not_there(root: Path) -> None:
    file = root / "text_encoder/model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=rf"is {len(whole) // 2} bytes, but its header describes {len(whole)}"):
        open_qwen_vl(root / "text_encoder", torch.float32)
    file.rename(file.with_name("pytorch_model.bin"))
    with pytest.raises(InputError, match=r"holds pytorch_model\.bin, a pickle"):
        open_qwen_vl(root / "text_encoder", torch.float32)
    (root / "text_encoder/model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    with pytest.raises(InputError, match=r"model-1\.safetensors of .* is missing"):
        open_qwen_vl(root / "text_encoder", torch.float32)


def test_tokenizers_that_are_damaged_or_of_another_model(root: Path) -> None:
    file = root / "tokenizer/tokenizer.json"
    whole = file.read_text(encoding="utf-8")
    for content, words in ((whole[: len(whole) // 2], "not valid JSON"), ("{}", "cannot be read"), ("[]", "cannot be read")):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=words):
            open_tokenizer(root / "tokenizer")
    file.unlink()
    with pytest.raises(MissingError, match=r"neither tokenizer\.json nor vocab\.json"):
        open_tokenizer(root / "tokenizer")
    larger = json.loads(whole)
    number = max(larger["model"]["vocab"].values(), default=0)
    larger["model"]["vocab"] |= {f"<more {n}>": number + n + 1000 for n in range(9000)}
    file.write_text(json.dumps(larger), encoding="utf-8")
    with pytest.raises(InputError, match=r"has \d+ tokens and the text encoder knows \d+"):
        ConditionEncoder.from_pretrained(root)


def test_saved_weights_have_the_mode_of_other_files(saved: Path) -> None:
    modes = {path.stat().st_mode & 0o777 for path in saved.rglob("*") if path.is_file()}
    assert len(modes) == 1
