"""``glyphflow generate`` and ``glyphflow reconstruct``: files, metadata, the identical picture again, sentences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner, Result

from glyphflow.cli import generate, reconstruct
from glyphflow.core.errors import InputError, InterruptedRun, StorageError
from glyphflow.generate import Metadata, Pipeline, read_metadata, write_picture
from glyphflow.generate import directory as model_directory
from tiny import tiny_pipeline

PROMPT = "a poster that says 'HELLO 你好'"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str | Path | float) -> Result:
    """Run a verb; errors come through as exceptions."""
    app = typer.Typer()
    generate.register(app)
    reconstruct.register(app)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_a_prompt_becomes_a_png_that_remembers(model: Path) -> None:
    run(
        "generate",
        PROMPT,
        "--model",
        model,
        "--negative",
        "blurred",
        "--seed",
        7,
        "--cfg",
        2.5,
        "--steps",
        3,
        "--size",
        "48x32",
    )
    with Image.open("out.png") as image:
        assert image.format == "PNG" and image.size == (48, 32)
        assert image.info["Description"] == PROMPT
    metadata = read_metadata(Path("out.png"))
    assert (metadata.prompt, metadata.negative_prompt, metadata.seed) == (PROMPT, "blurred", 7)
    assert (metadata.num_inference_steps, metadata.true_cfg_scale) == (3, 2.5)
    assert metadata.weights_hash == Pipeline.from_pretrained(model, device="cpu").weights_hash
    assert metadata.model == model.name  # without its directories
    assert {"glyphflow", "torch"} <= metadata.versions.keys()


def test_the_identical_file_again(model: Path, tmp_path: Path) -> None:
    run("generate", PROMPT, "a cat", "--count", 2, "--model", model, "--seed", 3, "-o", "many")
    assert sorted(path.name for path in Path("many").iterdir()) == ["001.png", "002.png", "003.png", "004.png"]
    fourth = Path("many/004.png")
    assert (read_metadata(fourth).prompt, read_metadata(fourth).seed) == ("a cat", 4)
    run("generate", "--from", fourth, "-o", "again.png")
    assert Path("again.png").read_bytes() == fourth.read_bytes()
    moved = model.rename(tmp_path / "moved")
    try:
        output = run("generate", "--from", fourth, "--model", moved)
        assert output.stdout.strip() == str(Path("many/004-again.png"))
        assert Path("many/004-again.png").read_bytes() == fourth.read_bytes()
    finally:
        moved.rename(model)


def test_other_weights_are_refused_with_both_hashes(model: Path, tmp_path: Path) -> None:
    run("generate", "a cat", "--model", model)
    other = tiny_pipeline(tmp_path / "other", seed=1)
    hashes = [Pipeline.from_pretrained(path, device="cpu").weights_hash for path in (model, other)]
    with pytest.raises(InputError, match=rf"{hashes[0]}.*{hashes[1]}.*--model"):
        run("generate", "--from", "out.png", "--model", other)


def test_another_version_is_said(model: Path) -> None:
    run("generate", "a cat", "--model", model)
    metadata = read_metadata(Path("out.png"))
    old = metadata.model_copy(update={"versions": metadata.versions | {"torch": "2.11.0"}})
    with Image.open("out.png") as image:
        write_picture(image, Path("old.png"), old)
    output = run("generate", "--from", "old.png")
    assert any(f"torch is {metadata.versions['torch']} and was 2.11.0" in line for line in output.stderr.splitlines())
    with Image.open("old-again.png") as again, Image.open("out.png") as image:
        assert again.tobytes() == image.tobytes()


def test_prompts_from_a_file(model: Path) -> None:
    Path("prompts.txt").write_text("one\n\n  两个 \n", encoding="utf-8")
    run("generate", "--prompts", "prompts.txt", "--model", model)
    assert [read_metadata(path).prompt for path in sorted(Path("out").iterdir())] == ["one", "两个"]


def test_what_is_finished_stays(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, calls = Pipeline.generate, iter(range(9))

    def stop_at_third(self: Pipeline, *args: object, **kwargs: object) -> object:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return make(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Pipeline, "generate", stop_at_third)
    with pytest.raises(InterruptedRun, match="2 of 5 pictures; the finished ones are in out"):
        run("generate", "a cat", "--count", 5, "--model", model)
    assert sorted(path.name for path in Path("out").iterdir()) == ["001.png", "002.png"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "no prompt"),
        (["a", "--count", "0"], "--count is 0"),
        (["a", "--seed", "-1"], "--seed is -1"),
        (["a", "--size", "big"], "--size is 'big'"),
        (["a", "--size", "100x64"], "100x64.*96x64"),
        (["a", "--steps", "0"], "--steps is 0"),
        (["a", "--dtype", "int8"], "--dtype is int8"),
        (["a", "--device", "abacus"], "abacus"),
        (["a", "-o", "out.gif"], r"out\.gif does not end like a picture"),
        (["a", "b", "-o", "out.png"], "2 pictures need a directory"),
        (["--prompts", "absent.txt"], r"absent\.txt"),
        (["--from", "absent.png"], r"absent\.png does not exist"),
        (["a", "--from", "absent.png", "--steps", "3"], "--steps, PROMPT was given"),
    ],
)
def test_mistakes_are_sentences(model: Path, arguments: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        run("generate", *arguments, "--model", model)
    assert not list(Path().iterdir())


def test_pictures_without_metadata_are_refused(tmp_path: Path) -> None:
    plain, damaged, text = (tmp_path / name for name in ("plain.png", "damaged.png", "text.png"))
    Image.new("RGB", (8, 8)).save(plain)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("glyphflow", json.dumps({"prompt": "x"}))
    Image.new("RGB", (8, 8)).save(damaged, pnginfo=info)
    text.write_text("no picture")
    for path, sentence in ((plain, "no GlyphFlow metadata"), (damaged, "damaged"), (text, "not a picture")):
        with pytest.raises(InputError, match=sentence):
            read_metadata(path)


def test_metadata_survives_any_text(tmp_path: Path) -> None:
    metadata = Metadata(
        prompt='“字” \n "quotes" {} 😀' * 50,
        negative_prompt="",
        seed=2**62,
        num_inference_steps=50,
        true_cfg_scale=4.0,
        width=16,
        height=16,
        model="nano",
        weights_hash="0" * 16,
        dtype="float32",
        device="cpu",
        versions={"glyphflow": "0.1.0"},
    )
    image = Image.new("RGB", (16, 16))
    write_picture(image, tmp_path / "a.png", metadata)
    write_picture(image, tmp_path / "b.png", metadata)
    assert read_metadata(tmp_path / "a.png") == metadata
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_reconstruct(model: Path) -> None:
    Image.new("RGBA", (37, 50), (9, 90, 200, 128)).save("in.png")
    assert "PSNR" in run("reconstruct", "in.png", "-o", "back.jpg", "--model", model).stdout
    with Image.open("back.jpg") as image:
        assert image.size == (37, 50)
    with pytest.raises(InputError, match=r"absent\.png"):
        run("reconstruct", "absent.png", "-o", "back.png", "--model", model)
    with pytest.raises(InputError, match="does not end like a picture"):
        run("reconstruct", "in.png", "-o", "back.xyz", "--model", model)


def test_hash_of_large_weights_is_remembered(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = model_directory.directory_hash(model)
    monkeypatch.setattr(model_directory, "_REMEMBER_ABOVE", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert model_directory.directory_hash(model) == first
    monkeypatch.setattr(model_directory, "weights_hash", lambda _: "read again")
    assert model_directory.directory_hash(model) == first
    (model / "vae/diffusion_pytorch_model.safetensors").touch()
    assert model_directory.directory_hash(model) != first


def test_a_cache_that_cannot_be_written_only_costs_time(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("full")

    monkeypatch.setattr(model_directory, "_REMEMBER_ABOVE", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(model_directory, "write_json", refuse)
    assert len(model_directory.directory_hash(model)) == 16
