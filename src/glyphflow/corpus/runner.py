"""The runner: one operator over every shard that lacks its columns, on this machine, a Ray cluster or as Slurm jobs.

The work list is what is missing on disk, so any number of runners of any kind may work on one corpus at once, a run that was
killed is continued by the same command, and losing a process loses at most the shard it was at. A process takes a shard by a
claim (:mod:`glyphflow.corpus.claims`), reads its pictures one after another, and writes its columns by one rename.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

import numpy as np

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.progress import Progress
from glyphflow.corpus.claims import claimed
from glyphflow.corpus.decode import PictureError
from glyphflow.corpus.operator import Operator, Row, Shard
from glyphflow.corpus.specs import Renderer
from glyphflow.corpus.store import Corpus
from glyphflow.corpus.tables import read_arrow, write_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLICE = 16  # rows that a thread takes at once
GLOBAL_PATIENCE = 3600.0  # seconds that a stage over all shards waits for those who still measure
MAX_DEATHS = 3  # of worker processes at one slice
POLL = 0.5  # seconds between two looks at what other processes have finished

Part = tuple[int, int]  # (i, n): begin with the i-th of n parts of the shards
Values = Mapping[str, Any]


def run(
    corpus: Corpus,
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    view: str | None = None,
    workers: int | None = None,
    on: str = "local",
    part: Part | None = None,
) -> int:
    """Measure with the operator ``name`` (see :func:`glyphflow.corpus.operators.make_operator`) what it has not seen yet.

    With ``view`` only the rows that it keeps are computed; the others stay null with ``measured`` false, until a call with
    another view, or none, adds them. ``workers`` is the number of threads or processes (default: every core), on Ray of actors.
    Returns when every shard is measured, also those that other processes are at, unless this is ``part`` (i, n) of an array of
    jobs: it begins with its own shards, helps the others, and does not wait for them. Gives the number of rows measured now.
    """
    if on != "local":
        raise ConfigError(f"--on {on} is not known; choose local.")
    if name in GLOBAL:
        with corpus.writing(f"measuring {name}", patience=GLOBAL_PATIENCE):
            return GLOBAL[name](corpus, **(options or {}))
    stage = Stage(corpus, name, options or {}, view, workers)
    with corpus.measuring(), stage, Progress(f"measure {stage.operator.stage}", stage.rows(), "row") as progress:
        return stage.drain(progress.advance, part)


def _duplicates(corpus: Corpus) -> int:
    from glyphflow.corpus.measure import duplicates

    return duplicates(corpus)


# Stages that look at the columns of all shards at once, under the writer's lock; gives the number of rows looked at.
GLOBAL: Mapping[str, Callable[..., int]] = {"duplicates": _duplicates}


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
        self._made = (str(corpus.directory), name, dict(options))
        self._workers = workers or os.cpu_count() or 1
        self._pool: _Threads | _Processes | None = None

    def __enter__(self) -> Stage:
        if self.operator.parallel == "processes" and self._workers > 1:
            self._pool = _Processes(self._workers, self._made)
        else:
            self._pool = _Threads(self._workers, self.operator)
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
        measured = self._measured(shard)
        return measured is not None and bool(measured[self._wanted(shard, len(measured))].all())

    def rows(self) -> int:
        """How many rows are wanted and not measured, in all shards."""
        return sum(int(self._todo(shard).sum()) for shard in self.missing())

    def _path(self, shard: str) -> Any:
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
            measured = np.zeros(len(self.corpus.arrow(shard, ("id",))), np.bool_)
        return self._wanted(shard, len(measured)) & ~measured

    # -- the work -----------------------------------------------------------------------------------------------------

    def drain(self, advance: Callable[[int], None], part: Part | None = None) -> int:
        """Measure shard after shard until none is left (see :func:`run`); gives the number of rows measured here."""
        done = 0
        while missing := self.missing():
            here = [self.attempt(shard, advance) for shard in in_turn(missing, self.corpus.shards(), part)]
            done += sum(rows for rows in here if rows is not None)
            if all(rows is None for rows in here):  # others are at what is left
                if part is not None:
                    break
                time.sleep(POLL)
        return done

    def attempt(self, shard: str, advance: Callable[[int], None]) -> int | None:
        """Measure ``shard`` unless somebody else does; gives its rows measured here, None when another process is at it."""
        with claimed(self._path(shard)) as ours:
            if not ours:
                return None
            todo = np.flatnonzero(self._todo(shard))
            if len(todo) or not self._path(shard).exists():
                self._measure(shard, todo, advance)
            return len(todo)

    def _measure(self, shard: str, numbers: NDArray[np.int64], advance: Callable[[int], None]) -> None:
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
            self._write(shard, opened.values("id"), found)

    def _write(self, shard: str, ids: Sequence[str], found: Mapping[int, Values]) -> None:
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


# -- pools ----------------------------------------------------------------------------------------------------------------


def compute(operator: Operator, rows: Sequence[Row], alone: Any = None) -> list[Values]:
    """What ``operator`` says of ``rows``; a damaged picture costs its own row and no other.

    ``alone`` is held while the operator computes (its ``prepare`` runs outside).
    """
    errors: dict[int, Values] = {}
    for row in rows if operator.prepare is not None else ():
        try:
            row.prepared = operator.prepare(row) if operator.prepare else None
        except PictureError as error:
            errors[row.number] = {"error": str(error)}
    good = [row for row in rows if row.number not in errors]
    with alone or contextlib.nullcontext():
        found = iter(_compute(operator, good))
    return [errors.get(row.number) or next(found) for row in rows]


def _compute(operator: Operator, rows: Sequence[Row]) -> Iterator[Values]:
    for start in range(0, len(rows), operator.batch):
        batch = rows[start : start + operator.batch]
        try:
            found: Sequence[Values] = operator.compute(batch)
        except PictureError as error:
            found = (
                [{"error": str(error)}] if len(batch) == 1 else [each for row in batch for each in _compute(operator, [row])]
            )
        if len(found) != len(batch):
            raise ValueError(f"the operator {operator.stage!r} gave {len(found)} results for {len(batch)} rows")
        yield from found


def _in_window(
    submit: Callable[[Sequence[int]], Future[list[Values]]], slices: Iterable[Sequence[int]], ahead: int
) -> Iterator[tuple[Sequence[int], list[Values]]]:
    """Results in order, with at most ``ahead`` slices begun and not handed over: what bounds the memory."""
    waiting: deque[tuple[Sequence[int], Future[list[Values]]]] = deque()
    try:
        for piece in slices:
            waiting.append((piece, submit(piece)))
            if len(waiting) >= ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:  # an error or Ctrl-C: what has not begun never will
        for _, future in waiting:
            future.cancel()


class _Threads:
    """Threads of this process."""

    def __init__(self, workers: int, operator: Operator) -> None:
        self._operator = operator
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers)
        self._alone = threading.Lock() if operator.parallel == "one" else None

    def map(self, shard: Shard, slices: Iterable[Sequence[int]]) -> Iterator[tuple[Sequence[int], list[Values]]]:
        def submit(piece: Sequence[int]) -> Future[list[Values]]:
            return self._pool.submit(compute, self._operator, [Row(shard, number) for number in piece], self._alone)

        return _in_window(submit, slices, 2 * self._workers)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class _Processes:
    """Processes for an operator that holds the interpreter lock; they get row numbers and give back columns, never pixels."""

    def __init__(self, workers: int, made: tuple[str, str, dict[str, Any]]) -> None:
        self._workers = workers
        self._made = made
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # a fork would copy threads' locks in whatever state they are
        return ProcessPoolExecutor(self._workers, context, _begin_process, self._made)

    def map(self, shard: Shard, slices: Iterable[Sequence[int]]) -> Iterator[tuple[Sequence[int], list[Values]]]:
        def submit(piece: Sequence[int]) -> Future[list[Values]]:
            return self._pool.submit(_in_process, shard.name, piece)

        left, deaths = list(slices), 0
        while left:
            try:
                for piece, values in _in_window(submit, tuple(left), 2 * self._workers):
                    yield piece, values
                    left.pop(0)
                    deaths = 0
            except BrokenProcessPool as error:
                deaths += 1
                if deaths == MAX_DEATHS:
                    raise InputError(
                        f"A process died {deaths} times at rows {left[0][0]} and following of the shard {shard.name!r} (out of "
                        "memory, or a codec that crashes); use fewer --workers, or forget the picture that does it."
                    ) from error
                self._pool.shutdown(cancel_futures=True)
                self._pool = self._start()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


_PROCESS: list[Any] = []  # in a worker process: the corpus, the operator, the renderer


def _begin_process(directory: str, name: str, options: Mapping[str, Any]) -> None:
    from glyphflow.corpus.operators import make_operator

    parent = multiprocessing.parent_process()
    if parent is not None:  # whose death by a signal nobody tells its children
        threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    _PROCESS[:] = [Corpus.open(directory), make_operator(name, **options), Renderer()]


def _die_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _in_process(shard: str, numbers: Sequence[int]) -> list[Values]:
    corpus, operator, renderer = _PROCESS
    with Shard(corpus, shard, renderer) as opened:
        return compute(operator, [Row(opened, number) for number in numbers])
