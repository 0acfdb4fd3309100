"""A run that is killed again and again beside the same run left alone: are the results the same bits?

    python -m benchmarks.train.faults                                     three transports, 8 kills each
    python -m benchmarks.train.faults --transports local --kills 20 --steps 200

Toy networks and a small corpus with photographs and edits are made on the spot; the run learns all three tasks at two
resolutions, with held-out samples, an average and a checkpoint every few steps. Kills are SIGKILL, at steps and moments drawn
from ``--seed``:

    trainer     the process that trains, in the middle of anything; the same command is started again
    checkpoint  the same while a checkpoint is being written: its unfinished directory is there
    producer    local: a process that encodes beside the trainer; ray: an actor; files: ``glyphflow encode``, which fills the
                cache while the trainer reads it and is started again

The uninterrupted run takes its samples from ``local`` producers. What is compared at the end: every tensor of the last
checkpoint, and loss, gradient norm and held-out loss of every step. Exit code 1 when anything differs or fewer were killed.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from benchmarks.common import machine, table
from glyphflow.feed.locks import is_locked
from glyphflow.train.metrics import read_metrics

TESTS = Path(__file__).parents[2] / "tests"
KINDS = ("trainer", "producer", "checkpoint")
SAVE_EVERY = 4
PATIENCE = 600.0
"""Seconds without a new step after which the script gives up."""
_SHARED = Path("/dev/shm")


def make_place(place: Path, photos: int) -> None:
    """The toy pipeline of the tests and their corpus."""
    sys.path += [str(TESTS), str(TESTS / "feed")]
    from feed_corpus import make_corpus

    from tiny import tiny_pipeline

    tiny_pipeline(place / "model")
    make_corpus(place, photos=photos)


def recipe(place: Path, out: Path, cache: Path | None, steps: int) -> list[str]:
    """A packaged recipe with the toy corpus in it, as arguments."""
    source = f"name: all, corpus: {place / 'corpus'}" + (f", cache: {cache}" if cache else "")
    return [
        "demo-mmdit",
        f"out={out}",
        f"feed.sources=[{{{source}}}]",
        "feed.resolutions=[{area: 4096, batch_size: 4, share: 3}, {area: 16384, batch_size: 2}]",
        "feed.tasks={t2i: 0.6, ti2i: 0.2, i2i: 0.2}",
        "feed.heldout_share=0.1",
        f"train.init_from={place / 'model'}",
        "train.device=cpu",
        f"train.steps={steps}",
        "train.log_every=1",
        f"train.checkpoint_every={SAVE_EVERY}",
        f"train.heldout_every={5 * SAVE_EVERY}",
        "train.heldout_samples=8",
        "preview.prompts=[]",
    ]


class Run:
    """One training command and, for ``files``, the one that fills its cache; started again whenever they were killed."""

    def __init__(self, place: Path, name: str, transport: str, steps: int, count: int) -> None:
        self.out = place / name
        self.log = place / f"{name}.log"
        cache = place / f"{transport}-cache" if transport == "files" else None
        arguments = recipe(place, self.out, cache, steps)
        producers = [] if cache else [f"train.producers={count}"]
        self._train = ["train", *arguments, f"train.transport={transport}", *producers]
        self._encode = ["encode", *arguments] if cache else None
        self._cache = cache
        self.trainer: subprocess.Popen[bytes] | None = None
        self.encoder: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def start(self) -> None:
        """Whatever is not at work."""
        if self._encode and (self.encoder is None or self.encoder.poll() not in (None, 0)):
            self.encoder = self._command(self._encode)
            while self._cache and self.encoder.poll() is None and not any(map(is_locked, self._cache.glob("producers/*-of-*"))):
                time.sleep(0.1)
        if self.trainer is None or self.trainer.poll() is not None:
            self.trainer = self._command(self._train)
            self.starts += 1

    def step(self) -> int:
        """The last step that was logged."""
        return max((line["step"] for line in read_metrics(self.out)), default=0)

    def moments(self, kind: str, count: int, steps: int, dice: random.Random) -> list[int]:
        """When to kill ``count`` of ``kind``, as :meth:`reached` counts; not in the last quarter, so that all find one."""
        last = 2 if self._cache and kind == "producer" else 3 * steps // 4
        return sorted(dice.randrange(last) for _ in range(count))

    def reached(self, kind: str, step: int) -> int:
        """How far that is which ``kind`` works on: the step, or shards in the cache."""
        return len(list(self._cache.glob("area-*/*.safetensors"))) if self._cache and kind == "producer" else step

    def saving(self) -> bool:
        """Whether a checkpoint is half written."""
        return any((self.out / "checkpoints").glob(".*.tmp/*"))

    def producers(self) -> list[int]:
        """Ids of the processes that encode."""
        if self.encoder is not None:
            return [self.encoder.pid] if self.encoder.poll() is None else []
        assert self.trainer is not None
        return [pid for pid in descendants(self.trainer.pid) if re.search(r"spawn_main|ray::Producer", command_of(pid))]

    def _command(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", "glyphflow", *arguments], stdout=log, stderr=log, env=environment)

    def end(self) -> None:
        """Leave nothing running."""
        for process in (self.trainer, self.encoder):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


def descendants(pid: int) -> list[int]:
    """Processes below ``pid``, youngest last."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def killed_run(run: Run, kills: int, steps: int, dice: random.Random) -> Counter[str]:
    """Run to the end through ``kills`` kills of all kinds; what was killed."""
    kinds = [KINDS[number % len(KINDS)] for number in range(kills)]
    plan = {kind: run.moments(kind, kinds.count(kind), steps, dice) for kind in KINDS}
    done: Counter[str] = Counter()
    moved, seen = time.monotonic(), -1
    run.start()
    assert run.trainer is not None
    while True:
        if (step := run.step()) != seen:
            moved, seen = time.monotonic(), step
        if time.monotonic() - moved > PATIENCE:
            raise SystemExit(f"No new step for {PATIENCE:.0f} s; see {run.log}.")
        ended = run.trainer.poll()  # asked once: it may end between two questions
        if ended == 0:
            break
        if ended is not None or (run.encoder is not None and run.encoder.poll() not in (None, 0)):
            if ended not in (None, -signal.SIGKILL) and "no process fills it" not in run.log.read_text(errors="replace"):
                raise SystemExit(f"The trainer ended with {ended}:\n{run.log.read_text(errors='replace')[-2000:]}")
            run.start()
        for kind, moments in plan.items():
            if moments and run.reached(kind, step) >= moments[0] and strike(run, kind, dice):
                done[kind] += 1
                moments.pop(0)
        time.sleep(0.002)
    return done


def strike(run: Run, kind: str, dice: random.Random) -> bool:
    """Kill something of ``kind``, if there is something now."""
    assert run.trainer is not None
    if run.trainer.poll() is not None or (kind == "checkpoint" and not run.saving()):
        return False
    if kind != "checkpoint":
        time.sleep(dice.uniform(0.0, 2.0 if run.encoder is not None and kind == "producer" else 0.2))
    if kind == "producer":
        producers = run.producers()
        return bool(producers) and kill(dice.choice(producers))
    if run.trainer.poll() is not None:
        return False
    kill(run.trainer.pid)
    run.trainer.wait()
    return True


def state(out: Path, steps: int) -> dict[str, torch.Tensor]:
    """Every tensor of the last checkpoint."""
    with tempfile.NamedTemporaryFile() as file:
        dcp_to_torch_save(out / "checkpoints" / f"step_{steps:08d}", file.name)
        found: dict[str, torch.Tensor] = torch.load(file.name)
    return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], kind: str) -> str:
    """In words, whether the tensors of ``kind`` are equal to the last bit."""
    names = [name for name in one.keys() | other.keys() if name.startswith(f"{kind}.")]
    differing = [name for name in names if name not in one or name not in other or not torch.equal(one[name], other[name])]
    return f"{len(differing)} of {len(names)} differ" if differing else f"{len(names)} equal"


def losses(out: Path) -> list[dict[str, Any]]:
    keys = ("step", "loss", "grad_norm", "lr", "heldout_loss")
    return [{key: line[key] for key in keys if key in line} for line in read_metrics(out)]


def abandoned(before: set[Path]) -> set[Path]:
    """Shared memory made since ``before`` that no living process has: what another program shares is its own."""
    found = set(_SHARED.glob("psm_*")) - before
    for _ in range(2):  # one may be about to be mapped, or to be removed
        for maps in Path("/proc").glob("[0-9]*/maps"):
            try:
                text = maps.read_text(errors="replace")
            except OSError:
                continue
            found = {path for path in found if path.name not in text}
        if not found:
            break
        time.sleep(1.0)
    return {path for path in found if path.exists()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--transports", default="local,files,ray")
    parser.add_argument("--kills", type=int, default=8, help="of each transport")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--photos", type=int, default=300)
    parser.add_argument("--producers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--place", type=Path, help="an empty directory to keep everything in")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as folder:
        place = given.place or Path(folder)
        make_place(place, given.photos)
        if not compare(place, given.transports.split(","), given.kills, given.steps, given.seed, given.producers):
            raise SystemExit(1)


def compare(place: Path, transports: list[str], kills: int, steps: int, seed: int, producers: int) -> bool:
    """Print the table; whether all is as it should be."""
    straight = Run(place, "straight", "local", steps, producers)
    began = time.perf_counter()
    try:
        killed_run(straight, 0, steps, random.Random(0))
    finally:
        straight.end()
    alone = time.perf_counter() - began
    wanted, written = state(straight.out, steps), losses(straight.out)
    rows: list[tuple[object, ...]] = [("none (local)", 0, 0, 0, 1, *["-"] * 4, 0, f"{alone:.0f}")]
    good = True
    for number, transport in enumerate(transports):
        before = set(_SHARED.glob("*"))
        run = Run(place, transport, transport, steps, producers)
        began = time.perf_counter()
        try:
            done = killed_run(run, kills, steps, random.Random(seed + number))
        finally:
            run.end()
        seconds = time.perf_counter() - began
        found = state(run.out, steps)
        verdicts = [same(wanted, found, kind) for kind in ("model", "ema", "optimizer")]
        lines = losses(run.out)
        verdicts.append(f"{len(lines)} equal" if lines == written else "differ")
        left = len(abandoned(before))
        rows.append((transport, *(done[kind] for kind in KINDS), run.starts, *verdicts, left, f"{seconds:.0f}"))
        good = good and sum(done.values()) == kills and not any("differ" in verdict for verdict in verdicts) and not left
    print(machine(*(["ray"] if "ray" in transports else [])))
    killed = tuple(f"killed: {kind}" for kind in KINDS)
    compared = ("weights", "EMA", "optimizer", "log lines")
    print(table(("transport", *killed, "starts", *compared, "shared memory left", "seconds"), rows))
    return good


if __name__ == "__main__":
    main()
