"""The released sizes through the loaders of encode, previews and generate: types, places and bytes, without their memory.

The files are real in names, shapes and types and hold nothing (sparse, zeros). What a card would hold are fake tensors of
device cuda, so no card is needed; only reading and the machine itself are stood in for, never a choice of type or place.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration

from glyphflow.core.hardware import default_dtype
from glyphflow.feed.frozen import FrozenEncoders, encoders_bytes
from glyphflow.generate import Pipeline
from glyphflow.generate.sizes import EncoderConfig, ModelConfig
from glyphflow.models import QWEN_IMAGE_MMDIT, QWEN_IMAGE_VAE, VAE, MMDiT, qwen_vl, weights
from glyphflow.models.header import read_header
from glyphflow.plan.beside import encoding_bytes
from glyphflow.train.curriculum import read_curriculum
from tiny import SCHEDULER, tiny_tokenizer

CARD, HOST = torch.device("cuda", 0), torch.device("cpu")
SHARD = 2_000_000_000
"""Bytes of a file; larger ones are not mapped by a machine of little memory."""
TEXT = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}


def empty_file(path: Path, shapes: dict[str, torch.Size]) -> None:
    """A safetensors file in bfloat16 whose header is whole and whose data is a hole."""
    head, at = {}, 0
    for name, shape in shapes.items():
        head[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + 2 * shape.numel()]}
        at += 2 * shape.numel()
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)


def empty_weights(directory: Path, basename: str, network: nn.Module) -> None:
    shards: list[dict[str, torch.Size]] = [{}]
    size = 0
    for name, tensor in network.state_dict().items():
        if size + 2 * tensor.numel() > SHARD:
            shards.append({})
            size = 0
        shards[-1][name] = tensor.shape
        size += 2 * tensor.numel()
    names = [f"{basename}-{number + 1:05d}-of-{len(shards):05d}.safetensors" for number in range(len(shards))]
    directory.mkdir(parents=True)
    for file, shapes in zip(names, shards, strict=True):
        empty_file(directory / file, shapes)
    index = {name: file for file, shapes in zip(names, shards, strict=True) for name in shapes}
    (directory / f"{basename}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("released") / "model"
    config = Qwen2_5_VLConfig(text_config=TEXT, vision_config=VISION)
    with torch.device("meta"):
        encoder = Qwen2_5_VLForConditionalGeneration(config)
        transformer, vae = MMDiT(QWEN_IMAGE_MMDIT), VAE(QWEN_IMAGE_VAE)
    empty_weights(root / "text_encoder", "model", encoder)
    config.save_pretrained(root / "text_encoder")
    empty_weights(root / "transformer", "diffusion_pytorch_model", transformer)
    empty_weights(root / "vae", "diffusion_pytorch_model", vae)
    for name, kind, sizes in (
        ("transformer", "QwenImageTransformer2DModel", QWEN_IMAGE_MMDIT),
        ("vae", "AutoencoderKLQwenImage", QWEN_IMAGE_VAE),
    ):
        (root / name / "config.json").write_text(json.dumps(weights.released_config(kind, sizes)))
    tiny_tokenizer().save_pretrained(root / "tokenizer")
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (root / "model_index.json").write_text(json.dumps({"_class_name": "QwenImagePipeline"}))
    yield root
    shutil.rmtree(root)  # holes, but a copy of them would be 58 GB


class FakeFile:
    """``safetensors.safe_open`` whose tensors have the type and shape of the file, on the device that was asked for."""

    def __init__(self, path: Path, framework: str, device: str = "cpu") -> None:
        self._head, _ = read_header(path)
        self._device = torch.device(device)

    def __enter__(self) -> FakeFile:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get_tensor(self, name: str) -> Tensor:
        entry = self._head[name]
        assert entry["dtype"] == "BF16"
        return torch.empty(entry["shape"], dtype=torch.bfloat16, device=self._device)


def change(network: nn.Module, how: Callable[[Tensor], Tensor]) -> nn.Module:
    """Put ``how`` of every parameter and buffer into its place: torch's own way swaps tensors, which fake ones refuse."""
    for module in network.modules():
        for name, value in module._parameters.items():
            module._parameters[name] = None if value is None else nn.Parameter(how(value), requires_grad=False)
        for name, value in module._buffers.items():
            module._buffers[name] = None if value is None else how(value)
    return network


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A card that multiplies bfloat16 and has as many bytes free as the list says; tensors are fake."""
    free, real = [80_000_000_000], qwen_vl._load
    monkeypatch.setattr("glyphflow.core.hardware.multiplies_bfloat16", lambda device: device.type == "cuda")
    monkeypatch.setattr("glyphflow.train.recipe.multiplies_bfloat16", lambda device: device.type == "cuda")
    monkeypatch.setattr("glyphflow.generate.pipeline.pick_device", lambda name=None: torch.device(name or CARD))
    monkeypatch.setattr("glyphflow.generate.placement.free_bytes", lambda device: free[0])
    monkeypatch.setattr(weights, "safe_open", FakeFile)
    monkeypatch.setattr(weights, "require_finite", lambda *_: None)  # there are no values
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():

        def load(directory: Path, checkpoint: Any, dtype: torch.dtype) -> Any:
            """transformers' own load of the mapped files; float32 would be 33 GB, so fakes are converted to that."""
            with unset_fake_temporarily():
                model, report = real(directory, checkpoint, torch.bfloat16)

            def fake(value: Tensor) -> Tensor:
                kind = dtype if value.dtype == torch.bfloat16 else value.dtype
                return torch.empty(value.shape, dtype=kind, device=value.device)

            return change(model, fake), report

        monkeypatch.setattr(qwen_vl, "_load", load)
        monkeypatch.setattr(nn.Module, "to", lambda self, place: change(self, lambda value: value.to(place)))
        yield free


def held(module: nn.Module, dtype: torch.dtype, device: torch.device) -> int:
    """Bytes of the parameters, each of which is ``dtype`` on ``device``."""
    wrong = [n for n, p in module.named_parameters() if p.dtype != dtype or p.device != device]
    assert not wrong, wrong[:3]
    return sum(p.nbytes for p in module.parameters())


def test_encoders_on_a_card_are_bfloat16_there_and_of_the_planned_bytes(released: Path, card: list[int]) -> None:
    card[0] = 24_000_000_000
    frozen = FrozenEncoders(released, CARD, default_dtype(CARD))
    language, vae = held(frozen.condition._language, torch.bfloat16, CARD), held(frozen.vae, torch.float32, CARD)
    tower = held(frozen.condition._core.visual, torch.bfloat16, HOST)  # it comes with the first picture
    sizes = EncoderConfig()
    assert language == pytest.approx(sizes.part_sizes(torch.bfloat16).total, rel=0.02)
    assert tower == pytest.approx(sizes.vision_bytes(torch.bfloat16), rel=0.02)
    with unset_fake_temporarily():
        planned = encoding_bytes(read_curriculum("qwen-image-20b"), 1328)
        assert planned == encoders_bytes(sizes, QWEN_IMAGE_VAE, torch.bfloat16, 1328) < 24e9
    assert language + tower + vae < planned

    card[0] = 12_000_000_000  # then they take turns, from the machine's memory
    turns = FrozenEncoders(released, CARD, torch.bfloat16)
    assert turns._residency.budget == int(0.95 * card[0])
    assert held(turns.condition._language, torch.bfloat16, HOST) == language and held(turns.vae, torch.float32, HOST) == vae


def test_generate_on_a_card_and_on_the_cpu(released: Path, card: list[int]) -> None:
    with unset_fake_temporarily():  # what plan counts
        sizes = ModelConfig.read(released)
        plans = {dtype: sizes.part_sizes(dtype) for dtype in (torch.bfloat16, torch.float32)}
    assert sizes == ModelConfig()
    for device, dtype in ((CARD, torch.bfloat16), (HOST, torch.float32)):
        pipeline = Pipeline.from_pretrained(released, device=device)  # 80 GB are free: all stay
        encoder = pipeline.condition_encoder
        assert encoder is not None and pipeline.residency.budget is None
        planned = plans[dtype]
        passing = sum(planned["transformer"].passing)
        assert held(pipeline.transformer, dtype, device) == pytest.approx(planned["transformer"].total + passing, rel=0.02)
        assert held(pipeline.vae, dtype, device) == pytest.approx(planned["VAE"].total, rel=0.02)
        assert held(encoder._language, dtype, device) == pytest.approx(planned["condition encoder"].total, rel=0.02)
        assert held(encoder._core.visual, dtype, HOST) == pytest.approx(planned["vision tower"].total, rel=0.02)


def test_previews_embed_with_the_encoder_in_the_type_of_the_run(released: Path, card: list[int]) -> None:
    for device, dtype in ((CARD, torch.bfloat16), (HOST, torch.float32)):
        curriculum = read_curriculum("qwen-image-20b", [f"train.init_from={released}"])
        frozen = FrozenEncoders(released, device, curriculum.train.computed_in(device))
        held(frozen.condition._language, dtype, device)
        assert held(frozen.release(), torch.float32, device) == pytest.approx(4 * 126.9e6, rel=0.02)
        held(frozen.condition._language, dtype, HOST)
