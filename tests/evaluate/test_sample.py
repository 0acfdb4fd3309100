"""Making a benchmark's pictures with a model and over the wire, and the verbs from prompts to page."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from glyphflow.cli import evaluate as verbs
from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import read_json
from glyphflow.evaluate import Sample, load_benchmark
from glyphflow.evaluate.benchmarks.texts import TextBenchmark
from glyphflow.evaluate.makers import EndpointMaker, PipelineMaker
from glyphflow.evaluate.sample import benchmark_of, not_made, sample
from glyphflow.generate import Pipeline, read_metadata
from glyphflow.perception.server import Server
from local_server import Answer, Asked, serve
from tiny import tiny_pipeline

ROWS = [
    {"id": "en-1", "prompt": 'a poster that says "HELLO"', "language": "en", "targets": ["HELLO"], "seed": 1},
    {"id": "mixed-1", "prompt": 'a sign that reads "SKY 飞机"', "language": "mixed", "targets": ["SKY", "飞机"], "seed": 2},
]


class Twice(TextBenchmark):
    """Two pictures a prompt."""

    repeats = 2


class Edits(TextBenchmark):
    """Every sample edits one picture."""

    task = "edit"

    def __init__(self, path: Path, source: Path) -> None:
        super().__init__(path)
        self._samples = tuple(Sample(s.id, s.prompt, s.targets, s.tags, (source,)) for s in self._samples)


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


def maker(pipeline: Pipeline, **request: int) -> PipelineMaker:
    return PipelineMaker(pipeline, "tiny", height=32, **request)


def test_pictures_carry_what_made_them_and_are_made_once(model: Path, bench: Path, tmp_path: Path) -> None:
    pipeline, out = Pipeline.from_pretrained(model, dtype=torch.float32, device="cpu"), tmp_path / "out"
    manifest = sample(maker(pipeline), load_benchmark(bench), out, source=bench)
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
    assert benchmark_of(out).identity == load_benchmark(bench).identity

    kept, again = (out / "en-1.png").stat().st_mtime_ns, (out / "mixed-1.png").read_bytes()
    (out / "mixed-1.png").unlink()
    sample(maker(pipeline), load_benchmark(bench), out, source=bench)
    assert (out / "en-1.png").stat().st_mtime_ns == kept
    assert (out / "mixed-1.png").read_bytes() == again  # one seed, one picture, alone or among others

    with pytest.raises(ConfigError, match="num_inference_steps = 2, now it is 3"):
        sample(maker(pipeline, num_inference_steps=3), load_benchmark(bench), out)


def test_repeats_have_seeds_and_names_of_their_own(model: Path, bench: Path, tmp_path: Path) -> None:
    pipeline = Pipeline.from_pretrained(model, dtype=torch.float32, device="cpu")
    sample(maker(pipeline), Twice(bench), tmp_path / "out")
    seeds = [read_metadata(tmp_path / "out" / f"en-1_{repeat}.png").seed for repeat in (0, 1)]
    assert seeds[0] == 1 and seeds[1] not in (1, 2)


def test_rewritten_prompts_are_used_and_recorded(model: Path, bench: Path, tmp_path: Path) -> None:
    pipeline = Pipeline.from_pretrained(model, dtype=torch.float32, device="cpu")
    other = {row["id"]: f"Ultra HD. {row['prompt']}" for row in ROWS}
    manifest = sample(maker(pipeline), load_benchmark(bench), tmp_path / "out", rewritten=other)
    assert read_metadata(tmp_path / "out" / "en-1.png").prompt.startswith("Ultra HD.")
    assert "rewritten_prompts" in manifest.settings
    with pytest.raises(ConfigError, match="mixed-1"):
        sample(maker(pipeline), load_benchmark(bench), tmp_path / "less", rewritten={"en-1": "x"})


def picture(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 8), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def test_an_endpoint_makes_pictures_and_its_failures_are_listed(bench: Path, tmp_path: Path) -> None:
    healthy = False

    def answer(asked: Asked, number: int) -> Answer:
        if "SKY" in asked.json["prompt"] and not healthy:
            return Answer({"error": {"code": "content_policy_violation", "message": "no signs, sk-key"}}, 400)
        return Answer({"data": [{"b64_json": base64.b64encode(picture((9, 9, len(asked.path)))).decode()}]})

    out, benchmark = tmp_path / "out", load_benchmark(bench)
    with serve(answer) as local:
        server = Server(local.url, "sk-key", timeout_s=5, pause_s=0.01)
        painter = EndpointMaker(server, "painter", size="16x8", options={"quality": "high"}, send_seed=True)
        manifest = sample(painter, benchmark, out, source=bench)
        assert local.asked[0].path == "/v1/images/generations"
        assert local.asked[0].json == {
            "model": "painter", "n": 1, "size": "16x8", "quality": "high", "prompt": ROWS[0]["prompt"], "seed": 1,
        }  # fmt: skip
        assert manifest.model == f"painter at {local.url}" and not_made(out) == 1
        assert "refused" in (out / "failures.jsonl").read_text() and "sk-key" not in (out / "failures.jsonl").read_text()
        assert Image.open(out / "en-1.png").size == (16, 8) and not (out / "mixed-1.png").exists()
        healthy = True
        sample(painter, benchmark, out, source=bench)
        assert not_made(out) == 0 and len(local.asked) == 3  # the finished one is not made again
    assert (out / "mixed-1.png").exists()


@pytest.mark.parametrize(
    "body", [b"nonsense", {"data": []}, {"data": [{"url": "http://x/y.png"}]}, {"data": [{"b64_json": "AAAA"}]}]
)
def test_answers_without_a_picture_are_failures(bench: Path, tmp_path: Path, body: object) -> None:
    with serve(lambda asked, number: Answer(body)) as local:
        sample(EndpointMaker(Server(local.url), "painter"), load_benchmark(bench), tmp_path / "out")
    assert not_made(tmp_path / "out") == 2 and not list((tmp_path / "out").glob("*.png"))


def test_an_endpoint_edits_the_references(bench: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.png"
    source.write_bytes(picture((200, 0, 0)))
    with serve(lambda asked, number: Answer({"data": [{"b64_json": base64.b64encode(picture((1, 2, 3))).decode()}]})) as local:
        sample(EndpointMaker(Server(local.url), "painter"), Edits(bench, source), tmp_path / "out")
    asked = local.asked[0]
    assert asked.path == "/v1/images/edits" and asked.headers["Content-Type"].startswith("multipart/form-data; boundary=")
    assert b'name="prompt"' in asked.body and b'filename="0.png"' in asked.body
    start = asked.body.index(b"\x89PNG")
    with Image.open(io.BytesIO(asked.body[start:])) as sent:
        assert np.array_equal(np.asarray(sent), np.asarray(Image.open(source)))


def test_a_model_reconstructs_the_references(model: Path, bench: Path, tmp_path: Path) -> None:
    class Copies(Edits):
        task = "reconstruct"

    source = tmp_path / "source.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)).save(source)
    pipeline = Pipeline.from_pretrained(model, dtype=torch.float32, device="cpu")
    manifest = sample(PipelineMaker(pipeline, "tiny"), Copies(bench, source), tmp_path / "out")
    assert manifest.settings == {"dtype": "float32", "device": "cpu"}
    assert Image.open(tmp_path / "out" / "en-1.png").size == (40, 24)


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
    assert "ceiling" in printed and "word_accuracy [language all]" in printed
    scores = read_json(out / "scores.json")
    assert scores["failures"] == {} and scores["metrics"][0]["ceiling"] == 1.0
    assert [row["values"]["reading"] for row in scores["ceiling_rows"]] == [["HELLO"], ["SKY", "飞机"]]
    run("report", out, "-o", page)
    assert "飞机" in page.read_text(encoding="utf-8")
    run("compare", out, out, "--resamples", "100", "-o", tmp_path / "same.json")
    same = read_json(tmp_path / "same.json")["metrics"][0]
    assert (same["difference"], same["ci95"], same["b_better"]) == (0.0, [0.0, 0.0], 0.5)
    assert "chineseword" in run("list") and "gedit-en" in run("list")


def test_the_verbs_speak_to_endpoints(app: typer.Typer, bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures and judgements over the wire; then the recorded replies give the same result without it."""
    monkeypatch.setenv("MY_KEY", "sk-secret")

    def answer(asked: Asked, number: int) -> Answer:
        assert asked.headers["Authorization"] == "Bearer sk-secret"
        if asked.path.endswith("generations"):
            return Answer({"data": [{"b64_json": base64.b64encode(picture((number, 0, 0))).decode()}]})
        return Answer({"choices": [{"message": {"content": "HELLO"}, "finish_reason": "stop"}]})

    def run(*arguments: str | Path) -> None:
        done = CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)
        assert done.exit_code == 0, done.output

    out, judged = tmp_path / "out", ("--judge-model", "vlm", "--judge-key-env", "MY_KEY", "--read-by-model", "--no-ceiling")
    with serve(answer) as local:
        endpoint = ("--endpoint", local.url, "--model", "painter", "--key-env", "MY_KEY", "--option", "steps=4")
        run("sample", bench, "--out", out, *endpoint)
        run("score", out, "--judge-url", local.url, *judged)
    first = read_json(out / "scores.json")
    assert [row["values"]["reading"] for row in first["rows"]] == [["HELLO"], ["HELLO"]]
    assert first["settings"]["steps"] == 4
    book = (out / "verdicts.jsonl").rename(tmp_path / "recorded.jsonl")
    run("score", out, "--replies", book, *judged)
    second = read_json(out / "scores.json")
    assert second["rows"] == first["rows"] and "recorded" in second["judges"]["ocr"]
    assert not any("sk-secret" in path.read_text() for path in [book, *out.glob("*.json*")])


@pytest.mark.parametrize(("size", "wanted"), [(None, (None, None)), ("128", (128, 128)), ("192x128", (192, 128))])
def test_sizes(size: str | None, wanted: tuple[int | None, int | None]) -> None:
    assert verbs.parse_size(size) == wanted


@pytest.mark.parametrize("size", ["x", "128x", "big", "-64"])
def test_wrong_sizes(size: str) -> None:
    with pytest.raises(InputError, match="is not a size"):
        verbs.parse_size(size)


def test_options_are_fields() -> None:
    assert verbs.parse_options(["quality=high", "steps=4", "url=a=b"]) == {"quality": "high", "steps": 4, "url": "a=b"}
    with pytest.raises(InputError, match="name=value"):
        verbs.parse_options(["quality"])
