"""GenEval: 553 short prompts about objects, their number, colours and places, four pictures each.

A detector finds objects, a classifier names their colours; what follows is a rule engine over boxes, which is here and needs
neither. A picture is right when every ``include`` clause of its prompt holds and no ``exclude`` clause does; a task's number is
the share of right pictures and the whole is the plain mean of the six tasks.

The public script says nothing when detector and weights do not fit together: every number is then 0. The share of pictures in
which anything was found stands beside the result for that reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.evaluate.benchmark import Benchmark, Metric, Sample, SampleScore, mean
from glyphflow.evaluate.benchmarks.shared import by, failed_row, good, metric, read_lines, shipped
from glyphflow.evaluate.case import Detection, Verdict
from glyphflow.evaluate.question import Question

THRESHOLD, COUNTING_THRESHOLD = 0.3, 0.9
MAX_OBJECTS = 16
NMS_OVERLAP = 1.0  # of the published numbers: nothing is suppressed
POSITION_MARGIN = 0.1
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


class GenEval(Benchmark):
    """All six tasks. ``nms_overlap`` below 1 suppresses boxes that overlap a surer one of their class by as much."""

    name = "geneval"
    version = "1"
    licence = "MIT"
    kinds = frozenset({"objects"})
    repeats = 4

    def __init__(self, nms_overlap: float = NMS_OVERLAP) -> None:
        self._nms_overlap = nms_overlap
        rows = read_lines(shipped("geneval", "evaluation_metadata.jsonl"))
        self._samples = tuple(
            Sample(f"{number:05d}", row["prompt"], (), {key: row[key] for key in ("tag", "include", "exclude") if key in row})
            for number, row in enumerate(rows)
        )

    def samples(self) -> tuple[Sample, ...]:
        return self._samples

    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        clauses = [*sample.tags["include"], *sample.tags.get("exclude", [])]
        request: dict[str, Any] = {
            "classes": sorted({clause["class"] for clause in clauses}),
            "threshold": _threshold(sample),
        }
        coloured = sorted({clause["class"] for clause in clauses if "color" in clause})
        if coloured:
            request |= {"colours": list(COLOURS), "coloured": coloured}
        return [Question(path.stem, "objects", (path,), request) for path in pictures]

    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        category, rows = str(sample.tags["tag"]), []
        for repeat, verdict in enumerate(verdicts):
            if not verdict.ok:
                rows.append(failed_row(sample, repeat, verdict, category))
                continue
            objects = kept(verdict.value, _threshold(sample), self._nms_overlap)
            right, reasons = judge_objects(objects, sample.tags)
            values = {"right": int(right), "reasons": reasons, "found": {name: len(boxes) for name, boxes in objects.items()}}
            rows.append(SampleScore(sample.id, repeat, "ok", "", category, float(right), values, "; ".join(reasons)))
        return rows

    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        tasks = by(rows, "category")
        values = {task: mean(row.values["right"] for row in good(members)) for task, members in tasks.items()}
        ordered = [task for task in TASKS if task in tasks]
        pictures = good(rows)
        prompts: dict[str, bool] = {}
        for row in pictures:
            prompts[row.sample] = prompts.get(row.sample, False) or bool(row.values["right"])
        return [
            metric(
                "correct_pictures",
                "mean of the tasks' shares",
                mean(values[task] for task in ordered),
                rows,
                of={"task": "all"},
            ),
            *(
                metric("correct_pictures", "share of pictures", values[task], tasks[task], of={"task": task})
                for task in ordered
            ),
            metric(
                "correct_pictures",
                "share of pictures",
                mean(row.values["right"] for row in pictures),
                rows,
                of={"task": "pooled"},
            ),
            metric("prompts_solved", "share of prompts with a right picture", mean(map(float, prompts.values())), rows),
            metric(
                "pictures_with_objects",
                "share of pictures with a detection of a class asked for",
                mean(float(bool(row.values["found"])) for row in pictures),
                rows,
                "corrected",
            ),
        ]


def kept(detections: Sequence[Detection], threshold: float, nms_overlap: float = NMS_OVERLAP) -> dict[str, list[Detection]]:
    """The detections that count, by class, the surest first: above ``threshold`` (not at it), 16 of a class at most, and
    without those that overlap a surer one by ``nms_overlap`` or more (1.0: all stay, even two equal boxes)."""
    found: dict[str, list[Detection]] = {}
    classes: dict[str, list[Detection]] = {}
    for detection in detections:
        if detection["score"] > threshold:
            classes.setdefault(detection["label"], []).append(detection)
    for name, boxes in classes.items():
        waiting = sorted(boxes, key=lambda box: -box["score"])[:MAX_OBJECTS]
        found[name] = []
        while waiting:
            best = waiting.pop(0)
            found[name].append(best)
            waiting = [box for box in waiting if nms_overlap == 1.0 or overlap(best["box"], box["box"]) < nms_overlap]
    return found


def judge_objects(objects: Mapping[str, Sequence[Detection]], clauses: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Whether every ``include`` clause holds and no ``exclude`` clause does, and what is wrong.

    Only the ``count`` surest objects of a class are looked at. A colour clause wants ``count`` of them in that colour; a
    position clause [relation, n] wants each of them to stand so to each object of the n-th clause, and fails when that clause
    failed.
    """
    reasons: list[str] = []
    groups: list[Sequence[Detection] | None] = []
    for clause in clauses.get("include", []):
        name, count = clause["class"], clause["count"]
        members = list(objects.get(name, []))[:count]
        wrong = None
        if len(members) < count:
            wrong = f"{len(members)} {name} where {count} are wanted"
        elif "color" in clause and (have := [_colour(box) for box in members]).count(clause["color"]) < count:
            wrong = f"{name} is {', '.join(have)} where {clause['color']} is wanted"
        elif "position" in clause:
            wrong = _wrong_position(name, members, clause["position"], groups)
        groups.append(None if wrong else members)
        reasons += [wrong] if wrong else []
    for clause in clauses.get("exclude", []):
        name, count = clause["class"], clause["count"]
        if len(objects.get(name, [])) >= count:
            reasons.append(f"{len(objects[name])} {name} where fewer than {count} are wanted")
    return not reasons, reasons


def relations(a: Sequence[float], b: Sequence[float]) -> set[str]:
    """How box ``a`` (left, top, right, bottom) stands to ``b``: "left of", "right of", "above", "below", two of them, or none.

    The offset of the centres counts beyond a margin of 0.1 times the sum of the sizes; a relation holds when that rest is more
    than half of the whole offset's length.
    """
    offset = [(a[i] + a[i + 2]) / 2 - (b[i] + b[i + 2]) / 2 for i in (0, 1)]
    sizes = [abs(a[i + 2] - a[i]) + abs(b[i + 2] - b[i]) for i in (0, 1)]
    rest = [math.copysign(max(abs(o) - POSITION_MARGIN * size, 0.0), o) for o, size in zip(offset, sizes, strict=True)]
    if all(abs(value) < 1e-3 for value in rest):
        return set()
    dx, dy = (value / math.hypot(*offset) for value in rest)
    held = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {name for name, holds in held.items() if holds}


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes whose right and bottom pixels belong to them."""

    def area(left: float, top: float, right: float, bottom: float) -> float:
        return max(right - left + 1, 0) * max(bottom - top + 1, 0)

    common = area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    union = area(*a[:4]) + area(*b[:4]) - common
    return common / union if union else 0.0


def _wrong_position(
    name: str, members: Sequence[Detection], position: Sequence[Any], groups: Sequence[Sequence[Detection] | None]
) -> str | None:
    wanted, target = str(position[0]), groups[int(position[1])]
    if target is None:
        return f"nothing for {name} to be {wanted}"
    for box in members:
        for other in target:
            held = relations(box["box"], other["box"])
            if wanted not in held:
                return f"{name} is {' and '.join(sorted(held)) or 'neither here nor there'} where {wanted} is wanted"
    return None


def _colour(box: Detection) -> str:
    """The likeliest colour; the first in :data:`COLOURS` of equal ones."""
    colours = box.get("colours")
    if not colours:
        raise InputError(
            f"A detection of {box['label']!r} has no colours, but its prompt asks for one; use a judge that names them."
        )
    return max(colours, key=lambda name: colours[name])


def _threshold(sample: Sample) -> float:
    return COUNTING_THRESHOLD if sample.tags["tag"] == "counting" else THRESHOLD
