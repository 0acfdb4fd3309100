"""What a call refuses before it computes, what it warns of, and results that are no numbers."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_pairs import embeds, photo

from glyphflow.core.errors import InputError
from glyphflow.flow import LIGHTNING
from glyphflow.generate import Pipeline
from glyphflow.generate.batch import defaults
from glyphflow.generate.images import aspect_size, binary_mask, mask_tokens, rgb
from glyphflow.generate.speed import Speed
from tiny import tiny_pipeline

FAST: dict[str, Any] = {"num_inference_steps": 2, "height": 32, "width": 32, "progress": False, "output_type": "latent"}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    root = tiny_pipeline(tmp_path_factory.mktemp("numbers") / "model")
    return Pipeline.from_pretrained(root, dtype=torch.float32, device="cpu")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"true_cfg_scale": math.nan}, "true_cfg_scale is nan"),
        ({"true_cfg_scale": math.inf}, "true_cfg_scale is inf"),
        ({"true_cfg_scale": "4"}, "true_cfg_scale is '4'"),
        ({"true_cfg_scale": -3}, "from 0 to 100"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"num_inference_steps": 2.5}, "whole number from 1 to 1000"),
        ({"num_inference_steps": 10**12}, "whole number from 1 to 1000"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt is 0"),
        ({"max_sequence_length": math.nan}, "max_sequence_length is nan"),
        ({"sigmas": [1.0, math.nan]}, "falling numbers"),
        ({"height": 10**9}, "The height of the picture is 1000000000"),
        ({"width": 64.0}, "The width of the picture is 64"),
        ({"latents": torch.full((1, 4, 64), math.nan)}, "latents that were given are not finite"),
        ({"height": "64"}, "The height of the picture is '64'"),
        ({"generator": 42}, "generator is 42; give a torch.Generator"),
        ({"schedule": ["lightning"]}, "There is no schedule"),
        ({"prompt": "caf\udce9"}, r"prompt holds U\+DCE9"),
        ({"prompt": "half an emoji \ud83d"}, r"prompt holds U\+D83D"),
        ({"negative_prompt": "\udce9"}, r"negative_prompt holds U\+DCE9"),
        ({"prompt": None, "prompt_embeds": embeds() * math.inf}, "prompt_embeds hold numbers that are not finite"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(pipeline: Pipeline, option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        pipeline.generate(**{"prompt": "x"} | FAST | option)


@pytest.mark.parametrize("strength", [math.nan, -1, 2, "1"])
def test_strengths(pipeline: Pipeline, strength: Any) -> None:
    with pytest.raises(InputError, match="strength is"):
        pipeline.restyle(photo(32, 32), "x", strength=strength, **FAST)


@pytest.mark.parametrize("crop", [-5, -50, 2.5, math.nan])
def test_crops(pipeline: Pipeline, crop: Any) -> None:
    mask = Image.new("L", (32, 32), 255)
    with pytest.raises(InputError, match=r"padding_mask_crop is .* whole number from 0"):
        pipeline.inpaint(photo(32, 32), mask, "x", padding_mask_crop=crop, **FAST | {"output_type": "pil"})


def test_weights_of_adapters(pipeline: Pipeline) -> None:
    for weight in (math.nan, math.inf, "1"):
        with pytest.raises(InputError, match=r"The weight of the adapter .* is .* finite number"):
            pipeline.load_lora_weights("style.safetensors", weight=weight)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"The weight of the adapter .* is .* finite number"):
            pipeline.set_adapters("style", weight)  # type: ignore[arg-type]


def test_tiles() -> None:
    for tile in (0, -8, 63, 100.0, math.nan):
        with pytest.raises(InputError, match="vae_tile is"):
            Speed(vae_tile=tile)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="multiple of 8"):
        Speed(vae_tile=100)


def test_ratios() -> None:
    for name in ("0:1", "1:0", "nan:1", "1e3:1", "9" * 400 + ":1", "-1:1"):
        with pytest.raises(InputError, match="is not width:height"):
            aspect_size(name, 128 * 128)
    with pytest.raises(InputError, match="too narrow"):
        aspect_size("99999:1", 128 * 128)


def test_what_is_not_finite_is_named_and_never_a_picture(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    last = pipeline.transformer.proj_out.weight

    def spoil(_: Pipeline, step: int, t: torch.Tensor, values: dict[str, Any]) -> None:
        if step == 1:
            last.data.fill_(math.nan)

    before = last.data.clone()
    call = FAST | {"num_inference_steps": 5, "output_type": "pil"}
    with pytest.raises(InputError, match=r"latents are not finite \(nan or inf\) after step 3 of 5"):
        pipeline.generate("x", generator=seeded(), callback_on_step_end=spoil, **call)
    last.data.copy_(before)
    decode = pipeline.vae.decode
    monkeypatch.setattr(pipeline.vae, "decode", lambda *given: decode(*given) * math.inf)
    with pytest.raises(InputError, match="The VAE decoded latents to pixels that are not finite"):
        pipeline.generate("x", generator=seeded(), **call)
    with pytest.raises(InputError, match="The VAE decoded latents to pixels that are not finite"):
        pipeline.reconstruct(photo(16, 16))
    monkeypatch.undo()
    assert len(pipeline.generate("x", generator=seeded(), **call).images) == 1
    encoder = pipeline.condition_encoder
    assert encoder is not None
    monkeypatch.setattr(encoder, "encode", lambda texts, *_, **__: [torch.full((5, 32), math.nan) for _ in texts])
    with pytest.raises(InputError, match="The embedding of the prompt is not finite"):
        pipeline.generate("another", **call)


def test_a_negative_prompt_that_cannot_act_is_said(pipeline: Pipeline) -> None:
    with pytest.warns(UserWarning, match="negative prompt has no effect, because a true CFG scale of 1 turns guidance off"):
        pipeline.generate("x", "blurry", true_cfg_scale=1, **FAST)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.generate("x", " ", true_cfg_scale=1, **FAST)
        pipeline.generate("x", "blurry", true_cfg_scale=1.5, **FAST)


def test_the_default_negative_prompt_is_the_released_example_codes(tmp_path: Path) -> None:
    root = tiny_pipeline(tmp_path / "model")
    (root / "glyphflow.json").unlink()  # as in released directories
    pipeline = Pipeline.from_pretrained(root, dtype=torch.float32, device="cpu")
    default, blank, empty = (
        pipeline.generate("x", negative, generator=seeded(), **FAST).images for negative in (None, " ", "")
    )
    assert torch.equal(default, blank) and not torch.equal(default, empty)


def test_a_few_step_schedule_has_its_own_steps_and_no_guidance(pipeline: Pipeline) -> None:
    assert defaults(pipeline) == (2, 4.0) and defaults(pipeline, "lightning") == (8, 1.0)
    steps: list[int] = []
    call = {name: value for name, value in FAST.items() if name != "num_inference_steps"}
    call["callback_on_step_end"] = lambda _, step, t, values: steps.append(step)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline.generate("x", schedule="lightning", **call)
    assert len(steps) == 8
    for wrong in ({"num_inference_steps": 20}, {"num_inference_steps": 4, "true_cfg_scale": 4}):
        with pytest.warns(UserWarning, match="few-step distillation's, for 4 to 8 steps"):
            pipeline.generate("x", schedule="lightning", **call | wrong)
    own, pipeline.schedule = pipeline.schedule, LIGHTNING  # a directory that says so
    assert defaults(pipeline) == (8, 1.0)
    pipeline.schedule = own


def strokes(colour: tuple[int, int, int], ground: tuple[int, int, int, int]) -> Image.Image:
    picture = Image.new("RGBA", (64, 64), ground)
    picture.paste((*colour, 255), (16, 16, 32, 32))
    return picture


def test_masks_by_their_alpha() -> None:
    for ground in ((255, 255, 255, 0), (0, 0, 0, 0), (0, 0, 0, 255)):
        white = np.asarray(binary_mask(strokes((255, 255, 255), ground))) >= 128
        assert white.sum() == 16 * 16 and white[16:32, 16:32].all()
    grey = Image.merge("LA", (Image.new("L", (64, 64), 255), strokes((255, 255, 255), (0, 0, 0, 0)).getchannel("A")))
    assert (np.asarray(binary_mask(grey)) >= 128).sum() == 16 * 16
    with pytest.raises(InputError, match=r"black everywhere .* transparent parts count as black"):
        binary_mask(strokes((0, 0, 0), (0, 0, 0, 0)))
    hole = photo(64, 64).convert("RGBA")
    hole.paste((0, 0, 0, 0), (16, 16, 32, 32))
    with pytest.raises(InputError, match="colours or greys and transparent parts"):
        binary_mask(hole)
    with pytest.raises(InputError, match="brightest value is 1 of 255"):
        binary_mask(np.ones((8, 8), np.uint8))  # a map of labels
    thin = Image.new("L", (64, 64))
    thin.paste(255, (10, 0, 13, 64))
    with pytest.raises(InputError, match="so thin that no latent pixel"):
        mask_tokens(thin, 16)


def test_arrays() -> None:
    assert rgb(np.zeros((8, 6, 1), np.uint8)).size == (6, 8)
    for shape in ((8, 8, 5), (8, 8, 2), (8,), (0, 8, 3)):
        with pytest.raises(InputError, match="uint8 of shape"):
            rgb(np.zeros(shape, np.uint8))
