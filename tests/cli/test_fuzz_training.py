"""No verb of training prints a traceback, whatever recipes, overrides and files it is given. Seeded; the cases repeat."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from glyphflow.cli.main import app
from glyphflow.core.errors import GlyphFlowError

RECIPES = ("demo-mmdit", "nano-vae", "nano-captioner", "nano-curriculum", "qwen-image-20b", "qwen-image-20b/lora", "nano-256")
KEYS = (
    *("seed", "out", "kind", "feed", "feed.sources", "feed.area", "feed.batch_size", "feed.resolutions", "feed.tasks"),
    *("feed.captions", "feed.mixture", "feed.splits", "feed.text", "feed.crop_limit", "feed.heldout_share", "feed.crop"),
    *("train", "train.steps", "train.lr", "train.schedule", "train.lora", "train.lora.rank", "train.optimizer", "train.base"),
    *("train.device", "train.parallel", "train.parallel.sp", "train.init_from", "train.micro_batch", "train.offload"),
    *("train.betas", "train.ema_decay", "train.transport", "train.producers", "train.heldout_samples", "train.weights"),
    *(
        "objective",
        "objective.shift",
        "preview",
        "preview.width",
        "preview.guidance",
        "preview.prompts",
        "stages",
        "stages.0.lr",
    ),
    *("model", "model.num_layers", "vae.base_dim", "sources", "optimizer.betas", "stages.0.lr", "lpips", "no.such.key", ""),
)
VALUES = (
    *(
        "nan",
        ".nan",
        "inf",
        "-.inf",
        "1e400",
        "-1",
        "0",
        "1",
        "7.5",
        "1e999",
        "99999999999999999999",
        "true",
        "null",
        "~",
        "''",
    ),
    *("[]", "{}", "[1]", "[[]]", "{a: b}", "[{}]", "[{corpus: x}]", "[{corpus: ~/x, cache: $NOT_SET/y}]", "[{corpus: 3}]"),
    *("x", "~/x", "~nobody/x", "$NOT_SET/x", "a\x00b", "x" * 5000, "../..", "/dev/null/x", "é", "文字", "\ud800", "1980-01-01"),
    *("!!python/object:os.system x", "&a [*a]", "*b", "{", "]", "- a\n- b", ": :", "\t", "%", "{t2i: .nan}", "{t2i: -1}"),
)
FILES = {
    "empty.yaml": b"",
    "null.yaml": b"\x00" * 40,
    "list.yaml": b"- a\n- b\n",
    "word.yaml": b"kind",
    "kinds.yaml": b"kind: [mmdit]\n",
    "number.yaml": b"kind: 3\n",
    "half.yaml": b"kind: mmdit\nfeed: {sources: [",
    "bom.yaml": b"\xef\xbb\xbfkind: mmdit\n",
    "utf16.yaml": "kind: mmdit\nout: x\n".encode("utf-16"),
    "latin.yaml": "kind: mmdit\nout: caf\xe9\n".encode("latin-1"),
    "gbk.yaml": "kind: mmdit\nout: 训练结果文件夹\n".encode("gbk"),
    "binary.yaml": bytes(range(256)) * 8,
    "loop.yaml": b"kind: mmdit\na: &a [*a]\n",
    "keys.yaml": b"kind: mmdit\n1: 2\nnull: 3\n? [a]\n: b\n",
    "none.yaml": b"kind: curriculum\nout: x\nstages: []\n",
    "crlf.yaml": b"kind: curriculum\r\nout: x\r\nstages: null\r\n",
}
LOGS = (
    b"",
    b"{",
    b"[]\n3\nnull\n",
    b"\xff\xfe\x00",
    b'{"from_step": "x", "changes": []}\n',
    b'{"side": {}, "pictures": 1, "seconds": 1}\n',
)


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place of its own, without the hub; a model directory that is none ends what comes through."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "model").mkdir()


def said(arguments: list[str]) -> str:
    """What the verb says; anything but a sentence of ours, or of the command line's own, fails the test."""
    result = CliRunner().invoke(app, arguments)
    error = result.exception
    assert error is None or isinstance(error, GlyphFlowError | SystemExit), (arguments, repr(error)[:500])
    text = str(error) if isinstance(error, GlyphFlowError) else result.output
    assert "Traceback" not in text and len(text) < 20_000, arguments
    return text


def overrides(rng: random.Random) -> list[str]:
    found = ["train.init_from=model"]
    for _ in range(rng.randint(0, 3)):
        found.append(f"{rng.choice(KEYS)}={rng.choice(VALUES)}" if rng.random() < 0.95 else rng.choice(VALUES))
    return [each for each in found if not each.startswith("-")]


@pytest.mark.parametrize("seed", range(8))
def test_overrides(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(15):
        verb = rng.choice((["encode"], ["train"], ["plan", "train", "--memory", "24GB"]))
        recipe = rng.choice(RECIPES[:4] if verb[0] == "plan" else RECIPES)
        said([*verb, recipe, *overrides(rng)])


def test_recipe_files(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
        for verb in (["encode"], ["train"], ["plan", "train"]):
            assert said([*verb, name]), (verb, name)
    for name in ("", "missing.yaml", ".", "model", "x" * 5000, "a\x00b", "~nobody/x", "$NOT_SET/x", "文字.yaml"):
        for verb in (["encode"], ["train"], ["plan", "train"]):
            assert said([*verb, name]), (verb, name)


@pytest.mark.parametrize("option", ["--part", "--memory"])
def test_options_of_encode(option: str) -> None:
    for value in ("", "0/0", "2/1", "a/b", "²/²", "1/", "nan", "-1GB", "1e9", "99999999999999999999/99999999999999999999"):
        assert said(["encode", "demo-mmdit", option, value, "train.init_from=model"])


def test_options_of_plan() -> None:
    for option in (
        "--gpus",
        "--tp",
        "--dp",
        "--checkpoint",
        "--memory",
        "--efficiency",
        "--encode-rate",
        "--feed-log",
        "--price",
    ):
        for value in ("", "0", "-1", "nan", "inf", "x", "²", "0x0", "1x", "256=nan", "256=inf", "=", "1,1", "missing"):
            said(["plan", "train", "demo-mmdit", "--gpus", "1xH100", option, value])


def test_directories_of_runs(tmp_path: Path) -> None:
    for number, content in enumerate([*FILES.values(), *LOGS]):
        run = tmp_path / f"run{number}"
        (run / "feed").mkdir(parents=True)
        for name in ("recipe.yaml", "amendments.jsonl", "feed.jsonl", "metrics.jsonl", "data.json", "feed/settled.json"):
            (run / name).write_bytes(content)
        assert said(["feed", "show", str(run)]) and said(["feed", "set", str(run), "mixture.people=0.2"])
        assert said(["export", str(run), str(tmp_path / "out")])
    for change in ("", "=", "a", "mixture=", "mixture.people=nan", "view=[", "producers=-1", "captions.x={}", "\x00=1"):
        said(["feed", "set", str(tmp_path / "run0"), change])
