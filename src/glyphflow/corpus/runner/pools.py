"""How an operator is applied to the rows of a shard on one machine: in threads, or in processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from glyphflow.core.errors import GlyphFlowError, InputError
from glyphflow.core.pictures import PictureError
from glyphflow.corpus.operator import Operator, Row, Shard
from glyphflow.corpus.specs import Renderer
from glyphflow.corpus.store import Corpus

FAILED = 8  # rows of one call at all of which an operator fails, after which it counts as broken
MAX_DEATHS = 3  # of worker processes at one slice

Values = Mapping[str, Any]
Results = Iterator[tuple[Sequence[int], list[Values]]]  # row numbers, what each row gave


def compute(operator: Operator, rows: Sequence[Row], alone: Any = None) -> list[Values]:
    """What ``operator`` says of ``rows``; a picture that is damaged, or at which it fails, costs its own row and no other.

    An operator that fails at each of FAILED rows or more is broken itself, and the error is raised. ``alone`` is held while the
    operator computes (its ``prepare`` runs outside).
    """
    errors: dict[int, Values] = {}
    failures: list[Exception] = []
    for row in rows if operator.prepare is not None else ():
        try:
            row.prepared = operator.prepare(row) if operator.prepare else None
        except Exception as error:
            errors[row.number] = _error(operator, error, failures)
    good = [row for row in rows if row.number not in errors]
    with alone or contextlib.nullcontext():
        found = iter(list(_compute(operator, good, failures)))
    if len(failures) == len(rows) >= FAILED:
        raise failures[0]
    return [errors.get(row.number) or next(found) for row in rows]


def _error(operator: Operator, error: Exception, failures: list[Exception]) -> Values:
    """The error of the row that raised ``error``, which is added to ``failures`` when it is no fault of the picture's bytes.

    What every row would meet (a missing package, a disk, a wrong recipe, no memory) is raised again.
    """
    if isinstance(error, PictureError):
        return {"error": str(error)}
    if isinstance(error, GlyphFlowError | OSError | ImportError | MemoryError):
        raise error
    failures.append(error)
    return {"error": f"{operator.stage} cannot measure it: {type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def _compute(operator: Operator, rows: Sequence[Row], failures: list[Exception]) -> Iterator[Values]:
    for start in range(0, len(rows), operator.batch):
        batch = rows[start : start + operator.batch]
        try:
            found: Sequence[Values] = operator.compute(batch)
        except Exception as error:
            told = _error(operator, error, failures if len(batch) == 1 else [])
            found = [told] if len(batch) == 1 else [each for row in batch for each in _compute(operator, [row], failures)]
        if len(found) != len(batch):
            raise ValueError(f"the operator {operator.stage!r} gave {len(found)} results for {len(batch)} rows")
        for row in batch:
            row.release()
        yield from found


def _in_window(submit: Callable[[Sequence[int]], Future[list[Values]]], slices: Iterable[Sequence[int]], ahead: int) -> Results:
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


class Threads:
    """Threads of this process."""

    def __init__(self, workers: int, operator: Operator) -> None:
        self._operator = operator
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers)
        self._alone = threading.Lock() if operator.parallel == "one" else None

    def map(self, shard: Shard, slices: Iterable[Sequence[int]]) -> Results:
        def submit(piece: Sequence[int]) -> Future[list[Values]]:
            return self._pool.submit(compute, self._operator, [Row(shard, number) for number in piece], self._alone)

        return _in_window(submit, slices, 2 * self._workers)

    def close(self) -> None:
        if self._operator.stop is not None:
            self._operator.stop()
        self._pool.shutdown(cancel_futures=True)


class Processes:
    """Processes for an operator that holds the interpreter lock; they get row numbers and give back columns, never pixels."""

    def __init__(self, workers: int, made: tuple[str, str, dict[str, Any]]) -> None:
        self._workers = workers
        self._made = made
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")  # a fork would copy threads' locks in whatever state they are
        return ProcessPoolExecutor(self._workers, context, _begin_process, self._made)

    def map(self, shard: Shard, slices: Iterable[Sequence[int]]) -> Results:
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
