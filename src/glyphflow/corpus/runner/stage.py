"""The runner: one operator over every shard that lacks its columns, on this machine, a Ray cluster or as Slurm jobs.

The work list is what is missing on disk, so any number of runners of any kind may work on one corpus at once, a run that was
killed is continued by the same command, and losing a process loses at most the shard it was at. A process takes a shard by a
claim (:mod:`glyphflow.corpus.runner.claims`), reads its pictures one after another, and writes its columns by one rename.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glyphflow.core.errors import ConfigError
from glyphflow.core.progress import Progress
from glyphflow.corpus.operator import Operator, Shard
from glyphflow.corpus.runner.claims import claimed
from glyphflow.corpus.runner.pools import Processes, Threads, Values
from glyphflow.corpus.specs import Renderer
from glyphflow.corpus.store import Corpus
from glyphflow.corpus.tables import read_arrow, write_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLICE = 16  # rows that a thread takes at once from an operator without batches
POLL = 0.5  # seconds between two looks at what other processes have finished

Part = tuple[int, int]  # (i, n): begin with the i-th of n parts of the shards
Advance = Callable[[int], None]


def run(
    corpus: Corpus,
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    view: str | None = None,
    workers: int | None = None,
    on: str = "local",
    part: Part | None = None,
    wait: bool = True,
) -> int:
    """Measure with the operator ``name`` (see :func:`glyphflow.corpus.operators.make_operator`) what it has not seen yet.

    With ``view`` only the rows that it keeps are computed; the others stay null with ``measured`` false, until a call with
    another view, or none, adds them. ``workers`` is the number of threads or processes (default: every core), on Ray of actors.
    ``on`` is "local", "ray" (a Ray on this machine) or "ray://HOST:PORT". One of many jobs begins with its ``part`` (i, n) and
    then helps the others; with ``wait`` it returns when every shard is measured, also those that others are at. Gives the
    number of rows measured now.
    """
    if name in GLOBAL:
        with corpus.deciding(f"measuring {name}"):
            return GLOBAL[name](corpus, **(options or {}))
    stage = Stage(corpus, name, options or {}, view, workers)
    with corpus.measuring(), engine(on), Progress(f"measure {stage.operator.stage}", stage.rows(), "picture") as progress:
        if on != "local":
            from glyphflow.corpus.runner.ray import drain

            return drain(stage, on, workers, progress.advance)
        with stage:
            return stage.drain(progress.advance, part, wait)


def engine(on: str) -> contextlib.AbstractContextManager[None]:
    """What is held while stages run ``on`` it (see :func:`run`): several inside one do not start Ray anew."""
    if on == "local":
        return contextlib.nullcontext()
    if on != "ray" and not on.startswith("ray://"):
        raise ConfigError(f"--on {on} is not known; choose local, ray, ray://HOST:PORT or slurm.")
    from glyphflow.corpus.runner.ray import connected

    return connected(on)


def _duplicates(corpus: Corpus) -> int:
    from glyphflow.corpus.operators.measure import duplicates

    return duplicates(corpus)


def _categories(corpus: Corpus, **options: Any) -> int:
    from glyphflow.corpus.operators.categories import categories

    return categories(corpus, **options)


# Stages that look at the columns of all shards at once, one process at a time; they give the number of rows looked at.
GLOBAL: Mapping[str, Callable[..., int]] = {"duplicates": _duplicates, "categories": _categories}


class Stage:
    """The columns of one operator in one corpus: what is missing, and how a shard of it is done. Enter it to work."""

    def __init__(
        self, corpus: Corpus, name: str, options: Mapping[str, Any], view: str | None = None, workers: int | None = None
    ) -> None:
        from glyphflow.corpus.operators import make_operator

        self.corpus = corpus
        self.operator: Operator = make_operator(name, **options)
        self.view = view
        self.mark = corpus.begin_stage(self.operator.stage, _identity(corpus, self.operator))
        self._renderer = Renderer()
        self.made = (str(corpus.directory.resolve()), name, dict(options))  # what another process needs to make the same
        self._workers = workers or os.cpu_count() or 1
        self._pool: Threads | Processes | None = None
        self._done: set[str] = set()  # shards never lose what they have
        self._counts: dict[str, int] = {}  # nor do they get other rows

    def __enter__(self) -> Stage:
        if self.operator.parallel == "processes" and self._workers > 1:
            self._pool = Processes(self._workers, self.made)
        else:
            self._pool = Threads(self._workers, self.operator)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.close()

    # -- what is left -------------------------------------------------------------------------------------------------

    def missing(self) -> list[str]:
        """The shards that lack the columns, or rows of them."""
        absent = set(self.corpus.missing(self.operator.stage, self.mark))
        return [shard for shard in self.corpus.shards() if shard in absent or not self.is_done(shard)]

    def is_done(self, shard: str) -> bool:
        """Whether every row of ``shard`` that is wanted is measured."""
        if shard not in self._done:
            measured = self._measured(shard)
            if measured is None or not measured[self._wanted(shard, len(measured))].all():
                return False
            self._done.add(shard)
        return True

    def rows(self) -> int:
        """How many rows are wanted and not measured, in all shards."""
        return sum(int(self._todo(shard).sum()) for shard in self.missing())

    def _path(self, shard: str) -> Path:
        return self.corpus.column_path(self.operator.stage, self.mark, shard)

    def _measured(self, shard: str) -> NDArray[np.bool_] | None:
        """(rows,) which rows of the shard are measured; None when it has no columns yet."""
        path = self._path(shard)
        if not path.exists():
            return None
        column = read_arrow(path, ("measured",), optional=("measured",)).column("measured")
        # Columns that an older version wrote have every row.
        return np.array([value is None or value for value in column.to_pylist()], np.bool_)

    def _wanted(self, shard: str, rows: int) -> NDArray[np.bool_]:
        if self.view is None:
            return np.ones(rows, np.bool_)
        return np.array(self.corpus.view(self.view, shard)["kept"], np.bool_)

    def _todo(self, shard: str) -> NDArray[np.bool_]:
        measured = self._measured(shard)
        if measured is None:
            if shard not in self._counts:
                self._counts[shard] = len(self.corpus.arrow(shard, ("id",)))
            measured = np.zeros(self._counts[shard], np.bool_)
        return self._wanted(shard, len(measured)) & ~measured

    # -- the work -----------------------------------------------------------------------------------------------------

    def drain(self, advance: Advance, part: Part | None = None, wait: bool = True) -> int:
        """Measure shard after shard until none is left (see :func:`run`); gives the number of rows measured here."""
        done = 0
        while missing := self.missing():
            here = [self.attempt(shard, advance) for shard in in_turn(missing, self.corpus.shards(), part)]
            done += sum(rows for rows in here if rows is not None)
            if all(rows is None for rows in here):  # others are at what is left
                if not wait:
                    break
                time.sleep(POLL)
        return done

    def attempt(self, shard: str, advance: Advance) -> int | None:
        """Measure ``shard`` unless somebody else does; gives its rows measured here, None when another process is at it."""
        with claimed(self._path(shard)) as ours:
            if not ours:
                return None
            todo = np.flatnonzero(self._todo(shard))
            if len(todo) or not self._path(shard).exists():
                self._measure(shard, todo, advance)
            self._done.add(shard)
            return len(todo)

    def _measure(self, shard: str, numbers: NDArray[np.int64], advance: Advance) -> None:
        assert self._pool is not None, "enter the stage to work"
        with Shard(self.corpus, shard, self._renderer) as opened:
            errors = opened.values("error")
            found: dict[int, Values] = {number: {"error": errors[number]} for number in numbers.tolist() if errors[number]}
            advance(len(found))
            readable = [number for number in numbers.tolist() if number not in found]
            size = self.operator.batch if self.operator.batch > 1 else SLICE
            slices = [readable[start : start + size] for start in range(0, len(readable), size)]
            for piece, values in self._pool.map(opened, slices):
                found.update(zip(piece, values, strict=True))
                advance(len(piece))
        self._write(shard, self.corpus.arrow(shard, ("id",)).column("id"), found)

    def _write(self, shard: str, ids: Any, found: Mapping[int, Values]) -> None:
        """Write what was ``found`` by row number, beside what is there already; ``ids`` is the Arrow column."""
        path, types = self._path(shard), {**self.operator.types, "error": "string"}
        nothing: Values = {}
        rows = [found.get(number, nothing) for number in range(len(ids))]
        columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in types}
        measured = [number in found for number in range(len(ids))]
        if path.exists():  # rows of an earlier view, perhaps of another process in this moment
            before = read_arrow(path).to_pydict()
            for number, known in enumerate(before["measured"]):
                if known and not measured[number]:
                    measured[number] = True
                    for name in types:
                        columns[name][number] = before[name][number]
        write_table(path, {"id": ids, "measured": measured, **columns}, {"id": "string", "measured": "bool", **types})


def in_turn(missing: Sequence[str], shards: Sequence[str], part: Part | None) -> list[str]:
    """``missing`` in the order in which this process tries them: its own part of ``shards`` first."""
    if part is None:
        return list(missing)
    number, parts = part
    own = set(shards[number::parts])
    return sorted(missing, key=lambda shard: shard not in own)


def _identity(corpus: Corpus, operator: Operator) -> dict[str, Any]:
    said = {"stage": operator.stage, **operator.identity}
    if operator.inputs:
        said["inputs"] = {stage: corpus.stage_fingerprint(stage) for stage in operator.inputs}
        lacking = [stage for stage, mark in said["inputs"].items() if mark is None]
        if lacking:
            raise ConfigError(
                f"The operator {operator.stage!r} reads the columns of {lacking[0]!r}, which nothing has measured; run "
                f"glyphflow corpus measure --stages {lacking[0]} first."
            )
    return said
