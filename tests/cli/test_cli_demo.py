"""The demo at a reduced size, as a person runs it: whole, killed and continued, and on a disk that is full."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

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

    def demo(self, out: str) -> subprocess.Popen[str]:
        arguments = ["demo", "--out", out, "--corpus-recipe", "small-corpus.yaml", "--train-recipe", "small-train.yaml"]
        return self.start([*arguments, "--bench", "two.jsonl", "--pictures", "pictures"])

    def start(self, arguments: list[str], limit: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "glyphflow", *arguments],
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=limit,
        )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace.make(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def whole(workplace: Workplace) -> tuple[Path, float]:
    """An uninterrupted demo: its directory and how long it took, in seconds."""
    began = time.monotonic()
    process = workplace.demo("whole")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return workplace.directory / "whole", time.monotonic() - began


def test_the_page_is_self_contained(whole: tuple[Path, float]) -> None:
    page = (whole[0] / "index.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "https://" not in page
    assert 'src="data:image/' in page
    for section in ("The pictures it wrote", "Learning", "Previews over time", "The corpus", "Annotation", "Time and memory"):
        assert section in page
    assert "Not available" not in page


def test_a_second_run_does_nothing_again(workplace: Workplace, whole: tuple[Path, float]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (whole[0] / "steps").iterdir()}
    process = workplace.demo("whole")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert output.count("done before") == len(before)
    assert {path: path.stat().st_mtime_ns for path in (whole[0] / "steps").iterdir()} == before


def test_killed_twice_and_continued_it_ends_the_same(workplace: Workplace, whole: tuple[Path, float]) -> None:
    seed = random.SystemRandom().randrange(2**32)
    moments = random.Random(seed)
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGINT):
        process = workplace.demo("killed")
        time.sleep(whole[1] * moments.uniform(0.05, 0.45))
        os.killpg(process.pid, number)
        output, _ = process.communicate()
        if number == signal.SIGINT and process.returncode != 0:  # it may have finished just before
            assert process.returncode == 130, f"seed {seed}: {output}"
            assert "Traceback" not in output, f"seed {seed}: {output}"
    process = workplace.demo("killed")
    output, _ = process.communicate()
    assert process.returncode == 0, f"seed {seed}: {output}"
    one, other = whole[0], workplace.directory / "killed"
    assert corpus_content(one / "corpus") == corpus_content(other / "corpus"), f"seed {seed}"
    assert metrics(one / "train") == metrics(other / "train"), f"seed {seed}"
    for folder in ("pictures-before", "pictures"):
        assert scores(one / folder) == scores(other / folder), f"seed {seed}"
        for prompt in BENCH:
            assert np.array_equal(*(np.asarray(Image.open(run / folder / f"{prompt['id']}.png")) for run in (one, other)))


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
def test_a_full_disk_is_one_sentence(workplace: Workplace, whole: tuple[Path, float], verb: str) -> None:
    import resource

    process = workplace.start(FULL_DISK[verb], lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))
    output, _ = process.communicate()
    assert process.returncode == 1, output
    assert "Traceback" not in output, output
    assert "Could not write" in output, output


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
