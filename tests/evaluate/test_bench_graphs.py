"""The benchmarks of yes/no questions: DPG, OneIG, TIIF, on tiny data of the layouts that users bring."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hand_verdicts import TIMEOUT, pick, read, said

from glyphflow.core.errors import InputError
from glyphflow.evaluate.benchmark import Metric, Sample, SampleScore
from glyphflow.evaluate.benchmarks.dpg import DPG
from glyphflow.evaluate.benchmarks.graph import all_above, in_order, one_step
from glyphflow.evaluate.benchmarks.oneig import OneIG, clean, compare, overall, targets_of, text_number
from glyphflow.evaluate.benchmarks.tiif import GROUPS, TIIF, answers_in, best_recall, gned, recall
from glyphflow.evaluate.case import Verdict

FOUR = [Path(f"{i}.png") for i in range(4)]
YES, NO = said("yes"), said("no")


# ---------------------------------------------------------------- the graph


def test_a_no_acts_on_what_depends_on_it() -> None:
    """1 <- 2 <- 3, and 4 alone. The judge says no to 1 and yes to the rest."""
    answers, parents = {1: False, 2: True, 3: True, 4: True}, {1: [0], 2: [1], 3: [2], 4: [0]}
    assert all_above(answers, parents) == in_order(answers, parents) == {1: False, 2: False, 3: False, 4: True}
    assert one_step(answers, parents) == {1: False, 2: False, 3: True, 4: True}


def test_the_order_of_the_table_matters_to_the_official_rule_only() -> None:
    """Read in the file's order a parent that falls later is still a yes."""
    answers, parents = {1: False, 2: True, 3: True}, {3: [2], 2: [1], 1: [0]}
    assert in_order(answers, parents) == {1: False, 2: False, 3: True}
    assert all_above(answers, parents) == {1: False, 2: False, 3: False}


def test_circles_themselves_and_strangers() -> None:
    """As they are in the published tables: 1 hangs on itself, 2 and 3 on each other, 4 on a question that is not there."""
    parents = {1: [1], 2: [3], 3: [2], 4: [9]}
    yes = dict.fromkeys((1, 2, 3, 4), True)
    assert all_above(yes, parents) == one_step(yes, parents) == yes
    assert all_above({**yes, 3: False}, parents) == {1: True, 2: False, 3: False, 4: True}
    with pytest.raises(KeyError):
        in_order(yes, parents)


# ---------------------------------------------------------------- DPG

HEAD = ["item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed", "tuple",
        "question_natural_language"]  # fmt: skip


def dpg(folder: Path, *rows: tuple[str, int, str, str]) -> DPG:
    """(item, number, dependency, tuple) a row."""
    with (folder / "dpg_bench.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEAD)
        for item, number, above, kind in rows:
            writer.writerow([item, "a prompt", "", number, above, "", "", kind, f"question {number}?"])
    return DPG(folder)


def value(metrics: Sequence[Metric], category: str, variant: str = "official") -> float | None:
    return pick(metrics, "dpg", variant, category=category).value


def test_dpg_by_hand(tmp_path: Path) -> None:
    """Two prompts after one that takes the skipped row; means over questions, pictures, prompts."""
    bench = dpg(
        tmp_path,
        ("0", 1, "0", "global - (x)"),
        ("0", 2, "0", "global - (x)"),
        ("1", 1, "0", "entity - whole (cat)"),
        ("1", 2, "1", "attribute - color (cat, black)"),
        ("1", 3, "1,2", "relation - spatial (cat, sofa, on)"),
        ("10", 1, "0", "entity - whole (dog)"),
    )
    zero, one, ten = bench.samples()
    assert bench.kinds == {"chat"} and bench.repeats == 4 and [case.kind for case in bench.cases(one, FOUR)] == ["chat"] * 12
    rows = bench.score(zero, [YES, YES])
    rows += bench.score(one, [YES, YES, YES, NO, YES, YES])  # 3/3, and 0 of 3 because 2 and 3 hang on 1
    rows += bench.score(ten, [NO])
    metrics = bench.aggregate(rows)
    assert [row.values["corrected"]["whole"] for row in rows] == [1.0, 1.0, 0.0, 0.0]
    assert value(metrics, "all") == value(metrics, "all", "corrected") == pytest.approx(100 * (1 + 0.5 + 0) / 3)


def test_dpg_defect_categories_are_of_the_last_picture_before_dependencies(tmp_path: Path) -> None:
    bench = dpg(
        tmp_path,
        ("0", 1, "0", "other (x)"),
        ("0", 2, "0", "other (x)"),
        ("1", 1, "0", "entity - whole (cat)"),
        ("1", 2, "1", "attribute - color (cat)"),
    )
    one = bench.samples()[1]
    rows = bench.score(one, [YES, NO, YES, NO, YES, NO, NO, YES])
    metrics = bench.aggregate(rows)
    assert (value(metrics, "entity"), value(metrics, "attribute")) == (0.0, 100.0)
    assert (value(metrics, "entity", "corrected"), value(metrics, "attribute", "corrected")) == (75.0, 0.0)
    assert value(metrics, "all") == pytest.approx(100 * (0.5 + 0.5 + 0.5 + 0) / 4)


def test_dpg_defect_the_first_row_of_the_table_is_skipped(tmp_path: Path) -> None:
    bench = dpg(tmp_path, ("0", 1, "0", "entity (a)"), ("0", 2, "0", "entity (b)"))
    metrics = bench.aggregate(bench.score(bench.samples()[0], [NO, YES]))
    assert value(metrics, "all") == 100.0 and value(metrics, "all", "corrected") == 50.0


def test_dpg_defect_a_prompt_whose_first_question_is_skipped_is_lost(tmp_path: Path) -> None:
    bench = dpg(tmp_path, ("0", 1, "0", "entity (a)"), ("0", 2, "1", "entity (b)"), ("1", 1, "0", "entity (c)"))
    zero, one = bench.samples()
    metrics = bench.aggregate(bench.score(zero, [YES, YES]) + bench.score(one, [NO]))
    assert value(metrics, "all") == 0.0 and value(metrics, "all", "corrected") == 50.0
    assert (
        pick(metrics, "dpg", category="all").n_failed == 1 and pick(metrics, "dpg", "corrected", category="all").n_failed == 0
    )


def test_dpg_defect_only_the_bare_yes_is_yes(tmp_path: Path) -> None:
    bench = dpg(tmp_path, ("0", 1, "0", "x"), ("0", 2, "0", "entity (b)"))
    metrics = bench.aggregate(bench.score(bench.samples()[0], [YES, said("Yes, there is.")]))
    assert value(metrics, "all") == 0.0 and value(metrics, "all", "corrected") == 100.0


@pytest.mark.parametrize("answer", [TIMEOUT, said("maybe"), said("")])
def test_dpg_failures_change_the_count_and_nothing_else(tmp_path: Path, answer: Verdict) -> None:
    bench = dpg(tmp_path, ("0", 1, "0", "x"), ("1", 1, "0", "entity (b)"), ("1", 2, "0", "entity (c)"))
    one = bench.samples()[1]
    without = bench.aggregate(bench.score(one, [YES, NO]))
    rows = bench.score(one, [YES, NO, YES, answer])
    assert rows[1].status in ("timeout", "parse_error") and rows[1].reason
    for before, after in zip(without, bench.aggregate(rows), strict=True):
        assert before.value == after.value and after.n_failed == before.n_failed + 1


def test_dpg_refuses_a_wrong_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dpg_bench\.csv, which does not exist"):
        DPG(tmp_path)
    (tmp_path / "dpg_bench.csv").write_text("item_id,text\n0,x\n")
    with pytest.raises(InputError, match="no column proposition_id"):
        DPG(tmp_path)
    with pytest.raises(InputError, match="numbers are needed"):
        dpg(tmp_path, ("0", 1, "none", "x"))
    with pytest.raises(InputError, match="none of the 1065 prompts"):
        dpg(tmp_path, ("nowhere", 1, "0", "x"))


# ---------------------------------------------------------------- OneIG


def oneig(folder: Path, language: str = "en") -> OneIG:
    ending, column = ("", "prompt_en") if language == "en" else ("_zh", "prompt_cn")
    graphs = folder / "scripts" / "alignment" / "Q_D"
    graphs.mkdir(parents=True, exist_ok=True)
    names = {
        "anime": "Anime_Stylization",
        "human": "Portrait",
        "object": "General_Object",
        "multilingualism": "Multilingualism",
    }
    table = [f"category,id,{column}"]
    for name, category in names.items():
        graph = {
            "question": json.dumps({"1": "a?", "2": "b?", "3": "c?"}),
            "dependency": json.dumps({"1": [0], "2": [1], "3": [2]}),
        }
        (graphs / f"{name}{ending}.json").write_text(json.dumps({"000": graph}))
        table.append(f"{category},000,a {name} prompt")
    (folder / ("OneIG-Bench.csv" if language == "en" else "OneIG-Bench-ZH.csv")).write_text("\n".join(table) + "\n")
    texts = folder / "scripts" / "text"
    texts.mkdir(exist_ok=True)
    cell = "['Hot tea', 'it''s 5']" if language == "en" else "['热茶', '欢迎']"
    name = "text_content.csv" if language == "en" else "text_content_zh.csv"
    (texts / name).write_text(f',id,{column},text_content\n0,000,a sign,"{cell}"\n', encoding="utf-8")
    return OneIG(language, folder)  # type: ignore[arg-type]


LIGHT, BLACK = said({"black": False}), said({"black": True})


def test_oneig_layout_and_questions(tmp_path: Path) -> None:
    english, chinese = oneig(tmp_path), oneig(tmp_path, "zh")
    assert [s.id for s in english.samples()] == ["anime_000", "human_000", "object_000", "text_000"]
    assert [s.id for s in chinese.samples()] == ["anime_000", "human_000", "object_000", "multilingualism_000", "text_000"]
    assert [case.kind for case in english.cases(english.samples()[0], FOUR[:1])] == ["pixels", "chat", "chat", "chat"]
    assert [case.kind for case in english.cases(english.samples()[3], FOUR[:1])] == ["pixels", "ocr"]
    assert english.kinds == {"pixels", "chat", "ocr"}
    assert "NC" in english.licence and chinese.samples()[4].targets == ("热茶", "欢迎")


def test_oneig_text_by_hand() -> None:
    """Two pictures: one exact, one three edits away with one of two words. ED 1.5, CR 1/2, WAC 3/4."""
    pictures = [compare("hot tea", "hot tea"), compare("hot tea", "hot")]
    assert pictures[1] == {"distance": 4, "exact": 0, "matched": 1, "words": 2}
    assert text_number(pictures, 100) == pytest.approx(1 - 2.0 * 0.5 * 0.25 / 100)
    far = [compare("a" * 300, "b" * 300)]
    assert text_number(far, 100) == 0.0 and text_number(far, 50) == 0.0  # the distance is cut at the limit
    assert text_number([], 100) is None
    assert compare("热茶", "茶 x")["matched"] == 1 and compare("热茶", "茶")["words"] == 2


def test_oneig_cleaning_and_printed_lists() -> None:
    assert clean("Hot, TEA!\n 5") == "Hot TEA 5" and clean("热 茶 hot!") == "热茶hot"
    assert targets_of("['a, b', 'c']") == ("a, b", "c") and targets_of("not a list") == ("not a list",)


def test_oneig_defect_black_pictures_are_dropped(tmp_path: Path) -> None:
    """Official: a model whose failures are black gains by them. Corrected: they are pictures without text, all answers no."""
    bench = oneig(tmp_path)
    sample, text = bench.samples()[0], bench.samples()[3]
    exact = [LIGHT, read("Hot tea", "its 5")]
    yes = [LIGHT, said("Yes"), said("Yes"), said("Yes")]
    good = bench.aggregate(bench.score(text, exact) + bench.score(sample, yes))
    mixed = bench.aggregate(bench.score(text, [*exact, BLACK, read()]) + bench.score(sample, [*yes, BLACK, *yes[1:]]))
    for name in ("oneig_text", "oneig_alignment"):
        assert pick(good, name).value == pick(good, name, "corrected").value == 1.0
        assert pick(mixed, name).value == 1.0
    distance = len("Hot tea its 5") / 2
    assert pick(mixed, "oneig_text", "corrected").value == pytest.approx(1 - distance * 0.5 * 0.5 / 100)
    assert pick(mixed, "oneig_alignment", "corrected").value == 0.5


def test_oneig_defects_of_the_questions(tmp_path: Path) -> None:
    """Only "Yes" is yes; and a no acts on the next question only, so that 3, which hangs on 2, still counts."""
    bench = oneig(tmp_path)
    sample = bench.samples()[0]
    metrics = bench.aggregate(bench.score(sample, [LIGHT, said("No"), said("Yes"), said("Yes")]))
    assert pick(metrics, "oneig_alignment").value == pytest.approx(1 / 3)
    assert pick(metrics, "oneig_alignment", "corrected").value == 0.0
    metrics = bench.aggregate(bench.score(sample, [LIGHT, said("yes."), said("Yes."), said("YES")]))
    assert pick(metrics, "oneig_alignment").value == 0.0 and pick(metrics, "oneig_alignment", "corrected").value == 1.0


def test_oneig_defect_line_breaks_of_the_printed_list_are_the_letter_n(tmp_path: Path) -> None:
    """A target of two lines is printed with a backslash and an n, of which the cleaning leaves the n, between the words."""
    printed = r"['Title: Models\nAuthor: Ho', '256 \times 256']"
    assert targets_of(printed) == ("Title: Models\nAuthor: Ho", r"256 \times 256")
    assert clean(printed) == "Title ModelsnAuthor Ho 256 times 256"
    assert clean(" ".join(targets_of(printed))) == "Title Models Author Ho 256 times 256"
    sample = Sample("text_0", "", targets_of(printed), {"printed": printed})
    [row] = oneig(tmp_path).score(sample, [LIGHT, read("Title: Models", "Author: Ho", "256 times 256")])
    assert row.values["official"]["distance"] == 1 and row.values["official"]["matched"] == 5 and row.quality == 1.0


def test_oneig_the_printed_list_of_single_lines_is_as_good(tmp_path: Path) -> None:
    """Brackets and quotes fall to the cleaning, by accident."""
    bench = oneig(tmp_path)
    [row] = bench.score(bench.samples()[3], [LIGHT, read("Hot tea its 5")])
    assert row.values["official"] == row.values["corrected"] and row.quality == 1.0


def test_oneig_failures_are_counted(tmp_path: Path) -> None:
    bench = oneig(tmp_path)
    sample, text = bench.samples()[0], bench.samples()[3]
    rows = bench.score(text, [TIMEOUT, read("x"), LIGHT, TIMEOUT]) + bench.score(
        sample, [LIGHT, said("Yes"), TIMEOUT, said("Yes")]
    )
    rows += bench.score(sample, [LIGHT, said("Yes"), said("perhaps"), said("Yes")])
    assert [row.status for row in rows] == ["timeout", "timeout", "timeout", "parse_error"]
    metrics = bench.aggregate(rows)
    assert [(m.value, m.n, m.n_failed) for m in metrics] == [(None, 0, 2)] * 4


def test_oneig_overall_is_the_mean_of_five() -> None:
    parts = {"alignment": 0.882, "text": 0.891, "reasoning": 0.306, "style": 0.418, "diversity": 0.197}
    assert overall(parts) == pytest.approx(0.5388)
    assert overall({**parts, "style": 0.5}) != overall(parts)
    assert overall({"alignment": 1.0}) is None


# ---------------------------------------------------------------- TIIF


def tiif(folder: Path) -> TIIF:
    (folder / "testmini_prompts").mkdir(exist_ok=True)
    (folder / "testmini_eval_prompts").mkdir(exist_ok=True)
    for dimensions in GROUPS.values():
        for name in dimensions:
            short = 'a card with "Hot" and "Tea"' if name == "text" else f"short {name}"
            item = {"type": name, "short_description": short, "long_description": f"long {name}"}
            asked = {"type": name, "yn_question_list": ["a? ", "b?"], "yn_answer_list": ["Yes", "no"]}
            (folder / "testmini_prompts" / f"{name}_prompts.jsonl").write_text(json.dumps(item) + "\n")
            (folder / "testmini_eval_prompts" / f"{name}_eval_prompts.jsonl").write_text(json.dumps(asked) + "\n")
    return TIIF(folder)


def answer(bench: TIIF, replies: dict[str, str], length: str = "short") -> list[SampleScore]:
    rows = []
    for sample in bench.samples():
        if sample.tags["length"] == length and (reply := replies.get(str(sample.tags["dimension"]))) is not None:
            rows += bench.score(sample, [said(reply), *([read("hot", "tae")] if sample.targets else [])])
    return rows


def test_tiif_groups_hold_the_39_dimensions(tmp_path: Path) -> None:
    bench = tiif(tmp_path)
    dimensions = [name for members in GROUPS.values() for name in members]
    assert len(GROUPS) == 9 and len(set(dimensions)) == len(dimensions) == 39
    assert len(bench.samples()) == 78 and all("+" not in sample.id for sample in bench.samples())
    text = next(sample for sample in bench.samples() if sample.tags["dimension"] == "text")
    assert (
        bench.kinds == {"chat", "ocr"}
        and text.targets == ("Hot", "Tea")
        and [case.kind for case in bench.cases(text, FOUR[:1])] == ["chat", "ocr"]
    )


def test_tiif_by_hand(tmp_path: Path) -> None:
    """Questions are pooled within a dimension, dimensions within a group, groups within the whole; lengths stay apart."""
    bench = tiif(tmp_path)
    both, one, none = "yes, a\nNo, b", "yes\nyes", "no\nyes"
    rows = answer(bench, {"numeracy": both, "negation": one, "comparison": none, "style": both})
    metrics = bench.aggregate(rows)
    assert pick(metrics, "questions_right", group="reasoning", length="short").value == pytest.approx(50.0)
    assert pick(metrics, "questions_right", group="style", length="short").value == 100.0
    assert pick(metrics, "questions_right", group="all", length="short").value == pytest.approx(75.0)
    assert pick(metrics, "questions_right", group="all", length="long").value is None


@pytest.mark.parametrize(
    ("reply", "answers"),
    [
        ("yes\nno", ["yes", "no"]),
        ("Yes, it is.\n\n  NO: nothing\n", ["yes", "no"]),
        ("1. yes\nno", ["no"]),
        ("yesterday\nnone\nno", ["no"]),
        ("", []),
    ],
)
def test_tiif_answers_are_lines_that_begin_with_them(reply: str, answers: list[str]) -> None:
    assert answers_in(reply) == answers


def test_tiif_replies_that_do_not_fit_are_failures(tmp_path: Path) -> None:
    bench = tiif(tmp_path)
    rows = answer(bench, {"numeracy": "yes\nno", "negation": "yes", "style": "I cannot help with that."})
    assert {row.category: row.status for row in rows} == {"numeracy": "ok", "negation": "parse_error", "style": "parse_error"}
    metric = pick(bench.aggregate(rows), "questions_right", group="all", length="short")
    assert metric.value == 100.0 and (metric.n, metric.n_failed) == (1, 2)


def test_tiif_words_by_hand(tmp_path: Path) -> None:
    """hot is read, tea as tae: two of three letters. GNED (0 + 2/3) / 2, recall 1/2."""
    assert gned(["hot", "tea"], ["hot", "tae"]) == pytest.approx(1 / 3)
    assert gned(["hot", "tea"], ["tea"]) == pytest.approx(1 / 2) and gned(["a"], ["a", "b", "c"]) == pytest.approx(2 / 3)
    assert gned([], []) == 0.0 and gned(["a"], [""]) == 1.0
    assert recall(["hot", "tea"], ["hot", "tae"]) == 0.5
    rows = answer(tiif(tmp_path), {"text": "yes\nno"})
    metrics = TIIF(tmp_path).aggregate(rows)
    assert pick(metrics, "gned", length="short").value == pytest.approx(1 / 3)
    assert pick(metrics, "gned", length="short").higher_is_better is False
    assert pick(metrics, "word_recall", length="short").value == 0.5


def test_tiif_defect_recall_takes_the_first_word_that_fits() -> None:
    """ "abcd" is one letter from both words read, "abce" from the first only, which the earlier target takes."""
    targets, words = ["abcd", "abce"], ["abcd", "xbcd"]
    assert recall(targets, words) == 0.5 and best_recall(targets, words) == 1.0
    assert recall(["abcd"], []) == best_recall(["abcd"], []) == 0.0


def test_tiif_refuses_files_of_two_versions(tmp_path: Path) -> None:
    tiif(tmp_path)
    path = tmp_path / "testmini_eval_prompts" / "style_eval_prompts.jsonl"
    path.write_text(path.read_text() * 2)
    with pytest.raises(InputError, match="one version"):
        TIIF(tmp_path)
    path.write_text(json.dumps({"yn_question_list": ["a?"], "yn_answer_list": []}) + "\n")
    with pytest.raises(InputError, match="1 questions and 0 answers"):
        TIIF(tmp_path)
    (tmp_path / "testmini_prompts" / "smell_prompts.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="does not exist"):
        TIIF(tmp_path)


def test_a_sample_drawn_twice_weighs_twice(tmp_path: Path) -> None:
    """The bootstrap draws samples with repetition; DPG and OneIG average a sample's pictures first, under its name."""
    from glyphflow.evaluate.bootstrap import draws

    bench = dpg(tmp_path, ("0", 1, "0", "x"), *((str(item), 1, "0", "entity (b)") for item in (1, 10, 100)))
    answers = {"1": YES, "10": NO, "100": NO}
    rows = [row for s in bench.samples()[1:] for row in bench.score(s, [answers[s.id]] * 4)]
    found = set()
    for [drawn] in draws([rows], 40):
        share = sum(row.values["corrected"]["whole"] for row in drawn) / len(drawn)
        assert value(bench.aggregate(drawn), "all", "corrected") == pytest.approx(100 * share)
        found.add(round(share, 3))
    assert found >= {0.0, 0.333, 0.667}
