"""Editing against the reference pipelines, and what the reference refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pipeline_pairs import assert_same_pictures, embeds, in_dtype, our_pipeline, photo, reference_pipeline, texts

from glyphflow.core.errors import InputError
from glyphflow.generate import Pipeline
from rounding import assert_same_bfloat16
from tiny import tiny_pipeline

AREA = 128 * 128


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model", native_area=AREA)


@pytest.fixture(scope="module")
def plus(directory: Path) -> Pipeline:
    return our_pipeline(directory, "edit-plus")


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture
def reference(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Reference edit pipelines whose pictures have the toy's native area of 128 x 128 instead of 1024 x 1024."""
    import diffusers.pipelines.qwenimage.pipeline_qwenimage_edit as edit
    import diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus as edit_plus

    for module in (edit, edit_plus):
        sized = module.calculate_dimensions
        monkeypatch.setattr(module, "calculate_dimensions", lambda area, ratio, sized=sized: sized(area / 64, ratio))
    return lambda name, dtype=torch.float32: reference_pipeline(name, directory, dtype)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize(
    ("size", "copies"), [({}, 1), ({"width": 48, "height": 80}, 2)], ids=["own size", "another size, two copies"]
)
def test_edit_is_the_reference(directory: Path, reference: Any, guided: bool, size: dict[str, int], copies: int) -> None:
    call = texts(guided) | {"num_inference_steps": 3, "output_type": "np", "num_images_per_prompt": copies} | size
    image = photo(110, 51)
    one, other = seeded(4, 4)
    ours = our_pipeline(directory, "edit").edit(image, **call, generator=one).images
    assert_same_pictures(ours, reference("QwenImageEditPipeline")(image=image, **call, generator=other).images)
    assert torch.equal(one.get_state(), other.get_state())


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("references", [1, 2, 3])
def test_edit_plus_is_the_reference(plus: Pipeline, reference: Any, guided: bool, references: int) -> None:
    call = texts(guided) | {"num_inference_steps": 3, "output_type": "np"}
    images = [photo(110, 51), photo(64, 64, 1), photo(30, 70, 2)][:references]
    one, other = seeded(4, 4)
    ours = plus.edit(images, **call, generator=one).images
    assert_same_pictures(ours, reference("QwenImageEditPlusPipeline")(image=images, **call, generator=other).images)
    assert torch.equal(one.get_state(), other.get_state())


@pytest.mark.parametrize(("kind", "name"), [("edit", "QwenImageEditPipeline"), ("edit-plus", "QwenImageEditPlusPipeline")])
def test_bf16_latents_are_the_references_to_the_bit(directory: Path, reference: Any, kind: str, name: str) -> None:
    call = texts(True) | {"num_inference_steps": 4, "output_type": "latent"}

    def latents(verb: Any, dtype: torch.dtype) -> Any:
        return verb(photo(110, 51), **in_dtype(call, dtype), generator=seeded(1)).images

    ours = latents(our_pipeline(directory, kind, torch.bfloat16).edit, torch.bfloat16)
    theirs = latents(reference(name, torch.bfloat16), torch.bfloat16)
    assert_same_bfloat16(ours, theirs, lambda: latents(our_pipeline(directory, kind).edit, torch.float32))


@pytest.mark.parametrize("kind", ["edit", "edit-plus"])
def test_prompts_see_the_pictures(directory: Path, kind: str) -> None:
    pipeline = our_pipeline(directory, kind)
    seen: list[tuple[str, list[tuple[int, int]]]] = []
    encode = pipeline.condition_encoder.encode  # type: ignore[union-attr]

    def watch(prompts: list[str], *args: Any, template: str, images: Any) -> list[torch.Tensor]:
        seen.append((template, [picture.size for picture in images[0]]))
        return encode(prompts, *args, template=template, images=images)

    pipeline.condition_encoder.encode = watch  # type: ignore[union-attr, method-assign]
    latents = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    call: dict[str, Any] = {"latents": latents, "num_inference_steps": 1, "output_type": "latent", "width": 128, "height": 128}
    first = pipeline.edit(photo(110, 51), "make it red", **call).images
    size = (192, 96) if kind == "edit" else (64, 32)  # one copy for both networks, or a smaller one for the language model
    assert seen == [(kind, [size])] * 2  # the negative prompt sees the picture, too
    assert not torch.equal(first, pipeline.edit(photo(110, 51), "make it blue", **call).images)


def test_zero_cond_t_comes_from_the_config(tmp_path: Path, reference: Any) -> None:
    import json

    directory = tiny_pipeline(tmp_path / "model", native_area=AREA)
    path = directory / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"zero_cond_t": True}))
    call = texts(True) | {"num_inference_steps": 3, "output_type": "np", "width": 48, "height": 64}
    images = [photo(110, 51), photo(64, 64, 1)]
    ours = our_pipeline(directory, "edit-plus").edit(images, **call, generator=seeded(1)).images
    import diffusers

    base = reference_pipeline("QwenImagePipeline", directory)
    theirs = diffusers.QwenImageEditPlusPipeline(**base.components, processor=None)
    assert base.transformer.config.zero_cond_t
    assert_same_pictures(ours, theirs(image=images, **call, generator=seeded(1)).images)


def test_batches_that_the_reference_refuses(plus: Pipeline) -> None:
    lists = [[photo(110, 51)], [photo(64, 64, 1), photo(30, 70, 2)], [photo(100, 46, 3)]]
    both = {"prompt_embeds": embeds(3), "negative_prompt_embeds": embeds(3, 4, 6)}
    call: dict[str, Any] = {"num_inference_steps": 3, "output_type": "pt", "num_images_per_prompt": 2}
    together = plus.edit(lists, **both, **call, generator=seeded(*range(6))).images
    assert [tuple(one.shape[1:]) for one in together[::2]] == [(96, 192), (192, 96), (96, 192)]
    for n, images in enumerate(lists):
        own = {name: value[n : n + 1] for name, value in both.items()}
        alone = plus.edit(images, **own, **call, generator=seeded(2 * n, 2 * n + 1)).images
        for k in (0, 1):
            assert (alone[k] - together[2 * n + k]).abs().max() <= 1e-5


def test_references_are_encoded_once(plus: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[tuple[int, ...]] = []
    encode = plus.encode
    monkeypatch.setattr(plus, "encode", lambda pixels: encoded.append(tuple(pixels.shape)) or encode(pixels))
    call = texts(False, 2) | {"num_inference_steps": 1, "output_type": "latent", "generator": seeded(0, 1)}
    images = [photo(64, 64, 40), photo(64, 64, 41)]
    first = plus.edit(images, **call).images
    assert encoded == [(1, 3, 128, 128)] * 2
    again = plus.edit([image.copy() for image in images], **call | {"generator": seeded(0, 1)}).images
    assert len(encoded) == 2 and torch.equal(first, again)


def test_wrong_calls_are_one_sentence(directory: Path, plus: Pipeline) -> None:
    image = photo(64, 64)
    with pytest.raises(InputError, match=r"t2i model .QwenImagePipeline. and edit needs edit or edit-plus"):
        our_pipeline(directory).edit(image, "x")
    with pytest.raises(InputError, match=r"layered model.*generate needs"):
        our_pipeline(directory, "layered").generate("x")
    with pytest.raises(InputError, match="edits one picture and there are 2"):
        our_pipeline(directory, "edit").edit([image, image], "x")
    with pytest.raises(InputError, match="no picture"):
        plus.edit([], "x")
    with pytest.raises(InputError, match="2 prompts and 3 lists"):
        plus.edit([[image]] * 3, ["x", "y"])
    with pytest.raises(InputError, match=r"1000x128.*992x128"):
        plus.edit(image, "x", width=1000)
