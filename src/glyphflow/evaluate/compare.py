"""Is B better than A? The difference of every metric over the same samples, with intervals from a paired bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.progress import Progress
from glyphflow.evaluate.benchmark import Benchmark, MetricIdentity, SampleScore
from glyphflow.evaluate.bootstrap import draws, percentiles
from glyphflow.evaluate.report import aligned, benchmark_name, metric_name, number
from glyphflow.evaluate.score import read_scores, shaped

RESAMPLES = 1000


def compare(a: Path, b: Path, benchmark: Benchmark, resamples: int = RESAMPLES) -> dict[str, Any]:
    """``b`` minus ``a`` for every metric of two scored folders.

    Both must be of one benchmark, judged by the same judges and counted by today's formulas (:class:`ConfigError` names what
    differs): anything else is a difference of rulers. Only pictures that were judged in both folders enter, so that both answer
    for the same prompts; the samples of these are drawn with repetition ``resamples`` times. ``b_better`` is the share of draws
    in which B is ahead.
    """
    scores = [read_scores(a), read_scores(b)]
    with shaped(a), shaped(b):
        _check_same(scores, (a, b), benchmark)
        tables, left_out = _common([_rows(entry) for entry in scores])
    if not tables[0]:
        raise InputError(f"{a} and {b} have no judged picture in common; score both, of the same benchmark, first.")
    values = [{str(metric.identity): metric for metric in benchmark.aggregate(rows)} for rows in tables]
    found: dict[str, list[float]] = {}
    with Progress("bootstrap", total=resamples, unit="draw") as progress:
        for pair in draws(tables, resamples):
            drawn = [{str(metric.identity): metric.value for metric in benchmark.aggregate(rows)} for rows in pair]
            for name in drawn[0].keys() & drawn[1].keys():
                first, second = drawn[0][name], drawn[1][name]
                if first is not None and second is not None:
                    found.setdefault(name, []).append(second - first)
            progress.advance()
    return {
        "benchmark": benchmark.identity,
        "judges": scores[0]["judges"],
        "folders": [str(a), str(b)],
        "models": [entry["model"] for entry in scores],
        "settings": [entry["settings"] for entry in scores],
        "samples": len({row.sample for row in tables[0]}),
        "rows": len(tables[0]),
        "rows_left_out": left_out,
        "resamples": resamples,
        "metrics": [_row(values[0][name], values[1][name], found.get(name, [])) for name in values[0] if name in values[1]],
    }


def table(result: Mapping[str, Any]) -> str:
    """The comparison as plain text."""
    who = [
        f"{side} = {folder}, pictures of {model}"
        for side, folder, model in zip("AB", result["folders"], result["models"], strict=True)
    ]
    head = ["", "A", "B", "B - A", "95 % interval", "B better"]
    rows = []
    for metric in result["metrics"]:
        values, spread = (metric["a"], metric["b"]), metric["ci95"] or ()
        scale = max((abs(value) for value in (*values, *spread) if value is not None), default=0.0)
        rows.append(
            [
                metric_name(metric),
                *(number(value, scale) for value in values),
                _signed(metric["difference"], scale),
                " to ".join(_signed(end, scale) for end in spread),
                "" if metric["b_better"] is None else f"{100 * metric['b_better']:.0f} %",
            ]
        )
    common = f"{result['samples']} samples, {result['rows']} rows in both, {result['rows_left_out']} left out"
    return "\n".join([benchmark_name(result["benchmark"]), *who, common, *aligned([head, *rows])])


def _signed(value: float | None, scale: float) -> str:
    return "" if value is None else f"{'' if value < 0 else '+'}{number(value, scale)}"


def _row(a: Any, b: Any, differences: Sequence[float]) -> dict[str, Any]:
    sign = 1 if a.higher_is_better else -1
    ahead = [1.0 if sign * value > 0 else 0.5 if value == 0 else 0.0 for value in differences]
    return {
        "identity": a.identity.to_json(),
        "higher_is_better": a.higher_is_better,
        "a": a.value,
        "b": b.value,
        "difference": None if a.value is None or b.value is None else b.value - a.value,
        "ci95": percentiles(differences) if differences else None,
        "b_better": sum(ahead) / len(ahead) if ahead else None,
        "n": a.n,
    }


def _check_same(scores: Sequence[Mapping[str, Any]], folders: tuple[Path, Path], benchmark: Benchmark) -> None:
    for folder, entry in zip(folders, scores, strict=True):
        for name in ("name", "version", "data_sha256"):
            theirs, ours = entry["benchmark"][name], benchmark.identity[name]
            if theirs != ours:
                raise ConfigError(
                    f"{folder} was scored with benchmark {name} {theirs}, here it is {ours}; score both with one version."
                )
        formulas = {str(metric.identity) for metric in benchmark.aggregate(_rows(entry))}
        for theirs in map(_identity, entry["metrics"]):
            if theirs not in formulas:
                raise ConfigError(
                    f"{folder} was scored with a formula that this version has no more, {theirs}; score it again "
                    "(answers of the judges that are there are used again)."
                )
    for kind in scores[0]["judges"]:
        one, other = (entry["judges"].get(kind) for entry in scores)
        if one != other:
            raise ConfigError(
                f"The {kind} judge of {folders[0]} is {one}, of {folders[1]} it is {other}; score both folders with one judge."
            )


def _identity(metric: Mapping[str, Any]) -> str:
    """The identity of a metric as scores.json holds it, in words."""
    held = metric["identity"]
    return str(MetricIdentity(held["name"], held["aggregation"], held["variant"], tuple(held["dimensions"].items())))


def _rows(scores: Mapping[str, Any]) -> list[SampleScore]:
    return [SampleScore.from_json(row) for row in scores["rows"]]


def _common(tables: Sequence[Sequence[SampleScore]]) -> tuple[list[list[SampleScore]], int]:
    """The rows that are ok in both tables, and how many are not."""
    keyed = [{(row.sample, row.repeat, row.part): row for row in rows if row.ok} for rows in tables]
    both = keyed[0].keys() & keyed[1].keys()
    every = {(row.sample, row.repeat, row.part) for rows in tables for row in rows}
    return [[row for key, row in rows.items() if key in both] for rows in keyed], len(every - both)
