"""Run a list of commands as one long job that survives being stopped: what is done is marked, timed and never done twice."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from glyphflow.core.config import Config, load_config, to_dict
from glyphflow.core.errors import ConfigError, GlyphFlowError, InterruptedRun
from glyphflow.core.files import read_json, write_json
from glyphflow.core.hashing import fingerprint

# A terminal sends Ctrl-C to this process and to its child, a signal sent by hand reaches only one of them: the child gets this
# long to stop by itself before it is told.
SECONDS_BEFORE_TELLING = 15.0
SECONDS_BETWEEN_MEMORY_LOOKS = 0.2


@dataclass(frozen=True)
class Step:
    """One verb of the command line, as a part of a longer job.

    ``arguments`` are what follows ``glyphflow``. ``inputs`` is anything JSON-able that decides the result beside the arguments
    (hashes of weights, a folder's listing). ``after`` names the steps whose results this one reads. ``outputs`` are paths that
    belong to this step alone and are removed when it must run again with other settings; where the verb does not continue in
    what a killed run left (``continues`` is false), also when it must run again with the same. The job stops where a ``needed``
    step fails and goes on after any other.
    """

    name: str
    title: str
    arguments: tuple[str, ...]
    inputs: object = None
    after: tuple[str, ...] = ()
    outputs: tuple[Path, ...] = ()
    continues: bool = True
    needed: bool = True

    @property
    def command(self) -> str:
        """The command as one would type it."""
        return shlex.join(("glyphflow", *self.arguments))


class StepRecord(Config):
    """What is known of a step, kept as JSON beside the job's outputs.

    ``wall_s`` adds up all the attempts at this key; ``peak_bytes`` is the highest resident memory of the process tree.
    """

    name: str
    title: str
    command: str
    key: str
    state: Literal["started", "done", "failed"]
    wall_s: float = 0.0
    peak_bytes: int = 0
    attempts: int = 0


@dataclass
class Job:
    """Steps that run in order in ``directory``; :meth:`run` may be called again after any kind of stop."""

    directory: Path
    steps: Sequence[Step]
    records: dict[str, StepRecord] = field(default_factory=dict)

    def run(self) -> None:
        """Run what is not done yet. Raises InterruptedRun on Ctrl-C and GlyphFlowError where a needed step fails."""
        for number, step in enumerate(self.steps, 1):
            label = f"[{number}/{len(self.steps)}] {step.title}"
            key = self._key(step)
            earlier = self._read(step)
            if earlier is not None and earlier.key == key and earlier.state == "done":
                self.records[step.name] = earlier
                _say(f"{label}: done before, {earlier.wall_s:.0f} s")
                continue
            if earlier is not None and (earlier.key != key or not step.continues):
                self._remove_outputs(step)
                earlier = earlier if earlier.key == key else None
            _say(f"{label}\n    $ {step.command}")
            self._run_step(step, key, earlier)

    def _run_step(self, step: Step, key: str, earlier: StepRecord | None) -> None:
        record = earlier or StepRecord(name=step.name, title=step.title, command=step.command, key=key, state="started")
        record = record.model_copy(update={"state": "started", "attempts": record.attempts + 1})
        self._write(step, record)
        started = time.monotonic()
        code, peak, interrupted = run_glyphflow(step.arguments)
        record = record.model_copy(
            update={
                "state": "done" if code == 0 else "started" if interrupted else "failed",
                "wall_s": round(record.wall_s + time.monotonic() - started, 2),
                "peak_bytes": max(record.peak_bytes, peak),
            }
        )
        self._write(step, record)
        if interrupted:
            raise InterruptedRun(
                f"Stopped in the step '{step.title}'; finished steps are kept, and the same command continues."
            )
        if code == 0:
            _say(f"    {record.wall_s:.0f} s, at most {record.peak_bytes / 2**20:.0f} MiB")
        elif step.needed:
            raise GlyphFlowError(
                f"The step '{step.title}' failed (exit code {code}, its reason is above); put that right, then the same "
                "command continues there."
            )
        else:
            _say(f"    This step failed (exit code {code}, its reason is above); the others go on without it.")

    def _key(self, step: Step) -> str:
        before = [[name, self.records[name].key, self.records[name].state] for name in step.after if name in self.records]
        return fingerprint([list(step.arguments), step.inputs, before])

    def _path(self, step: Step) -> Path:
        return self.directory / "steps" / f"{step.name}.json"

    def _read(self, step: Step) -> StepRecord | None:
        path = self._path(step)
        if not path.exists():
            return None
        try:
            return load_config(StepRecord, read_json(path))
        except ConfigError:  # written by another version: that step's result is not ours to trust
            return StepRecord(name=step.name, title=step.title, command=step.command, key="", state="started")

    def _write(self, step: Step, record: StepRecord) -> None:
        self.records[step.name] = record
        write_json(self._path(step), to_dict(record))

    def _remove_outputs(self, step: Step) -> None:
        for path in step.outputs:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def run_glyphflow(arguments: Sequence[str]) -> tuple[int, int, bool]:
    """Run ``glyphflow ARGUMENTS`` in a process of its own.

    Returns its exit code, the peak resident memory of it and its children in bytes, and whether Ctrl-C stopped it. The child
    stays in this process group, so that whatever ends the group ends it too.
    """
    child = subprocess.Popen([sys.executable, "-m", "glyphflow", *arguments])
    with _MemoryWatch(child.pid) as memory:
        try:
            code = child.wait()
            return code, memory.peak, code in (130, -signal.SIGINT)
        except KeyboardInterrupt:
            return _stop(child), memory.peak, True


def _stop(child: subprocess.Popen[bytes]) -> int:
    """Wait for a child that was interrupted; tell it if nobody has, and end it when the user insists."""
    try:
        return child.wait(SECONDS_BEFORE_TELLING)
    except subprocess.TimeoutExpired:
        if os.name == "nt":
            child.terminate()
        else:
            child.send_signal(signal.SIGINT)
    except KeyboardInterrupt:
        child.kill()
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.kill()
        return child.wait()


class _MemoryWatch:
    """Looks at the resident memory of a process and its children until told to stop; ``peak`` is in bytes."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(SECONDS_BETWEEN_MEMORY_LOOKS):
            try:
                root = psutil.Process(self._pid)
                tree = [root, *root.children(recursive=True)]
            except psutil.Error:
                continue
            self.peak = max(self.peak, sum(_resident(process) for process in tree))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _say(text: str) -> None:
    print(text, flush=True)
