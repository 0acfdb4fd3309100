"""What people hand to the picture verbs: words, lists of prompts, places, moved files, and what a shared file says."""

from __future__ import annotations

import io
import json
import shutil
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from picture_models import glyphflow, make_place, photo
from PIL import Image

from glyphflow.cli import lines
from glyphflow.cli.options import matching, parse_size, spread, weighted
from glyphflow.core.errors import InputError
from glyphflow.generate import Metadata, read_metadata, write_picture
from glyphflow.generate.files import check_metadata
from glyphflow.generate.metadata import place_name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for source in place.iterdir():
        if source.is_dir() or source.suffix == ".safetensors":
            (tmp_path / source.name).symlink_to(source)
        else:
            shutil.copy(source, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prompts(content: bytes, name: str, folder: Path) -> list[str]:
    (folder / name).write_bytes(content)
    return [line.prompt for _, line in lines.read_lines(folder / name)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_lists_of_prompts_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    text = "a café\u00a0sign, très élégant\r\n\r\nder Gruß der Käthe\n"
    assert prompts(text.encode(encoding), "a.txt", tmp_path) == ["a café\u00a0sign, très élégant", "der Gruß der Käthe"]
    rows = '{"prompt": "Grüße aus Köln"}\r\n'
    assert prompts(rows.encode(encoding), "a.jsonl", tmp_path) == ["Grüße aus Köln"]


def test_lines_end_at_newlines_only(tmp_path: Path) -> None:
    assert prompts("one\u2028still one\rtwo\x0c\u0085also".encode(), "a.txt", tmp_path) == [
        "one\u2028still one",
        "two\x0c\u0085also",
    ]


def test_marks_inside_joined_files_are_no_text(tmp_path: Path) -> None:
    assert prompts("\ufeffone\n\ufefftwo\n\ufeff\n".encode(), "a.txt", tmp_path) == ["one", "two"]


def test_a_guessed_encoding_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prompts("一家咖啡店的招牌,上面写着欢迎光临\n".encode("gbk"), "a.txt", tmp_path) == [
        "一家咖啡店的招牌,上面写着欢迎光临"
    ]
    assert "a.txt is not UTF-8 and was read as gb18030" in capsys.readouterr().err


def test_other_lists(tmp_path: Path) -> None:
    assert prompts(b'["a", {"prompt": "b", "seed": 3}]', "a.json", tmp_path) == ["a", "b"]
    assert prompts(b'{"prompt": "b"}\n', "a.ndjson", tmp_path) == ["b"]
    for name in ("a.csv", "a.yaml", "a.xlsx"):
        with pytest.raises(InputError, match="is no list of prompts"):
            prompts(b"prompt\na\n", name, tmp_path)
    for content in (b"[" * 100_000, b'{"seed": ' + b"9" * 5000 + b"}"):
        with pytest.raises(InputError, match=r"a\.jsonl, line 1: this is no JSON"):
            prompts(content, "a.jsonl", tmp_path)


def test_pictures_of_a_line_lie_beside_its_file_or_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "a.jsonl").write_text('{"prompt": "x", "image": ["a$b.png", "~/b.png", "/c.png"], "mask": "~/m.png"}')
    ((_, line),) = lines.read_lines(tmp_path / "a.jsonl")
    assert line.image == [str(tmp_path / "a$b.png"), "/home/me/b.png", "/c.png"] and line.mask == "/home/me/m.png"


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def piped(data: bytes) -> list[str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        return [line.prompt for _, line in lines.read_lines(Path("-"))]

    assert piped("\ufeffrot\r\nblau 字\r\n".encode()) == ["rot", "blau 字"]
    assert piped(b'{"prompt": "a"}\n{"prompt": "b"}\n') == ["a", "b"]
    with pytest.raises(InputError, match="standard input holds no prompt"):
        piped(b"\n")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="There is no standard input"):
        lines.read_lines(Path("-"))


def test_words_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photo.png").touch()
    (tmp_path / "cat").touch()
    assert lines.argument_line("caf\udce9 noir", 1).prompt == "café noir"
    for good in ("cat", "a sign that says logo.png", "3.5", "…"):
        assert lines.argument_line(good, 1).prompt == good
    for wrong, sentence in (
        ("-", "write --prompts -"),
        ("b.png", "'b.png' is a file's name"),
        ("my photo.png", "is a file's name"),
        ("prompts.txt", "--prompts in front of a file of prompts"),
        ("\ud83d", r"Prompt 1 holds U\+D83D"),
        ("\udc81\udcff\udc90", "Prompt 1 cannot be read as text"),
    ):
        with pytest.raises(InputError, match=sentence):
            lines.argument_line(wrong, 1)


def test_shell_patterns_are_one_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b b.png", "[c].png"):
        (tmp_path / name).touch()
    options = {"-i", "--image"}
    several = ["-i", "a.png", "-i", "b b.png", "night", "-o", "x.png"]
    assert spread(["-i", "a.png", "b b.png", "night", "-o", "x.png"], options) == several
    assert spread(["night", "--image=a.png", "gone.png"], options) == ["night", "--image", "a.png", "--image", "gone.png"]
    assert spread(["-i", "?*b.png", "night"], options) == ["-i", "b b.png", "night"]  # a shell that leaves it to the program
    assert spread(["night", "-i"], options) == ["night", "-i"]
    assert spread(["-i", "a.png", "--", "a.png"], options) == ["-i", "a.png", "--", "a.png"]
    assert matching("[c].png") == ["[c].png"] and matching("*.tif") == ["*.tif"]


def test_several_pictures_are_never_prompts(here: Path) -> None:
    done = glyphflow("edit", "make it night", "-i", "a.png", "b.png", "--model", "plus", "-o", "out.png")
    assert done.code == 0 and read_metadata(Path("out.png")).sources == {"image": "a.png", "image 2": "b.png"}
    done = glyphflow("restyle", "night", "-i", "a.png", "b.png", "--model", "t2i", "-o", "many")
    assert done.code == 1 and "takes one image and there are 2" in done.err
    done = glyphflow("restyle", "night", "-i", "a.png", "-i", "b.png", "--model", "t2i", "-o", "many")
    assert done.code == 1 and "takes one image and there are 2" in done.err and not Path("many").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["generate", "x", "--cfg", "nan"], "--cfg is nan, and must be from 0 to 100"),
        (["generate", "x", "--cfg", "inf"], "--cfg is inf"),
        (["generate", "x", "--steps", 10**12], "--steps is 1000000000000, and must be a whole number from 1 to 1000"),
        (["generate", "x", "--count", 10**9], "--count is 1000000000"),
        (["generate", "x", "--size", "9" * 5000 + "x16"], "write width x height"),
        (["generate", "x", "--size", "160000x16"], "The width of the picture is 160000"),
        (["generate", "x", "--lora", "lora.safetensors:nan"], "The weight of --lora lora.safetensors is nan"),
        (["generate", "x", "--schedule", "thunder"], "There is no schedule 'thunder'"),
        (["restyle", "x", "-i", "a.png", "--strength", "nan"], "strength is nan"),
        (["inpaint", "x", "-i", "a.png", "--mask", "mask.png", "--crop=-5"], "--crop is -5"),
        (["inpaint", "x", "-i", "a.png", "--mask", "hole.png"], "colours or greys and transparent parts"),
        (["control", "x", "--control", "a.png", "--controlnet", "net", "--scale", "nan"], "--scale is nan"),
        (
            ["control", "x", "--control", "a.png", "--controlnet", "net", "--begin", "1", "--end", "0"],
            "--begin is 1 and --end is 0",
        ),
        (["layers", "a.png", "--layers", "0"], "--layers is 0"),
        (["layers", "a.png", "--resolution", "100"], "--resolution is 100; it must be a multiple of 32"),
        (["generate", "x", "-o", "-"], "-o is '-'"),
        (["generate", "x", "-o", "a" * 300 + ".png"], "its name is too long for the file system"),
        (["generate", "x", "-o", "a" * 300 + "/x.png"], "its name is too long for the file system"),
        (["restyle", "x", "-i", "a.png", "-o", "./a.png"], "would be written over a.png, which this run reads"),
        (["restyle", "x", "-i", "a.png", "-o", "link.png"], "would be written over a.png, which this run reads"),
        (["generate", "x", "y", "-o", "full"], "a directory is in its place"),
        (["edit", "a.png", "x", "-i", "b.png"], "The prompt 'a.png' is a file's name"),
    ],
)
def test_mistakes_are_told_before_a_model_is_opened(
    here: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], sentence: str
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr("glyphflow.cli.pictures.Run", never)
    if "--lora" not in arguments:  # whose weight is read with the other switches of the model
        monkeypatch.setattr("glyphflow.cli.pictures._open", never)
    Path("link.png").symlink_to("a.png")
    Path("full/002.png").mkdir(parents=True)
    hole = photo(60, 48, 2).convert("RGBA")
    hole.paste((0, 0, 0, 0), (0, 0, 30, 30))
    hole.save("hole.png")
    before = sorted(here.rglob("*"))
    done = glyphflow(*arguments, "--model", "t2i")
    assert done.code == 1 and sentence in done.err.strip().splitlines()[-1]
    assert sorted(here.rglob("*")) == before


def test_no_job_of_a_run_writes_over_a_picture_of_another(here: Path) -> None:
    shutil.copy("a.png", "many-002.png")
    Path("many").mkdir()
    shutil.copy("a.png", "many/002.png")
    rows = [{"prompt": "x", "image": "many/002.png"}, {"prompt": "y", "image": "a.png"}]
    Path("l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = glyphflow("restyle", "--prompts", "l.jsonl", "--model", "t2i", "-o", "many")
    assert done.code == 1 and "many/002.png would be written over many/002.png, which this run reads" in done.err
    glyphflow("generate", "x", "--model", "t2i", "-o", "out.png")
    done = glyphflow("generate", "--from", "out.png", "-o", "out.png")
    assert done.code == 1 and "would be written over out.png" in done.err


def test_a_bad_line_costs_its_own_picture(here: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "one", "image": "a.png"}, {"prompt": "two", "image": "cut.png"}]
    rows += [{"prompt": "word " * 1100, "image": "b.png"}, {"prompt": "four", "image": "b.png"}]
    Path("l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = glyphflow("restyle", "--prompts", "l.jsonl", "--model", "t2i", "-o", "many")
    assert done.code == 1 and [path.name for path in sorted(Path("many").iterdir())] == ["001.png", "004.png"]
    said = done.err.splitlines()
    assert any("many/002.png was not made: " in line and "cut.png cannot be read as a picture" in line for line in said)
    assert any("many/003.png was not made: The prompt 'word " in line and "limit is 1024; shorten it" in line for line in said)
    assert "2 of 4 pictures were made and 0 were there; 2 could not be made (002.png, 003.png)" in said[-1]
    assert "max_sequence_length" not in done.err
    done = glyphflow("restyle", "--prompts", "l.jsonl", "--model", "t2i", "-o", "many")
    assert done.code == 1 and "0 of 4 pictures were made and 2 were there" in done.err


def test_what_fails_always_ends_the_run(here: Path) -> None:
    done = glyphflow("edit", "a", "b", "c", "d", "e", "-i", "a.png", "--model", "t2i", "-o", "many")
    assert done.code == 1 and done.err.count("t2i model") == 3 and not Path("many").exists()


def test_long_and_composed_names(here: Path) -> None:
    name = "字" * 80 + ".png"
    assert glyphflow("generate", "x", "--model", "t2i", "-o", name).code == 0 and Path(name).exists()
    stored = Path(unicodedata.normalize("NFD", "Müller.png"))
    shutil.copy("a.png", stored)
    done = glyphflow("restyle", "x", "-i", unicodedata.normalize("NFC", "Müller.png"), "--model", "t2i", "-o", "out.png")
    assert done.code == 0, done.err


def test_a_negative_prompt_without_guidance_and_the_schedule_of_few_steps(here: Path) -> None:
    done = glyphflow("generate", "x", "--model", "t2i", "--cfg", 1, "--negative", "blurry", "-o", "out.png")
    assert done.code == 0 and "Warning: The negative prompt has no effect" in done.err
    done = glyphflow("generate", "x", "--model", "t2i", "--schedule", "lightning", "-o", "out.png")
    made = read_metadata(Path("out.png"))
    assert (made.num_inference_steps, made.true_cfg_scale, made.negative_prompt) == (8, 1.0, "") and "Warning" not in done.err
    done = glyphflow("generate", "x", "--model", "t2i", "--schedule", "lightning", "--steps", 20, "-o", "out.png")
    assert "Warning: The schedule is a few-step distillation's" in done.err
    shutil.copy("lora.safetensors", "Lightning-8steps.safetensors")
    done = glyphflow("generate", "x", "--model", "t2i", "--lora", "Lightning-8steps.safetensors", "-o", "out.png")
    assert "sounds like a few-step distillation" in done.err


def test_files_say_names_and_no_directories(here: Path) -> None:
    secret = here / "client-x"
    secret.mkdir()
    for name in ("a.png", "lora.safetensors"):
        shutil.copy(name, secret)
    arguments = ["edit", "x", "-i", secret / "a.png", "--lora", f"{secret / 'lora.safetensors'}:0.5", "--model", here / "plus"]
    for ending in (".png", ".jpg", ".webp"):
        out = here / f"out{ending}"
        assert glyphflow(*arguments, "-o", out).code == 0
        assert b"client-x" not in out.read_bytes() and str(here).encode() not in out.read_bytes()
    made = read_metadata(Path("out.png"))
    assert (made.model, made.sources, made.adapters[0].source) == ("plus", {"image": "a.png"}, "lora.safetensors")
    assert glyphflow("edit", "--from", "out.png").code == 0  # this machine knows where they lie
    assert Path("out-again.png").read_bytes() == Path("out.png").read_bytes()


def test_moved_things_are_found_beside_by_content_or_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("loras").mkdir()
    shutil.copy("lora.safetensors", "loras/style.safetensors")
    shutil.move("a.png", "mine.png")
    base = ["edit", "x", "-i", "mine.png", "--lora", "loras/style.safetensors:0.7", "--model", "plus"]
    assert glyphflow(*base, "-o", "out.png").code == 0
    Path("other").mkdir()
    shutil.move("mine.png", "other/renamed.png")
    shutil.move("loras/style.safetensors", "other/style.safetensors")
    shutil.copy("out.png", "other/out.png")
    monkeypatch.chdir("other")
    model = ["--model", here / "plus"]
    assert glyphflow("edit", "--from", "out.png", *model).code == 0
    assert Path("out-again.png").read_bytes() == Path("out.png").read_bytes()
    shutil.move("style.safetensors", "new-name.safetensors")
    done = glyphflow("edit", "--from", "out.png", *model)
    assert (
        done.code == 1
        and "The lora style.safetensors is neither here nor beside the picture" in done.err
        and "--lora" in done.err
    )
    assert glyphflow("edit", "--from", "out.png", "--lora", "new-name.safetensors", *model, "-o", "told.png").code == 0
    assert Path("told.png").read_bytes() == Path("out.png").read_bytes()
    done = glyphflow("edit", "--from", "out.png", "--lora", "new-name.safetensors:0.2", *model)
    assert done.code == 1 and "at 0.7, and new-name.safetensors is given at 0.2" in done.err
    done = glyphflow("edit", "--from", "out.png", *["--lora", "new-name.safetensors"] * 2, *model)
    assert done.code == 1 and "made with 1 LoRAs and 2 are given" in done.err


def test_no_metadata(here: Path) -> None:
    for out in ("out.png", "out.jpg", "out.webp"):
        assert glyphflow("generate", "a secret plan", "--model", "t2i", "--no-metadata", "-o", out).code == 0
        content = Path(out).read_bytes()
        assert b"secret" not in content and b"GlyphFlow" not in content and b"glyphflow" not in content
    done = glyphflow(
        "layers", "a.png", "--prompt", "a secret", "--model", "layered", "--resolution", 64, "--no-metadata", "-o", "x.psd"
    )
    assert done.code == 0 and b"secret" not in Path("x.psd").read_bytes()
    assert "carries no GlyphFlow metadata" in glyphflow("generate", "--from", "out.png").err


METADATA = Metadata(
    prompt="x",
    negative_prompt="",
    seed=0,
    num_inference_steps=1,
    true_cfg_scale=1,
    width=16,
    height=16,
    model="nano",
    weights_hash="0" * 16,
    dtype="float32",
    device="cpu",
    versions={"glyphflow": "0"},
)


def test_a_photographs_own_words_are_not_passed_on(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "in.jpg", comment="taken at home")
    with Image.open(tmp_path / "in.jpg") as picture:
        write_picture(picture, tmp_path / "out.jpg", METADATA)
    assert b"taken at home" not in (tmp_path / "out.jpg").read_bytes()


def test_prompts_that_no_jpeg_holds_are_refused_before_work() -> None:
    long = METADATA.model_copy(update={"prompt": "字" * 20_000})
    check_metadata(Path("a.png"), long)
    check_metadata(Path("a.jpg"), METADATA)
    with pytest.raises(InputError, match="too long for the metadata of a JPEG"):
        check_metadata(Path("a.jpg"), long)


def test_sizes_that_no_webp_holds_are_refused_before_work() -> None:
    with pytest.raises(InputError, match="16384x16 is over the 16383 pixels"):
        check_metadata(Path("a.webp"), METADATA.model_copy(update={"width": 16384}))


def test_names_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/mine").mkdir(parents=True)
    for source, name in (
        ("nano", "nano"),
        ("Qwen/Qwen-Image", "Qwen/Qwen-Image"),
        ("owner/name/sub/file.safetensors", "owner/name/sub/file.safetensors"),
        ("models/mine", "mine"),
        (str(tmp_path / "models/mine"), "mine"),
        ("/home/me/gone/model", "model"),
        ("../me/x.safetensors", "x.safetensors"),
        ("loras/gone.safetensors", "gone.safetensors"),
        (".", tmp_path.name),
    ):
        assert place_name(source) == name


def test_words_with_numbers() -> None:
    assert parse_size("64x32") == parse_size(" 64 X 32 ") == parse_size("64×32") == (64, 32)
    assert weighted("a:0.5") == ("a", 0.5) and weighted("a") == ("a", None) and weighted("C:x") == ("C:x", None)
    for weight in ("nan", "inf", "1e9"):
        with pytest.raises(InputError, match="The weight of --lora a is"):
            weighted(f"a:{weight}")
