"""What is a name on the hub and what is a path here; nothing of this asks anybody."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from glyphflow.core.errors import InputError, MissingError
from glyphflow.generate.adapters import _find
from glyphflow.generate.directory import locate, locate_controlnet, read_small_files
from glyphflow.generate.hub import HubName, hub_name
from tiny import tiny_pipeline


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current directory, and a hub that must not be asked."""
    import huggingface_hub

    def asked(*names: object, **_: object) -> Any:
        raise AssertionError(f"asked from the hub: {names}")

    for name in ("snapshot_download", "hf_hub_download", "HfApi"):
        monkeypatch.setattr(huggingface_hub, name, asked)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("models") / "t2i")


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("Qwen/Qwen-Image", ("Qwen/Qwen-Image", "")),
        ("lightx2v/Qwen-Image-Lightning/4-steps.safetensors", ("lightx2v/Qwen-Image-Lightning", "4-steps.safetensors")),
        ("owner/name/sub/8-steps.safetensors", ("owner/name", "sub/8-steps.safetensors")),
        ("owner/v1.0_a-b", ("owner/v1.0_a-b", "")),
    ],
)
def test_names_on_the_hub(source: str, name: tuple[str, str]) -> None:
    assert hub_name(source) == HubName(*name)


LOCAL = [
    *(
        "style.safetensors",
        "loras/style.safetensors",
        "loras/styles/style.safetensors",
        "models/mine",
        "Owner/style.SAFETENSORS",
    ),
    *("./a/b", "../a/b", ".hidden/b", "~/models/b", "/models/b", "a/b/", "a//b", "a/./b", "a/../b", "a/..", "a/b/c", "a/b.bin"),
    *("C:/models/b", r"C:\models\b", r"loras\style.safetensors", r"a/b\c", "a b/c", "ü/b", "-a/b", "a/b/c.bin", "", "name"),
]


@pytest.mark.parametrize("source", LOCAL)
def test_paths_are_never_asked(source: str) -> None:
    assert hub_name(source) is None
    if source and not source.startswith(".."):
        with pytest.raises(MissingError, match=r"There is no LoRA file .*; check the path\.$"):
            _find(source, None)
        with pytest.raises(MissingError, match=r"There is no model directory .*; check the path"):
            locate(source)
        with pytest.raises(MissingError, match=r"There is no ControlNet .*; check the path"):
            locate_controlnet(source)


def test_a_folder_of_that_name_makes_it_a_path(tmp_path: Path) -> None:
    (tmp_path / "Qwen").mkdir()
    assert hub_name("Qwen/Qwen-Image") is None


@pytest.mark.parametrize("error", [RuntimeError("no route"), OSError("offline\nfor now"), ValueError("")])
def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    import huggingface_hub

    def fail(*_: object, **__: object) -> Any:
        raise error

    for name in ("snapshot_download", "hf_hub_download", "HfApi"):
        monkeypatch.setattr(huggingface_hub, name, fail)
    for ask in (lambda: locate("o/n"), lambda: locate_controlnet("o/n"), lambda: _find("o/n", None)):
        with pytest.raises(MissingError, match=r"o/n is no (file|directory) here and the Hugging Face hub") as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_the_class_on_the_hub_is_read_before_its_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda name, file: str(tmp_path / file))
    with pytest.raises(InputError, match="holds a FluxPipeline"):
        locate("black-forest-labs/FLUX.1-dev")


def test_another_architecture_is_named_before_anything_is_opened(copy: Path) -> None:
    for part in ("transformer", "text_encoder"):  # not looked at
        shutil.rmtree(copy / part)
    (copy / "model_index.json").write_text(json.dumps({"_class_name": "QwenImage21Pipeline"}))
    with pytest.raises(InputError, match="holds a QwenImage21Pipeline, which this version does not run"):
        locate(copy)
    for content, words in (("{}", "a pipeline of no class"), ("[]", "holds a list"), ("{", "not valid JSON")):
        (copy / "model_index.json").write_text(content)
        with pytest.raises(InputError, match=words):
            locate(copy)


@pytest.mark.parametrize(("part", "name"), [("transformer", "FluxTransformer2DModel"), ("vae", "AutoencoderKL")])
def test_a_part_of_another_class_is_named(copy: Path, part: str, name: str) -> None:
    path = copy / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": name}))
    with pytest.raises(InputError, match=rf"{part}/config\.json is of the class {name}, and"):
        locate(copy)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_part_that_is_not_there_is_named(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    with pytest.raises(MissingError, match=f"has no directory '{part}'"):
        locate(copy)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_weights_of_every_part_are_looked_at_before_any_is_read(copy: Path, part: str) -> None:
    file = next((copy / part).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(InputError, match=rf"{file.name} is \d+ bytes, but its header describes \d+"):
        read_small_files(copy, None)


@pytest.mark.parametrize("name", ["scheduler/scheduler_config.json", "glyphflow.json"])
@pytest.mark.parametrize("content", ["[]", "{", '"a"', ""])
def test_small_files_that_are_broken_are_named(copy: Path, name: str, content: str) -> None:
    (copy / name).write_text(content)
    with pytest.raises(InputError, match=name):
        read_small_files(copy, None)


def test_a_file_is_no_model_directory(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").touch()
    with pytest.raises(InputError, match=r"m\.safetensors is a file, and a model is a directory .* as transformer"):
        locate("m.safetensors")
