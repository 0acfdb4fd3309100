"""What a failed judgement may have cost: the worst answer of every kind of question, through every benchmark's own formula."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_bench_edit import gedit, imgedit
from test_bench_graphs import dpg, oneig, tiif

from glyphflow.evaluate import Benchmark, FunctionJudge, Verdict, load_benchmark, score
from glyphflow.evaluate.score import pictures_of

BUILD: dict[str, tuple[Callable[[Path], Benchmark], dict[str, float]]] = {
    "dpg": (
        lambda path: dpg(
            path, ("partiprompts0", 1, "0", "entity - whole (a)"), ("partiprompts0", 2, "1", "entity - whole (b)")
        ),
        {},
    ),
    "oneig": (oneig, {}),
    "tiif": (tiif, {}),
    "gedit": (lambda path: gedit(path, ("a", "add", True)), {}),
    "imgedit": (lambda path: imgedit(path, ("a", "add")), {"lowest": 1.0}),
    "geneval": (lambda path: load_benchmark("geneval"), {}),
    "cvtg": (lambda path: load_benchmark("cvtg-2k"), {}),
    "longtext": (lambda path: load_benchmark("longtext-zh"), {}),
}


@pytest.mark.parametrize("name", BUILD)
def test_the_worst_answers_give_the_floor(tmp_path: Path, name: str) -> None:
    build, floor = BUILD[name]
    benchmark = build(tmp_path)
    rows = []
    for sample in benchmark.samples():
        questions = benchmark.cases(sample, pictures_of(tmp_path, benchmark, sample))
        verdicts = [Verdict("ok", benchmark.worst(sample, question), {}, "j") for question in questions]
        assert all(verdict.value is not None for verdict in verdicts)
        rows += benchmark.score(sample, verdicts)
    assert rows and all(row.ok for row in rows)
    for metric in benchmark.aggregate(rows):
        if metric.value is not None and metric.higher_is_better:
            assert metric.value == pytest.approx(floor.get("lowest", 0.0), abs=1e-5), str(metric.identity)


def test_rubbish_that_only_the_formula_refuses_is_counted_and_has_a_worst_case(tmp_path: Path) -> None:
    benchmark = dpg(tmp_path, ("partiprompts0", 1, "0", "entity - whole (a)"), ("partiprompts0", 2, "0", "entity - whole (b)"))
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 2, "benchmark": dict(benchmark.identity), "model": "m"}))
    for sample in benchmark.samples():
        for number, path in enumerate(pictures_of(tmp_path, benchmark, sample)):
            Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(path)

    def reply(case: Any) -> str:
        return "Perhaps." if case.images[0][0, 0, 0] == 3 else "yes"

    result = score(tmp_path, benchmark, [FunctionJudge(reply, "j", ["chat"])], resamples=0)
    asked = [sample for sample in result["samples"] if sample["verdicts"]]
    assert result["failures"]["parse_error"] == len(asked) == 1
    whole = next(m for m in result["metrics"] if m["identity"]["variant"] == "corrected")
    assert (whole["value"], whole["worst_case"]) == (100.0, 75.0)
