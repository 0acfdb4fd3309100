"""What people see: the table, the page, and the comparison of two folders."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toys import Scripted, knows, make_folder, rows, typeset

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import read_json, write_json
from glyphflow.evaluate import Case, FunctionJudge, Sample, score
from glyphflow.evaluate.benchmarks import load_benchmark
from glyphflow.evaluate.compare import compare
from glyphflow.evaluate.compare import table as comparison
from glyphflow.evaluate.report import fragment, page, table
from glyphflow.evaluate.sample import benchmark_of

PROMPTS = [
    {"id": "a", "prompt": 'a <b> "HELLO"', "language": "en", "targets": ["HELLO"], "seed": 0},
    {"id": "b", "prompt": "", "language": "zh", "targets": ["你好"], "seed": 1},
    {"id": "c", "prompt": "", "language": "zh", "targets": ["世界"], "seed": 2},
]


def distinct(sample: Sample, width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), sample.seed() % 251, np.uint8)


def well_formed(html: str) -> None:
    style = "".join(re.findall("<style>(.*?)</style>", html, re.S))
    assert "{{" not in style and style.count("{") == style.count("}")
    for name in ("div", "figure", "table", "span", "svg", "section", "small", "tr", "td"):
        assert len(re.findall(f"<{name}[ >]", html)) == html.count(f"</{name}>"), name
    assert 'src="http' not in html


def test_the_page_shows_what_was_read_and_needs_no_other_file(tmp_path: Path) -> None:
    benchmark = make_folder(tmp_path, distinct, PROMPTS)
    (tmp_path / "c.png").unlink()
    judge = Scripted(lambda case: {"a": ["HEXLO"], "b": ["你好"]}.get(case.id, []))
    result = score(tmp_path, benchmark, [judge], typeset)
    html = page(tmp_path)
    well_formed(html)
    assert html.startswith("<!doctype html>") and fragment(tmp_path) in html
    assert html.count("data:image/png;base64,") == 2 and "a &lt;b&gt;" in html
    assert '<span class="extra">X</span>' in html and '<span class="miss">L</span>' in html
    assert '<span class="hit">你</span>' in html and "not judged" in html and "missing_image" in html
    assert html.count("<polygon") == 2 and 'viewBox="0 0 128 128"' in html
    text = table(result)
    assert "1 of 3 judgements failed: 1 missing_image" in text and "worst case" in text
    [row] = [line for line in text.splitlines() if line.startswith("character_accuracy [language all]")]
    assert row.split()[3] == "0.8571"  # 4 of HELLO's 5 and 2 of 2 characters


def test_many_pictures_are_the_worst_the_best_and_the_failed_of_each_category(tmp_path: Path) -> None:
    prompts = rows([f"word{n}" for n in range(80)])
    prompts = [{**row, "language": "en" if number % 2 else "zh"} for number, row in enumerate(prompts)]
    benchmark = make_folder(tmp_path, distinct, prompts)
    (tmp_path / "en-10.png").unlink()
    score(tmp_path, benchmark, [Scripted(knows(benchmark, en_3=["x"], en_5=["word"]))], resamples=0)
    html = page(tmp_path)
    well_formed(html)
    assert html.count("<figure") == 21
    worst = html.split("en: the worst (5 of 40)")[1].split("<h3>")[0]
    assert worst.index("word3") < worst.index("word5") and "en: the best (5 of 40)" in html
    assert "zh: not judged (1 of 40)" in html


def test_objects_replies_and_published_rows_are_shown(tmp_path: Path) -> None:
    """GenEval with one picture, its boxes and colours drawn; and the published rows, marked as such."""
    benchmark = load_benchmark("geneval")
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 2, "benchmark": "geneval", "model": "m"}))
    for repeat in range(4):
        image = np.random.default_rng(repeat).integers(0, 256, (600, 800, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / f"00000_{repeat}.png")

    def find(case: Case) -> list[dict[str, object]]:
        box = {"label": "bench", "box": [100, 50, 700, 500], "score": 0.91, "colours": {"red": 0.9, "blue": 0.1}}
        return [box] if case.id.endswith("1") else []

    result = score(tmp_path, benchmark, [FunctionJudge(find, "boxes", ["objects"])], resamples=0)
    assert result["failures"] == {"missing_image": 4 * 552}
    html = page(tmp_path)
    well_formed(html)
    assert "bench 0.91 (red)" in html and 'points="100.0,50.0 700.0,50.0 700.0,500.0 100.0,500.0"' in html
    assert "data:image/jpeg;base64," in html  # larger pictures are shown smaller, frames stay in their own pixels
    assert "Qwen-Image (published)" in html and "Published rows:" in html
    assert re.search(r"^published .*:\n(  .*\n)*  Qwen-Image ", table(result), re.M)


def test_the_page_before_scoring_says_what_to_run(tmp_path: Path) -> None:
    make_folder(tmp_path, typeset)
    with pytest.raises(InputError, match="evaluate score"):
        page(tmp_path)
    write_json(tmp_path / "scores.json", {"format": 1})
    with pytest.raises(InputError, match="score the folder again"):
        page(tmp_path)


def two_folders(path: Path, wrong_a: set[int], wrong_b: set[int], count: int = 60) -> None:
    prompts = rows([f"w{n}" for n in range(count)])
    for name, wrong in (("a", wrong_a), ("b", wrong_b)):
        benchmark = make_folder(path / name, distinct, prompts, model=name)
        answers = {f"en_{n}": ["nothing"] for n in wrong}
        score(path / name, benchmark, [Scripted(knows(benchmark, **answers))], resamples=0)


def exact(result: dict) -> dict:
    return next(m for m in result["metrics"] if m["identity"]["name"] == "exact")


def test_a_difference_has_a_paired_interval(tmp_path: Path) -> None:
    """B mends 6 of A's 30 mistakes and makes none: the pairing sees what two separate intervals would not."""
    two_folders(tmp_path, set(range(30)), set(range(24)))
    result = compare(tmp_path / "a", tmp_path / "b", benchmark_of(tmp_path / "a"), 500)
    found = exact(result)
    assert (found["a"], found["b"]) == (0.5, 0.6) and found["difference"] == pytest.approx(0.1)
    low, high = found["ci95"]
    assert 0.02 < low < 0.1 < high < 0.2 and found["b_better"] > 0.99
    # the exact spread of a mean of differences that are 1 in one sample of ten: 1.96 sqrt(0.1 0.9 / 60)
    assert (high - low) / 2 == pytest.approx(1.96 * (0.09 / 60) ** 0.5, rel=0.15)
    back = exact(compare(tmp_path / "b", tmp_path / "a", benchmark_of(tmp_path / "a"), 500))
    assert back["ci95"] == pytest.approx([-high, -low]) and back["b_better"] < 0.01
    text = comparison(result)
    assert "a, pictures of a\nB = " in text and "+0.1000" in text and "60 samples" in text


def test_pictures_that_failed_in_one_folder_are_left_out_of_both(tmp_path: Path) -> None:
    two_folders(tmp_path, {0, 1, 2}, set())
    for number in (0, 1):
        (tmp_path / "b" / f"en-{number}.png").unlink()
    benchmark = benchmark_of(tmp_path / "b")
    score(tmp_path / "b", benchmark, [Scripted(lambda case: [])], resamples=0)
    result = compare(tmp_path / "a", tmp_path / "b", benchmark, 100)
    assert (result["samples"], result["rows_left_out"]) == (58, 2)
    assert exact(result)["a"] == pytest.approx(57 / 58)


def test_only_one_ruler_compares(tmp_path: Path) -> None:
    two_folders(tmp_path, set(), set(), 4)
    benchmark = benchmark_of(tmp_path / "a")
    score(tmp_path / "b", benchmark, [Scripted(lambda case: [], "another/1")], resamples=0)
    with pytest.raises(ConfigError, match=r"scripted/1, of .*another/1"):
        compare(tmp_path / "a", tmp_path / "b", benchmark)
    scores = read_json(tmp_path / "b" / "scores.json")
    scores["benchmark"]["version"] = "2"
    write_json(tmp_path / "b" / "scores.json", scores)
    with pytest.raises(ConfigError, match="version 2, here it is 1"):
        compare(tmp_path / "a", tmp_path / "b", benchmark)
