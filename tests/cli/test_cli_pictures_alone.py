"""The verbs of pictures as processes of their own: the shipped weights, exit codes, Ctrl-C, and nothing heavy for --help."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from picture_models import glyphflow, photo

from glyphflow.generate import read_metadata
from tiny import tiny_pipeline

COMMAND = [sys.executable, "-m", "glyphflow"]


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_nano_and_the_same_file_in_another_process() -> None:
    done = process("generate", "HELLO", "--steps", "3", "--device", "cpu", "-o", "out.png")
    assert (done.returncode, done.stdout) == (0, "out.png\n"), done.stderr
    assert read_metadata(Path("out.png")).model == "nano"
    assert glyphflow("generate", "--from", "out.png").code == 0
    assert Path("out-again.png").read_bytes() == Path("out.png").read_bytes()


def test_nano_edits_a_picture() -> None:
    photo(64, 64, 0).save("a.png")
    done = process("edit", "Change the background to red.", "--image", "a.png", "--steps", "2", "--device", "cpu")
    assert (done.returncode, done.stdout) == (0, "out.png\n"), done.stderr
    found = read_metadata(Path("out.png"))
    assert (found.model, found.task) == ("nano", "edit")


def test_a_mistake_is_one_sentence_and_exit_code_1() -> None:
    photo(40, 40, 0).save("a.png")
    done = process("layers", "a.png")
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("This is an edit model (QwenImageEditPipeline) and layers needs layered")
    assert "Traceback" not in done.stderr and not Path("out.png").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to groups of processes only")
def test_an_interrupted_batch_continues(tmp_path: Path) -> None:
    arguments = ["generate", "a cat", "--count", "6", "--steps", "40", "--device", "cpu", "-o", "many"]
    arguments += ["--model", str(tiny_pipeline(tmp_path / "model"))]
    first = Path("many/001.png")
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        while not first.exists() and running.poll() is None:
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate()
    made = sorted(Path("many").glob("*.png"))
    assert running.returncode == 130 and "Traceback" not in err
    assert f"Stopped after {len(made)} of 6 pictures; the finished ones are in many" in err
    assert 1 <= len(made) < 6
    before = first.stat().st_mtime_ns
    again = glyphflow(*arguments)
    assert again.code == 0 and f"{len(made)} of 6 pictures were there" in again.err
    assert first.stat().st_mtime_ns == before and len(list(Path("many").iterdir())) == 6


def test_a_picture_between_its_file_and_its_count_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the instant in which the path is about to be told: the file is there, and the sentence says so."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    arguments = ["generate", "a cat", "--count", "2", "--steps", "1", "--device", "cpu", "-o", "many"]
    arguments += ["--model", str(tiny_pipeline(tmp_path / "model"))]
    with monkeypatch.context() as instant:
        instant.setattr("typer.echo", interrupted)
        done = glyphflow(*arguments)
    assert done.code == 130 and Path("many/001.png").exists()
    assert done.err.strip().splitlines()[-1].startswith("Stopped after 1 of 2 pictures; the finished ones are in many")
    assert "1 of 2 pictures were there" in glyphflow(*arguments).err


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'PIL', 'pandas', 'pyarrow'}"
    code = f"import sys, glyphflow.cli.main; sys.exit(', '.join({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not done.stderr.strip()
