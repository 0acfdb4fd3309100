"""GenEval's rule engine on boxes drawn by hand."""

from pathlib import Path
from typing import Any

import pytest
from hand_verdicts import TIMEOUT, pick, said

from glyphflow.core.errors import InputError
from glyphflow.evaluate.benchmark import Sample
from glyphflow.evaluate.benchmarks.geneval import COLOURS, GenEval, judge_objects, kept, overlap, relations
from glyphflow.evaluate.case import Detection


def box(label: str, score: float, *corners: float, **colours: float) -> Detection:
    found: Detection = {"label": label, "box": list(corners) or [0, 0, 10, 10], "score": score}
    if colours:
        found["colours"] = colours
    return found


def right(tags: dict[str, Any], *boxes: Detection) -> bool:
    [row] = GenEval().score(Sample("0", "", (), tags), [said(list(boxes))])
    return bool(row.values["right"])


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ((0, 0, 10, 10), (50, 0, 60, 10), {"left of"}),
        ((50, 0, 60, 10), (0, 0, 10, 10), {"right of"}),
        ((0, 0, 10, 10), (0, 50, 10, 60), {"above"}),
        ((0, 50, 10, 60), (0, 0, 10, 10), {"below"}),
        ((0, 0, 10, 10), (40, 40, 50, 50), {"left of", "above"}),  # (40 - 2) / 56.6 = 0.67 both ways
        ((0, 0, 10, 10), (20, 60, 30, 70), {"above"}),  # 18 / 63.2 = 0.28 sideways, 58 / 63.2 = 0.92 upwards
        ((0, 0, 10, 10), (0, 0, 10, 10), set()),
        ((0, 0, 10, 10), (2, 0, 12, 10), set()),  # the offset of 2 is the margin 0.1 * (10 + 10)
        ((0, 0, 10, 10), (4, 0, 14, 10), set()),  # a rest of 2 is half the offset of 4, and it must be more
        ((0, 0, 10, 10), (4.1, 0, 14.1, 10), {"left of"}),
        ((0, 0, 100, 10), (25, 50, 35, 60), {"above"}),  # a wide thing has a wide margin: 20 - 11 of 53.9 is not enough
    ],
)
def test_relations(a: tuple[float, ...], b: tuple[float, ...], wanted: set[str]) -> None:
    assert relations(a, b) == wanted


def test_overlap_counts_the_last_pixel() -> None:
    assert overlap((0, 0, 9, 9), (0, 0, 9, 9)) == 1.0
    assert overlap((0, 0, 9, 9), (9, 0, 18, 9)) == pytest.approx(10 / 190)
    assert overlap((0, 0, 9, 9), (10, 0, 19, 9)) == 0.0


def test_what_is_kept() -> None:
    """Above the threshold and not at it, the surest first, sixteen of a class, equal boxes suppressed only when asked."""
    many = [box("cat", 0.31 + number / 100) for number in range(20)]
    assert [found["score"] for found in kept(many, 0.3)["cat"]] == sorted((b["score"] for b in many), reverse=True)[:16]
    assert kept([box("cat", 0.3)], 0.3) == {}
    assert len(kept([box("cat", 0.9), box("cat", 0.8)], 0.3)["cat"]) == 2
    assert len(kept([box("cat", 0.9), box("cat", 0.8), box("dog", 0.7)], 0.3, nms_overlap=0.5)["cat"]) == 1
    assert list(kept([box("cat", 0.9), box("dog", 0.7)], 0.3, nms_overlap=0.5)) == ["cat", "dog"]


def test_counting_needs_a_surer_detector() -> None:
    clauses = {"include": [{"class": "cat", "count": 2}], "exclude": [{"class": "cat", "count": 3}]}
    two, three = [box("cat", 0.95), box("cat", 0.91)], [box("cat", 0.95), box("cat", 0.91), box("cat", 0.92)]
    assert right({"tag": "counting", **clauses}, *two) and not right({"tag": "counting", **clauses}, *three)
    assert right({"tag": "counting", **clauses}, *two, box("cat", 0.9))  # at 0.9 it is not seen when counting
    assert not right({"tag": "two_object", **clauses}, *two, box("cat", 0.5))
    assert not right({"tag": "counting", **clauses}, two[0])


def test_colours_are_those_of_the_surest_objects() -> None:
    tags = {"tag": "colors", "include": [{"class": "car", "count": 1, "color": "red"}]}
    red, blue = {"red": 0.9, "blue": 0.1}, {"red": 0.2, "blue": 0.8}
    assert right(tags, box("car", 0.9, **red), box("car", 0.5, **blue))
    assert not right(tags, box("car", 0.9, **blue), box("car", 0.5, **red))  # only the surest is looked at
    both = {"tag": "colors", "include": [{"class": "car", "count": 2, "color": "red"}]}
    assert not right(both, box("car", 0.9, **red), box("car", 0.5, **blue))
    with pytest.raises(InputError, match="names them"):
        right(tags, box("car", 0.9))


def test_positions_are_to_the_clause_that_is_named() -> None:
    tags = {
        "tag": "position",
        "include": [{"class": "dog", "count": 1}, {"class": "tie", "count": 1, "position": ["right of", 0]}],
    }
    dog, tie = box("dog", 0.9, 0, 0, 10, 10), box("tie", 0.9, 60, 0, 70, 10)
    assert right(tags, dog, tie) and not right(tags, box("dog", 0.9, 100, 0, 110, 10), tie)
    assert not right(tags, tie)
    # every chosen object must stand so to every object of the clause
    two = {
        "tag": "position",
        "include": [{"class": "dog", "count": 2}, {"class": "tie", "count": 1, "position": ["right of", 0]}],
    }
    assert right(two, dog, box("dog", 0.8, 20, 0, 30, 10), tie)
    assert not right(two, dog, box("dog", 0.8, 90, 0, 99, 10), tie)


def test_reasons_say_what_is_wrong() -> None:
    clauses = {"include": [{"class": "dog", "count": 1}, {"class": "tie", "count": 1, "position": ["above", 0]}]}
    ok, reasons = judge_objects({"tie": [box("tie", 0.9)]}, clauses)
    assert not ok and reasons == ["0 dog where 1 are wanted", "nothing for tie to be above"]
    _, reasons = judge_objects(
        {"cat": [box("cat", 0.9), box("cat", 0.8)]}, {"include": [], "exclude": [{"class": "cat", "count": 2}]}
    )
    assert reasons == ["2 cat where fewer than 2 are wanted"]


def test_the_whole_is_the_mean_of_tasks_and_failures_are_apart() -> None:
    """Two tasks of different sizes: the mean of the tasks is not the share of pictures; a prompt is solved by one picture."""
    bench = GenEval()
    single = {"tag": "single_object", "include": [{"class": "cat", "count": 1}]}
    two = {"tag": "two_object", "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1}]}
    cat, dog = box("cat", 0.9), box("dog", 0.9)
    rows = bench.score(Sample("0", "", (), single), [said([cat]), said([]), said([cat]), TIMEOUT])
    rows += bench.score(Sample("1", "", (), two), [said([cat, dog])])
    metrics = bench.aggregate(rows)
    assert pick(metrics, "correct_pictures", task="single_object").value == pytest.approx(2 / 3)
    assert pick(metrics, "correct_pictures", task="all").value == pytest.approx((2 / 3 + 1) / 2)
    assert pick(metrics, "correct_pictures", task="pooled").value == pytest.approx(3 / 4)
    assert pick(metrics, "prompts_solved").value == 1.0
    assert pick(metrics, "pictures_with_objects", "corrected").value == pytest.approx(3 / 4)
    assert all(metric.n_failed == 1 for metric in metrics if ("task", "two_object") not in metric.identity.dimensions)


def test_the_questions_name_threshold_and_colours() -> None:
    bench = GenEval()
    samples = {sample.tags["tag"]: sample for sample in bench.samples()}
    assert {tag: sum(s.tags["tag"] == tag for s in bench.samples()) for tag in samples} == {
        "single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100,
    }  # fmt: skip
    [counting] = bench.cases(samples["counting"], [Path("a.png")])
    [colours] = bench.cases(samples["colors"], [Path("a.png")])
    assert counting.request["threshold"] == 0.9 and "colours" not in counting.request
    assert colours.request["threshold"] == 0.3 and colours.request["colours"] == list(COLOURS) and colours.request["coloured"]
    assert bench.repeats == 4 and counting.kind == "objects"
