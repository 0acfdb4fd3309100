"""LoRA, single files and rounded weights through a whole pipeline, resident and streamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glyphflow.core.errors import InputError, MissingError
from glyphflow.generate import Pipeline
from glyphflow.generate.metadata import describe
from glyphflow.models import MMDiT, MMDiTConfig, lora
from glyphflow.models.quantize import Quantize
from tiny import HIDDEN, seeded_weights, tiny_pipeline


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def pipeline(directory: Path) -> Pipeline:
    return Pipeline.from_pretrained(directory, dtype=torch.float32)


@pytest.fixture(scope="module")
def file(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformer = Pipeline.from_pretrained(directory, dtype=torch.float32).transformer
    return lora_for(transformer, tmp_path_factory.mktemp("lora") / "style.safetensors")


def lora_for(transformer: MMDiT, path: Path) -> Path:
    """A LoRA on every linear, with an alpha of twice the rank."""
    shapes = lora.linear_shapes(transformer)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (rows, columns) in shapes.items():
        tensors[f"diffusion_model.{name}.lora_down.weight"] = torch.randn(2, columns, generator=generator) * columns**-0.5
        tensors[f"diffusion_model.{name}.lora_up.weight"] = torch.randn(rows, 2, generator=generator) * 0.1
        tensors[f"diffusion_model.{name}.alpha"] = torch.tensor(4.0)
    save_file(tensors, path)
    return path


def latents(pipeline: Pipeline, steps: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    embeds = [torch.randn(1, length, HIDDEN, generator=generator) for length in (5, 3)]
    result = pipeline.generate(
        prompt_embeds=embeds[0],
        negative_prompt_embeds=embeds[1],
        height=32,
        width=48,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        progress=False,
    )
    images: Tensor = result.images
    return images


def test_beside_the_weights_and_in_them_is_one_picture(pipeline: Pipeline, file: Path) -> None:
    """Every linear is under it, so that no way of running the network may pass one by."""
    plain = latents(pipeline)
    assert pipeline.load_lora_weights(file) == "default_0"
    beside = latents(pipeline)
    assert (beside - plain).abs().max() > 0.05
    pipeline.fuse_lora()
    torch.testing.assert_close(latents(pipeline), beside, atol=2e-4, rtol=0)
    pipeline.unfuse_lora()
    assert torch.equal(latents(pipeline), beside)
    pipeline.unload_lora_weights()
    assert torch.equal(latents(pipeline), plain) and not pipeline.adapters


def test_several_by_name_and_strength(pipeline: Pipeline, file: Path, tmp_path: Path) -> None:
    plain = latents(pipeline)
    pipeline.load_lora_weights(file, adapter_name="a", weight=0.5)
    half = latents(pipeline)
    pipeline.load_lora_weights(load_file(file), adapter_name="b")
    pipeline.set_adapters(["a", "b"], [0.25, 0.25])
    torch.testing.assert_close(latents(pipeline), half, atol=1e-4, rtol=0)
    pipeline.set_adapters("b", 0.5)
    torch.testing.assert_close(latents(pipeline), half, atol=1e-6, rtol=0)
    assert [known.weight for known in pipeline.adapters.values()] == [0.0, 0.5]
    pipeline.save_lora_weights(tmp_path / "again.safetensors", "b")
    pipeline.unload_lora_weights("a")
    pipeline.set_adapters([])
    assert torch.equal(latents(pipeline), plain) and list(pipeline.adapters) == ["b"]
    pipeline.load_lora_weights(tmp_path, adapter_name="again", weight=0.5)
    torch.testing.assert_close(latents(pipeline), half, atol=1e-6, rtol=0)
    with pytest.raises(InputError, match="2 adapters are named, but 3 weights given"):
        pipeline.set_adapters(["b", "again"], [1, 2, 3])
    with pytest.raises(InputError, match="an adapter 'b' already"):
        pipeline.load_lora_weights(file, adapter_name="b")


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_streamed_as_resident(directory: Path, tmp_path: Path, quantize: Quantize | None) -> None:
    """Adapters come and go while blocks are streamed; the device is the CPU, its copies are real."""
    config = MMDiTConfig(
        num_layers=4, attention_head_dim=64, num_attention_heads=1, joint_attention_dim=HIDDEN, axes_dims_rope=(8, 28, 28)
    )
    transformer = MMDiT(config)
    seeded_weights(transformer, 3)
    transformer.save_pretrained(tmp_path / "four")
    file = lora_for(transformer, tmp_path / "style.safetensors")
    resident, other = (
        Pipeline.from_pretrained(directory, dtype=torch.float32, transformer=tmp_path / "four", quantize=quantize) for _ in "ab"
    )
    streamed = Pipeline(other.transformer, other.vae, None, other.schedule, other.facts, directory=directory, budget=0)
    for step in ("plain", "loaded", "weaker", "fused", "unfused", "gone"):
        for pipeline in (resident, streamed):
            if step == "loaded":
                pipeline.load_lora_weights(file, adapter_name="a")
            elif step == "weaker":
                pipeline.set_adapters("a", 0.3)
            elif step == "fused" and quantize is None:
                pipeline.fuse_lora()
            elif step == "unfused":
                pipeline.unfuse_lora()
            elif step == "gone":
                pipeline.unload_lora_weights()
        # Weights that are copied stand elsewhere in memory, which may decide the order of sums.
        assert (latents(streamed) - latents(resident)).abs().max() < 1e-5, step
    assert streamed.residency.copied > 0


def test_in_float16(directory: Path, pipeline: Pipeline, file: Path) -> None:
    """Whose linears take narrow inputs and hand on wide products."""
    half = Pipeline.from_pretrained(directory, dtype=torch.float16)
    for each in (half, pipeline):
        each.load_lora_weights(file, weight=0.5)
    torch.testing.assert_close(latents(half).float(), latents(pipeline), atol=0.05, rtol=0)


def test_a_single_file_in_place_of_the_transformer(pipeline: Pipeline, directory: Path, tmp_path: Path) -> None:
    state = {name: value.to(torch.float8_e4m3fn) for name, value in pipeline.transformer.state_dict().items()}
    save_file({f"model.diffusion_model.{name}": value for name, value in state.items()}, tmp_path / "fp8.safetensors")
    opened = Pipeline.from_pretrained(directory, dtype=torch.float32, transformer=tmp_path / "fp8.safetensors")
    assert opened.transformer.config == pipeline.transformer.config and opened.weights_hash != pipeline.weights_hash
    pipeline.transformer.load_state_dict({name: value.float() for name, value in state.items()})
    torch.testing.assert_close(latents(opened), latents(pipeline), atol=1e-5, rtol=0)
    pipeline.transformer.save_pretrained(tmp_path / "other")
    again = Pipeline.from_pretrained(directory, dtype=torch.float32, transformer=tmp_path / "other")
    torch.testing.assert_close(latents(again), latents(pipeline), atol=1e-5, rtol=0)


def test_pictures_say_what_was_done_to_the_weights(directory: Path, file: Path) -> None:
    facts: dict[str, Any] = {"prompt": "", "negative_prompt": "", "seed": 0, "num_inference_steps": 1}
    facts |= {"true_cfg_scale": 1.0, "width": 32, "height": 32}
    plain = describe(Pipeline.from_pretrained(directory, dtype=torch.float32), "m", **facts)
    pipeline = Pipeline.from_pretrained(directory, dtype=torch.float32, quantize="int8")
    pipeline.load_lora_weights(file, adapter_name="a", weight=0.5)
    changed = describe(pipeline, "m", **facts)
    assert {"quantize", "adapters"} <= plain.differences(changed).keys()
    (used,) = changed.adapters
    assert changed.quantize == "int8" and (used.name, used.weight) == ("a", 0.5)
    assert used.identity == pipeline.adapters["a"].identity
    pipeline.set_adapters([])
    assert describe(pipeline, "m", **facts).adapters == ()


def test_a_lora_that_is_nowhere(pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no LoRA file"):
        pipeline.load_lora_weights(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match=r"holds 0 \.safetensors files"):
        pipeline.load_lora_weights(tmp_path)
    with pytest.raises(InputError, match=r"has no file x\.safetensors; it has no"):
        pipeline.load_lora_weights(tmp_path, weight_name="x.safetensors")
