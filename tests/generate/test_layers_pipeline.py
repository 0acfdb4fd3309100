"""Layers against the reference pipeline on the same toy weights, and the promises of the call."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_pairs import assert_same_pictures, embeds, in_dtype, photo, texts

from glyphflow.core.errors import InputError
from glyphflow.generate import Pipeline, write_layers
from glyphflow.generate.speed import Speed
from glyphflow.models import VAE, MMDiT, MMDiTConfig, VAEConfig
from rounding import assert_same_bfloat16
from tiny import HIDDEN, seeded_weights, tiny_pipeline

diffusers = pytest.importorskip("diffusers")

SIDE = 64  # the reference knows 640 and 1024 only; its size helper is told to take this for 640


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tiny_pipeline(tmp_path_factory.mktemp("layered") / "model")
    transformer = MMDiT(
        MMDiTConfig(
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=HIDDEN,
            axes_dims_rope=(4, 6, 6),
            use_additional_t_cond=True,
            use_layer3d_rope=True,
        )
    )
    vae = VAE(VAEConfig(base_dim=8, z_dim=16, num_res_blocks=1, input_channels=4))
    for part, module in {"transformer": transformer, "vae": vae}.items():
        seeded_weights(module, 3)
        module.save_pretrained(root / part)
    index = json.loads((root / "model_index.json").read_text())
    (root / "model_index.json").write_text(json.dumps(index | {"_class_name": "QwenImageLayeredPipeline"}))
    return root


@functools.cache
def ours(root: Path, dtype: torch.dtype = torch.float32) -> Pipeline:
    return Pipeline.from_pretrained(root, dtype=dtype, device="cpu")


@pytest.fixture
def theirs(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_layered as module

    right = module.calculate_dimensions
    monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio: right(area * SIDE**2 / 640**2, ratio))

    def load(dtype: torch.dtype = torch.float32) -> Any:
        base = diffusers.QwenImagePipeline.from_pretrained(root, dtype=dtype)
        pipeline = diffusers.QwenImageLayeredPipeline(**base.components, processor=None)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return load


def picture(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    """A photograph with a soft transparent edge."""
    image = photo(width, height, seed).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


CASES: dict[str, dict[str, Any]] = {
    "no guidance": texts(False),
    "guidance": texts(True),
    "guidance, tokens rescaled": texts(True) | {"cfg_normalize": True},
    "one layer": texts(True) | {"layers": 1},
    "two each": texts(False) | {"num_images_per_prompt": 2},
    "tall": texts(True) | {"image": picture(50, 120)},
}


def run(reference: Any, **call: Any) -> tuple[torch.Tensor, list[np.ndarray]]:
    """The reference's last latents, which it cannot return (its output_type "latent" fails), and its layers.

    It asks the language model for a prompt even where embeddings are given, unless there is a prompt as well.
    """
    seen: list[torch.Tensor] = []

    def remember(_: Any, step: int, t: torch.Tensor, values: dict[str, Any]) -> dict[str, Any]:
        seen.append(values["latents"])
        return {}

    result = reference(**call, prompt="x", output_type="np", callback_on_step_end=remember)
    return seen[-1], result.images


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference_pipeline(root: Path, theirs: Any, case: str) -> None:
    call = {"image": picture(), "layers": 3, "num_inference_steps": 4} | CASES[case]
    one, again, other = (torch.Generator().manual_seed(7) for _ in range(3))
    pipeline = ours(root)
    latents = pipeline.layers(**call, resolution=SIDE, generator=one, output_type="latent").images
    shown = pipeline.layers(**call, resolution=SIDE, generator=again, output_type="np").images
    reference, images = run(theirs(), **call, generator=other)
    assert_same_pictures(torch.stack(latents), reference)
    # The reference cuts its list of layers in pieces of layers + 1: the pieces together are all layers.
    assert_same_pictures(np.concatenate(shown), np.concatenate(images))
    assert [len(layers) for layers in shown] == [call["layers"]] * len(shown)
    assert torch.equal(one.get_state(), other.get_state())


def test_bf16_latents_are_the_reference_pipelines_to_the_bit(root: Path, theirs: Any) -> None:
    call = texts(True) | {"image": picture(), "layers": 2, "num_inference_steps": 4}

    def latents(pipeline: Pipeline) -> torch.Tensor:
        given = in_dtype(call, pipeline.dtype) | {"generator": torch.Generator().manual_seed(1)}
        found: torch.Tensor = pipeline.layers(**given, resolution=SIDE, output_type="latent").images[0]
        return found

    exact = ours(root, torch.bfloat16)
    exact.speed = Speed.reference()
    given = in_dtype(call, torch.bfloat16) | {"generator": torch.Generator().manual_seed(1)}
    reference, _ = run(theirs(torch.bfloat16), **given)
    assert_same_bfloat16(latents(exact), reference[0], lambda: latents(ours(root)))


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_the_shift_is_the_references(root: Path, theirs: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = {"image": picture(96, 40), "layers": 1, "num_inference_steps": 5} | texts(False)
    mine, reference = ours(root), theirs()
    monkeypatch.setattr(mine, "schedule", mine.schedule.model_copy(update={"time_shift_type": kind}))
    reference.scheduler = type(reference.scheduler).from_config(reference.scheduler.config, time_shift_type=kind)
    one, other = (torch.Generator().manual_seed(1) for _ in range(2))
    (latents,) = mine.layers(**call, resolution=SIDE, generator=one, output_type="latent").images
    assert_same_pictures(latents, run(reference, **call, generator=other)[0][0])


def test_several_pictures_of_several_sizes(root: Path, theirs: Any) -> None:
    """The reference returns the wrong slices for a batch; picture by picture it is right."""
    pictures = [picture(64, 64, 0), picture(50, 120, 1), picture(64, 64, 2)]
    call = {"layers": 2, "num_inference_steps": 3, "output_type": "np", "true_cfg_scale": 1.0}
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2, 3)]
    together = ours(root).layers(pictures, prompt_embeds=embeds(3), resolution=SIDE, generator=generators, **call).images
    reference = theirs()
    assert [layers.shape for layers in together] == [(2, 64, 64, 4), (2, 96, 32, 4), (2, 64, 64, 4)]
    for n, image in enumerate(pictures):
        alone = reference(
            image, "x", prompt_embeds=embeds(3)[n : n + 1], generator=torch.Generator().manual_seed(n + 1), **call
        ).images
        assert_same_pictures(together[n], alone[0])


def test_layers_become_files(root: Path, tmp_path: Path) -> None:
    (layers,) = ours(root).layers(picture(100, 70), "a sign", resolution=SIDE, layers=2, num_inference_steps=1).images
    assert [layer.mode for layer in layers] == ["RGBA", "RGBA"] and layers[0].size == (64, 64)
    write_layers(layers, tmp_path / "sign.psd")
    with Image.open(tmp_path / "sign.psd") as document:
        assert len(document.layers) == 2


def test_an_empty_prompt_is_described_by_the_language_model(root: Path) -> None:
    pipeline = ours(root)
    call: dict[str, Any] = {"resolution": SIDE, "layers": 1, "num_inference_steps": 1, "output_type": "latent"}
    one, other = (torch.Generator().manual_seed(1) for _ in range(2))
    (silent,) = pipeline.layers(picture(), "", use_en_prompt=True, generator=one, **call).images
    (spoken,) = pipeline.layers(picture(), pipeline.caption(picture(), "en"), generator=other, **call).images
    assert torch.equal(silent, spoken)


def test_wrong_calls_are_one_sentence(root: Path, tmp_path: Path) -> None:
    pipeline = ours(root)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"layers": 0}, "layers is 0"),
        ({"resolution": 100}, "resolution is 100; .* multiple of 32"),
        ({"image": [picture()] * 2, "prompt": ["a", "b", "c"]}, "2 prompts and 3 values of prompt"),
        ({"image": [picture()] * 2, "prompt": None, "prompt_embeds": embeds(3)}, "2 pictures and 3 prompt_embeds"),
        ({"latents": torch.zeros(1, 16, 64)}, r"\(1, 16, 64\).*\(1, 80, 64\)"),
    ]
    for call, sentence in wrong:
        with pytest.raises(InputError, match=sentence):
            pipeline.layers(**{"image": picture(), "prompt": "x", "resolution": SIDE, "num_inference_steps": 1} | call)
    plain = Pipeline.from_pretrained(tiny_pipeline(tmp_path / "plain"), dtype=torch.float32, device="cpu")
    with pytest.raises(InputError, match="Qwen/Qwen-Image-Layered"):
        plain.layers(picture(), "x")
