"""What a PNG says about how it was made, for every verb, and what is refused when it is made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin
from pipeline_pairs import photo
from safetensors.torch import save_file

from glyphflow.core.errors import InputError
from glyphflow.generate import (
    Metadata,
    Pipeline,
    describe,
    describe_again,
    open_again,
    picture_hash,
    read_metadata,
    write_picture,
)
from glyphflow.generate.speed import Speed
from tiny import tiny_pipeline

REQUEST = {
    "prompt": "a sign",
    "negative_prompt": "",
    "seed": 3,
    "num_inference_steps": 2,
    "true_cfg_scale": 4.0,
    "width": 64,
    "height": 48,
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model")


def opened(directory: Path, **how: object) -> Pipeline:
    return Pipeline.from_pretrained(directory, dtype=torch.float32, device="cpu", **how)  # type: ignore[arg-type]


def test_inputs_and_settings_travel(directory: Path, tmp_path: Path) -> None:
    pipeline, image = opened(directory), photo(60, 50)
    settings = {"strength": 0.5, "schedule": "lightning", "sigmas": [1.0, 0.5]}
    made = describe(pipeline, "model", **REQUEST, task="restyle", settings=settings, inputs={"image": image})  # type: ignore[arg-type]
    write_picture(image, tmp_path / "out.png", made)
    read = read_metadata(tmp_path / "out.png")
    assert read == made
    assert (read.task, read.settings, read.inputs) == ("restyle", settings, {"image": picture_hash(image)})
    assert describe_again(pipeline, read, {"image": image}) == read
    write_picture(image, tmp_path / "again.png", describe_again(pipeline, read, {"image": image.copy()}))
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "out.png").read_bytes()
    with pytest.raises(InputError, match=rf"from the image {picture_hash(image)} and this one is [0-9a-f]+;"):
        describe_again(pipeline, read, {"image": photo(60, 50, 1)})
    with pytest.raises(InputError, match="and this one is None"):
        describe_again(pipeline, read)


def test_pictures_are_known_by_their_pixels(tmp_path: Path) -> None:
    image = photo(20, 30)
    image.save(tmp_path / "a.png")
    assert picture_hash(Image.open(tmp_path / "a.png")) == picture_hash(image) == picture_hash(image.convert("RGBA"))
    assert picture_hash(image) != picture_hash(image.transpose(Image.Transpose.TRANSPOSE))


def test_what_approximates_is_named(directory: Path) -> None:
    exact, coarse = opened(directory), opened(directory, quantize="int8")
    assert describe(exact, "m", **REQUEST).approximate == ()  # type: ignore[arg-type]
    made = describe(coarse, "m", **REQUEST)  # type: ignore[arg-type]
    assert (made.quantize, made.approximate) == ("int8", ("int8 weights",))
    with pytest.raises(InputError, match="quantize int8 and this pipeline has None"):
        describe_again(exact, made)


def test_adapters_are_named(directory: Path) -> None:
    pipeline, plain = opened(directory), opened(directory)
    name = "transformer_blocks.0.attn.to_q"
    lora = {f"{name}.lora_A.weight": torch.randn(2, 32), f"{name}.lora_B.weight": torch.randn(32, 2)}
    pipeline.load_lora_weights(lora, adapter_name="style", weight=0.5)
    made = describe(pipeline, "m", **REQUEST)  # type: ignore[arg-type]
    (used,) = made.adapters
    assert (used.name, used.weight, len(used.identity)) == ("style", 0.5, 16)
    with pytest.raises(InputError, match=rf"adapters tensors \({used.identity}\) at 0.5 and this pipeline has none"):
        describe_again(plain, made)
    pipeline.set_adapters([])
    assert describe(pipeline, "m", **REQUEST).adapters == ()  # type: ignore[arg-type]


def test_a_pipeline_is_opened_as_it_was(directory: Path, tmp_path: Path) -> None:
    name = "transformer_blocks.0.attn.to_q"
    lora = {f"{name}.lora_A.weight": torch.randn(2, 32), f"{name}.lora_B.weight": torch.randn(32, 2)}
    save_file(lora, tmp_path / "lora.safetensors")
    pipeline = opened(directory, quantize="int8", speed=Speed(packed_cfg=False, step_cache=0.1))
    pipeline.load_lora_weights(tmp_path / "lora.safetensors", weight=0.5)
    made = describe(pipeline, str(directory), **REQUEST)  # type: ignore[arg-type]
    assert made.approximate == ("int8 weights", "step cache 0.1")
    again = open_again(made)
    assert describe_again(again, made) == made
    call = {"num_inference_steps": 2, "output_type": "pt"}
    first, second = (
        p.generate("x", generator=torch.Generator().manual_seed(0), **call).images
        for p in (pipeline, again)  # type: ignore[arg-type]
    )
    assert torch.equal(first, second)
    with pytest.raises(InputError, match="switches that this version does not have"):
        open_again(made.model_copy(update={"speed": {"warp": 9}}))
    pipeline.load_lora_weights(lora, adapter_name="loose")
    with pytest.raises(InputError, match="loose was given as tensors"):
        open_again(describe(pipeline, str(directory), **REQUEST))  # type: ignore[arg-type]


def test_old_pictures_stay_readable(tmp_path: Path) -> None:
    old = REQUEST | {
        "model": "nano",
        "weights_hash": "0" * 16,
        "dtype": "float32",
        "device": "cpu",
        "versions": {"torch": "2.13"},
    }
    info = PngImagePlugin.PngInfo()
    info.add_itxt("glyphflow", json.dumps(old))
    photo(8, 8).save(tmp_path / "old.png", pnginfo=info)
    read = read_metadata(tmp_path / "old.png")
    assert isinstance(read, Metadata) and read.task == "generate" and read.inputs == {} and read.adapters == ()
