"""Verdicts on disk: a judge is asked once per picture, whatever happens to the run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from glyphflow.core.files import storage_errors
from glyphflow.core.progress import Progress
from glyphflow.evaluate.judge import Case, Judge, Verdict, ask, failed

BATCH = 8  # pictures per call of the judge: what a killed run may have to judge again


class Entry(NamedTuple):
    """A verdict and the hash of the picture it is about (empty when there was none)."""

    verdict: Verdict
    picture_sha256: str


class VerdictBook:
    """Verdicts on disk, one JSON line each, found again by picture, prompt and judge."""

    def __init__(self, path: Path, judge: Judge) -> None:
        self._path, self._judge = path, judge
        self._known: dict[str, Verdict] = {}
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        self._broken = bool(text) and not text.endswith("\n")
        for line in text.split("\n"):
            try:
                row = json.loads(line)
                key, verdict = row["key"], Verdict(row["status"], row["value"], row["raw"], row["identity"])
            except (ValueError, KeyError, TypeError):
                continue  # blank, or the half line of a run that was killed while it wrote
            if verdict.status == "ok":
                self._known[key] = verdict

    def judge(self, names: Sequence[str], load: Callable[[str], Case | str], label: str) -> dict[str, Entry]:
        """An entry for each name, from the book where it is there.

        ``load`` gives the case of a name, or a sentence that says why there is no picture (a failed verdict). Pictures are
        loaded as they are needed, so that memory does not grow with the benchmark.
        """
        identity = self._judge.identity
        entries: dict[str, Entry] = {}
        waiting: dict[str, Case] = {}
        with Progress(label, total=len(names), unit="img") as progress:
            for position, name in enumerate(names, 1):
                case = load(name)
                if isinstance(case, str):
                    entries[name] = Entry(failed(identity, case), "")
                elif (known := self._known.get(case.key(identity))) is not None:
                    entries[name] = Entry(known, case.picture_sha256)
                else:
                    waiting[name] = case
                if len(waiting) == BATCH or (waiting and position == len(names)):
                    answers = ask(self._judge, list(waiting.values()))
                    self._append(list(waiting.values()), answers)
                    for done, answer in zip(waiting, answers, strict=True):
                        entries[done] = Entry(answer, waiting[done].picture_sha256)
                    waiting = {}
                progress.advance()
        return entries

    def _append(self, cases: Sequence[Case], verdicts: Sequence[Verdict]) -> None:
        identity = self._judge.identity
        with storage_errors(self._path), self._path.open("ab") as file:
            if self._broken:  # end the half line that a killed run left
                file.write(b"\n")
                self._broken = False
            for case, verdict in zip(cases, verdicts, strict=True):
                row = {"key": case.key(identity), "id": case.id, "picture": case.picture_sha256, **asdict(verdict)}
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                if verdict.status == "ok":
                    self._known[row["key"]] = verdict
            file.flush()
            os.fsync(file.fileno())
