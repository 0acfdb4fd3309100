"""The verbs that make pictures, through the command line: every one works, is made again, continues, and is refused clearly."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from picture_models import glyphflow, make_place, photo
from PIL import Image

from glyphflow.generate import read_metadata, write_picture

VERBS = {
    "generate": ["generate", "a cat", "--model", "t2i", "--aspect", "4:3", "--negative", "dog", "--seed", 3, "-o", "out.png"],
    "edit": ["edit", "make it red", "-i", "a.png", "-i", "b.png", "--model", "plus", "--size", "64x48", "-o", "out.png"],
    "restyle": ["restyle", "water", "-i", "a.png", "--model", "t2i", "--strength", 1, "-o", "out.png"],
    "inpaint": ["inpaint", "door", "-i", "a.png", "--mask", "mask.png", "--model", "t2i", "--crop", 4, "-o", "out.png"],
    "control": ["control", "house", "--control", "a.png", "--controlnet", "net", "--model", "t2i", "-o", "out.png"],
    "two controls": ["control", "x", *["--control", "a.png", "--control", "b.png"], "--controlnet", "net", "--scale", 0.5]
    + ["--model", "t2i", "-o", "out.png"],
    "layers": ["layers", "a.png", "--prompt", "a poster", "--model", "layered", "--resolution", 64, "-o", "out.psd"],
    "layers as zip": [
        "layers",
        "a.png",
        "--prompt",
        "x",
        "--model",
        "layered",
        "--resolution",
        64,
        "--layers",
        2,
        "-o",
        "out.zip",
    ],
    "reconstruct": ["reconstruct", "a.png", "--model", "t2i", "-o", "out.png"],
    "as jpeg": ["generate", "“字” & <x>\v", "--model", "t2i", "--schedule", "lightning", "--steps", 4, "-o", "out.jpg"],
    "as webp": ["restyle", "one\ntwo", "-i", "a.png", "--model", "t2i", "-o", "out.webp"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.fixture(autouse=True)
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory with links to the models and copies of the pictures."""
    for source in place.iterdir():
        if source.is_dir() or source.suffix == ".safetensors":
            (tmp_path / source.name).symlink_to(source)
        else:
            shutil.copy(source, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", VERBS)
def test_every_verb_makes_the_same_file_again(case: str) -> None:
    arguments = VERBS[case]
    out = Path(str(arguments[-1]))
    done = glyphflow(*arguments)
    assert (done.code, done.out.split(":")[0].strip()) == (0, str(out)), done.err
    metadata = read_metadata(out)
    assert metadata.task == arguments[0]
    given = [str(argument) for argument in arguments if str(argument) in ("a.png", "b.png", "mask.png")]
    assert list(metadata.sources.values()) == given and metadata.inputs.keys() == metadata.sources.keys()
    done = glyphflow(arguments[0], "--from", out)
    assert done.code == 0, done.err
    assert out.with_stem("out-again").read_bytes() == out.read_bytes()


def test_what_the_file_says(here: Path) -> None:
    glyphflow(*VERBS["generate"])
    made = read_metadata(Path("out.png"))
    assert (made.prompt, made.negative_prompt, made.seed, made.width, made.height) == ("a cat", "dog", 3, 80, 48)
    glyphflow(*VERBS["edit"])
    made = read_metadata(Path("out.png"))
    assert made.sources == {"image": "a.png", "image 2": "b.png"} and (made.width, made.height) == (64, 48)
    glyphflow(*VERBS["restyle"])
    made = read_metadata(Path("out.png"))
    assert made.settings == {"strength": 1} and (made.width, made.height) == (64, 64)  # 5:4 in multiples of 32
    glyphflow(*VERBS["inpaint"])
    assert read_metadata(Path("out.png")).settings == {"strength": 0.6, "padding_mask_crop": 4}
    with Image.open("out.png") as out, Image.open("a.png") as before:
        assert out.size == before.size and out.getpixel((50, 5)) == before.getpixel((50, 5))
    glyphflow(*VERBS["as jpeg"])
    made = read_metadata(Path("out.jpg"))
    assert (made.prompt, made.settings, made.num_inference_steps) == ("“字” & <x>\v", {"schedule": "lightning"}, 4)
    with Image.open("out.jpg") as image:
        assert image.format == "JPEG" and "“字” &amp; &lt;x&gt;" in image.info["xmp"].decode()


def test_layers_are_files(here: Path) -> None:
    arguments = VERBS["layers"][:-1]
    assert glyphflow(*arguments, "parts").code == 0
    names = [f"layer-0{n}.png" for n in (1, 2, 3, 4)]
    assert sorted(path.name for path in Path("parts").iterdir()) == ["flattened.png", *names, "manifest.json"]
    assert all(read_metadata(Path("parts", name)).prompt == "a poster" for name in names)
    assert glyphflow("layers", "--from", "parts").code == 0
    assert Path("parts-again/layer-03.png").read_bytes() == Path("parts/layer-03.png").read_bytes()
    Path("parts/mine.txt").write_text("dear")
    done = glyphflow(*arguments, "parts")
    assert done.code == 1 and "other files than layers, such as mine.txt" in done.err
    assert Path("parts/mine.txt").read_text() == "dear"
    assert glyphflow(*arguments, "x", "--format", "psd", "--count", 2).code == 0
    assert sorted(path.name for path in Path("x").iterdir()) == ["001.psd", "002.psd"]


def test_switches_reach_the_picture(here: Path) -> None:
    base = ["generate", "a cat", "--model", "t2i", "--steps", 4, "-o", "out.png"]
    glyphflow(*base, "--quantize", "int8", "--step-cache", 0.1, "--lora", "lora.safetensors:0.5", "--lora", "lora.safetensors")
    made = read_metadata(Path("out.png"))
    assert made.approximate == ("int8 weights", "step cache 0.1")
    assert [(used.source, used.weight) for used in made.adapters] == [("lora.safetensors", 0.5), ("lora.safetensors", 1.0)]
    assert glyphflow("generate", "--from", "out.png").code == 0
    assert Path("out-again.png").read_bytes() == Path("out.png").read_bytes()
    glyphflow(*base, "--reference")
    speed = read_metadata(Path("out.png")).speed or {}
    assert not any(speed.values())
    glyphflow(*base, "--transformer", "t2i/transformer/diffusion_pytorch_model.safetensors")
    other = read_metadata(Path("out.png"))
    assert other.transformer == "diffusion_pytorch_model.safetensors" and other.speed != speed


def test_one_of_several_loras_is_found_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *names: asked.append(names) or "lora.safetensors")
    base = ["generate", "a cat", "--model", "t2i", "-o", "out.png"]
    assert glyphflow(*base, "--lora", "owner/name/sub/8-steps.safetensors:0.5").code == 0
    assert read_metadata(Path("out.png")).adapters[0].source == "owner/name/sub/8-steps.safetensors"
    assert glyphflow("generate", "--from", "out.png").code == 0
    assert asked == [("owner/name", "sub/8-steps.safetensors")] * 2
    done = glyphflow(*base, "--lora", ".")
    assert done.code == 1 and "2 .safetensors files" in done.err and "choose one, such as ./lora.safetensors" in done.err


def test_lines_of_a_file(here: Path) -> None:
    lines = [
        {"prompt": "one", "image": "../a.png", "seed": 7, "strength": 1.0},
        {"prompt": "two", "size": "32x48", "negative": "dull", "steps": 3, "cfg": 1.5, "count": 2},
    ]
    Path("data").mkdir()
    Path("data/lines.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    done = glyphflow(
        "restyle", "--prompts", "data/lines.jsonl", "-i", "b.png", "--aspect", "1:1", "--model", "t2i", "-o", "many"
    )
    assert done.code == 0, done.err
    one, two, three = (read_metadata(Path(f"many/00{n}.png")) for n in (1, 2, 3))
    assert one.sources == {"image": "a.png"} and (one.seed, one.settings) == (7, {"strength": 1.0})
    assert (one.width, one.height, two.width, two.height) == (64, 64, 32, 48)
    assert (two.negative_prompt, two.num_inference_steps, two.true_cfg_scale) == ("dull", 3, 1.5)
    assert two.sources == {"image": "b.png"} and [two.seed, three.seed] == [0, 1]
    assert "picture 3 of 3 (" in done.err


def test_finished_pictures_are_left_alone(here: Path) -> None:
    Path("lines.txt").write_text("one\ntwo\nthree\n")
    arguments = ["generate", "--prompts", "lines.txt", "--model", "t2i", "-o", "many"]
    assert glyphflow(*arguments).code == 0
    files = [Path(f"many/00{n}.png") for n in (1, 2, 3)]
    files[1].unlink()
    whole = files[2].read_bytes()
    files[2].write_bytes(whole[:50])  # half a file, as another program may leave
    before = files[0].stat().st_mtime_ns
    done = glyphflow(*arguments)
    assert done.out.split() == [str(path) for path in files]
    assert "1 of 3 pictures were there" in done.err and "picture 1 of 3" not in done.err
    assert files[0].stat().st_mtime_ns == before and files[2].read_bytes() == whole
    Path("lines.txt").write_text("other\ntwo\nthree\n")
    assert "2 of 3 pictures were there" in glyphflow(*arguments).err
    assert read_metadata(files[0]).prompt == "other"
    assert "pictures were there" not in glyphflow(*arguments, "--step-cache", 0.1).err


def test_inputs_are_found_and_checked(here: Path) -> None:
    again = ["restyle", "--from", "made/out.png", "--model", here / "t2i"]
    glyphflow(*VERBS["restyle"][:-1], "made/out.png")
    shutil.move("a.png", "elsewhere.png")
    done = glyphflow(*again)
    assert done.code == 1 and "The image of made/out.png was a.png and is not there" in done.err and "--image" in done.err
    assert glyphflow(*again, "-i", "elsewhere.png").code == 0
    assert Path("made/out-again.png").read_bytes() == Path("made/out.png").read_bytes()
    made = read_metadata(Path("made/out.png"))
    with Image.open("made/out.png") as image:
        write_picture(image, Path("nameless.png"), made.model_copy(update={"sources": {}}))
    done = glyphflow("restyle", "--from", "nameless.png")
    assert done.code == 1 and "The image of nameless.png came from no file; give it as --image." in done.err
    shutil.move("elsewhere.png", "made/a.png")  # beside the picture
    assert glyphflow(*again).code == 0
    then = read_metadata(Path("made/out.png")).inputs["image"]
    photo(60, 48, 9).save("a.png")
    done = glyphflow(*again)
    assert done.code == 1 and f"was {then}" in done.err and "a.png is" in done.err
    done = glyphflow("generate", "--from", "made/out.png")
    assert done.code == 1 and "write: glyphflow restyle --from made/out.png" in done.err


MISTAKES: dict[str, tuple[list[object], str]] = {
    "wrong size": (["generate", "x", "--size", "100x64"], "100x64 (width x height) is not made of multiples of 16; nearest is"),
    "wrong aspect": (["generate", "x", "--aspect", "wide"], "'wide' is not width:height"),
    "size and aspect": (["generate", "x", "--aspect", "1:1", "--size", "64x64"], "--size is 64x64 and --aspect is 1:1"),
    "empty prompt": (["generate", "good", " "], "Prompt 2: the prompt is empty"),
    "long prompt": (["generate", "word " * 1100], "1024"),
    "no prompt": (["edit", "-i", "a.png"], "There is no prompt; try: glyphflow edit"),
    "zero steps": (["generate", "x", "--steps", 0], "--steps is 0; it must be at least 1"),
    "unknown dtype": (["generate", "x", "--dtype", "int3"], "--dtype is int3; it can be float32, bfloat16, float16"),
    "unknown quantize": (["generate", "x", "--quantize", "int3"], "int3"),
    "unknown schedule": (["generate", "x", "--schedule", "thunder"], "thunder"),
    "unknown memory": (["generate", "x", "--memory", "much"], "memory is 'much'; it can be 'auto', 'resident', 'streamed' or"),
    "memory of the CPU": (["generate", "x", "--memory", "8GB", "--device", "cpu"], "memory is '8GB' and the device is cpu"),
    "step cache": (["generate", "x", "--step-cache", 2], "step_cache is 2.0; it is a share between 0 and 1"),
    "contradicting speeds": (["generate", "x", "--reference", "--fused"], "--fused was given; choose one"),
    "no model": (["generate", "x", "--model", "nowhere"], "nowhere"),
    "no transformer": (["generate", "x", "--transformer", "none.safetensors"], "none.safetensors"),
    "wrong kind": (["edit", "x", "-i", "a.png"], "This is a t2i model (QwenImagePipeline) and edit needs edit or edit-plus"),
    "wrong kind for layers": (["layers", "a.png"], "This is a t2i model (QwenImagePipeline) and layers needs layered"),
    "layers generate nothing": (["generate", "x", "--model", "layered"], "layered model"),
    "strange lora": (["generate", "x", "--lora", "strange.safetensors"], "strange.safetensors"),
    "no lora": (["generate", "x", "--lora", "none.safetensors:0.5"], "none.safetensors"),
    "no picture": (["restyle", "x"], "glyphflow restyle needs a picture; give it as --image"),
    "no picture there": (["restyle", "x", "-i", "none.png"], "none.png cannot be read as a picture: there is no such file"),
    "not a picture": (["restyle", "x", "-i", "text.png"], "text.png cannot be read as a picture"),
    "half a picture": (["reconstruct", "cut.png"], "cut.png cannot be read as a picture"),
    "mask of another size": (
        ["inpaint", "x", "-i", "a.png", "--mask", "small.png"],
        "The mask small.png is 20x48 and the picture a.png is 60x48",
    ),
    "no ControlNet": (["control", "x", "--control", "a.png"], "There is no ControlNet; name one with --controlnet"),
    "too strong": (["restyle", "x", "-i", "a.png", "--strength", 2], "strength is 2.0; it must be between 0"),
    "too weak": (["restyle", "x", "-i", "a.png", "--strength", 0], "A strength of 0.0 leaves none of 2 steps"),
    "RGBA to JPEG": (["reconstruct", "a.png", "--model", "layered", "-o", "x.jpg"], "JPEG holds no transparency"),
    "layers to JPEG": (["layers", "a.png", "--model", "layered", "-o", "x.jpg"], "JPEG holds no transparency"),
    "unknown format": (["generate", "x", "--format", "gif"], "--format is gif; it can be png, jpg, webp, jpeg"),
    "two formats": (["generate", "x", "--format", "jpg", "-o", "x.png"], "--format is jpg and -o is x.png"),
    "a file in the way": (["generate", "x", "-o", "a.png/x/y.png"], "a.png is a file and no directory"),
    "one file for two": (["generate", "x", "y", "-o", "x.webp"], "2 pictures need a directory, and -o is x.webp"),
    "count": (["generate", "x", "--count", 0], "--count is 0; it must be at least 1"),
    "from and more": (["generate", "--from", "a.png", "--seed", 1, "--compile"], "--compile, --seed was given"),
    "from a plain picture": (["generate", "--from", "a.png"], "a.png carries no GlyphFlow metadata"),
    "misspelt key": (["generate", "--prompts", "misspelt.jsonl"], "misspelt.jsonl, line 2: unknown key 'promt'; did you mean"),
    "broken line": (["generate", "--prompts", "broken.jsonl"], "broken.jsonl, line 1: this is no JSON ("),
    "a list": (["generate", "--prompts", "list.jsonl"], "list.jsonl, line 1: this is no JSON object"),
    "useless key": (["generate", "--prompts", "useless.jsonl"], "useless.jsonl, line 1: glyphflow generate takes no image"),
    "empty file": (["generate", "--prompts", "empty.txt"], "empty.txt holds no prompt"),
}
FILES = {
    "misspelt.jsonl": '{"prompt": "a"}\n{"promt": "b"}\n',
    "broken.jsonl": '{"prompt": "a"\n',
    "list.jsonl": '["a"]\n',
    "useless.jsonl": '{"prompt": "a", "image": "a.png"}\n',
    "empty.txt": "\n\n",
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_sentence(here: Path, case: str) -> None:
    arguments, sentence = MISTAKES[case]
    for name, content in FILES.items():
        Path(name).write_text(content)
    before = sorted(here.iterdir())
    model = [] if "--model" in arguments else ["--model", "t2i"]
    done = glyphflow(*arguments, *([] if "--from" in arguments else model))
    assert done.code == 1
    assert sentence in done.err.strip().splitlines()[-1]
    assert sorted(here.iterdir()) == before


def test_a_lost_shard_is_named(here: Path, place: Path) -> None:
    shutil.copytree(place / "t2i", "broken")
    weights = Path("broken/transformer/diffusion_pytorch_model.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-7])
    done = glyphflow("generate", "x", "--model", "broken")
    assert done.code == 1 and f"is {len(whole) - 7} bytes, but its header describes {len(whole)}" in done.err
    weights.unlink()
    done = glyphflow("generate", "x", "--model", "broken")
    assert done.code == 1 and "broken/transformer" in done.err


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions bind neither Windows directories nor root")
def test_a_directory_that_may_not_be_written(here: Path) -> None:
    Path("closed").mkdir(mode=0o500)
    done = glyphflow("generate", "x", "--model", "t2i", "-o", "closed/x.png")
    assert done.code == 1 and "closed may not be written to" in done.err


def test_one_bad_line_says_which_picture(here: Path) -> None:
    done = glyphflow("generate", "fine", "word " * 1100, "--model", "t2i", "-o", "many")
    assert done.code == 1 and "many/002.png was not made: " in done.err and "1024" in done.err
    assert [path.name for path in Path("many").iterdir()] == ["001.png"]
