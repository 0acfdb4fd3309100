"""The benchmarks that read text: nano, ChineseWord, LongText-Bench, CVTG-2K. Every number is worked out by hand."""

import json
from pathlib import Path

import pytest
from hand_verdicts import TIMEOUT, pick, read, said

import glyphflow.render
from glyphflow.core.errors import InputError
from glyphflow.core.hashing import sha256_file
from glyphflow.evaluate.benchmark import Benchmark, Sample, readable
from glyphflow.evaluate.benchmarks import load_benchmark, names
from glyphflow.evaluate.benchmarks.chinese_word import TEMPLATES, ChineseWord
from glyphflow.evaluate.benchmarks.cvtg import CVTG2K, official_similarity, quoted
from glyphflow.evaluate.benchmarks.long_text import LongText, clean_text
from glyphflow.evaluate.benchmarks.shared import shipped
from glyphflow.evaluate.metrics import aggregate, score_text

FOUR = [Path(f"{i}.png") for i in range(4)]


@pytest.mark.parametrize(
    ("name", "count"),
    [("nano16", 16), ("nano64", 64), ("chineseword", 8105), ("chineseword-300", 300), ("longtext-en", 160),
     ("longtext-zh", 160), ("cvtg-2k", 2000), ("geneval", 553)],
)  # fmt: skip
def test_shipped_benchmarks_are_whole(name: str, count: int) -> None:
    bench = load_benchmark(name)
    samples = bench.samples()
    assert len(samples) == len({sample.id.casefold() for sample in samples}) == count and names()[name] is False
    assert bench.data_sha256 == load_benchmark(name).data_sha256 and bench.licence
    for sample in samples:
        assert sample.prompt and all(char.isalnum() or char in "-_." for char in sample.id)
        json.dumps(dict(sample.tags))
        if bench.typeset:
            assert sample.targets and all(target in sample.prompt for target in sample.targets if name != "longtext-en")
        cases = bench.cases(sample, FOUR[: bench.repeats])
        assert len({case.id for case in cases}) == len(cases)
    with pytest.raises(InputError, match="takes no data folder"):
        load_benchmark(name, Path())


@pytest.mark.parametrize(
    ("file", "begin"),
    [("geneval/evaluation_metadata.jsonl", "5c48e0813e812e3c"), ("geneval/object_names.txt", "608f6a0e5c8ca1c7"),
     ("dpg/prompts.jsonl", "8a74f7a777e87ffc"), ("longtext/text_prompts.jsonl", "a2130769e72bd856"),
     ("longtext/text_prompts_zh.jsonl", "6512cd121ac093e8"), ("cvtg2k/CVTG/2_combined.json", "879f2ad48289fcf3"),
     ("cvtg2k/CVTG-Style/5_combined.json", "a469830c41c7cd1d"),
     ("viescore/tie_rule_SC.txt", "5b9aa479977bc317"), ("viescore/rule_PQ.txt", "cd929b5619a3ad93")],
)  # fmt: skip
def test_data_files_are_as_their_authors_published_them_and_have_a_licence(file: str, begin: str) -> None:
    assert sha256_file(shipped(*file.split("/"))).startswith(begin)
    assert shipped(file.split("/")[0], "LICENSE").is_file()


def test_the_table_of_characters_is_as_published_and_has_a_licence() -> None:
    folder = Path(glyphflow.render.__file__).parent / "data" / "gscc"
    assert sha256_file(folder / "characters.txt").startswith("668f69e856c35715")
    assert (folder / "LICENSE").is_file()


@pytest.mark.parametrize("name", ["nano16", "chineseword-300", "longtext-en", "cvtg-2k", "geneval"])
def test_the_kinds_of_a_benchmark_are_those_of_its_cases(name: str) -> None:
    bench = load_benchmark(name)
    cases = [case for sample in bench.samples() for case in bench.cases(sample, FOUR[: bench.repeats])]
    assert {case.kind for case in cases} == bench.kinds


def test_unknown_names_and_missing_data_say_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="chineseword"):
        load_benchmark("chinesewords")
    for name in (name for name, brought in names().items() if brought):
        with pytest.raises(InputError, match=name):
            load_benchmark(name)
        with pytest.raises(InputError, match=r"does not exist|holds no picture"):
            load_benchmark(name, tmp_path)


def test_nano_numbers_are_the_micro_averages_by_language() -> None:
    bench = load_benchmark("nano16")
    readings = [[target[::-1] if number % 3 else target for target in s.targets] for number, s in enumerate(bench.samples())]
    rows = [row for s, lines in zip(bench.samples(), readings, strict=True) for row in bench.score(s, [read(*lines)])]
    rows[5] = bench.score(bench.samples()[5], [TIMEOUT])[0]
    metrics = bench.aggregate(rows)
    for language in ("all", "en", "zh", "mixed"):
        chosen = [
            score_text(s.targets, lines)
            for number, (s, lines) in enumerate(zip(bench.samples(), readings, strict=True))
            if number != 5 and language in ("all", s.tags["language"])
        ]
        for name, value in aggregate(chosen).items():
            metric = pick(metrics, name, language=language)
            assert metric.value == value and metric.n == len(chosen) and metric.n_failed == (language in ("all", "en"))


def test_chinese_word_by_hand() -> None:
    bench = ChineseWord()
    by_tier: dict[int, list[Sample]] = {1: [], 2: [], 3: []}
    for sample in bench.samples():
        by_tier[sample.tags["tier"]].append(sample)
    assert [len(members) for members in by_tier.values()] == [3500, 3000, 1605]
    assert {s.prompt for s in bench.samples()} == {
        TEMPLATES[s.tags["template"]][1].format(s.targets[0]) for s in bench.samples()
    }
    answers = {1: [True, True, True, False], 2: [True, False], 3: [False, False]}
    rows = []
    for tier, marks in answers.items():
        for sample, right in zip(by_tier[tier], marks, strict=False):
            rows += bench.score(sample, [read(sample.targets[0] if right else "囗")])
    rows += bench.score(by_tier[2][7], [TIMEOUT])
    metrics = bench.aggregate(rows)
    assert [pick(metrics, "character_accuracy", level=level).value for level in "123"] == [75.0, 50.0, 0.0]
    whole = pick(metrics, "character_accuracy", level="all")
    assert whole.value == pytest.approx((3500 * 75 + 3000 * 50) / 8105) and (whole.n, whole.n_failed) == (8, 1)
    assert pick(bench.aggregate(rows[:4]), "character_accuracy", level="all").value is None  # a tier that is not known
    subset = readable([row for row in rows if row.quality == 1.0])
    assert (
        len(subset) == 4
        and pick(bench.aggregate([r for r in rows if r.sample in subset]), "character_accuracy", level="2").n == 1
    )


@pytest.mark.parametrize(
    ("lines", "right"), [(["字"], 1), (["字 "], 1), ([" ", "字"], 1), (["字字"], 0), (["字。"], 0), ([], 0)]
)
def test_chinese_word_wants_the_character_and_nothing_else(lines: list[str], right: int) -> None:
    sample = Sample("1", "", ("字",), {"tier": 1})
    assert ChineseWord(1).score(sample, [read(*lines)])[0].values["hit"] == right


def test_the_small_chinese_word_is_a_fixed_choice() -> None:
    small = ChineseWord(100)
    assert small.name == "chineseword-300" and small.data_sha256 == ChineseWord(100).data_sha256
    assert [sum(s.tags["tier"] == tier for s in small.samples()) for tier in (1, 2, 3)] == [100, 100, 100]
    assert {s.id: s.prompt for s in small.samples()}.items() <= {s.id: s.prompt for s in ChineseWord().samples()}.items()


def test_long_text_by_hand() -> None:
    """Four target words, one twice; order and extra words are free; a word serves once; all pictures weigh by their words."""
    bench = LongText("en")
    sample = Sample("0000", "", ("Big SALE,", "big day!"), {"category": "sign", "length": "short", "language": "en"})
    rows = bench.score(sample, [read("day sale big", "big and more"), read("BIG sale"), read(), TIMEOUT])
    assert [row.values.get("official") for row in rows] == [[4, 4], [2, 4], [0, 4], None]
    metric = pick(bench.aggregate(rows), "text_accuracy", language="en")
    assert metric.value == pytest.approx(6 / 12) and (metric.n, metric.n_failed) == (3, 1)
    edit = pick(bench.aggregate(rows), "edit_similarity", "corrected")
    # "bigsalebigday" against "daysalebigbigandmore", "bigsale" (6 missing of 13) and nothing (13 missing)
    assert rows[1].values["edit"] == [7, 13] and rows[2].values["edit"] == [0, 13] and rows[0].values["edit"][1] == 20
    assert edit.value is not None and edit.value < 7 / 13


def test_long_text_chinese_counts_characters_and_keeps_case() -> None:
    sample = Sample("0000", "", ("新鲜 Hot", "新"), {"category": "sign", "length": "short", "language": "zh"})
    [row] = LongText("zh").score(sample, [read("鲜新，hot")])
    assert row.values["official"] == [2 + 2, 6]  # 新 once of two, 鲜, o, t; H is not h


@pytest.mark.parametrize(
    ("reading", "official", "corrected"),
    [
        ("No text recognized.", [0, 2], [0, 2]),
        ("No text recognized", [2, 2], [0, 2]),  # the clean-up looks for a full stop that the judge was not asked for
        ("addCriterion text", [1, 2], [1, 2]),
        ("addCriterion\nNo text recognized.", [0, 2], [0, 2]),
    ],
)
def test_long_text_defect_of_the_clean_up(reading: str, official: list[int], corrected: list[int]) -> None:
    sample = Sample("0000", "", ("text recognized",), {"category": "sign", "length": "short", "language": "en"})
    [row] = LongText("en").score(sample, [read(reading)])
    assert row.values["official"] == official and row.values["corrected"] == corrected


def test_long_text_defect_only_the_last_phrase_is_removed() -> None:
    sample = Sample("0000", "", ("addCriterion now",), {"category": "sign", "length": "short", "language": "en"})
    [row] = LongText("en").score(sample, [read("addCriterion now")])
    assert row.values["official"] == [2, 2] and row.values["corrected"] == [1, 2]


def test_long_text_ids_are_the_files_numbers_with_their_gaps() -> None:
    ids = [sample.id for sample in LongText("en").samples()]
    assert len(ids) == 160 and ids[-1] == "0199" and ids != [f"{number:04d}" for number in range(160)]
    assert LongText("en").repeats == 4


def test_cleaning() -> None:
    assert clean_text("Café—Nº 5!  “déjà”\n vu, 你好。ß𠀀") == "CaféN 5 déjà vu 你好"


def test_cvtg_official_by_hand() -> None:
    """Lower-cased pieces with punctuation; one reading serves every equal target; everything micro over words."""
    bench = CVTG2K()
    a = Sample("CVTG-2-000", "", ("Sale Sale", "Open."), {"half": "CVTG", "file": 2, "regions": 2})
    b = Sample("CVTG-3-000", "", ("Go",), {"half": "CVTG", "file": 3, "regions": 3})
    rows = bench.score(a, [read("SALE", "open"), said(0.3)]) + bench.score(b, [read("go"), said(-0.1)])
    metrics = bench.aggregate(rows)
    assert rows[0].values["official"] == [2, 3] and rows[0].values["corrected"] == [
        2,
        3,
    ]  # Sale twice; but "open" is not "open."
    assert pick(metrics, "word_accuracy", regions="2").value == pytest.approx(2 / 3)
    assert pick(metrics, "word_accuracy", regions="all").value == pytest.approx(3 / 4)
    near = 1 - 1 / (5 + 1e-5)
    assert pick(metrics, "ned_similarity", regions="all").value == pytest.approx((1 + 1 + near + 1) / 4)
    assert pick(metrics, "clip_score").value == pytest.approx((0.75 + 0) / 2)


def test_cvtg_defects() -> None:
    """No multiset; the word that difflib finds nearest is not the nearest; nothing read is one empty word."""
    sample = Sample("CVTG-2-000", "", ("a a a",), {"half": "CVTG", "file": 2, "regions": 2})
    [row, _] = CVTG2K().score(sample, [read("a"), TIMEOUT])
    assert row.values["official"] == [3, 3] and row.values["corrected"] == [1, 3]
    assert official_similarity("abcd", []) == pytest.approx(1 - 4 / (4 + 1e-5))
    target, words = "abcdef", ("bacdfe", "abxxef")  # four edits of six, and two of six: difflib takes the first
    assert official_similarity(target, words) == pytest.approx(1 - 4 / (6 + 1e-5))
    [row, _] = CVTG2K().score(Sample("x", "", (target,), dict(sample.tags)), [read(*words), TIMEOUT])
    assert row.values["ned"][0] == pytest.approx(2 / 6, abs=1e-5) and row.values["corrected_ned"][0] == pytest.approx(4 / 6)


def test_cvtg_a_failed_judge_is_counted_apart_for_each_judge() -> None:
    bench, sample = CVTG2K(), CVTG2K().samples()[0]
    rows = bench.score(sample, [TIMEOUT, said(0.3)])
    metrics = bench.aggregate(rows)
    assert pick(metrics, "word_accuracy", regions="all").value is None
    assert pick(metrics, "word_accuracy", regions="all").n_failed == 1 and pick(metrics, "clip_score").n_failed == 0


def test_cvtg_nine_prompts_quote_more_texts_than_their_file_says() -> None:
    """The published columns are the files; corrected columns are the texts in the prompt. Apostrophes break no quote."""
    samples = CVTG2K().samples()
    odd = [sample for sample in samples if sample.tags["regions"] != sample.tags["file"]]
    assert len(odd) == 9 and {s.tags["regions"] for s in odd} == {5} and {s.tags["file"] for s in odd} == {3, 4}
    assert sum(len(target.split()) for sample in samples for target in sample.targets) == 16206
    assert all(sample.prompt.count("'") == 2 * len(sample.targets) for sample in samples)
    assert quoted("a menu says 'Today’s Special' and 'Pie'") == ["Today’s Special", "Pie"]
    bench: Benchmark = CVTG2K()
    rows = [row for s in odd for row in bench.score(s, [read(*s.targets), TIMEOUT])]
    metrics = bench.aggregate(rows)
    assert (
        pick(metrics, "word_accuracy", regions="5").n == 0 and pick(metrics, "word_accuracy", "corrected", regions="5").n == 9
    )


def test_perfect_readings_are_perfect_and_empty_ones_are_nothing() -> None:
    for name in ("nano64", "chineseword-300", "longtext-en", "longtext-zh", "cvtg-2k"):
        bench = load_benchmark(name)
        for sample in bench.samples()[::37]:
            size = len(bench.cases(sample, FOUR[:1]))
            full = bench.score(sample, [read(*sample.targets), said(0.4)][:size])[0]
            empty = bench.score(sample, [read(), said(0.4)][:size])[0]
            assert full.quality == 1.0 and empty.quality == 0.0, sample
