"""The command line's manners: help, version, and one sentence for whatever goes wrong."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import typer

from glyphflow import __version__
from glyphflow.cli import main as cli
from glyphflow.core.errors import InputError, InterruptedRun

VERBS = ("demo", "generate", "reconstruct", "corpus", "encode", "train", "export", "evaluate", "doctor")


def glyphflow(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "glyphflow", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_version() -> None:
    done = glyphflow("--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"glyphflow {__version__}")


def test_help_names_the_verbs() -> None:
    done = glyphflow("--help")
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in VERBS)


def test_unknown_verb_is_a_usage_error() -> None:
    done = glyphflow("generat")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def failing(error: BaseException) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (InputError("The picture a.png is empty; give another."), 1, "The picture a.png is empty; give another."),
        (InterruptedRun("Stopped at step 7."), 130, "Stopped at step 7."),
        (KeyboardInterrupt(), 130, "Stopped; what was finished is kept, and the same command continues."),
    ],
)
def test_errors_are_sentences(
    error: BaseException,
    code: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "app", failing(error))
    monkeypatch.setattr(sys, "argv", ["glyphflow"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == code
    assert capsys.readouterr().err.strip() == sentence


def test_full_disk_outside_our_own_writers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import errno

    monkeypatch.setattr(cli, "app", failing(OSError(errno.ENOSPC, "No space left on device", "big.bin")))
    monkeypatch.setattr(sys, "argv", ["glyphflow"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    assert "big.bin: the disk is full" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "app", failing(ZeroDivisionError("ours")))
    monkeypatch.setattr(sys, "argv", ["glyphflow"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def run(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    monkeypatch.setattr(cli, "app", failing(error))
    monkeypatch.setattr(sys, "argv", ["glyphflow"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            FileNotFoundError(2, "No such file or directory", "absent.bin"),
            "absent.bin: No such file or directory; check the path.",
        ),
        (PermissionError(13, "Permission denied", b"closed.bin"), "closed.bin: Permission denied; check the path."),
        (MemoryError(), "There is not enough memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "There is not enough memory",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"), "There is not enough memory"),
    ],
)
def test_refusals_of_the_machine_are_sentences(
    error: BaseException, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, error) == 1
    assert capsys.readouterr().err.startswith(sentence)


def test_pipes_get_utf8_and_warnings_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    app = typer.Typer()

    @app.command()
    def say() -> None:
        warnings.warn("mind\nthe gap", stacklevel=1)
        typer.echo("字 caf\udce9")

    out, err = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(sys, "argv", ["glyphflow"])
    streams = [io.TextIOWrapper(pipe, encoding="cp1252", newline="\r\n") for pipe in (out, err)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    before = warnings.showwarning
    with pytest.raises(SystemExit) as stop:
        cli.main()
    for stream in streams:
        stream.flush()
    assert stop.value.code == 0 and warnings.showwarning is before
    assert out.getvalue() == "字 caf".encode() + b"\\udce9\n"
    assert err.getvalue() == b"Warning: mind the gap\n"
