"""What several benchmarks need: their files, readings as texts, and rows and metrics from them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.text import read_lines as text_lines
from glyphflow.core.text import read_text
from glyphflow.evaluate.benchmark import Metric, MetricIdentity, Sample, SampleScore, Variant, failures
from glyphflow.evaluate.case import Verdict


def shipped(*names: str) -> Path:
    """A data file of this package."""
    return Path(str(resources.files("glyphflow.evaluate"))).joinpath("data", *names)


def user_file(folder: Path | None, benchmark: str, *names: str) -> Path:
    """A file that the user must bring: ``folder`` / ``names``; one sentence when there is no folder or no such file in it."""
    inside = "/".join(names)
    if folder is None:
        raise InputError(
            f"{benchmark} needs data that may not be shipped; give --data the folder with {inside} in it "
            "(docs/evaluation.md shows the layout)."
        )
    path = Path(folder).joinpath(*names)
    if not path.exists():
        raise InputError(f"{benchmark} needs {path}, which does not exist; docs/evaluation.md shows the layout of its folder.")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; a line that is none is an :class:`InputError` with its number."""
    rows = []
    for number, line in enumerate(text_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} line {number} is not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise InputError(f"{path} line {number} holds {row!r}, where a JSON object is needed.")
        rows.append(row)
    if not rows:
        raise InputError(f"{path} is empty; every line holds one JSON object.")
    return rows


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file that must have ``columns``."""
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    except csv.Error as error:
        raise InputError(f"{path} is not a table ({error}); every row holds {', '.join(columns)}.") from error
    missing = [column for column in columns if not rows or column not in rows[0]]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}; it needs {', '.join(columns)}.")
    for number, row in enumerate(rows, 1):
        short = [column for column in columns if row[column] is None]
        if short:
            raise InputError(f"{path} row {number} ends before its column {short[0]}; it needs {', '.join(columns)}.")
    return rows


def field(row: dict[str, Any], name: str, kind: type, origin: str) -> Any:
    """``row[name]`` when it is a ``kind``; an :class:`InputError` that names ``origin`` when it is not."""
    if not isinstance(row, dict):
        raise InputError(f"{origin} must be a JSON object with the field {name!r}, not {row!r}.")
    if not isinstance(row.get(name), kind) or (kind is int and isinstance(row[name], bool)):
        raise InputError(f"{origin}: the field {name!r} must be a {kind.__name__}, not {row.get(name)!r}.")
    return row[name]


def lines_of(verdict: Verdict) -> list[str]:
    """The texts of an OCR verdict that is ok, in reading order."""
    return [str(line["text"]) for line in verdict.value]


def yes_or_no(reply: str) -> bool | None:
    """What a reply to a yes/no question says: its first word, whatever its case and punctuation; None when it is neither."""
    words = reply.split()
    first = words[0].strip(".,;:!?\"'*`").casefold() if words else ""
    return {"yes": True, "no": False}.get(first)


def failed_row(sample: Sample, repeat: int, verdict: Verdict, category: str = "", part: str = "") -> SampleScore:
    """The row of a picture on which a judge failed."""
    return SampleScore(sample.id, repeat, verdict.status, part, category, reason=verdict.reason)


def unusable(sample: Sample, repeat: int, reason: str, category: str = "", part: str = "") -> SampleScore:
    """The row of a picture on which the judge's reply could not be understood."""
    return SampleScore(sample.id, repeat, "parse_error", part, category, reason=reason)


def first_failure(verdicts: Iterable[Verdict]) -> Verdict | None:
    """The first verdict that is no answer."""
    return next((verdict for verdict in verdicts if not verdict.ok), None)


def chunks(verdicts: Sequence[Verdict], size: int) -> list[Sequence[Verdict]]:
    """The verdicts of each picture, where every picture has ``size`` questions."""
    if size == 0 or len(verdicts) % size:
        raise ValueError(f"{len(verdicts)} verdicts do not divide into pictures of {size} questions")
    return [verdicts[start : start + size] for start in range(0, len(verdicts), size)]


def metric(
    name: str,
    aggregation: str,
    value: float | None,
    rows: Sequence[SampleScore],
    variant: Variant = "official",
    *,
    of: Mapping[str, str] | None = None,
    higher_is_better: bool = True,
) -> Metric:
    """A metric over ``rows``, of which those that failed are counted apart; ``of`` are its dimensions."""
    bad = failures(rows)
    identity = MetricIdentity(name, aggregation, variant, tuple((of or {}).items()))
    return Metric(identity, value, len(rows) - bad, bad, higher_is_better)


def by(rows: Iterable[SampleScore], key: str) -> dict[str, list[SampleScore]]:
    """``rows`` grouped by ``category`` or ``part``, in the order of their first appearance."""
    groups: dict[str, list[SampleScore]] = {}
    for row in rows:
        groups.setdefault(str(getattr(row, key)), []).append(row)
    return groups


def understood(rows: Sequence[SampleScore], variant: Variant) -> list[SampleScore]:
    """``rows``, in which a reply that is no answer to the formula ``variant`` alone is a failure, too."""
    return [
        replace(row, status="parse_error", values={}, quality=None) if row.ok and row.values[variant] is None else row
        for row in rows
    ]


def good(rows: Iterable[SampleScore]) -> list[SampleScore]:
    """The rows that may enter an average."""
    return [row for row in rows if row.ok]


def file_id(text: str) -> str:
    """``text`` as part of a file name: everything but letters, digits, '-', '_' and '.' becomes '-'."""
    return "".join(char if char.isalnum() or char in "-_." else "-" for char in text)
