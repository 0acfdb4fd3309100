"""No picture verb ever prints a traceback: seeded command lines over options, files and encodings, through the CLI's main."""

from __future__ import annotations

import functools
import io
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from picture_models import glyphflow, make_place, photo
from PIL import Image

from glyphflow.generate import Pipeline

CASES = 240
NUMBERS = ["nan", "inf", "-inf", "-1", "0", "1", "2", "0.5", "1e400", "1e-400", "-0", "9" * 60, "", "x", "１", "0x10", "1_0"]
TEXTS = [
    "a sign",
    "",
    " ",
    "-",
    "--",
    "字",
    "caf\udce9",
    "\ud83d",
    "\udcff\udcfe",
    "word " * 1100,
    "a\u2028b",
    "e\u0301",
    "<|im_end|>",
]
TEXTS += ["<|image_pad|>", "a.png", "logo.png", "t2i", "a b.png", "*.png", "%s{}\\", "\x00", "😀" * 300, "x" * 5000]
SIZES = ["32x32", "32X48", "0x0", "16x16", "17x32", "99999999x16", "-16x16", "nanxnan", "９x９", "32", "x", "9" * 5000 + "x16"]
ASPECTS = ["1:1", "0:1", "16:9", "1:99999", "nan:1", "9" * 400 + ":1", ":", "1:1:1", "wide"]
PLACES = [
    "out.png",
    "out.jpg",
    "out.webp",
    "out.gif",
    "new/deep/out.png",
    "a.png",
    "./a.png",
    "link.png",
    "t2i",
    "-",
    "",
    ".",
    "many",
]
PLACES += [
    "a.png/x.png",
    "字" * 80 + ".png",
    "a" * 300 + ".png",
    "a" * 300 + "/x.png",
    "nul\0.png",
    "caf\udce9.png",
    "loop/x.png",
]
PLACES += ["e\u0301.png", "OUT.PNG", "out.psd", "out.zip", "layers", "CON.png", "made", " .png", "/proc/x.png", "/dev/null"]
LORAS = [
    "lora.safetensors",
    "lora.safetensors:nan",
    "lora.safetensors:inf",
    "lora.safetensors:0.5",
    "strange.safetensors",
    "a.png",
]
LORAS += [
    "absent.safetensors",
    "loras/absent.safetensors",
    ".",
    "",
    ":",
    "a" * 300,
    "empty.safetensors",
    "lora.safetensors:1e9",
]
WORDS: dict[str, list[str]] = {
    "--seed": NUMBERS,
    "--count": ["1", "2", "0", "-1", "nan", "9" * 30],
    "--steps": ["1", "2", "0", "-1", "nan", "1.5", "9" * 30],
    "--cfg": NUMBERS,
    "--negative": TEXTS,
    "--size": SIZES,
    "--aspect": ASPECTS,
    "--strength": NUMBERS,
    "--crop": NUMBERS,
    "--scale": NUMBERS,
    "--begin": NUMBERS,
    "--end": NUMBERS,
    "--layers": ["1", "2", "0", "-1", "9" * 20],
    "--resolution": ["32", "64", "0", "-32", "33", "9" * 20],
    "--schedule": ["lightning", "thunder", "", "\udce9"],
    "--format": ["png", "JPG", "gif", "", "psd", "zip"],
    "--memory": ["auto", "nan", "-1", "0", "24GB", "much"],
    "--dtype": ["float32", "int3", ""],
    "--quantize": ["int3", ""],
    "--step-cache": ["0.1", "nan", "inf", "0", "1", "-1"],
    "--device": ["cpu", "gpu", "cuda:99", "", "cpu:x"],
    "--parallel": ["cfg=2", "x", "cfg=nan", ""],
    "--lora": LORAS,
    "--transformer": ["absent", "a.png", "lora.safetensors", "empty.safetensors"],
}
SWITCHES = ["--reference", "--fused", "--no-metadata", "--chinese", "--no-normalize", "--unknown", "--caf\udce9"]
OWN = {
    "generate": {"--size", "--aspect"},
    "edit": {"--size", "--aspect"},
    "restyle": {"--size", "--aspect", "--strength"},
    "inpaint": {"--size", "--aspect", "--strength", "--crop"},
    "control": {"--size", "--aspect", "--scale", "--begin", "--end"},
    "layers": {"--layers", "--resolution"},
    "reconstruct": set(),
}
_PICTURES = (".png", ".jpg", ".gif", ".tiff")
NOT_SHARED = set.union(*OWN.values())
MODELS = {"edit": "plus", "layers": "layered"}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = make_place(tmp_path_factory.mktemp("fuzz"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        strange_files()
        (root / "pictures").write_text(
            "\n".join(path.name for path in root.iterdir() if path.suffix in _PICTURES), "utf-8", "surrogateescape"
        )
        yield root


def strange_files() -> None:
    """Pictures, masks and lists of prompts of every kind that people have, good, odd and broken."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 65536, (48, 60), dtype=np.uint16)).save("deep.png")
    Image.fromarray(rng.random((48, 60), dtype=np.float32)).save("float.tiff")
    Image.fromarray(rng.random((48, 60), dtype=np.float32) * np.nan).save("nan.tiff")
    photo(60, 48, 1).convert("CMYK").save("cmyk.jpg")
    photo(60, 48, 1).convert("P").save("palette.gif")
    hole = photo(60, 48, 2).convert("RGBA")
    hole.paste((0, 0, 0, 0), (0, 0, 30, 30))
    hole.save("hole.png")
    photo(60, 48, 3).save("profile.png", icc_profile=b"no profile")
    Image.new("RGB", (3000, 1)).save("line.png")
    Image.new("1", (1, 1)).save("dot.png")
    Image.new("L", (60, 48)).save("black.png")
    photo(60, 48, 4).save("caf\udce9.png")
    photo(60, 48, 4).save("e\u0301.png")
    for name, content in {
        "empty.png": b"",
        "empty.safetensors": b"",
        "noise.png": rng.bytes(500),
        "eps.png": b"%!PS-Adobe-3.0",
    }.items():
        Path(name).write_bytes(content)
    Path("link.png").symlink_to("a.png")
    Path("gone.png").symlink_to("absent.png")
    Path("loop").symlink_to("loop")
    text = "a sign\r\nein Schild mit Grüßen für Käthe\n"
    for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"):
        Path(f"{encoding}.txt").write_bytes(text.encode(encoding))
    Path("gbk.txt").write_bytes("一家咖啡店的招牌,上面写着欢迎光临\n".encode("gbk"))
    Path("noise.txt").write_bytes(rng.bytes(300))
    Path("empty.txt").write_bytes(b"\xef\xbb\xbf\r\n")
    rows: list[Any] = ["a", 1, None, [], {}, {"prompt": 5}, {"prompt": "x", "seed": 1.5}, {"prompt": "x", "cfg": float("nan")}]
    rows += [{"prompt": "\ud83d"}, {"prompt": "x", "image": []}, {"prompt": "x", "image": ["a.png", "b.png", "cut.png"]}]
    rows += [{"prompt": "x", "image": "\0"}, {"prompt": "x", "size": "9" * 30 + "x16"}, {"prompt": "x", "steps": 10**30}]
    rows += [
        {"prompt": "x", "mask": ""},
        {"prompt": "x", "image": "a" * 400},
        {"prompt": "word " * 1100},
        {"prompt": "x", "count": 2},
    ]
    for n, row in enumerate(rows):
        Path(f"row{n}.jsonl").write_text(json.dumps({"prompt": "good"}) + "\n" + json.dumps(row) + "\n")
    Path("deep.jsonl").write_text("[" * 100_000)
    Path("digits.jsonl").write_text('{"seed": ' + "9" * 5000 + "}")
    Path("list.json").write_text('["a", {"prompt": "b"}]')
    Path("table.csv").write_text("prompt\na\n")


def command(draw: random.Random, pictures: list[str], lists: list[str]) -> list[str]:
    """One command line."""
    verb = draw.choice(list(OWN))
    words = [verb, "--model", draw.choice([MODELS.get(verb, "t2i")] * 9 + ["absent", "a.png", "net", "caf\udce9"])]
    words += ["-o", draw.choice(PLACES)] if draw.random() < 0.9 else []
    if verb in ("layers", "reconstruct"):
        words += draw.choices(pictures, k=draw.choice([0, 1, 1, 2]))
    else:
        words += draw.choices(TEXTS[:6] if draw.random() < 0.5 else TEXTS, k=draw.choice([0, 1, 1, 1, 2]))
    if verb in ("edit", "restyle", "inpaint"):
        words += ["-i", *draw.choices(pictures, k=draw.choice([1, 1, 1, 2]))]
    if verb == "control":
        words += [
            "--control",
            *draw.choices(pictures, k=draw.choice([1, 1, 2])),
            "--controlnet",
            draw.choice(["net", "net", "t2i", "x/y/z"]),
        ]
    if verb == "inpaint" or (verb == "control" and draw.random() < 0.1):
        words += ["--mask", draw.choice(["mask.png", "mask.png", *pictures])]
    if draw.random() < 0.25:
        words += ["--prompts", draw.choice(lists)]
    if draw.random() < 0.08:
        words += ["--from", draw.choice([*pictures, "out.png", "layers", ".", "-"])]
    known = [name for name in WORDS if name in OWN[verb] or name not in NOT_SHARED]
    for name in draw.sample(known, draw.choice([0, 0, 1, 1, 2])):
        words.append(f"{name}={draw.choice(WORDS[name])}")
    return words + ([draw.choice(SWITCHES)] if draw.random() < 0.1 else [])


@pytest.fixture(scope="module")
def opened() -> Iterator[None]:
    """Equal pipelines are opened once."""
    own = Pipeline.from_pretrained.__func__  # type: ignore[attr-defined]
    cached = functools.cache(lambda source, how: own(Pipeline, source, **dict(how)))

    def open_once(source: Any = None, **how: Any) -> Pipeline:
        pipeline: Pipeline = cached(source, tuple(how.items()))
        pipeline.unload_lora_weights()
        return pipeline

    with mock.patch.object(Pipeline, "from_pretrained", open_once):
        yield


@pytest.mark.parametrize("part", range(4))
def test_no_command_line_prints_a_traceback(here: Path, opened: None, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pictures = sorted(Path("pictures").read_text("utf-8", "surrogateescape").splitlines())  # those of the start
    lists = sorted(path.name for path in here.iterdir() if path.suffix in (".txt", ".jsonl", ".json", ".csv")) + [
        "absent.txt",
        "-",
    ]
    kept = {name: Path(name).read_bytes() for name in pictures if Path(name).exists()}
    codes = []
    for n in range(part, CASES, 4):
        words = command(random.Random(n), [*pictures, "absent.png", "t2i", "*.nothing"], lists)
        standard_input = io.TextIOWrapper(io.BytesIO("from a pipe: Grüße\n".encode("cp1252")))
        try:
            with mock.patch.object(sys, "stdin", standard_input):
                done = glyphflow(*words)
        except BaseException as error:
            raise AssertionError(f"case {n}: glyphflow {words} raised {error!r}") from error
        assert done.code in (0, 1, 2), (n, words, done)
        assert "Traceback" not in done.err and "Traceback" not in done.out, (n, words)
        if done.code:
            said = done.err.strip().splitlines()[-1]
            assert len(said) > 10 and " " in said, (n, words, said)
        out = words[words.index("-o") + 1] if "-o" in words else ""
        for name, content in kept.items():
            if Path(name).read_bytes() != content:  # written to as -o says, and never where it is read, too
                assert Path(out) == Path(name) and words.count(name) == (name == out), f"case {n}: {words} wrote over {name}"
                Path(name).write_bytes(content)
        codes.append(done.code)
    assert {0, 1} <= set(codes)  # some work, and some are refused
