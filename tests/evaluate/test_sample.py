"""Making a benchmark's pictures, and the three verbs from prompts to page."""

import json
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from glyphflow.cli import evaluate as verbs
from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import read_json
from glyphflow.evaluate import load_benchmark
from glyphflow.evaluate.sample import sample
from glyphflow.generate import Pipeline, read_metadata
from tiny import tiny_pipeline

ROWS = [
    {"id": "en-1", "prompt": 'a poster that says "HELLO"', "language": "en", "targets": ["HELLO"], "seed": 1},
    {"id": "mixed-1", "prompt": 'a sign that reads "SKY 飞机"', "language": "mixed", "targets": ["SKY", "飞机"], "seed": 2},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    path = tmp_path / "two.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    verbs.register(app)
    return app


def test_pictures_carry_what_made_them_and_are_made_once(model: Path, bench: Path, tmp_path: Path) -> None:
    pipeline, out = Pipeline.from_pretrained(model, dtype=torch.float32, device="cpu"), tmp_path / "out"
    manifest = sample(pipeline, "tiny", load_benchmark(bench), out, height=32)
    assert manifest.settings == {
        "num_inference_steps": 2,
        "true_cfg_scale": 4.0,
        "negative_prompt": "",
        "width": 64,
        "height": 32,
        "dtype": "float32",
        "device": "cpu",
    }
    assert read_json(out / "manifest.json")["model"] == pipeline.weights_hash
    facts = read_metadata(out / "mixed-1.png")
    assert (facts.prompt, facts.seed, facts.width, facts.height) == (ROWS[1]["prompt"], 2, 64, 32)

    kept, again = (out / "en-1.png").stat().st_mtime_ns, (out / "mixed-1.png").read_bytes()
    (out / "mixed-1.png").unlink()
    sample(pipeline, "tiny", load_benchmark(bench), out, height=32)
    assert (out / "en-1.png").stat().st_mtime_ns == kept
    assert (out / "mixed-1.png").read_bytes() == again  # one seed, one picture, alone or among others

    with pytest.raises(ConfigError, match="num_inference_steps = 2, now it is 3"):
        sample(pipeline, "tiny", load_benchmark(bench), out, height=32, num_inference_steps=3)


def test_from_prompts_to_page(app: typer.Typer, model: Path, bench: Path, tmp_path: Path) -> None:
    for module in ("rapidocr", "skia", "wordfreq"):
        pytest.importorskip(module)
    out, page = tmp_path / "out", tmp_path / "page.html"

    def run(*arguments: str | Path) -> str:
        done = CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    run("sample", bench, "--model", model, "--out", out, "--steps", "1", "--size", "128x128", "--cfg", "1")
    printed = run("score", out, "--threads", "1")
    assert "judge's ceiling" in printed and "word accuracy" in printed
    scores = read_json(out / "scores.json")
    assert scores["groups"]["all"]["failed"] == 0
    assert scores["groups"]["all"]["ceiling"]["word_accuracy"] == 1.0
    assert [row["ceiling"]["reading"] for row in scores["rows"]] == [["HELLO"], ["SKY", "飞机"]]
    run("report", out, "-o", page)
    assert "飞机" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(("size", "wanted"), [(None, (None, None)), ("128", (128, 128)), ("192x128", (192, 128))])
def test_sizes(size: str | None, wanted: tuple[int | None, int | None]) -> None:
    assert verbs._parse_size(size) == wanted


@pytest.mark.parametrize("size", ["x", "128x", "big", "-64"])
def test_wrong_sizes(size: str) -> None:
    with pytest.raises(InputError, match="is not a size"):
        verbs._parse_size(size)
