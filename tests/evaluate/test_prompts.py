"""The shipped benchmarks and the files that users bring."""

import json
from pathlib import Path

import pytest

from glyphflow.core.errors import InputError
from glyphflow.evaluate import load_benchmark
from glyphflow.evaluate.benchmarks import names
from glyphflow.evaluate.metrics import is_han

GOOD = {"id": "a-1", "prompt": 'a sign "X"', "language": "en", "targets": ["X"], "seed": 3}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "count", "languages"), [("nano16", 16, (8, 6, 2)), ("nano64", 64, (32, 26, 6))])
def test_shipped_benchmarks(name: str, count: int, languages: tuple[int, int, int]) -> None:
    bench = load_benchmark(name)
    samples = bench.samples()
    assert len(samples) == count and name in names()
    by_language = [sum(sample.tags["language"] == language for sample in samples) for language in ("en", "zh", "mixed")]
    assert tuple(by_language) == languages
    assert len({sample.seed() for sample in samples}) == count
    for sample in samples:
        assert " ".join(sample.targets) in sample.prompt


@pytest.mark.parametrize("name", ["nano16", "nano64"])
def test_training_never_contained_the_words_but_knows_their_characters(name: str) -> None:
    pytest.importorskip("wordfreq")
    from glyphflow.render import texts

    train = {*texts.english_words("train"), *texts.chinese_words("train"), *texts.chinese_characters("train")}
    heldout = {*texts.english_words("heldout"), *texts.chinese_words("heldout"), *texts.chinese_characters("heldout")}
    known = set(texts.frequent_characters())
    for sample in load_benchmark(name).samples():
        for word in " ".join(sample.targets).split():
            assert word.lower() in heldout and word.lower() not in train, word
            assert known.issuperset(char for char in word if is_han(char)), word


def test_a_users_file(tmp_path: Path) -> None:
    bench = load_benchmark(write(tmp_path / "mine.jsonl", GOOD, {**GOOD, "id": "a-2", "targets": ["X", "Y"]}))
    assert bench.name == "mine" and [sample.targets for sample in bench.samples()] == [("X",), ("X", "Y")]
    same = load_benchmark(write(tmp_path / "other.jsonl", GOOD, {**GOOD, "id": "a-2", "targets": ["X", "Y"]}))
    assert same.data_sha256 == bench.data_sha256
    assert load_benchmark(write(tmp_path / "less.jsonl", GOOD)).data_sha256 != bench.data_sha256


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**GOOD, "targets": []}], "targets"),
        ([{**GOOD, "targets": [" "]}], "targets"),
        ([{**GOOD, "seed": "3"}], "seed"),
        ([{**GOOD, "id": "../x"}], "names a file"),
        ([{**GOOD, "extra": 1}], "fields"),
        ([GOOD, GOOD], "twice"),
        ([GOOD, {**GOOD, "id": "A-1"}], "twice"),
        ([[1]], "JSON object"),
        ([], "is empty"),
    ],
)
def test_wrong_files_are_refused_with_a_reason(tmp_path: Path, rows: list[object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_benchmark(write(tmp_path / "bad.jsonl", *rows))


def test_unknown_benchmark_names_those_that_exist() -> None:
    with pytest.raises(InputError, match="nano16"):
        load_benchmark("nano17")
