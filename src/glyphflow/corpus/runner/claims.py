"""Who is at work on a shard, so that two processes do not do the same.

A claim is a small hidden file beside the columns that are about to be written; whoever creates it does the work and touches it
every few seconds. It only saves work: columns are a function of the shard, they appear by one rename, and two processes that do
compute the same shard (a clock was wrong, a file system slow) write equal bytes. So claims need no protocol that is right under
every failure, only one that is rarely wrong, and nothing has to be undone after a kill.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from glyphflow.core.files import storage_errors

HEARTBEAT = 10.0  # seconds between two touches
STALE = 90.0  # seconds without one after which another machine takes the shard over
_OURS: set[Path] = set()  # what this process is at work on


@contextlib.contextmanager
def claimed(target: Path) -> Iterator[bool]:
    """Whether the work that ends in the file ``target`` is ours; until the body ends nobody else begins it."""
    path = target.with_name(f".{target.stem}.claim")
    if not _create(path):
        yield False
        return
    ended = threading.Event()
    beat = threading.Thread(target=_keep_alive, args=(path, ended), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        ended.set()
        beat.join()
        _OURS.discard(path)
        path.unlink(missing_ok=True)


def _create(path: Path) -> bool:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            try:
                with path.open("x") as file, contextlib.ExitStack() as undo:
                    undo.callback(path.unlink, missing_ok=True)
                    file.write(f"{socket.gethostname()} {os.getpid()}\n")
                    file.flush()  # a full disk says so here
                    undo.pop_all()
                _OURS.add(path)
                return True
            except FileExistsError:
                if not _is_stale(path):
                    return False
                # Two processes may both find it stale; only one can rename it, the other finds the new claim.
                aside = path.with_name(f".{secrets.token_hex(4)}.claim")
                with contextlib.suppress(FileNotFoundError):
                    path.rename(aside)
                    aside.unlink()
    return False


def _is_stale(path: Path) -> bool:
    """Whether the process behind a claim is gone: known at once on this machine, by its silence on another one."""
    try:
        host, _, process = path.read_text().strip().partition(" ")
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return True  # just finished
    if host == socket.gethostname() and process.isdecimal():
        # In a container a killed process and the one that follows it often have the same number.
        ours = int(process) == os.getpid()
        dead = path not in _OURS if ours else not psutil.pid_exists(int(process))
    else:
        dead = False
    return dead or age > STALE


def _keep_alive(path: Path, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        with contextlib.suppress(OSError):
            os.utime(path)
