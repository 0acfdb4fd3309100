"""Scoring a folder of pictures: ask each judge once per question, add up, and put the judge's own ceiling beside the result."""

from __future__ import annotations

import contextlib
import math
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.core.files import atomic_path, exclusive, read_json_object, write_json
from glyphflow.core.progress import Progress
from glyphflow.evaluate.benchmark import Benchmark, Metric, Sample, SampleScore, picture_name, readable, subset_hash
from glyphflow.evaluate.bootstrap import intervals
from glyphflow.evaluate.case import Judge, Verdict
from glyphflow.evaluate.folder import Manifest, Pictures, find_picture, load_picture, read_manifest, tally
from glyphflow.evaluate.question import Question
from glyphflow.evaluate.verdicts import Entry, VerdictBook, judge_of

FORMAT = 2
RESAMPLES = 200
LARGEST = 16_384  # px: a side of a picture that a manifest of others may ask to be typeset
WORST = Verdict("ok", None, {}, "the worst case")

Typeset = Callable[[Sample, int, int], NDArray[np.uint8]]
"""(sample, width, height) -> a picture with nothing wrong (its targets perfectly typeset), (height, width, 3) uint8 RGB."""


def score(
    folder: Path,
    benchmark: Benchmark,
    judges: Sequence[Judge],
    typeset: Typeset | None = None,
    *,
    strict: bool = False,
    again: bool = False,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Judge every picture of ``folder`` and write scores.json (returned as well).

    Verdicts are kept in verdicts.jsonl, so a run that was killed, or a changed picture, costs only what is new; time-outs and
    errors are asked again, refusals and rubbish only with ``again``. What failed is counted and in no average; beside the
    average stands what it would be had every failure been as bad as can be. ``strict`` raises :class:`InputError` when anything
    failed (scores.json is written all the same).

    With ``typeset``, perfect pictures at the pictures' size are judged too, of the samples with texts, or of all where the
    benchmark is ``drawn``: their score is the judge's ceiling, and samples in whose perfect picture the judge finds no mistake
    are the readable subset. ``resamples`` rounds of the bootstrap over samples give the 95 % intervals; 0 leaves them out.
    """
    manifest = read_manifest(folder)
    manifest.check_benchmark(benchmark.identity, folder)
    kinds = judge_of(judges)
    with exclusive(folder, "scoring"):
        book = VerdictBook(folder / "verdicts.jsonl", again=again)
        samples = benchmark.samples()
        pictures = Pictures(folder)
        made = _Judged(benchmark, samples, [pictures_of(pictures, benchmark, sample) for sample in samples])
        found = _found(pictures, made)
        if not found["taken"]:
            raise InputError(
                f"{folder} holds none of the {len(found['missing'])} pictures of {benchmark.name}, the first of which is "
                f"{found['missing'][0]}; {tally(0, found['missing'], found['left_out'])}."
            )
        made.judge(book, kinds, "judge pictures")
        perfect = None
        if typeset is not None and (benchmark.typeset or benchmark.drawn):
            wanted = [sample for sample in samples if sample.targets or benchmark.drawn]
            perfect = _Judged(benchmark, wanted, _ceiling(pictures, manifest, benchmark, wanted, typeset))
            perfect.judge(book, kinds, "judge ceiling")
        result = _summary(manifest, benchmark, kinds, made, perfect, resamples)
        result["pictures"] = found
        write_json(folder / "scores.json", result)
    if strict and result["failures"]:
        told = ", ".join(f"{count} {status}" for status, count in result["failures"].items())
        raise InputError(
            f"{sum(result['failures'].values())} of {result['judgements']} judgements of {folder} failed ({told}); "
            "complete the folder or the judge and score again, or leave --strict out."
        )
    return result


def read_scores(folder: Path) -> dict[str, Any]:
    """The scores.json of a folder that was scored."""
    path = folder / "scores.json"
    if not path.exists():
        raise InputError(f"{folder} has no scores yet; run: glyphflow evaluate score {folder}")
    result = read_json_object(path)
    if result.get("format") != FORMAT:
        raise InputError(f"{path} has format {result.get('format')!r}, this version reads {FORMAT}; score the folder again.")
    with shaped(folder):
        if not all(_is_finite(metric["value"]) for metric in result["metrics"]):
            raise InputError(f"{path} holds a number that is not finite; score the folder again.")
    return result


@contextlib.contextmanager
def shaped(folder: Path) -> Iterator[None]:
    """Whoever reads scores in here may take their shape for granted; another one is an :class:`InputError`."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        path = folder / "scores.json"
        raise InputError(
            f"{path} is not as this version writes it ({type(error).__name__}: {error}); score the folder again."
        ) from error


def _is_finite(value: float | None) -> bool:
    return value is None or math.isfinite(value)


def find_metric(scores: Mapping[str, Any], name: str, **dimensions: str) -> dict[str, Any] | None:
    """The first metric of ``scores`` with that name and at least those dimensions."""
    for metric in scores["metrics"]:
        if metric["identity"]["name"] == name and dimensions.items() <= metric["identity"]["dimensions"].items():
            found: dict[str, Any] = metric
            return found
    return None


def pictures_of(folder: Path | Pictures, benchmark: Benchmark, sample: Sample) -> list[Path]:
    """Where the pictures of ``sample`` lie, one path per repeat."""
    names = [picture_name(sample.id, repeat, benchmark.repeats) for repeat in range(benchmark.repeats)]
    return [folder.find(name) if isinstance(folder, Pictures) else find_picture(folder / name) for name in names]


class _Judged:
    """The questions of some samples about their pictures, and after :meth:`judge` the answers and rows."""

    def __init__(self, benchmark: Benchmark, samples: Sequence[Sample], pictures: Sequence[Sequence[Path]]) -> None:
        self.benchmark, self.samples, self.pictures = benchmark, samples, pictures
        self.by_sample = [benchmark.cases(s, paths) for s, paths in zip(samples, pictures, strict=True)]
        self.questions = [question for questions in self.by_sample for question in questions]

    def judge(self, book: VerdictBook, judges: Mapping[str, Judge], label: str) -> None:
        """Ask everything."""
        entries = iter(book.judge(self.questions, judges, label))
        self.entries = [[next(entries) for _ in questions] for questions in self.by_sample]
        self.rows = [
            row
            for sample, found in zip(self.samples, self.entries, strict=True)
            for row in self.benchmark.score(sample, [entry.verdict for entry in found])
        ]

    def worst_rows(self) -> list[SampleScore]:
        """The rows as they would be had every failure been as bad as can be; those that have no worst stay."""
        places = {sample.id: place for place, sample in enumerate(self.samples)}
        worst: dict[tuple[str, int, str], SampleScore] = {}
        for name in {row.sample for row in self.rows if not row.ok}:
            place = places[name]
            sample, questions, entries = self.samples[place], self.by_sample[place], self.entries[place]
            verdicts = [
                entry.verdict if (value := self.benchmark.worst(sample, question)) is None else replace(WORST, value=value)
                for question, entry in zip(questions, entries, strict=True)
            ]
            worst |= {(name, row.repeat, row.part): row for row in self.benchmark.score(sample, verdicts)}
        return [row if row.ok else worst[row.sample, row.repeat, row.part] for row in self.rows]


def _ceiling(
    pictures: Pictures, manifest: Manifest, benchmark: Benchmark, samples: Sequence[Sample], typeset: Typeset
) -> list[list[Path]]:
    """Typeset every sample at the size of its first picture that can be read (else of the manifest's settings)."""
    found = []
    with Progress("typeset ceiling", total=len(samples), unit="img") as progress:
        for sample in samples:
            path = pictures.folder / "ceiling" / f"{sample.id}.png"
            size = _size(pictures_of(pictures, benchmark, sample), manifest.settings)
            path.unlink(missing_ok=True)
            image = None if size is None else _set(typeset, sample, size)
            if image is not None:
                with atomic_path(path) as temporary:
                    Image.fromarray(image).save(temporary, format="PNG")
            found.append([path] * benchmark.repeats)
            progress.advance()
    return found


def _set(typeset: Typeset, sample: Sample, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """None where the texts do not fit: a missing picture, which is counted."""
    try:
        return typeset(sample, *size)
    except InputError:
        return None


def _size(pictures: Sequence[Path], settings: Mapping[str, Any]) -> tuple[int, int] | None:
    for path in pictures:
        try:
            height, width = load_picture(path).shape[:2]
            return width, height
        except InputError:
            continue
    given = settings.get("width"), settings.get("height")
    whole = all(isinstance(side, int) and 0 < side <= LARGEST for side in given)
    return (int(settings["width"]), int(settings["height"])) if whole else None


def _found(pictures: Pictures, made: _Judged) -> dict[str, Any]:
    """How many of the pictures that the benchmark asks for are there, the names of the others, and what else lies there."""
    every = [path for paths in made.pictures for path in paths]
    there = [path for path in every if path.is_file() or path.with_suffix(".npy").is_file()]  # a map of depth may be an array
    known = set(there)
    missing = [path.name for path in every if path not in known]
    return {"taken": len(there), "missing": missing, "left_out": pictures.beside(there)}


def _summary(
    manifest: Manifest,
    benchmark: Benchmark,
    judges: Mapping[str, Judge],
    made: _Judged,
    perfect: _Judged | None,
    resamples: int,
) -> dict[str, Any]:
    times = sorted(entry.at for entries in made.entries for entry in entries if entry.at)
    kinds = sorted({question.kind for question in made.questions})
    result: dict[str, Any] = {
        "format": FORMAT,
        "benchmark": benchmark.identity,
        "model": manifest.model,
        "settings": dict(manifest.settings),
        "judges": {kind: judges[kind].identity if kind in judges else None for kind in kinds},
        "judged": {"first": times[0], "last": times[-1]} if times else None,
        "environment": {
            "glyphflow": metadata.version("glyphflow"),
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
        },
        "judgements": len(made.rows),
        "failures": dict(Counter(row.status for row in made.rows if not row.ok)),
    }
    subset = None
    if perfect is not None:
        subset = readable([row for row in perfect.rows if row.quality is not None or not row.ok])
        result["readable"] = {"samples": len(subset), "of": len(perfect.samples), "hash": subset_hash(subset)}
    result["metrics"] = _metrics(benchmark, made, perfect, subset, resamples)
    result["samples"] = [
        _sample_json(sample, paths, questions, entries)
        for sample, paths, questions, entries in zip(
            benchmark.samples(), made.pictures, made.by_sample, made.entries, strict=True
        )
    ]
    result["rows"] = [row.to_json() for row in made.rows]
    if perfect is not None:
        result["ceiling_rows"] = [row.to_json() for row in perfect.rows if row.repeat == 0]
    return result


def _metrics(
    benchmark: Benchmark, made: _Judged, perfect: _Judged | None, subset: frozenset[str] | None, resamples: int
) -> list[dict[str, Any]]:
    """Every metric with what must be read beside it."""
    beside: dict[str, dict[str, Metric]] = {"worst_case": _by_identity(benchmark.aggregate(made.worst_rows()))}
    if perfect is not None and subset is not None:
        beside["ceiling"] = _by_identity(benchmark.aggregate(perfect.rows))
        beside["readable"] = _by_identity(benchmark.aggregate([row for row in made.rows if row.sample in subset]))
    spread = intervals(benchmark, made.rows, resamples) if resamples else {}
    found = []
    for metric in benchmark.aggregate(made.rows):
        name = str(metric.identity)
        row = {**metric.to_json(), "ci95": spread.get(name)}
        for label, metrics in beside.items():
            other = metrics.get(name)
            row[label] = other.value if other and not (label == "worst_case" and other.n_failed) else None
            if label == "readable":
                row["readable_n"] = other.n if other else 0
        found.append(row)
    return found


def _by_identity(metrics: Sequence[Metric]) -> dict[str, Metric]:
    return {str(metric.identity): metric for metric in metrics}


def _sample_json(
    sample: Sample, paths: Sequence[Path], questions: Sequence[Question], entries: Sequence[Entry]
) -> dict[str, Any]:
    return {
        "id": sample.id,
        "prompt": sample.prompt,
        "targets": list(sample.targets),
        "pictures": [path.name for path in paths],
        "references": [str(path) for path in sample.references],
        "verdicts": [_seen(question, entry) for question, entry in zip(questions, entries, strict=True)],
    }


def _seen(question: Question, entry: Entry) -> dict[str, Any]:
    """What the judge said of one question; requests and attempts are in verdicts.jsonl."""
    verdict = entry.verdict
    row: dict[str, Any] = {
        "id": question.id,
        "kind": question.kind,
        "picture": question.pictures[-1].name if question.pictures else "",
        "pictures_sha256": list(entry.pictures),
        "status": verdict.status,
        "value": verdict.value,
        "at": entry.at,
    }
    return row | ({} if verdict.ok else {"reason": verdict.reason, "reply": verdict.raw.get("reply")})
