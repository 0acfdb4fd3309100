"""No file, option or encoding makes a verb of ``evaluate`` print a traceback: it works, or it says why not in a sentence.

In process and seeded. The judge of texts is a function, since what is looked at is how files and options are read.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import glyphflow.cli.judges
import glyphflow.cli.main
from glyphflow.evaluate import Case, Verdict

WORDS = ("OPEN", "你好 世界", "Don’t – panic…")
SEEDS = 16


class Reader:
    """Reads the same in every picture."""

    kinds = frozenset({"ocr"})
    identity = "reader/1"

    def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
        lines = [{"text": text, "box": [[0.0, 0.0]] * 4, "confidence": 1.0, "whole": False} for text in WORDS]
        return [Verdict("ok", lines, {}, self.identity) for _ in cases]


@pytest.fixture(autouse=True)
def own_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    real = glyphflow.cli.judges.judges
    monkeypatch.setattr(
        glyphflow.cli.judges,
        "judges",
        lambda options, kinds: real(options, kinds) if options.replies else [Reader()],
    )


def gf(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """Exit code and output of a command; whatever is no sentence fails the test."""
    monkeypatch.setattr(sys, "argv", ["glyphflow", *map(str, args)])
    try:
        glyphflow.cli.main.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    except BaseException as error:
        raise AssertionError(f"{[str(arg) for arg in args]} raised {type(error).__name__}: {error}") from error
    out, err = capsys.readouterr()
    assert code in (0, 1, 2), (args, code, err)
    assert "Traceback" not in out + err, args
    if code:
        assert err.strip() and len(err.strip().splitlines()[-1]) > 12, (args, code, err)
    return code, out, err


def prompts(words: Sequence[str] = WORDS) -> list[dict[str, Any]]:
    return [
        {"id": f"s{n}", "prompt": f"“{word}”", "language": "en", "targets": [word], "seed": n} for n, word in enumerate(words)
    ]


def lines(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def folder(place: Path, sized: tuple[int, int] = (48, 24)) -> Path:
    place.mkdir(parents=True)
    (place / "prompts.jsonl").write_text(lines(prompts()), encoding="utf-8")
    manifest = {"format": 2, "benchmark": "mine", "model": "x", "settings": {"width": 48, "height": 24}}
    (place / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    for row in prompts():
        Image.new("RGB", sized, "white").save(place / f"{row['id']}.png")
    return place


def encodings(text: str) -> dict[str, bytes]:
    """The same text as other programs write it, and as accidents leave it."""
    data = text.encode()
    return {
        "utf-8": data,
        "bom": b"\xef\xbb\xbf" + data,
        "crlf": data.replace(b"\n", b"\r\n"),
        "utf-16": text.encode("utf-16"),
        "utf-16-be": b"\xfe\xff" + text.encode("utf-16-be"),
        "gb18030": text.encode("gb18030"),
        "cut": data[: len(data) * 2 // 3],
        "cut in a character": text.encode()[: text.encode().index("你".encode()) + 1] if "你" in text else data[:-1],
        "bytes": bytes(range(256)) * 3,
        "zeros": bytes(64),
        "empty": b"",
        "blank": b"\n \n\r\n",
        "latin-1": data.replace(b"x", b"\xe9"),
        "list": b"[1, 2, 3]\n",
        "number": b"17\n",
        "nan": b'{"format": NaN, "benchmark": Infinity}\n',
        "deep": b"[" * 100_000 + b"\n",
        "null": b"null\n",
        "surrogate": b'{"id": "\\ud800", "prompt": "\\udfff", "language": "en", "targets": ["\\ud83d"], "seed": 1}\n',
    }


@pytest.mark.parametrize("name", ["manifest.json", "prompts.jsonl", "verdicts.jsonl", "scores.json"])
def test_files_of_a_folder_in_any_encoding(name: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    made = folder(tmp_path / "made")
    assert gf(monkeypatch, capsys, "evaluate", "score", made, "--no-ceiling")[0] == 0
    text = (made / name).read_text(encoding="utf-8")
    codes = {}
    for label, data in encodings(text).items():
        (made / name).write_bytes(data)
        if name != "scores.json":
            codes[label] = gf(monkeypatch, capsys, "evaluate", "score", made, "--no-ceiling")[0]
        else:
            codes[label] = gf(monkeypatch, capsys, "evaluate", "report", made, "-o", tmp_path / "page.html")[0]
            gf(monkeypatch, capsys, "evaluate", "compare", made, made, "--resamples", 100)
        (made / "verdicts.jsonl").unlink() if label != "utf-8" and name == "verdicts.jsonl" else None
    assert all(codes[label] == 0 for label in ("utf-8", "bom", "crlf", "utf-16", "utf-16-be"))
    assert codes["bytes"] == (0 if name == "verdicts.jsonl" else 1)


def test_a_place_that_is_a_directory_or_nothing(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    for name in ("manifest.json", "prompts.jsonl", "verdicts.jsonl", "scores.json"):
        made = folder(tmp_path / f"of-{name}")
        (made / name).unlink(missing_ok=True)
        for verb in (("score",), ("report",), ("compare", made)):
            gf(monkeypatch, capsys, "evaluate", *verb, made)
        (made / name).unlink(missing_ok=True)
        (made / name).mkdir()
        for verb in (("score",), ("report",), ("compare", made)):
            gf(monkeypatch, capsys, "evaluate", *verb, made)
    for nothing in (tmp_path / "nothing", tmp_path / "照片", tmp_path / ("n" * 300), "\0", "", made / "s0.png"):
        for verb in (("score",), ("report",), ("prompts",), ("compare", made)):
            assert gf(monkeypatch, capsys, "evaluate", *verb, nothing)[0] in (1, 2)


def picture(kind: str) -> bytes:
    """A small picture, or what has the name of one."""
    chance, buffer = np.random.default_rng(3), io.BytesIO()
    rgb = Image.fromarray(chance.integers(0, 255, (24, 48, 3), dtype=np.uint8))
    if kind == "16 bit":
        Image.fromarray(chance.integers(0, 65_535, (24, 48), dtype=np.uint16)).save(buffer, "PNG")
    elif kind == "cmyk":
        rgb.convert("CMYK").save(buffer, "JPEG")
    elif kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        rgb.save(buffer, "JPEG", exif=exif)
    elif kind in ("LA", "RGBA", "P", "1", "L"):
        rgb.convert(kind).save(buffer, "PNG")
    elif kind == "I":
        rgb.convert("L").convert("I").save(buffer, "TIFF")
    elif kind == "float":
        Image.fromarray(np.full((24, 48), np.nan, np.float32)).save(buffer, "TIFF")
    elif kind == "point":
        Image.new("RGB", (1, 1)).save(buffer, "PNG")
    elif kind == "strip":
        Image.new("RGB", (1, 900)).save(buffer, "PNG")
    elif kind in ("WEBP", "GIF", "BMP", "AVIF", "TIFF"):
        rgb.save(buffer, kind)
    elif kind == "eps":
        buffer.write(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    elif kind == "text":
        buffer.write(b"no picture")
    elif kind == "empty":
        pass
    else:
        rgb.save(buffer, "PNG")
    data = buffer.getvalue()
    return data[: len(data) // 2] if kind == "cut" else data


KINDS = ("16 bit", "cmyk", "turned", "LA", "RGBA", "P", "1", "I", "L", "float", "point", "strip", "WEBP", "GIF", "BMP", "AVIF",
         "TIFF", "eps", "text", "empty", "cut", "plain")  # fmt: skip
ENDINGS = (".png", ".PNG", ".jpg", ".JPG", ".Jpeg", ".webp", ".AVIF", ".tif", ".bmp", ".gif", ".txt", "", ".png.part")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_any_files_in_the_place_of_pictures(seed: int, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    chance, made = random.Random(seed), folder(tmp_path / "made")
    stems = [*(row["id"] for row in prompts()), "S1", "s1 copy", ".hidden", "é", "e\u0301"]
    for row in prompts():
        if chance.random() < 0.7:
            (made / f"{row['id']}.png").unlink()
    for _ in range(chance.randint(0, 9)):
        path = made / (chance.choice(stems) + chance.choice(ENDINGS))
        if not path.exists():
            path.write_bytes(picture(chance.choice(KINDS)))
    if chance.random() < 0.3:
        (made / "s2.jpg").mkdir(exist_ok=False) if not (made / "s2.jpg").exists() else None
    if chance.random() < 0.3 and not (made / "s0.webp").exists():
        (made / "s0.webp").symlink_to(made / "s0.webp")
    code, out, _ = gf(monkeypatch, capsys, "evaluate", "score", made, *(["--no-ceiling"] if seed % 2 else []))
    if code == 0:
        scores = json.loads((made / "scores.json").read_text(encoding="utf-8"))
        found = scores["pictures"]
        assert found["taken"] + len(found["missing"]) == 3 and f"{found['taken']} of 3 pictures were there" in out
        taken = {name for sample in scores["samples"] for name in sample["pictures"]}
        there = {
            path.name for path in made.iterdir() if path.is_file() and path.suffix.lower() in PICTURES and path.name[0] != "."
        }
        assert there == (taken - set(found["missing"])) | set(found["left_out"])
        assert gf(monkeypatch, capsys, "evaluate", "report", made, "-o", tmp_path / "page.html")[0] == 0
        assert gf(monkeypatch, capsys, "evaluate", "compare", made, made, "--resamples", 100)[0] in (0, 1)


PICTURES = {ending.lower() for ending in ENDINGS} - {".txt", "", ".part"}
JUNK = (
    None,
    True,
    -1,
    0,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    [],
    [[]],
    {},
    {"a": None},
    "²",
    "9" * 5000,
)


def mangled(value: Any, chance: random.Random) -> Any:
    """``value`` with one thing in it taken away or replaced."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        name = chance.choice(list(value))
        if chance.random() < 0.2:
            return {other: inner for other, inner in value.items() if other != name}
        return {**value, name: mangled(value[name], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        place = chance.randrange(len(value))
        return [*value[:place], mangled(value[place], chance), *value[place + 1 :]]
    return chance.choice(JUNK)


@pytest.mark.parametrize("name", ["manifest.json", "prompts.jsonl", "verdicts.jsonl", "scores.json"])
def test_values_of_another_kind(name: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    made = folder(tmp_path / "made")
    gf(monkeypatch, capsys, "evaluate", "score", made)
    shutil.copytree(made, tmp_path / "other")
    chance, text = random.Random(name), (made / name).read_text(encoding="utf-8")
    for _ in range(12):
        if name.endswith("l"):
            rows = mangled([json.loads(line) for line in text.splitlines()], chance)
            content = lines(rows if isinstance(rows, list) else [rows])
        else:
            content = json.dumps(mangled(json.loads(text), chance))
        (made / name).write_bytes(content.encode("utf-8", "surrogatepass"))
        if name != "scores.json":
            gf(monkeypatch, capsys, "evaluate", "score", made, "--no-ceiling")
        gf(monkeypatch, capsys, "evaluate", "report", made, "-o", tmp_path / "page.html")
        gf(monkeypatch, capsys, "evaluate", "compare", made, tmp_path / "other", "--resamples", 100)


NUMBERS = ("nan", "inf", "-1", "0", "1e999", "x", "", "²", "9" * 400)


@pytest.mark.parametrize("option", ["--temperature", "--repeats", "--quorum", "--threads"])
def test_numbers_of_score(option: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    made, replies = folder(tmp_path / "made"), tmp_path / "replies.jsonl"
    replies.write_text(lines([{"request_hash": "0", "reply": "OPEN"}]), encoding="utf-8")
    for number in NUMBERS:
        told = ["--replies", replies, "--judge-model", "m", "--read-by-model"] if option != "--threads" else []
        gf(monkeypatch, capsys, "evaluate", "score", made, "--no-ceiling", option, number, *told)


@pytest.mark.parametrize("option", ["--steps", "--cfg", "--size", "--limit", "--rewritten", "--option", "--data", "--endpoint"])
def test_options_of_sample(option: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """They are looked at before a model is opened, which there is none of here."""
    wrong = tmp_path / "wrong.json"
    for value in (*NUMBERS, "0x0", "64x", "=", "a=b", "http://", wrong, tmp_path):
        wrong.write_text(
            random.Random(str(value)).choice(["[]", "{", '{"s0": 1}', '{"s9": "x"}', "\ufeff{}", ""]), encoding="utf-8"
        )
        model = ["--model", tmp_path / "none"]
        code, _, _ = gf(monkeypatch, capsys, "evaluate", "sample", "nano16", "--out", tmp_path / "out", option, value, *model)
        assert code in (1, 2)


def test_recorded_replies_in_any_encoding(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    made, replies = folder(tmp_path / "made"), tmp_path / "replies.jsonl"
    text = lines([{"request_hash": "0", "reply": "你好"}, {"raw": {"request_hash": "x", "reply": "<think>你好</think>"}}])
    told = ["--replies", replies, "--judge-model", "m", "--read-by-model", "--no-ceiling"]
    for label, data in encodings(text).items():
        replies.write_bytes(data)
        code, _, _ = gf(monkeypatch, capsys, "evaluate", "score", made, *told)
        assert code == 0 or label not in ("utf-8", "bom", "crlf", "utf-16", "utf-16-be", "cut")


@pytest.mark.parametrize(
    "name", ["dpg", "oneig-en", "tiif", "gedit-en", "imgedit", "gso", "depth-nyu", "depth-diode", "vae", "vae-text"]
)
def test_data_of_users_in_any_encoding(name: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    files = ("dpg_bench.csv", "OneIG-Bench.csv", "scripts/text/text_content.csv", "scripts/alignment/Q_D/anime.json",
             "testmini_prompts/a_prompts.jsonl", "testmini_eval_prompts/a_eval_prompts.jsonl", "instructions.jsonl",
             "basic_edit.json", "prompts.json", "views.jsonl", "list.txt")  # fmt: skip
    for label, data in encodings('{"a": {"id": "你", "key": "x", "edit_type": "add"}}\n').items():
        place = tmp_path / label
        for file in files:
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            (place / file).write_bytes(data)
        assert gf(monkeypatch, capsys, "evaluate", "prompts", name, "--data", place)[0] in (1, 2)


@pytest.mark.parametrize("target", ["scores.json", "manifest.json", "verdicts.jsonl", "prompts.jsonl", "s0.png"])
def test_a_result_is_not_written_over_what_it_is_made_from(target: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    made = folder(tmp_path / "made")
    gf(monkeypatch, capsys, "evaluate", "score", made, "--no-ceiling")
    kept = (made / target).read_bytes()
    verbs: dict[str, Callable[[], tuple[int, str, str]]] = {
        "report": lambda: gf(monkeypatch, capsys, "evaluate", "report", made, "-o", made / target),
        "compare": lambda: gf(monkeypatch, capsys, "evaluate", "compare", made, made, "-o", made / target),
    }
    for verb in verbs.values():
        code, _, err = verb()
        assert code == 1 and "choose another" in err and (made / target).read_bytes() == kept
