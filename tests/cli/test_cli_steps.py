"""A job of steps: done once, continued after a stop, made again when its settings change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glyphflow.cli import steps
from glyphflow.cli.steps import Job, Step
from glyphflow.core.errors import GlyphFlowError, InterruptedRun


class Commands:
    """Stands in for the processes: writes down what was run and answers as told."""

    def __init__(self) -> None:
        self.run: list[tuple[str, ...]] = []
        self.answers: dict[str, tuple[int, int, bool]] = {}

    def __call__(self, arguments: tuple[str, ...]) -> tuple[int, int, bool]:
        self.run.append(arguments)
        return self.answers.get(arguments[0], (0, 1000, False))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    commands = Commands()
    monkeypatch.setattr(steps, "run_glyphflow", commands)
    return commands


def three(out: Path, middle: tuple[str, ...] = ("two",), needed: bool = True) -> list[Step]:
    return [
        Step("first", "the first", ("one",)),
        Step("second", "the second", middle, after=("first",), outputs=(out / "second",), needed=needed),
        Step("third", "the third", ("three",), after=("second",), outputs=(out / "third.txt",)),
    ]


def test_finished_steps_are_not_repeated(tmp_path: Path, commands: Commands) -> None:
    Job(tmp_path, three(tmp_path)).run()
    Job(tmp_path, three(tmp_path)).run()
    assert commands.run == [("one",), ("two",), ("three",)]


def test_changed_settings_redo_a_step_and_what_reads_it(tmp_path: Path, commands: Commands) -> None:
    Job(tmp_path, three(tmp_path)).run()
    (tmp_path / "second").mkdir()
    (tmp_path / "third.txt").write_text("old")
    Job(tmp_path, three(tmp_path, ("two", "steps=9"))).run()
    assert commands.run[3:] == [("two", "steps=9"), ("three",)]
    assert not (tmp_path / "second").exists()
    assert not (tmp_path / "third.txt").exists()


def test_a_stop_keeps_what_is_done_and_continues_with_the_outputs(tmp_path: Path, commands: Commands) -> None:
    commands.answers["two"] = (130, 5, True)
    with pytest.raises(InterruptedRun, match="the second"):
        Job(tmp_path, three(tmp_path)).run()
    (tmp_path / "second").mkdir()
    del commands.answers["two"]
    Job(tmp_path, three(tmp_path)).run()
    assert commands.run == [("one",), ("two",), ("two",), ("three",)]
    assert (tmp_path / "second").exists(), "half-finished work at the same settings is for the verb to continue"
    record = json.loads((tmp_path / "steps" / "second.json").read_text())
    assert (record["attempts"], record["state"]) == (2, "done")


def test_a_needed_step_ends_the_job_and_another_does_not(tmp_path: Path, commands: Commands) -> None:
    commands.answers["two"] = (1, 5, False)
    with pytest.raises(GlyphFlowError, match="exit code 1"):
        Job(tmp_path / "a", three(tmp_path)).run()
    job = Job(tmp_path / "b", three(tmp_path, needed=False))
    job.run()
    assert [record.state for record in job.records.values()] == ["done", "failed", "done"]


def test_a_step_runs_the_command_line_and_is_measured() -> None:
    code, peak, interrupted = steps.run_glyphflow(("plan", "generate", "--size", "64x64"))
    assert (code, interrupted) == (0, False)
    assert peak > 10 * 2**20


def test_a_record_of_another_version_is_made_again(tmp_path: Path, commands: Commands) -> None:
    Job(tmp_path, three(tmp_path)).run()
    (tmp_path / "steps" / "first.json").write_text('{"unknown": 1}')
    Job(tmp_path, three(tmp_path)).run()
    assert commands.run[3:] == [("one",)]


def test_a_verb_that_does_not_continue_starts_clean(tmp_path: Path, commands: Commands) -> None:
    """It may have been killed between its last file and its mark."""
    step = Step("export", "export", ("export",), outputs=(tmp_path / "model",), continues=False)
    commands.answers["export"] = (130, 5, True)
    with pytest.raises(InterruptedRun):
        Job(tmp_path, [step]).run()
    (tmp_path / "model").mkdir()
    commands.answers.clear()
    Job(tmp_path, [step]).run()
    assert not (tmp_path / "model").exists()
