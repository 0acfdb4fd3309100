"""Published rows come out of the aggregation code when their published parts go in; those that do not are named."""

from collections.abc import Iterable, Sequence
from statistics import mean as plain_mean

import pytest
from hand_verdicts import pick

from glyphflow.evaluate.benchmark import Benchmark, MetricIdentity, SampleScore
from glyphflow.evaluate.benchmarks import names
from glyphflow.evaluate.benchmarks.chinese_word import ChineseWord
from glyphflow.evaluate.benchmarks.cvtg import CVTG2K
from glyphflow.evaluate.benchmarks.geneval import TASKS, GenEval
from glyphflow.evaluate.benchmarks.imgedit import TYPES, ImgEdit
from glyphflow.evaluate.benchmarks.oneig import DIMENSIONS, overall
from glyphflow.evaluate.benchmarks.tiif import GROUPS, TIIF
from glyphflow.evaluate.published import Reference, references

QWEN = "Qwen-Image"


def row(benchmark: str, model: str = QWEN) -> Reference:
    [found] = [reference for reference in references(benchmark) if reference.model == model]
    return found


def numbers(reference: Reference) -> list[float]:
    return list(reference.values.values())


def bare(kind: type[Benchmark]) -> Benchmark:
    """A benchmark whose aggregation is used without its data."""
    bench: Benchmark = object.__new__(kind)
    return bench


def share(category: str, hits: int, total: int, key: str, **more: object) -> Iterable[SampleScore]:
    """``total`` rows of which ``hits`` are right."""
    return (SampleScore(f"{category}-{i}", 0, "ok", "", category, None, {key: int(i < hits), **more}) for i in range(total))


@pytest.mark.parametrize(("model", "whole"), [(QWEN, 58.30), ("Seedream 3.0", 33.05), ("GPT Image 1 [High]", 36.14)])
def test_chinese_word(model: str, whole: float) -> None:
    parts = numbers(row("chineseword", model))
    rows = [r for tier, part in enumerate(parts[:3], 1) for r in share(f"level {tier}", round(100 * part), 10_000, "hit")]
    metrics = ChineseWord(1).aggregate(rows)
    assert [pick(metrics, "character_accuracy", level=level).value for level in "123"] == pytest.approx(parts[:3])
    assert round(pick(metrics, "character_accuracy", level="all").value or 0, 2) == whole == parts[3]


def geneval(parts: Sequence[float]) -> float:
    rows = [r for task, part in zip(TASKS, parts, strict=True) for r in share(task, round(100 * part), 100, "right", found={})]
    value = pick(GenEval().aggregate(rows), "correct_pictures", task="all").value
    assert value is not None
    return value


def test_geneval() -> None:
    assert round(geneval(numbers(row("geneval"))[:6]), 2) == 0.87
    whole_rows = [r for r in references("geneval") if len(r.values) == 7]
    off = [r.model for r in whole_rows if abs(geneval(numbers(r)[:6]) - numbers(r)[6]) > 0.0051]
    assert len(whole_rows) == 13 and off == ["Qwen-Image-RL"]  # its columns average 0.917, printed 0.91


@pytest.mark.parametrize(("name", "whole"), [("oneig-en", 0.539), ("oneig-zh", 0.548)])
def test_oneig(name: str, whole: float) -> None:
    assert round(overall(dict(zip(DIMENSIONS, numbers(row(name))[:5], strict=True))) or 0, 3) == whole
    for reference in references(name):
        value = overall(dict(zip(DIMENSIONS, numbers(reference)[:5], strict=True)))
        assert value == pytest.approx(numbers(reference)[5], abs=0.00051), reference.model


def tiif(reference: Reference, length: str) -> float:
    rows = []
    for group, dimensions in GROUPS.items():
        part = reference.values[("questions_right", (("group", group), ("length", length)))]
        counts = {"counts": [round(100 * part), 10_000]}
        rows += [SampleScore(name, 0, "ok", f"answers {length}", name, None, counts) for name in dimensions]
    value = pick(bare(TIIF).aggregate(rows), "questions_right", group="all", length=length).value
    assert value is not None
    return value


def test_tiif() -> None:
    assert round(tiif(row("tiif"), "short"), 2) == 86.14
    assert round(tiif(row("tiif"), "long"), 2) == 86.83
    # most other rows of the table are not the mean of the groups printed beside it, by up to 0.6
    off = [abs(tiif(r, "short") - numbers(r)[0]) for r in references("tiif")]
    assert sum(gap > 0.0051 for gap in off) == 12 and max(off) < 0.25


def imgedit(parts: Sequence[float]) -> float:
    rows = [
        SampleScore(kind, 0, "ok", "", kind, None, {"official": part, "corrected": part})
        for kind, part in zip(TYPES, parts, strict=True)
    ]
    value = pick(bare(ImgEdit).aggregate(rows), "edit_rating", type="all").value
    assert value is not None
    return value


def test_imgedit() -> None:
    assert round(imgedit(numbers(row("imgedit"))[:9]), 2) == 4.27
    off = {r.model for r in references("imgedit") if abs(imgedit(numbers(r)[:9]) - numbers(r)[9]) > 0.0051}
    assert off == {"MagicBrush", "GPT Image 1 [High]"}  # 1.83 printed as 1.90, 4.24 printed as 4.20


def test_cvtg_average_is_over_words_and_not_over_columns() -> None:
    """The four columns, weighted by the words of their files, give the printed average; their plain mean does not."""
    words = dict.fromkeys("2345", 0)
    for sample in CVTG2K().samples():
        words[str(sample.tags["file"])] += sum(len(target.split()) for target in sample.targets)
    assert words == {"2": 1969, "3": 4249, "4": 5417, "5": 4571}
    bench, exact = CVTG2K(), 0
    for reference in references("cvtg-2k"):
        parts = numbers(reference)
        rows = [
            SampleScore(
                n, 0, "ok", "text", f"CVTG-{n}", None, {"official": [part * words[n], words[n]], **_UNUSED, "regions": n}
            )
            for n, part in zip("2345", parts[:4], strict=True)
        ]
        value = pick(bench.aggregate(rows), "word_accuracy", regions="all").value
        assert value == pytest.approx(parts[4], abs=0.0006) and abs(plain_mean(parts[:4]) - parts[4]) > 0.001
        exact += abs((value or 0) - parts[4]) < 0.00006
    assert exact == 7 and numbers(row("cvtg-2k"))[4] == 0.8288


_UNUSED = {"corrected": [0, 1], "ned": [0, 1], "corrected_ned": [0, 1]}


def test_every_published_row_names_metrics_that_exist_and_says_that_it_is_published() -> None:
    tables = {name: references(name) for name in names()}
    assert all(r.status == "published" and "2508.02324" in r.source for rows in tables.values() for r in rows)
    assert all(any(QWEN in r.model for r in rows) for rows in tables.values() if rows)
    without = {name for name, rows in tables.items() if not rows}
    assert without == {
        "nano16",
        "nano64",
        "nano-text",
        "nano-subjects",
        "nano-edits",
        "nano-vae",
        "nano-demo",
        "depth-kitti-garg",
    }
    assert row("longtext-zh").values == {("text_accuracy", (("language", "zh"),)): 0.946}
    assert row("gedit-cn").values[("G_O", (("language", "cn"), ("subset", "full")))] == 7.52
    assert row("depth-diode").values[("delta1", (("set", "diode"),))] == 0.832
    assert "ImageNet" in row("vae", "Qwen-Image-VAE").note and numbers(row("vae-text", "Qwen-Image-VAE")) == [36.63, 0.9839]
    assert references("nowhere") == ()


def test_a_published_number_stands_beside_the_same_metric_only() -> None:
    reference = row("depth-nyu")
    part = (("set", "nyu"), ("alignment", "depth"))
    assert reference.value(MetricIdentity("abs_rel", "mean", dimensions=part)) == 0.055
    assert reference.value(MetricIdentity("abs_rel", "mean", "corrected", part)) is None
    assert reference.value(MetricIdentity("abs_rel", "mean", dimensions=(("set", "kitti"),))) is None
    assert reference.value(MetricIdentity("delta2", "mean", dimensions=part)) is None
    whole = MetricIdentity("word_accuracy", "micro", dimensions=(("regions", "all"),))
    assert row("cvtg-2k").value(whole) == 0.8288
    measured = {str(metric.identity) for metric in CVTG2K().aggregate([])}
    assert len(measured) == len(CVTG2K().aggregate([]))
