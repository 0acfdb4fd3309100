"""The smaller text metrics, and the identities that keep numbers apart."""

import random
from typing import Any

import pytest

from glyphflow.core.errors import ConfigError
from glyphflow.evaluate.benchmark import (
    MetricIdentity,
    Sample,
    SampleScore,
    mean,
    picture_name,
    ratio,
    readable,
    subset_hash,
)
from glyphflow.evaluate.metrics import clip_score, edit_similarity, levenshtein, multiset_matches
from glyphflow.evaluate.metrics.strings import assign


def test_assignment_agrees_with_scipy() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rng = random.Random(3)
    for rows, columns in [(1, 1), (3, 3), (5, 2), (2, 7), (9, 9), (6, 11)]:
        costs = [[rng.random() for _ in range(columns)] for _ in range(rows)]
        found = assign(costs)
        assert len(found) == min(rows, columns) == len({i for i, _ in found}) == len({j for _, j in found})
        wanted = optimize.linear_sum_assignment(costs)
        assert sum(costs[i][j] for i, j in found) == pytest.approx(sum(costs[i][j] for i, j in zip(*wanted, strict=True)))
    assert assign([]) == assign([[]]) == []


def test_by_hand() -> None:
    assert multiset_matches(["a", "a", "b"], ["a", "b", "b"]) == 2
    assert edit_similarity("kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert edit_similarity("", "") == 1.0 and edit_similarity("ab", "", 1e-5) == pytest.approx(1 - 2 / (2 + 1e-5))
    assert clip_score(0.32) == pytest.approx(0.8) and clip_score(-0.2) == 0.0
    assert mean([1.0, 2.0]) == 1.5 and mean([]) is None and mean([1.0, None]) is None
    assert ratio([[1, 2], [3, 4]]) == pytest.approx(4 / 6) and ratio([]) is None


def test_identities_name_what_they_measure() -> None:
    for name in ("score", "overall", "Overall", "average"):
        with pytest.raises(ConfigError, match="does not say of what"):
            MetricIdentity(name, "mean")
    assert MetricIdentity("overall", "mean", dimensions=(("of", "alignment"),)).name == "overall"
    with pytest.raises(ConfigError, match="needs a name and an aggregation"):
        MetricIdentity("psnr", "")
    official, corrected = MetricIdentity("dpg", "mean"), MetricIdentity("dpg", "mean", "corrected")
    assert official != corrected and "corrected" in str(corrected)


def test_rows_survive_json_and_name_the_readable_subset() -> None:
    import json

    def row(sample: str, **more: Any) -> SampleScore:
        return SampleScore(sample, 0, **{"status": "ok", "quality": 1.0, **more})

    rows = [row("a", values={"n": [1, 2]}), row("b", quality=0.5), row("c", status="timeout", quality=None), row("d"), row("d")]
    assert [SampleScore.from_json(json.loads(json.dumps(r.to_json()))) for r in rows] == rows
    assert readable(rows) == {"a", "d"} and subset_hash({"a", "d"}) == subset_hash(["d", "a"]) != subset_hash(["a"])


def test_names_and_seeds_of_pictures() -> None:
    assert picture_name("0012", 3, 4) == "0012_3.png" and picture_name("a", 0, 1) == "a.png"
    fixed, free = Sample("a", "p", tags={"seed": 7}), Sample("a", "p")
    assert fixed.seed() == 7 and fixed.seed(1) != 7
    assert free.seed(0) == Sample("a", "p").seed(0) != free.seed(1)


def test_long_distances_agree_with_the_table() -> None:
    """The bits of one column agree with the plain table of distances, for texts longer than a machine word."""
    rng = random.Random(1)
    for length in (1, 63, 64, 65, 150):
        a = "".join(rng.choice("abcd") for _ in range(length))
        b = "".join(rng.choice("abcd") for _ in range(rng.randrange(200)))
        row = list(range(len(b) + 1))
        for i, x in enumerate(a, 1):
            diagonal, row[0] = row[0], i
            for j, y in enumerate(b, 1):
                diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
        assert levenshtein(a, b) == levenshtein(b, a) == row[-1]
