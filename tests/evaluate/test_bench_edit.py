"""GEdit and ImgEdit: replies of judges as they come, and what they add up to."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hand_verdicts import TIMEOUT, pick, said
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.evaluate.benchmark import SampleScore
from glyphflow.evaluate.benchmarks.gedit import GEdit, judge_prompts, numbers_in, strict_numbers_in
from glyphflow.evaluate.benchmarks.imgedit import TYPES, ImgEdit, corrected_score, official_score
from glyphflow.evaluate.case import Case


def scores(*numbers: float) -> str:
    return json.dumps({"score": list(numbers), "reasoning": "so"})


def picture(path: Path, width: int, height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 120, np.uint8)).save(path)


def gedit(folder: Path, *rows: tuple[str, str, bool]) -> GEdit:
    """(key, group, intersection) a row, all English, and one Chinese row."""
    lines = [(*row, "en") for row in rows] + [("zz", "add", True, "cn")]
    with (folder / "instructions.jsonl").open("w") as file:
        for key, group, intersection, language in lines:
            group = "subject-add" if group == "add" else group
            row = {"key": key, "task_type": group, "instruction": f"do {key}", "instruction_language": language}
            file.write(json.dumps({**row, "Intersection_exist": intersection}) + "\n")
            picture(folder / "images" / f"{key}.png", 24, 16)
    return GEdit("en", folder)


# ---------------------------------------------------------------- GEdit


@pytest.mark.parametrize(
    ("reply", "official", "strict"),
    [
        (scores(8, 9), [8, 9], [8, 9]),
        ('Here it is:\n{\n"score" : [7, 10],\n"reasoning" : "fine"\n}\nDone.', [7, 10], [7, 10]),
        ("[6, 0]", [6, 0], [6, 0]),
        ("7", [7], None),
        ('{"score": 5, "reasoning": "one number"}', [5], None),
        (scores(8), [8], None),
        (scores(8, 9, 1), [8, 9, 1], None),
        (scores(8.5, 9), [8.5, 9], None),
        (scores(12, 9), [12, 9], None),
        (scores(), None, None),
        ('{"score": ["8", "9"], "reasoning": ""}', None, None),
        ('{"score": [true, 9]}', None, None),
        ('{"rating": [8, 9]}', None, None),
        ('{"score": [8, 9', None, None),
        ("I'm sorry, but I can't help with that.", None, None),
        ("", None, None),
        ("11", None, None),
    ],
)
def test_gedit_replies(reply: str, official: list[float] | None, strict: list[float] | None) -> None:
    assert numbers_in(reply) == official and strict_numbers_in(reply) == strict


def test_gedit_by_hand(tmp_path: Path) -> None:
    """SC and PQ are the lower numbers, O the root of their product; three edits in two groups: 2/3 against 1/2."""
    bench = gedit(tmp_path, ("a", "add", True), ("b", "add", False), ("c", "tone_transfer", True))
    a, b, c = bench.samples()
    rows = bench.score(a, [said(scores(9, 4)), said(scores(9, 10))])  # 4, 9, 6
    rows += bench.score(b, [said(scores(0, 10)), said(scores(8, 8))])  # 0, 8, 0
    rows += bench.score(c, [said(scores(9, 9)), said(scores(9, 9))])  # 9, 9, 9
    metrics = bench.aggregate(rows)

    def both(name: str, subset: str) -> tuple[float | None, float | None]:
        return tuple(pick(metrics, name, variant, subset=subset).value for variant in ("official", "corrected"))  # type: ignore[return-value]

    assert both("G_SC", "full") == pytest.approx(((2 + 9) / 2, 13 / 3))
    assert both("G_PQ", "full") == pytest.approx(((8.5 + 9) / 2, 26 / 3))
    assert both("G_O", "full") == pytest.approx(((3 + 9) / 2, 15 / 3))
    assert both("G_O", "intersection") == pytest.approx((7.5, 7.5))
    assert [row.quality for row in rows] == pytest.approx([0.6, 0.0, 0.9])

    lost = bench.score(c, [said(scores(9, 9)), TIMEOUT]) + bench.score(b, [TIMEOUT, TIMEOUT])  # counted where they belong
    counts = [pick(bench.aggregate(rows[:1] + lost), "G_O", "official", subset=s) for s in ("full", "intersection")]
    assert [(metric.n, metric.n_failed) for metric in counts] == [(1, 2), (1, 1)]


@pytest.mark.parametrize("reply", [TIMEOUT, said("I can't help with that."), said("")])
@pytest.mark.parametrize("which", [0, 1])
def test_gedit_defect_no_reply_becomes_a_random_number(tmp_path: Path, reply: Any, which: int) -> None:
    bench = gedit(tmp_path, ("a", "add", True), ("b", "add", True))
    a, b = bench.samples()
    rows = bench.score(a, [said(scores(9, 4)), said(scores(9, 9))])
    before = bench.aggregate(rows)
    answers = [said(scores(1, 1)), said(scores(1, 1))]
    answers[which] = reply
    rows += bench.score(b, answers)
    for old, new in zip(before, bench.aggregate(rows), strict=True):
        assert old.value == new.value and new.n == 1
    assert pick(bench.aggregate(rows), "G_O", subset="full").n_failed == 1


def test_gedit_replies_with_wrong_numbers_are_official_only(tmp_path: Path) -> None:
    bench = gedit(tmp_path, ("a", "add", True))
    rows = bench.score(bench.samples()[0], [said(scores(8)), said(scores(12, 2))])
    metrics = bench.aggregate(rows)
    assert pick(metrics, "G_O", subset="full").value == pytest.approx(4.0)
    corrected = pick(metrics, "G_O", "corrected", subset="full")
    assert corrected.value is None and corrected.n_failed == 1


def test_gedit_the_judge_sees_the_result_at_the_sources_size(tmp_path: Path) -> None:
    bench = gedit(tmp_path, ("a", "add", True))
    picture(tmp_path / "out" / "a.png", 48, 48)
    assert bench.kinds == {"chat"}
    sc, pq = bench.cases(bench.samples()[0], [tmp_path / "out" / "a.png"])
    for question, count in ((sc, 2), (pq, 1)):
        case = question.load("judge")
        assert isinstance(case, Case) and [image.shape for image in case.images] == [(16, 24, 3)] * count
        assert case.request["images"] == "after"
    assert "do a" in sc.request["prompt"] and "overediting" in sc.request["prompt"] and "naturalness" in pq.request["prompt"]
    [missing, _] = bench.cases(bench.samples()[0], [tmp_path / "out" / "nothing.png"])
    verdict = missing.load("judge")
    assert not isinstance(verdict, Case) and verdict.status == "missing_image" and "nothing.png" in verdict.reason
    assert judge_prompts("x")[0].count("<instruction>") == 0


def test_gedit_refuses_wrong_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of background_change"):
        gedit(tmp_path, ("a", "paint", True))
    gedit(tmp_path, ("a", "add", True))
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(InputError, match=r"a\.png, which does not exist"):
        GEdit("en", tmp_path)
    assert [sample.id for sample in GEdit("cn", tmp_path).samples()] == ["zz"]


# ---------------------------------------------------------------- ImgEdit


@pytest.mark.parametrize(
    ("reply", "official", "corrected"),
    [
        ("Prompt Compliance: 5\nVisual Naturalness: 4\nPhysical & Detail Integrity: 3", 4.0, 4.0),
        ("Reasoning first.\nA: 5\nB: 4\nC: 4\n", 4.33, 13 / 3),
        ("A: 3\nB: 5\nC: 1", 3.0, (3 + 3 + 1) / 3),  # the second may not be higher than the first
        ("A: 5\nB: 4", 4.5, None),  # a line is missing: two scores are averaged
        ("A: 5\nB:4\nC: 3", 4.0, 4.0),  # a missing space hides a line from the official parser, which gets the same mean
        ("A: 5\nB:1\nC: 3", 4.0, 3.0),
        ("A: 5\n**B: 4**\nC: 4/5", 5.0, 13 / 3),
        ("Brief reasoning: none\nA: 9\nB: 2\nC: 1", 4.0, None),  # nothing checks the range
        ("A: 5\nB: 4\nC: 3\nYear: 2025", 509.25, None),
        ("I cannot judge this.", None, None),
        ("", None, None),
    ],
)
def test_imgedit_replies(reply: str, official: float | None, corrected: float | None) -> None:
    assert official_score(reply) == official
    assert corrected_score(reply) == (None if corrected is None else pytest.approx(corrected))


def imgedit(folder: Path, *rows: tuple[str, str]) -> ImgEdit:
    edits = {key: {"id": f"animal/{key}.png", "prompt": f"do {key}", "edit_type": kind} for key, kind in rows}
    for row in edits.values():
        picture(folder / "images" / row["id"], 16, 16)
    (folder / "basic_edit.json").write_text(json.dumps(edits))
    (folder / "prompts.json").write_text(json.dumps({kind: f"judge {kind}: <edit_prompt>" for kind in TYPES}))
    return ImgEdit(folder)


def three(a: int, b: int, c: int) -> Any:
    return said(f"A: {a}\nB: {b}\nC: {c}")


def test_imgedit_by_hand(tmp_path: Path) -> None:
    """Three edits of one type and one of another: edits 4.33, 3.67, 1 and 5; types 3.0 and 5; the whole 4."""
    bench = imgedit(tmp_path, ("1", "add"), ("2", "add"), ("3", "add"), ("4", "compose"))
    rows: list[SampleScore] = []
    for sample, reply in zip(bench.samples(), [three(5, 4, 4), three(4, 4, 3), three(1, 1, 1), three(5, 5, 5)], strict=True):
        rows += bench.score(sample, [reply])
    metrics = bench.aggregate(rows)
    assert [row.values["official"] for row in rows] == [4.33, 3.67, 1.0, 5.0]
    assert pick(metrics, "edit_rating", type="add").value == 3.0
    assert pick(metrics, "edit_rating", type="all").value == 4.0
    assert pick(metrics, "edit_rating", "corrected", type="add").value == pytest.approx((13 / 3 + 11 / 3 + 1) / 3)


def test_imgedit_defect_rounding_twice(tmp_path: Path) -> None:
    """4.33 and 4.67 and 4.33 average to 4.443, which is printed 4.44; the unrounded mean is 4.444."""
    bench = imgedit(tmp_path, ("1", "add"), ("2", "add"), ("3", "add"))
    rows = []
    for sample, reply in zip(bench.samples(), [three(5, 4, 4), three(5, 5, 4), three(5, 4, 4)], strict=True):
        rows += bench.score(sample, [reply])
    metrics = bench.aggregate(rows)
    assert pick(metrics, "edit_rating", type="all").value == 4.44
    assert pick(metrics, "edit_rating", "corrected", type="all").value == pytest.approx(40 / 9)


def test_imgedit_failures_change_the_count_and_nothing_else(tmp_path: Path) -> None:
    bench = imgedit(tmp_path, ("1", "add"), ("2", "add"), ("3", "add"), ("4", "add"))
    one, two, three_, four = bench.samples()
    rows = bench.score(one, [three(5, 4, 3)])
    before = bench.aggregate(rows)
    rows += bench.score(two, [TIMEOUT]) + bench.score(three_, [said("no")]) + bench.score(four, [said("A: 5\nB: 5")])
    after = bench.aggregate(rows)
    assert [row.status for row in rows] == ["ok", "timeout", "parse_error", "ok"]
    assert (
        pick(after, "edit_rating", "corrected", type="all").value == pick(before, "edit_rating", "corrected", type="all").value
    )
    assert pick(after, "edit_rating", "corrected", type="all").n_failed == 3
    assert pick(after, "edit_rating", type="all").value == 4.5  # the official parser takes two scores for three


def test_imgedit_questions_and_layout(tmp_path: Path) -> None:
    bench = imgedit(tmp_path, ("1", "add"))
    [question] = bench.cases(bench.samples()[0], [Path("1.png")])
    assert bench.kinds == {question.kind}
    assert question.request["prompt"] == "judge add: do 1" and question.pictures[0].name == "1.png" and bench.task == "edit"
    with pytest.raises(InputError, match="none of add, adjust"):
        imgedit(tmp_path, ("1", "polish"))
