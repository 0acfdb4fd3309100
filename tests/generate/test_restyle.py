"""Image to image and inpainting against the reference pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from pipeline_pairs import assert_same_pictures, embeds, in_dtype, our_pipeline, photo, reference_pipeline, texts

from glyphflow.core.errors import InputError
from glyphflow.generate import Pipeline
from rounding import assert_same_bfloat16
from tiny import tiny_pipeline


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def pipeline(directory: Path) -> Pipeline:
    return our_pipeline(directory)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def spot(width: int, height: int) -> Image.Image:
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).ellipse((width // 4, height // 8, width // 2, height // 2), fill=255)
    return mask


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize(
    ("size", "strength", "steps"), [((64, 64), 0.6, 5), ((48, 96), 0.25, 5), ((64, 32), 1.0, 3), ((80, 48), 0.99, 4)]
)
def test_restyle_is_the_reference(
    pipeline: Pipeline, directory: Path, guided: bool, size: tuple[int, int], strength: float, steps: int
) -> None:
    theirs = reference_pipeline("QwenImageImg2ImgPipeline", directory)
    call = texts(guided) | {"strength": strength, "num_inference_steps": steps, "width": size[0], "height": size[1]}
    call |= {"num_images_per_prompt": 2, "output_type": "np"}
    (one, other), image = seeded(4, 4), photo(70, 51)
    ours = pipeline.restyle(image, **call, generator=one).images
    assert_same_pictures(ours, theirs(image=image, **call, generator=other).images)
    assert torch.equal(one.get_state(), other.get_state())


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize(("size", "copies"), [((64, 64), 1), ((48, 96), 2)])
def test_inpaint_is_the_reference(
    pipeline: Pipeline, directory: Path, guided: bool, size: tuple[int, int], copies: int
) -> None:
    theirs = reference_pipeline("QwenImageInpaintPipeline", directory)
    call = texts(guided) | {"strength": 0.7, "num_inference_steps": 5, "width": size[0], "height": size[1]}
    call |= {"num_images_per_prompt": copies, "output_type": "np", "mask_image": spot(70, 51)}
    (one, other), image = seeded(4, 4), photo(70, 51)
    ours = pipeline.inpaint(image, **call, generator=one).images
    assert_same_pictures(ours, theirs(image=image, **call, generator=other).images)
    assert torch.equal(one.get_state(), other.get_state())


def test_bf16_latents_are_the_references_to_the_bit(directory: Path) -> None:
    call = texts(True) | {"strength": 0.6, "num_inference_steps": 5, "width": 64, "height": 48, "output_type": "latent"}

    def latents(verb: Any, dtype: torch.dtype, **masked: Any) -> Any:
        return verb(image=photo(70, 51), **masked, **in_dtype(call, dtype), generator=seeded(0)).images

    low, full, masked = our_pipeline(directory, dtype=torch.bfloat16), our_pipeline(directory), {"mask_image": spot(70, 51)}
    restyle, inpaint = (
        reference_pipeline(f"QwenImage{name}Pipeline", directory, torch.bfloat16) for name in ("Img2Img", "Inpaint")
    )
    first, second = (latents(verb, torch.bfloat16) for verb in (low.restyle, restyle))
    assert_same_bfloat16(first, second, lambda: latents(full.restyle, torch.float32))
    first, second = (latents(verb, torch.bfloat16, **masked) for verb in (low.inpaint, inpaint))
    assert_same_bfloat16(first, second, lambda: latents(full.inpaint, torch.float32, **masked))


def test_inpainting_a_crop_is_the_reference(pipeline: Pipeline, directory: Path) -> None:
    theirs = reference_pipeline("QwenImageInpaintPipeline", directory)
    call = texts(True) | {"strength": 0.9, "num_inference_steps": 3, "width": 64, "height": 48, "mask_image": spot(210, 150)}
    image = photo(210, 150)
    for padding in (4, 60):
        (ours,) = pipeline.inpaint(image, **call, generator=seeded(1)[0], padding_mask_crop=padding).images
        (reference,) = theirs(image=image, **call, generator=seeded(1)[0], padding_mask_crop=padding).images
        assert ours.size == (210, 150)
        difference = np.abs(np.asarray(ours).astype(int) - np.asarray(reference))
        assert difference.max() <= 2
        outside = np.asarray(call["mask_image"]) == 0
        assert np.array_equal(np.asarray(ours)[outside], np.asarray(image)[outside])
        assert not np.array_equal(np.asarray(ours)[~outside], np.asarray(image)[~outside])


def test_a_white_mask_is_restyling(pipeline: Pipeline) -> None:
    call = texts(True) | {"strength": 0.8, "num_inference_steps": 4, "output_type": "latent"}
    image = photo(64, 64)
    inpainted = pipeline.inpaint(image, Image.new("L", (8, 8), 255), **call, generator=seeded(2)).images
    assert torch.equal(inpainted, pipeline.restyle(image, **call, generator=seeded(2)).images)


@pytest.mark.parametrize("guided", [False, True])
def test_inpainting_with_an_edit_model_is_the_reference(directory: Path, guided: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_inpaint as module

    theirs, sized = reference_pipeline("QwenImageEditInpaintPipeline", directory), module.calculate_dimensions
    monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio: sized(area / 256, ratio))  # 64 x 64
    image, mask = photo(90, 40), spot(90, 40)
    call = texts(guided) | {"strength": 0.8, "num_inference_steps": 4, "num_images_per_prompt": 2, "output_type": "np"}
    one, other = seeded(4, 4)
    ours = our_pipeline(directory, "edit").inpaint(image, mask, **call, generator=one).images
    assert_same_pictures(ours, theirs(image=image, mask_image=mask, **call, generator=other).images)
    assert torch.equal(one.get_state(), other.get_state())


def test_a_picture_does_not_depend_on_its_batch(pipeline: Pipeline) -> None:
    images, masks = [photo(90, 40), photo(64, 64, 1), photo(45, 20, 2)], [spot(30, 30), spot(64, 40), spot(9, 9)]
    call: dict[str, Any] = {"num_inference_steps": 4, "output_type": "pt", "strength": 0.75}
    both = {"prompt_embeds": embeds(3), "negative_prompt_embeds": embeds(3, 4, 6)}
    for verb in ("restyle", "inpaint"):
        inputs = [images] if verb == "restyle" else [images, masks]
        together = getattr(pipeline, verb)(*inputs, **both, **call, generator=seeded(0, 1, 2)).images
        assert [tuple(one.shape) for one in together] == [(3, 32, 96), (3, 64, 64), (3, 32, 96)]
        for n, generator in enumerate(seeded(0, 1, 2)):
            own = {name: value[n : n + 1] for name, value in both.items()}
            alone = getattr(pipeline, verb)(*(each[n] for each in inputs), **own, **call, generator=[generator]).images
            assert (alone[0] - together[n]).abs().max() <= 1e-5


def test_what_is_outside_the_mask_stays(pipeline: Pipeline) -> None:
    image, mask = photo(64, 64), Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 16, 64))
    kept = torch.tensor([row * 4 + column for row in range(4) for column in (1, 2, 3)])
    (first,), (second,) = (
        pipeline.inpaint(
            image, mask, prompt_embeds=embeds(seed=seed), true_cfg_scale=1.0, generator=seeded(3), output_type="latent"
        ).images
        for seed in (1, 2)
    )
    assert torch.equal(first[kept], second[kept])
    assert not torch.equal(first, second)


def test_wrong_calls_are_one_sentence(pipeline: Pipeline) -> None:
    image, mask = photo(64, 64), spot(64, 64)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"strength": 1.5}, "strength is 1.5"),
        ({"strength": 0.0}, "leaves none of 2 steps"),
        ({"mask_image": Image.new("L", (64, 64))}, "black everywhere"),
        ({"image": [image, image]}, "1 prompts and 2 values of image"),
        ({"image": "picture.png"}, "not str"),
        ({"image": np.zeros((4, 4, 3))}, "float64"),
        ({"padding_mask_crop": 8, "output_type": "np"}, "padding_mask_crop.*'np'"),
        ({"width": 100}, "100x64"),
        ({"num_inference_step": 5}, "no option num_inference_step; did you mean num_inference_steps"),
    ]
    for call, sentence in wrong:
        with pytest.raises(InputError, match=sentence):
            pipeline.inpaint(**{"image": image, "mask_image": mask, "prompt": "x", **call})
