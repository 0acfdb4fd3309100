"""The switches of the loop: the same picture within stated bounds, the reference's bits with all of them off."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from glyphflow.core.errors import InputError
from glyphflow.generate import Pipeline, Speed
from glyphflow.generate.speed import FirstBlockCache
from glyphflow.models.kernels import fused
from tiny import HIDDEN, tiny_pipeline

OFF = Speed.reference()
SWITCHES = {
    "modulation table": Speed(modulation_table=True, packed_cfg=False, fused=False),
    "packed guidance": Speed(modulation_table=False, packed_cfg=True, fused=False),
    "both": Speed(fused=False),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model")


def latents(pipeline: Pipeline, speed: Speed, **call: Any) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    positive, negative = (torch.randn(2, n, HIDDEN, generator=draw).to(pipeline.dtype) for n in (9, 4))
    pipeline.speed = speed
    call = {"prompt_embeds": positive, "negative_prompt_embeds": negative, "height": 64, "width": 48} | call
    call = {"num_inference_steps": 5, "output_type": "latent", "progress": False} | call
    images: torch.Tensor = pipeline.generate(generator=torch.Generator().manual_seed(2), **call).images
    return images


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-5)])
def test_each_switch_gives_the_reference_picture(directory: Path, switch: str, dtype: torch.dtype, bound: float) -> None:
    pipeline = Pipeline.from_pretrained(directory, dtype=dtype, device="cpu")
    assert (latents(pipeline, SWITCHES[switch]) - latents(pipeline, OFF)).abs().max() <= bound


def test_switches_off_are_the_reference_pipeline_to_the_bit(directory: Path) -> None:
    from diffusers import QwenImagePipeline

    ours = Pipeline.from_pretrained(directory, dtype=torch.bfloat16, device="cpu", speed=OFF)
    theirs = QwenImagePipeline.from_pretrained(directory, dtype=torch.bfloat16)
    theirs.set_progress_bar_config(disable=True)
    draw = torch.Generator().manual_seed(1)
    positive, negative = (torch.randn(1, n, HIDDEN, generator=draw).bfloat16() for n in (9, 4))
    call: dict[str, Any] = {"prompt_embeds": positive, "negative_prompt_embeds": negative, "true_cfg_scale": 3.0}
    call |= {"height": 80, "width": 48, "num_inference_steps": 7, "output_type": "latent"}
    one, other = (p(**call, generator=torch.Generator().manual_seed(2)).images for p in (ours.generate, theirs))
    assert torch.equal(one, other)


def test_a_callback_may_replace_the_prompt_whatever_the_switches(directory: Path) -> None:
    pipeline = Pipeline.from_pretrained(directory, dtype=torch.float32, device="cpu")

    def other_prompt(_: Any, step: int, t: torch.Tensor, values: dict[str, Any]) -> dict[str, Any]:
        assert values["prompt_embeds"].shape == (2, 9, HIDDEN)
        return {"prompt_embeds": torch.zeros(2, 9, HIDDEN)} if step == 1 else {}

    changed = [latents(pipeline, speed, callback_on_step_end=other_prompt) for speed in (OFF, Speed())]
    torch.testing.assert_close(changed[0], changed[1], atol=1e-5, rtol=0)
    assert not torch.allclose(changed[0], latents(pipeline, OFF))


def test_the_step_cache_skips_what_hardly_changes_and_is_named(directory: Path) -> None:
    pipeline = Pipeline.from_pretrained(directory, dtype=torch.float32, device="cpu")
    exact = latents(pipeline, Speed(), num_inference_steps=20)
    for packed in (True, False):
        near = latents(pipeline, Speed(step_cache=1e-9, packed_cfg=packed), num_inference_steps=20)
        torch.testing.assert_close(near, exact, atol=1e-5, rtol=0)
        assert not torch.allclose(latents(pipeline, Speed(step_cache=0.9, packed_cfg=packed), num_inference_steps=20), exact)
    assert pipeline.approximations == ("step cache 0.9",)


def test_first_block_cache_by_hand() -> None:
    cache = FirstBlockCache(0.1)
    first, last = torch.ones(1, 3, 2), torch.full((1, 2, 2), 5.0)
    assert cache.recall(first, 2) is None
    cache.remember(first, last)
    assert cache.recall(first * 1.2, 2) is None  # a change of 20 %
    again = cache.recall(first * 1.05, 2)
    assert again is not None and cache.skipped == 1
    torch.testing.assert_close(again, torch.full((1, 2, 2), 5.05))


@pytest.mark.parametrize(
    ("choice", "words"), [({"step_cache": 0.0}, "between 0 and 1"), ({"fused": True, "compile": True}, "choose one")]
)
def test_impossible_choices_are_sentences(choice: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Speed(**choice)


def test_channels_last_and_tiles_of_the_vae(directory: Path) -> None:
    pipeline = Pipeline.from_pretrained(directory, dtype=torch.float32, device="cpu", speed=OFF)
    z = torch.randn(1, pipeline.vae.config.z_dim, 16, 24, generator=torch.Generator().manual_seed(0))
    whole = pipeline.decode(z)
    pipeline.speed = Speed()
    torch.testing.assert_close(pipeline.decode(z), whole, atol=1e-5, rtol=0)
    pipeline.speed = Speed(vae_tile=64)
    tiled = pipeline.decode(z)
    assert tiled.shape == whole.shape and not torch.allclose(tiled, whole)  # every tile has borders of its own
    assert pipeline.approximations == ("VAE tiles of 64",)


@pytest.mark.slow
@pytest.mark.parametrize("speed", [Speed(fused=True), Speed(compile=True)], ids=["fused", "compiled"])
def test_traced_code_gives_the_same_picture_at_several_sizes(
    directory: Path, speed: Speed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is traced is ours; what the compiler makes of it is tried once, on whole blocks."""
    import shutil

    pipeline = Pipeline.from_pretrained(directory, dtype=torch.float32, device="cpu")
    if speed.fused:
        fused.cache_clear()
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    elif shutil.which("g++") is None:
        pytest.skip("compiling for the CPU needs g++")
    for size in ({}, {"height": 32, "width": 80}, {"true_cfg_scale": 1.0}):
        expected = latents(pipeline, OFF, **size)
        assert (latents(pipeline, speed, **size) - expected).abs().max() <= 1e-5
    pipeline.speed = OFF
    assert torch.equal(latents(pipeline, OFF), latents(pipeline, OFF))
    fused.cache_clear()
