"""Commands in processes of their own that start in a moment: forked from a server process that has imported the packages.

For tests that kill commands, fill the disk under them or end them by Ctrl-C. Each is a real process, with its own directory,
streams and session; only the imports are shared. That a command starts from nothing is tested beside these, once a family of
verbs: tests/cli and the tests under torchrun.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from ranks import forkserver


class Said(NamedTuple):
    """How a command ended: minus the number of the signal that ended it, or its exit code; and what it wrote."""

    returncode: int
    output: str


class Command:
    """``work(*args)`` as a process of its own, with both of its streams in the file ``log``.

    It leads a session, so that a signal can reach whatever it starts, too. In a ``with`` all of that is killed at the end.
    """

    def __init__(
        self,
        work: Callable[..., object],
        *args: object,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        largest_file: int | None = None,
        log: Path | None = None,
    ) -> None:
        self._own_log = log is None
        if log is None:
            descriptor, name = tempfile.mkstemp(suffix=".log")
            os.close(descriptor)
            log = Path(name)
        self.log = log.resolve()
        place, variables = str(cwd or Path.cwd()), dict(environment or os.environ)
        started = (str(self.log), place, variables, largest_file, work, args)
        self._process: BaseProcess = forkserver().Process(target=_started, args=started)  # type: ignore[attr-defined]
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """To this process alone."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def signal_all(self, number: int) -> None:
        """To it and whatever it started, as a terminal does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 600.0) -> Said:
        self._process.join(timeout)
        output = self.log.read_text(encoding="utf-8", errors="replace")
        if self._process.exitcode is None:
            self.signal_all(signal.SIGKILL)
            raise TimeoutError(f"Still running after {timeout:.0f} s; it wrote:\n{output}")
        if self._process.exitcode == -signal.SIGKILL:
            self._wait_for_the_others()
        return Said(self._process.exitcode, output)

    def _wait_for_the_others(self) -> None:
        """What it started was killed with it and holds its locks until it is gone, too: a fork has them, where a command of a
        shell has not."""
        until = time.monotonic() + 30.0
        while any(self._is_of_this(process) for process in psutil.process_iter()) and time.monotonic() < until:
            time.sleep(0.01)

    def _is_of_this(self, process: psutil.Process) -> bool:
        try:
            return os.getpgid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE
        except (ProcessLookupError, psutil.Error):
            return False

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        self.signal_all(signal.SIGKILL)
        self._process.join()
        if self._own_log:
            self.log.unlink(missing_ok=True)


class Forked:
    """What a job asks of a ``subprocess.Popen`` of ``python -m glyphflow ARGUMENTS``, as a fork of the job."""

    def __init__(self, command: Sequence[str]) -> None:
        assert list(command[:3]) == [sys.executable, "-m", "glyphflow"]
        self._process = get_context("fork").Process(target=glyphflow_here, args=tuple(command[3:]))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("glyphflow", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def job_here(*arguments: str) -> None:
    """The same for a verb that starts others, which are forked from it."""
    from glyphflow.cli import steps

    steps.subprocess = types.SimpleNamespace(Popen=Forked, TimeoutExpired=subprocess.TimeoutExpired)  # type: ignore[assignment]
    glyphflow_here(*arguments)


def command(*arguments: object, job: bool = False, **options: Any) -> Command:
    """``glyphflow ARGUMENTS``, started; with ``job`` what it starts is forked, too."""
    return Command(job_here if job else glyphflow_here, *map(str, arguments), **options)


def script(source: str, *arguments: object, **options: Any) -> Command:
    """``python -c SOURCE ARGUMENTS``, started."""
    return Command(_script, source, *map(str, arguments), **options)


def run(*arguments: object, **options: Any) -> Said:
    """``glyphflow ARGUMENTS`` to its end."""
    with command(*arguments, **options) as started:
        return started.wait()


def _started(
    log: str,
    cwd: str,
    environment: dict[str, str],
    largest_file: int | None,
    work: Callable[..., object],
    args: tuple[Any, ...],
) -> None:
    os.setsid()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with Path(log).open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    if largest_file is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    work(*args)


def glyphflow_here(*arguments: str) -> None:
    """``glyphflow ARGUMENTS`` as the whole of this process."""
    from glyphflow.cli.main import main

    # Processes that it spawns look here for what to import first.
    module = types.ModuleType("__main__")
    module.__spec__ = find_spec("glyphflow.__main__")
    sys.modules["__main__"] = module
    sys.argv = ["glyphflow", *arguments]
    main()


def _script(source: str, *arguments: str) -> None:
    sys.argv = ["-c", *arguments]
    exec(compile(source, "<script>", "exec"), {"__name__": "__main__"})
