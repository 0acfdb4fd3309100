"""ControlNet pictures against the reference pipelines on the same toy weights, and the promises of the call."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.hashing import derive_seed
from glyphflow.generate import Pipeline
from glyphflow.generate.speed import Speed
from glyphflow.models.control import ControlNet, ControlNetConfig
from tiny import HIDDEN, seeded_weights, tiny_pipeline

diffusers = pytest.importorskip("diffusers")


def network(extra: int = 0) -> ControlNet:
    config = ControlNetConfig(
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=HIDDEN,
        axes_dims_rope=(4, 6, 6),
        extra_condition_channels=extra,
    )
    net = ControlNet(config).eval().requires_grad_(False)
    seeded_weights(net, 8)
    return net


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("control")
    tiny_pipeline(root / "model")
    for extra in (0, 4):
        network(extra).save_pretrained(root / f"controlnet-{extra}")
    return root


@functools.cache
def ours(root: Path, extra: int = 0, dtype: torch.dtype = torch.float32) -> Pipeline:
    return Pipeline.from_pretrained(root / "model", dtype=dtype, device="cpu", controlnet=root / f"controlnet-{extra}")


@functools.cache
def theirs(root: Path, extra: int = 0, dtype: torch.dtype = torch.float32, several: bool = False) -> Any:
    kind = diffusers.QwenImageControlNetInpaintPipeline if extra else diffusers.QwenImageControlNetPipeline
    net = diffusers.QwenImageControlNetModel.from_pretrained(root / f"controlnet-{extra}", dtype=dtype)
    base = diffusers.QwenImagePipeline.from_pretrained(root / "model", dtype=dtype)
    pipeline = kind(**base.components, controlnet=diffusers.QwenImageMultiControlNetModel([net]) if several else net)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def picture(seed: int = 0, size: tuple[int, int] = (50, 70)) -> Image.Image:
    array = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(array).resize(size, Image.Resampling.BICUBIC)


def mask() -> Image.Image:
    array = np.zeros((70, 50), np.uint8)
    array[10:45, 5:30] = 255
    return Image.fromarray(array)


def embeds(batch: int = 1, length: int = 9, seed: int = 5) -> torch.Tensor:
    return torch.randn(batch, length, HIDDEN, generator=torch.Generator().manual_seed(seed))


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


BOTH = {"prompt_embeds": embeds(), "negative_prompt_embeds": embeds(length=4, seed=6), "true_cfg_scale": 4.0}
CASES: dict[str, dict[str, Any]] = {
    "no guidance": {"prompt_embeds": embeds(), "true_cfg_scale": 1.0},
    "guidance": BOTH,
    "a part of the steps": BOTH | {"control_guidance_start": 0.2, "control_guidance_end": 0.8},
    "weak": BOTH | {"controlnet_conditioning_scale": 0.3},
    "two each": {"prompt_embeds": embeds(), "true_cfg_scale": 1.0, "num_images_per_prompt": 2, "width": 96},
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference_pipeline(root: Path, case: str) -> None:
    call = {"height": 64, "width": 48, "num_inference_steps": 5, "control_image": picture()} | CASES[case]
    one, other = seeded(11, 11)
    mine = ours(root).control(**call, generator=one, output_type="np").images
    reference = theirs(root)(**call, generator=other, output_type="np").images
    assert mine.shape == reference.shape
    assert np.abs(mine - reference).max() <= 1e-5
    assert torch.equal(one.get_state(), other.get_state())  # as many random numbers drawn


def test_bf16_latents_are_the_reference_pipelines_to_the_bit(root: Path) -> None:
    call = {key: value.bfloat16() if isinstance(value, torch.Tensor) else value for key, value in BOTH.items()}
    call |= {"height": 64, "width": 48, "num_inference_steps": 4, "control_image": picture(), "output_type": "latent"}
    exact = ours(root, dtype=torch.bfloat16)
    exact.speed = Speed.reference()
    pipelines = (exact.control, theirs(root, dtype=torch.bfloat16))
    first, second = (pipeline(**call, generator=seeded(3)).images for pipeline in pipelines)
    assert first.dtype == torch.bfloat16
    assert torch.equal(first, second)


def test_one_generator_and_one_control_picture_per_prompt(root: Path) -> None:
    call = {"height": 64, "width": 48, "num_inference_steps": 3, "control_image": [picture(0), picture(1)]}
    call |= {"prompt_embeds": embeds(2), "true_cfg_scale": 1.0, "output_type": "np"}
    mine = ours(root).control(**call, generator=seeded(1, 2)).images
    assert np.abs(mine - theirs(root)(**call, generator=seeded(1, 2)).images).max() <= 1e-5


def test_several_conditions_of_one_picture(root: Path) -> None:
    call = BOTH | {"height": 64, "width": 48, "num_inference_steps": 4, "output_type": "np"}
    call |= {"control_image": [picture(0), picture(1)], "controlnet_conditioning_scale": [0.9, 0.4]}
    call |= {"control_guidance_start": [0.0, 0.3], "control_guidance_end": [0.8, 1.0]}
    one, other = seeded(4, 4)
    mine = ours(root).control(**call, generator=one).images
    reference = theirs(root, several=True)(**call, generator=other).images
    assert np.abs(mine - reference).max() <= 1e-5
    assert torch.equal(one.get_state(), other.get_state())


@pytest.mark.parametrize("case", ["no guidance", "guidance", "two each"])
def test_inpainting_equals_the_reference_pipeline(root: Path, case: str) -> None:
    call = {"height": 64, "width": 48, "num_inference_steps": 4, "control_image": picture(), "control_mask": mask()} | CASES[
        case
    ]
    one, other = seeded(11, 11)
    mine = ours(root, 4).control(**call, generator=one, output_type="np").images
    # The reference draws the masked picture's latents from the global generator; ours takes them from the seed.
    torch.manual_seed(derive_seed("control posterior", 11))
    reference = theirs(root, 4)(**call, generator=other, output_type="np").images
    assert np.abs(mine - reference).max() <= 1e-5
    assert torch.equal(one.get_state(), other.get_state())


def test_inpainting_without_a_generator_draws_as_the_reference_does(root: Path) -> None:
    call = {"height": 64, "width": 48, "num_inference_steps": 2, "control_image": picture(), "control_mask": mask()} | BOTH
    results = []
    for pipeline in (ours(root, 4).control, theirs(root, 4)):
        torch.manual_seed(21)
        results.append((pipeline(**call, output_type="np").images, torch.get_rng_state()))
    assert np.abs(results[0][0] - results[1][0]).max() <= 1e-5
    assert torch.equal(results[0][1], results[1][1])


def test_a_seed_decides_an_inpainted_picture(root: Path) -> None:
    pipeline = ours(root, 4)
    call = {"num_inference_steps": 2, "control_image": picture(), "control_mask": mask(), "output_type": "np"} | BOTH
    first, again = (pipeline.control(**call, generator=seeded(5)[0]).images for _ in range(2))
    assert np.array_equal(first, again)


def test_the_control_pictures_ratio_is_the_default(root: Path) -> None:
    (wide,) = ours(root).control("x", control_image=picture(size=(128, 32)), num_inference_steps=1).images
    assert wide.size == (128, 32)


def test_the_network_runs_once_a_step_and_only_in_its_window(root: Path) -> None:
    pipeline = ours(root)
    calls: list[float] = []
    hook = pipeline.controlnet.register_forward_hook(lambda *_: calls.append(1))
    window = {"control_guidance_start": 0.25, "control_guidance_end": 0.75}
    pipeline.control(**BOTH, control_image=picture(), num_inference_steps=8, output_type="latent", **window)
    assert len(calls) == 4
    off = pipeline.control(**BOTH, control_image=picture(), controlnet_conditioning_scale=0.0, generator=seeded(1)[0])
    assert len(calls) == 4 and len(off.images) == 1
    hook.remove()


def test_streamed_weights_give_the_same_picture(root: Path) -> None:
    whole = ours.__wrapped__(root)  # streaming leaves hooks in its networks
    parts = (whole.transformer, whole.vae, None, whole.schedule, whole.facts)
    streamed = Pipeline(*parts, budget=0, controlnet=whole.controlnet)
    call = BOTH | {"control_image": [picture(0), picture(1)], "controlnet_conditioning_scale": [0.9, 0.4]}
    call |= {"num_inference_steps": 2, "output_type": "np"}
    first, second = (pipeline.control(**call, generator=seeded(1)[0]).images for pipeline in (whole, streamed))
    assert np.abs(first - second).max() <= 1e-5


def test_a_controlnet_is_found_or_named(root: Path, tmp_path: Path) -> None:
    for source, sentence in (
        (tmp_path, "no config.json"),
        (tmp_path / "absent", "no ControlNet .*absent"),
    ):
        with pytest.raises(MissingError, match=sentence):
            Pipeline.from_pretrained(root / "model", dtype=torch.float32, device="cpu", controlnet=source)


def test_wrong_calls_are_one_sentence(root: Path) -> None:
    plain, painting = ours(root), ours(root, 4)
    bare = Pipeline.from_pretrained(root / "model", dtype=torch.float32, device="cpu")
    wrong: list[tuple[Pipeline, dict[str, Any], str]] = [
        (bare, {}, "no ControlNet.*controlnet="),
        (plain, {"control_mask": mask()}, "knows no mask"),
        (painting, {}, "for inpainting; give .* control_mask"),
        (painting, {"control_mask": Image.new("L", (50, 70))}, "black everywhere"),
        (plain, {"control_image": [picture()] * 2}, "1 prompts and 2 values of control_image"),
        (plain, {"control_image": [picture()], "controlnet_conditioning_scale": [1.0, 0.5]}, "1 control pictures and 2 scales"),
        (plain, {"control_guidance_start": 0.9, "control_guidance_end": 0.1}, "start is 0.9 and control_guidance_end is 0.1"),
        (plain, {"height": 50, "width": 64}, "64x50"),
    ]
    for pipeline, call, sentence in wrong:
        with pytest.raises(InputError, match=sentence):
            pipeline.control("x", **{"control_image": picture()} | call)
