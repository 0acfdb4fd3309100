"""The demo at a reduced size, as a person runs it: whole, killed and continued, and on a disk that is full."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from warm import Command, command, run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="process groups and file-size limits are POSIX")]

CORPUS = """
render:
  - {name: emoji-new, template: emoji, count: 6, params: {split: demo}}
  - {name: words-en, template: word, count: 12, params: {languages: [en]}}
  - {name: words-zh, template: word, count: 12, params: {languages: [zh]}}
stages:
  - name: F1
    title: Few and small photographs, so that reading them is quick
    rules:
      - {filter: Broken Files, column: index.error, empty: true, reason: "{value}"}
      - {filter: Broken Files, column: pixels.error, empty: true, reason: "{value}"}
      - {filter: File Size, column: header.bytes, max: 12000, kinds: [photo], reason: "{value} bytes"}
  - name: F2
    title: Quality
    rules:
      - {filter: Clarity, column: pixels.clarity, min: 14, kinds: [photo], reason: "blurred: clarity {value}"}
"""
TRAIN = """
kind: mmdit
out: train
feed:
  sources: [{corpus: corpus, cache: cache}]
  area: 4096
  batch_size: 4
  heldout_share: 0.1
train:
  steps: 6
  ema_decay: 0.9
  log_every: 1
  checkpoint_every: 2
  heldout_every: 3
  heldout_samples: 2
  preview_every: 3
preview:
  prompts: ['white text "HELLO" on a dark blue background']
  steps: 2
  width: 64
  height: 64
"""
BENCH = [
    {"id": "en", "prompt": 'white text "GO" on a dark blue background', "language": "en", "targets": ["GO"], "seed": 1},
    {"id": "zh", "prompt": '蓝色背景上写着白色文字"你好"', "language": "zh", "targets": ["你好"], "seed": 2},
]
TIMES = {
    "tflops_per_device",
    "peak_share",
    "images_per_second",
    "tokens_per_second",
    "seconds_per_step",
    "wait_share",
    "peak_memory_gb",
    "eta_seconds",
}


@dataclass(frozen=True)
class Workplace:
    """A working directory with the reduced recipes and a folder of somebody's pictures, one of them unreadable."""

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> Workplace:
        (directory / "small-corpus.yaml").write_text(CORPUS, encoding="utf-8")
        (directory / "small-train.yaml").write_text(TRAIN, encoding="utf-8")
        lines = "\n".join(json.dumps(prompt, ensure_ascii=False) for prompt in BENCH)
        (directory / "two.jsonl").write_text(lines + "\n", encoding="utf-8")
        pictures = directory / "pictures"
        pictures.mkdir()
        Image.effect_noise((200, 160), 60).convert("RGB").save(pictures / "noise.jpg", quality=40)
        (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
        return cls(directory)

    def demo(self, out: str) -> Command:
        arguments = ["demo", "--out", out, "--corpus-recipe", "small-corpus.yaml", "--train-recipe", "small-train.yaml"]
        return command(*arguments, "--bench", "two.jsonl", "--pictures", "pictures", job=True, cwd=self.directory)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace.make(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def whole(workplace: Workplace) -> Path:
    """An uninterrupted demo: its directory."""
    with workplace.demo("whole") as running:
        done = running.wait()
    assert done.returncode == 0, done.output
    return workplace.directory / "whole"


def test_the_page_is_self_contained(whole: Path) -> None:
    page = (whole / "index.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "https://" not in page
    assert 'src="data:image/' in page
    for section in ("What it learned", "Learning", "Previews over time", "The corpus", "Annotation", "Time and memory"):
        assert section in page
    assert "Not available" not in page


def test_a_second_run_does_nothing_again(workplace: Workplace, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (whole / "steps").iterdir()}
    with workplace.demo("whole") as running:
        done = running.wait()
    assert done.returncode == 0, done.output
    assert done.output.count("done before") == len(before)
    assert {path: path.stat().st_mtime_ns for path in (whole / "steps").iterdir()} == before


KILLS: list[tuple[int, str, Callable[[Path], bool]]] = [
    (signal.SIGKILL, "measure", lambda out: any((out / "corpus" / "columns").rglob("*.claim"))),
    (signal.SIGKILL, "encode", lambda out: any((out / "cache").glob("area-*"))),
    (signal.SIGINT, "train", lambda out: any((out / "train" / "checkpoints").glob("step_*"))),
]
"""By which signal, in which step, and what shows that it is at work."""


def test_killed_twice_and_continued_it_ends_the_same(workplace: Workplace, whole: Path) -> None:
    dice = random.Random(7)
    for number, step, at_work in KILLS:
        with workplace.demo("killed") as running:
            out = workplace.directory / "killed"
            while running.poll() is None and not (has_begun(out, step) and at_work(out)):
                time.sleep(0.002)
            time.sleep(dice.uniform(0.0, 0.1))
            running.signal_all(number)
            done = running.wait()
        assert done.returncode == (130 if number == signal.SIGINT else -number), done.output
        assert "Traceback" not in done.output
        assert state(out, step) == "started"
    with workplace.demo("killed") as running:
        done = running.wait()
    assert done.returncode == 0, done.output
    assert corpus_content(whole / "corpus") == corpus_content(out / "corpus")
    assert metrics(whole / "train") == metrics(out / "train")
    for folder in ("pictures-before", "pictures"):
        assert scores(whole / folder) == scores(out / folder)
        for prompt in BENCH:
            assert np.array_equal(*(np.asarray(Image.open(run / folder / f"{prompt['id']}.png")) for run in (whole, out)))


def state(out: Path, step: str) -> str | None:
    """What the demo in ``out`` has written down of a step; None before it began."""
    path = out / "steps" / f"{step}.json"
    return json.loads(path.read_text(encoding="utf-8"))["state"] if path.exists() else None


def has_begun(out: Path, step: str) -> bool:
    return state(out, step) is not None


FULL_DISK = {
    "demo": ["demo", "--out", "full", "--corpus-recipe", "small-corpus.yaml", "--bench", "two.jsonl"],
    "ingest": ["corpus", "ingest", "full-corpus", "whole/photographs", "--source", "photographs"],
    "encode": ["encode", "small-train.yaml", "feed.sources=[{corpus: whole/corpus, view: demo, cache: full-cache}]"],
    "train": [
        "train",
        "small-train.yaml",
        "out=full-train",
        "feed.sources=[{corpus: whole/corpus, view: demo, cache: whole/cache}]",
    ],
    "export": ["export", "whole/train", "full-model"],
    "sample": ["evaluate", "sample", "two.jsonl", "--out", "full-pictures", "--steps", "1"],
    "report": ["evaluate", "report", "whole/pictures", "-o", "full.html"],
    "corpus-report": ["corpus", "report", "whole/corpus", "--view", "demo", "-o", "full.html"],
    "generate": ["generate", "hello", "-o", "full.png", "--steps", "1"],
}


@pytest.mark.parametrize("verb", FULL_DISK)
def test_a_full_disk_is_one_sentence(workplace: Workplace, whole: Path, verb: str) -> None:
    done = run(*FULL_DISK[verb], job=True, cwd=workplace.directory, largest_file=4096)
    assert done.returncode == 1, done.output
    assert "Traceback" not in done.output, done.output
    assert "Could not write" in done.output, done.output


def corpus_content(directory: Path) -> dict[str, Any]:
    """Everything a corpus says, by relative path: bytes of pixels and specifications, rows of every table."""
    import pyarrow.parquet

    content: dict[str, Any] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.suffix == ".parquet":
            content[name] = pyarrow.parquet.read_table(path).to_pylist()
        elif path.suffix in (".tar", ".jsonl"):
            content[name] = path.read_bytes()
    assert content
    return content


def metrics(run: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without what a clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def scores(folder: Path) -> Any:
    content = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    return {name: content[name] for name in ("metrics", "rows")}
