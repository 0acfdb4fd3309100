"""Patches, the best of each category, and weights, against numbers worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from column_corpus import column_corpus

from glyphflow.core.errors import ConfigError
from glyphflow.corpus import Corpus
from glyphflow.corpus.decide.balance import needed_rows
from glyphflow.corpus.decide.curate import curate, decisions
from glyphflow.corpus.recipe import Balance, Best, Condition, CorpusRecipe, Patch, Resample, Rule, Split, Stage

SHARES = {"nature/food": 50.0, "nature/animals": 50.0}


def _row(name: str, branch: str, beauty: float, mentions: str = "", angle: float = 0.0, score: float = 0.5) -> dict[str, Any]:
    """``angle``: in degrees, of the embedding, a vector of two numbers."""
    vector = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))], "<f2").tobytes()
    return {
        "index.id": name, "aesthetics.hand": beauty, "embedding.vector": vector, "categories.branch": branch,
        "categories.node": branch, "categories.score": score, "categories.mentions": f" {mentions} " if mentions else "",
    }  # fmt: skip


def _beauty(*rules: Rule, **parts: Any) -> list[Stage]:
    least = Rule(filter="Aesthetic", column="aesthetics.hand", min=5, reason="{value}")
    return [Stage(name="A", title="", rules=(least, *rules)), Stage(name="B", title="", **parts)]


def _details(corpus: Corpus) -> dict[str, str]:
    return {row["id"]: row["detail"] for row in decisions(corpus, "v") if row["kept"] and row["detail"]}


def test_weak_branches_are_filled_by_keywords_and_then_by_pictures(tmp_path: Path) -> None:
    animals = [_row(f"animal-{number}", "nature/animals", 9, angle=90) for number in range(15)]
    food = [_row("food", "nature/food", 9, angle=0)]
    refused = [
        _row("soup", "nature/food", 4, "nature/food", angle=80, score=0.9),  # said to be food: first
        _row("bread", "nature/objects", 4, "nature/food nature/objects", angle=80, score=0.2),
        _row("near", "nature/objects", 4, angle=10),
        _row("nearer", "nature/objects", 4, angle=-5),
        _row("far", "nature/objects", 4, angle=60),  # cosine 0.5
        _row("broken", "nature/food", 4, "nature/food") | {"index.error": "cut"},
    ]
    rows = animals + food + refused
    corpus = column_corpus(tmp_path / "c", [rows[:10], rows[10:18], rows[18:]], SHARES, {"index.error": "string"})
    broken = Rule(filter="Broken", column="index.error", empty=True, reason="{value}")
    # 16 rows are kept, so food should have 8; below 0.75 of it are 6, and 5 are lacking: two by words, two by looks.
    patch = Patch(below=0.75, forgive=("A/Aesthetic",), similarity=0.7)
    done = curate(corpus, _beauty(broken, patch=patch), "v")
    assert (done.kept, done.patched) == (20, 4)
    assert _details(corpus) == {
        "soup": "brought back for nature/food: its caption speaks of it",
        "bread": "brought back for nature/food: its caption speaks of it",
        "nearer": "brought back for nature/food: 1.00 like its pictures",
        "near": "brought back for nature/food: 0.98 like its pictures",
    }
    # A quarter would be 2 rows: one is lacking, and the surest caption comes first.
    curate(corpus, _beauty(broken, patch=patch.model_copy(update={"below": 0.25})), "v")
    assert set(_details(corpus)) == {"soup"}
    # Filters that are not named forgive nothing.
    assert curate(corpus, _beauty(broken, patch=patch.model_copy(update={"forgive": ("A/Broken",)})), "v").patched == 0


def test_scores_of_an_evaluation_make_a_branch_weak(tmp_path: Path) -> None:
    file = tmp_path / "scores.yaml"
    file.write_text("nature/animals: 0.2\nnature/food: 0.9\n")
    counts = {"nature/food": 50, "nature/animals": 50}
    patch = Patch(below=0.5, forgive=("A/Aesthetic",), scores=file)
    assert needed_rows(counts, SHARES, patch) == {"nature/animals": 15}  # (0.5 - 0.2) of its 50
    assert needed_rows(counts, SHARES, patch.model_copy(update={"scores": None})) == {}
    assert needed_rows({"nature/animals": 100}, SHARES, patch) == {"nature/food": 25, "nature/animals": 15}
    file.write_text("nature/fod: 0.2")
    with pytest.raises(ConfigError, match="'nature/fod'"):
        needed_rows(counts, SHARES, patch)
    file.write_text("nature/food: 20")
    with pytest.raises(ConfigError, match="from 0 to 1"):
        needed_rows(counts, SHARES, patch)
    with pytest.raises(ConfigError, match="does not exist"):
        needed_rows(counts, SHARES, patch.model_copy(update={"scores": tmp_path / "none.yaml"}))


def test_the_best_of_each_node_stay(tmp_path: Path) -> None:
    food = [_row(f"food-{beauty}", "nature/food", beauty) | {"quality.unnaturalness": 5.0} for beauty in (5, 9, 7, 6, 8)]
    animals = [_row(f"animal-{beauty}", "nature/animals", beauty) | {"quality.unnaturalness": 5.0} for beauty in (20, 30)]
    drawn = {"index.kind": "render", "quality.unnaturalness": None}
    renders = [_row(f"render-{number}", "nature/food", 5) | drawn for number in range(3)]
    corpus = column_corpus(tmp_path / "c", [food + renders, animals], SHARES)
    best = Best(share=0.5, least=1, scores={"aesthetics.hand": 1.0})
    done = curate(corpus, _beauty(best=best), "v")
    rows = {row["id"]: row for row in decisions(corpus, "v")}
    # Of five, three (2.5 rounded up): ranks 0, 1/4, 2/4, 3/4, 1 for beauties 5 to 9; of two, one.
    assert {name for name, row in rows.items() if not row["kept"]} == {"food-5", "food-6", "animal-20"}
    assert (rows["food-6"]["value"], rows["food-6"]["rule"], rows["food-6"]["stage"]) == (0.25, "Best of Category", "B")
    assert rows["food-6"]["detail"] == "among the rows of its category it stands at 0.25 of 1"
    assert done.refused == {("A", "Aesthetic"): 0, ("B", "Best of Category"): 3}
    assert curate(corpus, _beauty(best=best.model_copy(update={"least": 4})), "v").kept == 3 + 4 + 2


def test_less_is_better_where_the_weight_is_negative_and_nulls_stand_in_the_middle(tmp_path: Path) -> None:
    rows = [
        _row("a", "nature/food", 5) | {"quality.unnaturalness": 1.0},  # beauty rank 0, quality rank 1: mean of (0, 3 x 1)
        _row("b", "nature/food", 6) | {"quality.unnaturalness": None},  # 1/2, 1/2
        _row("c", "nature/food", 7) | {"quality.unnaturalness": 9.0},  # 1, 0
    ]
    corpus = column_corpus(tmp_path / "c", [rows], SHARES)
    best = Best(share=0.34, least=1, scores={"aesthetics.hand": 1.0, "quality.unnaturalness": -3.0})
    curate(corpus, _beauty(best=best), "v")
    found = {row["id"]: row["value"] for row in decisions(corpus, "v")}
    assert found == {"a": None, "b": None, "c": pytest.approx(0.25)}  # 0.34 of three is two, rounded up


def test_weights_bring_branches_to_their_shares_within_bounds(tmp_path: Path) -> None:
    rows = [_row(f"f{n}", "nature/food", 9) for n in range(2)] + [_row(f"a{n}", "nature/animals", 9) for n in range(6)]
    rows += [_row("x", "", 9), _row("dull", "nature/food", 1)]
    corpus = column_corpus(tmp_path / "c", [rows], SHARES)
    weights = _weights(corpus, _beauty(balance=Balance(low=0.1, high=10)))
    # Half each is wanted; food is a quarter of the eight, animals three quarters; without a branch, or refused: 1.
    assert weights == pytest.approx({"f0": 2, "f1": 2, **{f"a{n}": 2 / 3 for n in range(6)}, "x": 1, "dull": 1})
    bounded = _weights(corpus, _beauty(balance=Balance(low=0.9, high=1.5)))
    assert (bounded["f0"], bounded["a0"]) == pytest.approx((1.5, 0.9))


def _weights(corpus: Corpus, stages: Sequence[Stage]) -> dict[str, float]:
    curate(corpus, stages, "v")
    return {row["id"]: row["weight"] for row in decisions(corpus, "v")}


def test_texts_are_resampled_against_the_frequency_of_their_characters(tmp_path: Path) -> None:
    def read(name: str, text: str, split: str = "chinese") -> dict[str, Any]:
        lines = json.dumps([{"text": line} for line in text.splitlines()], ensure_ascii=False)
        return _row(name, "nature/food", 9) | {"text.lines": lines, "text.split": split}

    rows = [read("a", "的的"), read("b", "的\n 的"), read("c", "的龘"), read("none", "", "non-text")]
    rows += [read("e", "ee", "english"), read("z", "z", "english")]
    corpus = column_corpus(tmp_path / "c", [rows[:3], rows[3:]], SHARES)
    split = Split(name="text", when=(Condition(column="text.split", equals="chinese"),))
    stages = _beauty(splits=(split,), resample=Resample(splits=("text",), power=0.5, low=0.01, high=100))
    # 的 occurs 5 times, 龘 once, the median count is 3: rarities sqrt(3/5) and sqrt(3); "c" is the mean of both.
    common, rare = (3 / 5) ** 0.5, 3**0.5
    mixed = (common + rare) / 2
    mean = (2 * common + mixed) / 3
    expected = {"a": common / mean, "b": common / mean, "c": mixed / mean, "none": 1, "e": 1, "z": 1}
    assert _weights(corpus, stages) == pytest.approx(expected)
    # English texts are weighed among themselves: e twice, z once, median 1.5.
    both = (Split(name="text", when=()),)
    stages = _beauty(splits=both, resample=Resample(splits=("text",), power=1.0, low=0.01, high=1.2))
    weights = _weights(corpus, stages)
    assert (weights["e"], weights["z"]) == pytest.approx((0.75 / 1.125, 1.2)) and weights["none"] == 1


def test_rules_may_hold_for_some_splits_only(tmp_path: Path) -> None:
    rows = [_row(f"{split}-{n}", "nature/food", 9) | {"text.split": split, "text.characters": n}
            for split in ("english", "chinese") for n in (100, 500)]  # fmt: skip
    corpus = column_corpus(tmp_path / "c", [rows], SHARES)
    splits = tuple(Split(name=name, when=(Condition(column="text.split", equals=name),)) for name in ("english", "chinese"))
    rule = Rule(filter="Intensive Text", column="text.characters", max=300, splits=("chinese",), reason="")
    stage = Stage(name="C", title="", splits=splits, rules=(rule,))
    curate(corpus, [stage], "v")
    assert [row["id"] for row in decisions(corpus, "v") if not row["kept"]] == ["chinese-500"]


def test_recipes_that_name_what_is_not_there_are_refused(tmp_path: Path) -> None:
    rule = {"filter": "X", "column": "a.b", "min": 1, "reason": ""}
    stage = {"name": "A", "title": "", "rules": [rule]}
    for wrong, message in (
        ({"rules": [rule | {"splits": ["english"]}]}, "split 'english'; there are none"),
        ({"recaption": ["portrait"]}, "split 'portrait'"),
        ({"patch": {"forgive": ["A/Y"]}}, "filter 'A/Y'; there are A/X"),
        ({"resample": {"splits": ["text"]}}, "split 'text'"),
    ):
        with pytest.raises(ValueError, match=message):
            CorpusRecipe.model_validate({"stages": [stage | wrong]})
    with pytest.raises(ValueError, match="write one view"):
        CorpusRecipe.model_validate({"stages": [stage | {"view": "v"}, stage | {"name": "B", "view": "v"}]})
    corpus = column_corpus(tmp_path / "c", [[_row("a", "nature/food", 9)]], SHARES)
    with pytest.raises(ConfigError, match="resample of stage B reads"):
        curate(corpus, _beauty(splits=(Split(name="text"),), resample=Resample(splits=("text",))), "v")
    many = Stage(name="C", title="", rules=(Rule(filter="X", column="aesthetics.hand", min=1, reason=""),) * 65)
    with pytest.raises(ConfigError, match="65 rules and 64"):
        curate(corpus, [many], "v")
