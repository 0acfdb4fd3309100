"""Verdicts on disk: a judge is asked once per question, whatever happens to the run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import storage_errors
from glyphflow.core.progress import Progress
from glyphflow.core.text import whole_characters
from glyphflow.evaluate.case import Case, Judge, Verdict, ask, failed, fits
from glyphflow.evaluate.question import Question

BATCH = 8  # cases per call of a judge that does not say what it likes
ANSWERS = ("ok", "refused", "parse_error")
"""What a judge said; to ask again and keep the good ones would raise the score. A time-out or an error said nothing."""


def existing_bytes(path: Path) -> bytes:
    """The content of a file; nothing where there is none, an :class:`InputError` where it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); move it away, or make it readable.") from error


class Entry(NamedTuple):
    """A verdict, when it was given (UTC; empty when nobody was asked) and the hashes of the pictures that it is about."""

    verdict: Verdict
    at: str
    pictures: tuple[str, ...]


def judge_of(judges: Sequence[Judge]) -> dict[str, Judge]:
    """Who answers each kind of question; two judges of one kind are a :class:`ConfigError`."""
    found: dict[str, Judge] = {}
    for judge in judges:
        for kind in sorted(judge.kinds):
            if kind in found and found[kind] is not judge:
                raise ConfigError(
                    f"Both {found[kind].identity} and {judge.identity} answer questions of kind {kind}; "
                    "name one, or combine them in a panel."
                )
            found[kind] = judge
    return found


class VerdictBook:
    """Verdicts on disk, one JSON line each, found again by pictures, question and judge.

    Every answer is written before the next ones are waited for. A judge may say how it likes to be asked: ``batch`` cases in a
    call (8), ``workers`` calls at a time (1).
    """

    def __init__(self, path: Path, *, again: bool = False) -> None:
        """Read what is known; with ``again``, what was refused or could not be understood counts as not asked."""
        self._path = path
        self._known: dict[str, tuple[Verdict, str]] = {}
        data = existing_bytes(path)
        self._broken = bool(data) and not data.endswith(b"\n")
        for line in data.split(b"\n"):
            try:
                row = json.loads(line)
                verdict = Verdict(row["status"], row["value"], dict(row["raw"]), str(row["identity"]))
                key, at = str(row["key"]), str(row["at"])
                if verdict.ok and not fits(row["kind"], verdict.value):
                    continue
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # blank, or the half line of a run that was killed while it wrote
            if verdict.ok or (verdict.status in ANSWERS and not again):
                self._known[key] = (verdict, at)

    def judge(self, questions: Sequence[Question], judges: Mapping[str, Judge], label: str) -> list[Entry]:
        """An entry for each question, from the book where it is there; questions of a kind that no judge answers fail.

        Pictures are read as they are needed, so that memory does not grow with the benchmark.
        """
        entries: list[Entry | None] = [None] * len(questions)
        with Progress(label, total=len(questions), unit="question") as progress:
            for judge in {id(judge): judge for judge in judges.values()}.values():
                mine = [index for index, question in enumerate(questions) if judges.get(question.kind) is judge]
                self._ask_all(judge, questions, mine, entries, progress)
            for index, question in enumerate(questions):
                if entries[index] is None:
                    reason = f"no judge was named that answers questions of kind {question.kind}"
                    entries[index] = Entry(failed("none", "error", reason), "", ())
                    progress.advance()
        return [entry for entry in entries if entry is not None]

    def _ask_all(
        self,
        judge: Judge,
        questions: Sequence[Question],
        mine: Sequence[int],
        entries: list[Entry | None],
        progress: Progress,
    ) -> None:
        identity, batch, workers = judge.identity, getattr(judge, "batch", BATCH), getattr(judge, "workers", 1)
        open_: dict[str, list[int]] = {}  # questions by key that are waiting or under way: equal ones are asked once
        waiting: dict[str, Case] = {}
        running: dict[Future[list[Verdict]], dict[str, Case]] = {}

        def settle(indices: Sequence[int], entry: Entry) -> None:
            for index in indices:
                entries[index] = entry
            progress.advance(len(indices))

        def collect(most: int) -> None:
            while len(running) > most:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    cases = running.pop(future)
                    for key, entry in self._append(cases, future.result()).items():
                        settle(open_.pop(key), entry)

        with ThreadPoolExecutor(workers) as pool:
            try:
                for index in mine:
                    case = questions[index].load(identity)
                    if isinstance(case, Verdict):
                        settle([index], Entry(case, "", ()))
                        continue
                    key = case.key(identity)
                    if key in open_:
                        open_[key].append(index)
                    elif key in self._known:
                        settle([index], Entry(*self._known[key], case.pictures_sha256))
                    else:
                        open_[key], waiting[key] = [index], case
                    if len(waiting) == batch:
                        running[pool.submit(ask, judge, list(waiting.values()))] = waiting
                        waiting = {}
                        collect(workers if workers > 1 else 0)
                if waiting:
                    running[pool.submit(ask, judge, list(waiting.values()))] = waiting
                collect(0)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                for future, cases in running.items():  # what was under way has been answered, and perhaps paid for
                    if not future.cancelled() and future.exception() is None:
                        self._append(cases, future.result())
                raise

    def _append(self, cases: Mapping[str, Case], verdicts: Sequence[Verdict]) -> dict[str, Entry]:
        at, entries = datetime.now(UTC).isoformat(timespec="seconds"), {}
        with storage_errors(self._path), self._path.open("ab") as file:
            if self._broken:  # end the half line that a killed run left
                file.write(b"\n")
                self._broken = False
            for (key, case), verdict in zip(cases.items(), verdicts, strict=True):
                row = {"key": key, "id": case.id, "kind": case.kind, "pictures": list(case.pictures_sha256), "at": at}
                text = json.dumps({**row, **asdict(verdict)}, ensure_ascii=False)
                file.write(whole_characters(text).encode() + b"\n")
                entries[key] = Entry(verdict, at, case.pictures_sha256)
                if verdict.status in ANSWERS:
                    self._known[key] = (verdict, at)
            file.flush()
            os.fsync(file.fileno())
        return entries
