"""The pipeline against the reference pipeline on the same toy weights, and the promises of its call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import glyphflow
from glyphflow.core.errors import InputError, MissingError
from glyphflow.generate import Pipeline
from glyphflow.models import unpack_latents
from tiny import HIDDEN, tiny_pipeline


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def pipeline(directory: Path) -> Pipeline:
    return Pipeline.from_pretrained(directory, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def reference(directory: Path) -> Any:
    from diffusers import QwenImagePipeline

    pipeline = QwenImagePipeline.from_pretrained(directory)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def embeds(batch: int = 1, length: int = 9, seed: int = 5) -> torch.Tensor:
    return torch.randn(batch, length, HIDDEN, generator=torch.Generator().manual_seed(seed))


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


CASES: dict[str, dict[str, Any]] = {
    "no guidance": {"prompt_embeds": embeds(), "true_cfg_scale": 1.0},
    "guidance": {"prompt_embeds": embeds(), "negative_prompt_embeds": embeds(length=4, seed=6), "true_cfg_scale": 4.0},
    "padded batch": {
        "prompt_embeds": embeds(2),
        "prompt_embeds_mask": torch.tensor([[1] * 9, [1] * 5 + [0] * 4]),
        "negative_prompt_embeds": embeds(2, seed=6),
        "negative_prompt_embeds_mask": torch.ones(2, 9, dtype=torch.long),
        "true_cfg_scale": 3.0,
    },
    "a mask with holes": {
        "prompt_embeds": embeds(2),
        "prompt_embeds_mask": torch.tensor([[1, 0, 1, 1, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1, 1, 1, 1]]),
        "negative_prompt_embeds": embeds(2, seed=6),
        "negative_prompt_embeds_mask": torch.tensor([[1] * 9, [1] * 5 + [0] * 4]),
        "true_cfg_scale": 3.0,
    },
    "own sigmas": {"prompt_embeds": embeds(), "true_cfg_scale": 1.0, "sigmas": [1.0, 0.8, 0.7, 0.1]},
    "odd number of tokens": {"prompt_embeds": embeds(), "true_cfg_scale": 1.0, "width": 80, "height": 48},
    "wide, two each": {"prompt_embeds": embeds(), "true_cfg_scale": 1.0, "width": 96, "height": 32, "num_images_per_prompt": 2},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("output_type", ["latent", "np"])
def test_equals_the_reference_pipeline(pipeline: Pipeline, reference: Any, case: str, output_type: str) -> None:
    call = {"height": 64, "width": 64, "num_inference_steps": 4} | CASES[case]
    one, other = seeded(11, 11)
    ours = pipeline.generate(**call, generator=one, output_type=output_type).images
    masks = {"prompt_embeds_mask": torch.ones(call["prompt_embeds"].shape[:2], dtype=torch.long)}
    theirs = reference(**masks | call, generator=other, output_type=output_type).images
    assert ours.shape == theirs.shape
    assert np.abs(np.asarray(ours) - np.asarray(theirs)).max() <= 1e-5
    assert torch.equal(one.get_state(), other.get_state())  # as many random numbers drawn


def test_bf16_latents_are_the_reference_pipelines_to_the_bit(directory: Path) -> None:
    from diffusers import QwenImagePipeline

    ours = Pipeline.from_pretrained(directory, dtype=torch.bfloat16, device="cpu")
    theirs = QwenImagePipeline.from_pretrained(directory, dtype=torch.bfloat16)
    theirs.set_progress_bar_config(disable=True)
    call: dict[str, Any] = {"prompt_embeds": embeds().bfloat16(), "negative_prompt_embeds": embeds(length=4, seed=6).bfloat16()}
    call |= {"height": 64, "width": 64, "num_inference_steps": 6, "output_type": "latent"}
    first, second = (p(**call, generator=seeded(3)).images for p in (ours.generate, theirs))
    assert first.dtype == torch.bfloat16
    assert torch.equal(first, second)


def test_a_model_says_how_strong_its_guidance_is(pipeline: Pipeline, tmp_path: Path) -> None:
    assert pipeline.facts.default_true_cfg_scale == 4.0  # of released weights, which say nothing
    told = tmp_path / "model"
    pipeline.save_pretrained(told)
    facts = json.loads((told / "glyphflow.json").read_text())
    (told / "glyphflow.json").write_text(json.dumps(facts | {"default_true_cfg_scale": 2.0}))
    call = {"prompt": "HI", "num_inference_steps": 2, "output_type": "pt"}
    alone = Pipeline.from_pretrained(told, device="cpu").generate(**call, generator=seeded(1)).images
    two, four = (pipeline.generate(**call, true_cfg_scale=scale, generator=seeded(1)).images for scale in (2.0, 4.0))
    assert torch.equal(alone, two) and not torch.equal(alone, four)


def test_prompts_equal_the_reference_pipeline(pipeline: Pipeline, reference: Any) -> None:
    reference.prompt_template_encode_start_idx = pipeline.condition_encoder.prefix_tokens()
    call = {"prompt": ['a sign "HI"', "你好"], "height": 48, "width": 64, "num_inference_steps": 3}
    ours = pipeline.generate(**call, generator=seeded(1, 2), output_type="np").images
    theirs = reference(**call, negative_prompt=["", ""], generator=seeded(1, 2), output_type="np").images
    assert np.abs(ours - theirs).max() <= 1e-5


def test_guidance_is_on_unless_refused(pipeline: Pipeline) -> None:
    call: dict[str, Any] = {"num_inference_steps": 2, "output_type": "latent", "latents": torch.randn(1, 16, 64)}
    default = pipeline.generate("a cat", **call).images
    assert torch.equal(default, pipeline.generate("a cat", "", true_cfg_scale=4.0, **call).images)
    off = pipeline.generate("a cat", true_cfg_scale=1, **call).images
    assert torch.equal(off, pipeline.generate("a cat", "ignored", true_cfg_scale=0.5, **call).images)
    assert not torch.allclose(default, off)


def test_a_picture_does_not_depend_on_its_batch(pipeline: Pipeline) -> None:
    prompts = ["a cat", 'a long line that says "GLYPH 字"']
    call: dict[str, Any] = {"num_inference_steps": 3, "output_type": "pt"}
    together = pipeline.generate(prompts, generator=seeded(0, 1, 2, 3), num_images_per_prompt=2, **call).images
    for n, generator in enumerate(seeded(0, 1, 2, 3)):
        alone = pipeline.generate(prompts[n // 2], generator=generator, **call).images
        assert (alone[0] - together[n]).abs().max() <= 1e-5


def test_seed_decides(pipeline: Pipeline) -> None:
    first, again, other = (
        pipeline.generate("x", generator=generator, output_type="pt", num_inference_steps=2).images
        for generator in seeded(0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_output_types(pipeline: Pipeline) -> None:
    results = {
        kind: pipeline.generate("x", generator=seeded(0), output_type=kind, width=32, height=48).images
        for kind in ("pil", "np", "pt", "latent")
    }
    (picture,) = results["pil"]
    assert isinstance(picture, Image.Image) and picture.size == (32, 48)
    assert results["np"].shape == (1, 48, 32, 3) and results["np"].dtype == np.float32
    assert results["pt"].shape == (1, 3, 48, 32) and results["pt"].min() >= 0 and results["pt"].max() <= 1
    assert results["latent"].shape == (1, 6, 64)
    assert np.array_equal(np.asarray(picture), np.round(results["np"][0] * 255).astype(np.uint8))
    z = pipeline.vae.unstandardise(unpack_latents(results["latent"], 48, 32))
    assert torch.allclose(pipeline.vae.decode(z) / 2 + 0.5, results["pt"], atol=1e-6)


def test_defaults_come_from_the_directory(pipeline: Pipeline) -> None:
    steps: list[float] = []

    def count(_: Pipeline, step: int, t: torch.Tensor, values: dict[str, Any]) -> None:
        assert step == len(steps) and set(values) == {"latents", "prompt_embeds"}
        steps.append(float(t))

    (picture,) = pipeline.generate("x", callback_on_step_end=count).images
    assert picture.size == (64, 64)
    assert steps[0] == 1000 and len(steps) == 2


def test_a_callback_may_replace_the_latents(pipeline: Pipeline) -> None:
    def zero(_: Pipeline, step: int, t: torch.Tensor, values: dict[str, Any]) -> dict[str, Any]:
        return {"latents": torch.zeros_like(values["latents"])}

    result = pipeline.generate("x", callback_on_step_end=zero, output_type="latent").images
    assert result.abs().max() == 0


def test_a_callback_may_replace_what_the_reference_lets_it_replace(pipeline: Pipeline, reference: Any) -> None:
    def change(_: Any, step: int, t: Any, values: dict[str, Any]) -> dict[str, Any]:
        return {"latents": values["latents"] * 0.9, "prompt_embeds": values["prompt_embeds"] * 1.5} if step == 1 else {}

    call = {"prompt_embeds": embeds(2), "height": 48, "width": 64, "num_inference_steps": 4, "true_cfg_scale": 2.0}
    call |= {"negative_prompt_embeds": embeds(2, seed=6), "output_type": "latent", "callback_on_step_end": change}
    ours = pipeline.generate(**call, generator=seeded(1, 2)).images
    names = ["latents", "prompt_embeds"]
    theirs = reference(**call, generator=seeded(1, 2), callback_on_step_end_tensor_inputs=names).images
    assert (ours - theirs).abs().max() <= 1e-5


def test_a_callback_may_end_the_call(pipeline: Pipeline) -> None:
    seen: list[torch.Tensor] = []

    def stop(pipe: Pipeline, step: int, t: torch.Tensor, values: dict[str, Any]) -> None:
        seen.append(values["latents"])
        pipe.interrupt = step == 1

    call: dict[str, Any] = {"num_inference_steps": 5, "output_type": "latent", "callback_on_step_end": stop}
    result = pipeline.generate("x", generator=seeded(0), **call).images
    assert len(seen) == 2 and torch.equal(result, seen[-1])
    sizes = pipeline.generate(["x", "y"], width=[32, 64], generator=seeded(0, 1), **call).images
    assert len(sizes) == 1 and torch.equal(sizes[0], seen[-1][0])


def test_several_sizes_in_one_call(pipeline: Pipeline) -> None:
    prompts, widths = ["a cat", "a longer prompt: 字", "a dog", ""], [64, 32, 64, 48]
    call: dict[str, Any] = {"num_inference_steps": 2, "num_images_per_prompt": 2, "height": 48}
    together = pipeline.generate(prompts, width=widths, generator=seeded(*range(8)), output_type="pt", **call).images
    assert [tuple(one.shape) for one in together] == [(3, 48, width) for width in widths for _ in range(2)]
    for n in (1, 4, 7):
        alone = pipeline.generate(
            prompts[n // 2], width=widths[n // 2], generator=seeded(n), output_type="pt", **call | {"num_images_per_prompt": 1}
        ).images
        assert (alone[0] - together[n]).abs().max() <= 1e-5
    pictures = pipeline.generate(prompts, width=widths, generator=torch.Generator().manual_seed(0), **call).images
    assert [picture.size for picture in pictures[::2]] == [(width, 48) for width in widths]
    with pytest.raises(InputError, match="4 prompts and 3 values of width"):
        pipeline.generate(prompts, width=[16, 32, 48])


def test_guidance_scale_is_ignored_aloud(pipeline: Pipeline) -> None:
    call: dict[str, Any] = {"prompt": "x", "num_inference_steps": 1, "output_type": "latent"}
    with pytest.warns(UserWarning, match="guidance_scale = 7.5 is ignored.*true_cfg_scale"):
        loud = pipeline.generate(**call, generator=seeded(0), guidance_scale=7.5).images
    assert torch.equal(loud, pipeline.generate(**call, generator=seeded(0)).images)


def test_an_interrupted_pipeline_goes_on(pipeline: Pipeline) -> None:
    def leave(_: Pipeline, step: int, t: torch.Tensor, values: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    expected = pipeline.generate("x", generator=seeded(0), output_type="pt").images
    with pytest.raises(KeyboardInterrupt):
        pipeline.generate("x", generator=seeded(0), callback_on_step_end=leave)
    assert torch.equal(pipeline.generate("x", generator=seeded(0), output_type="pt").images, expected)


def test_wrong_calls_are_one_sentence(pipeline: Pipeline) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"prompt": "x", "width": 100, "height": 64}, "100x64.*96x64"),
        ({"prompt": "x", "num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"prompt": "x", "generator": seeded(0, 1)}, "2 generators and 1 pictures"),
        ({"prompt": "x", "latents": torch.zeros(1, 4, 64)}, r"\(1, 4, 64\).*\(1, 16, 64\)"),
        ({"prompt": "x", "output_type": "jpeg"}, "jpeg"),
        ({"prompt": "x", "num_images_per_prompt": 0}, "num_images_per_prompt is 0"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c", "d", "e"]}, "2 prompts and 3 negative"),
        ({"prompt": []}, "at least one"),
        ({"prompt": "x", "sigmas": [1.0, 0.5], "num_inference_steps": 3}, "num_inference_steps is 3 and there are 2 sigmas"),
        ({"prompt": "x", "sigmas": [0.5, 0.7]}, "falling numbers"),
        ({"prompt": "x", "guidance": 3}, "no option guidance; did you mean guidance_scale"),
        ({}, "Give either prompt or prompt_embeds"),
        ({"prompt": "x", "prompt_embeds": embeds()}, "not both"),
        ({"prompt_embeds": embeds()[0]}, r"\(9, 32\)"),
        ({"prompt_embeds": embeds(), "prompt_embeds_mask": torch.ones(1, 5)}, r"\(1, 5\).*\(1, 9\)"),
        ({"prompt": "x " * 900, "max_sequence_length": 100}, "limit is 100"),
    ]
    for call, sentence in wrong:
        with pytest.raises(InputError, match=sentence):
            pipeline.generate(**call)


def test_without_an_encoder_embeddings_still_work(pipeline: Pipeline, tmp_path: Path) -> None:
    bare = Pipeline(pipeline.transformer, pipeline.vae, None, pipeline.schedule, pipeline.facts)
    call: dict[str, Any] = {
        "prompt_embeds": embeds(),
        "negative_prompt_embeds": embeds(seed=6),
        "latents": torch.randn(1, 16, 64),
    }
    expected = pipeline.generate(**call, output_type="pt").images
    assert torch.equal(bare.generate(**call, output_type="pt", progress=False).images, expected)
    with pytest.raises(InputError, match="no condition encoder"):
        bare.generate("x")
    with pytest.raises(InputError, match="negative_prompt_embeds"):
        bare.generate(prompt_embeds=embeds())
    with pytest.raises(InputError, match="in memory"):
        _ = bare.weights_hash
    with pytest.raises(InputError, match="not a whole model"):
        bare.save_pretrained(tmp_path)


@pytest.mark.parametrize("size", [(64, 48), (37, 50)])
def test_reconstruct_keeps_the_size(pipeline: Pipeline, size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (200, 30, 90))
    result = pipeline.reconstruct(image)
    assert result.size == size
    assert np.array_equal(np.asarray(pipeline.reconstruct(np.asarray(image))), np.asarray(result))


def test_save_and_open_again(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    again = glyphflow.Pipeline.from_pretrained(tmp_path, dtype=torch.float32, device="cpu", memory="resident")
    assert again.weights_hash == pipeline.weights_hash and len(again.weights_hash) == 16
    assert (again.schedule, again.facts) == (pipeline.schedule, pipeline.facts)
    first, second = (p.generate("x", generator=seeded(0), output_type="pt").images for p in (pipeline, again))
    assert torch.equal(first, second)
    other = Pipeline.from_pretrained(tiny_pipeline(tmp_path / "other", seed=1), dtype=torch.float32, device="cpu")
    assert other.weights_hash != pipeline.weights_hash


def test_the_reference_opens_what_is_saved(pipeline: Pipeline, tmp_path: Path) -> None:
    import diffusers

    pipeline.save_pretrained(tmp_path / "t2i")
    call: dict[str, Any] = {"prompt_embeds": embeds(), "true_cfg_scale": 1.0, "num_inference_steps": 2, "output_type": "np"}
    theirs = diffusers.QwenImagePipeline.from_pretrained(tmp_path / "t2i")
    expected = theirs(**call, height=64, width=64, generator=seeded(0)).images
    assert np.abs(pipeline.generate(**call, generator=seeded(0)).images - expected).max() <= 1e-5

    editor = Pipeline.from_pretrained(tmp_path / "t2i", dtype=torch.float32, device="cpu")
    editor.kind = "edit-plus"
    editor.save_pretrained(tmp_path / "edit")
    assert diffusers.DiffusionPipeline.from_pretrained(tmp_path / "edit", processor=None).__class__.__name__ == (
        "QwenImageEditPlusPipeline"
    )
    assert Pipeline.from_pretrained(tmp_path / "edit", dtype=torch.float32, device="cpu").kind == "edit-plus"


def test_other_families_are_refused(directory: Path, tmp_path: Path) -> None:
    import json
    import shutil

    other = shutil.copytree(directory, tmp_path / "other")
    (other / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(InputError, match=r"other holds a FluxPipeline.*QwenImagePipeline"):
        Pipeline.from_pretrained(other, device="cpu")


def test_directories_that_are_none(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no model directory"):
        Pipeline.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "transformer").mkdir()
    with pytest.raises(MissingError, match="'vae'"):
        Pipeline.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="'low'"):
        Pipeline.from_pretrained(directory, memory="low", device="cpu")
