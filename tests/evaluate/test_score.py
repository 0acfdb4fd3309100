"""Scoring folders: ceilings, floors, failures, and what a killed run costs."""

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toys import WORDS, Scripted, knows, make_folder, rows, typeset

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import read_json
from glyphflow.evaluate import Case, ChatJudge, Endpoint, FunctionJudge, OCRJudge, Sample, find_metric, score
from glyphflow.evaluate.case import ask
from glyphflow.evaluate.folder import Manifest, load_picture, read_manifest, tally, write_manifest
from glyphflow.evaluate.sample import benchmark_of
from glyphflow.perception.server import Server
from local_server import Answer, Asked, says, serve

NAMES = ("word_accuracy", "character_accuracy", "edit_similarity", "exact")


def numbers(result: dict, key: str = "value") -> list[float | None]:
    return [find_metric(result, name, language="all")[key] for name in NAMES]


def test_a_perfect_renderer_reaches_the_ceiling_and_blank_pictures_the_floor(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    from glyphflow.perception import OCR

    judge = OCRJudge(OCR(fast=True, threads=1))
    perfect = score(tmp_path / "perfect", make_folder(tmp_path / "perfect", typeset), [judge], typeset)
    assert numbers(perfect) == numbers(perfect, "ceiling") == numbers(perfect, "readable") == [1.0] * 4
    assert perfect["failures"] == {} and perfect["readable"]["samples"] == len(WORDS)

    def blank(sample: Sample, width: int, height: int) -> np.ndarray:
        return np.full((height, width, 3), 40 * sample.seed(), np.uint8)

    floor = score(tmp_path / "blank", make_folder(tmp_path / "blank", blank), [judge], typeset)
    assert numbers(floor) == [0.0] * 4 and numbers(floor, "ceiling") == [1.0] * 4
    assert floor["readable"]["hash"] == perfect["readable"]["hash"]


def test_a_worse_picture_scores_no_better(tmp_path: Path) -> None:
    """Known corruptions are ordered: the more of the picture is covered, and the more noise, the lower the score."""
    pytest.importorskip("rapidocr")
    from glyphflow.perception import OCR

    judge = OCRJudge(OCR(fast=True, threads=1))

    def covered(image: np.ndarray, amount: int) -> np.ndarray:
        image = image.copy()
        image[:, :amount] = (250, 240, 200)
        return image

    def noisy(image: np.ndarray, amount: int) -> np.ndarray:
        noise = np.random.default_rng(0).normal(0, amount, image.shape)
        return np.clip(image + noise, 0, 255).astype(np.uint8)

    for spoil, amounts in ((covered, (0, 48, 80, 128)), (noisy, (0, 90, 400))):
        values = []
        for amount in amounts:
            path = tmp_path / f"{spoil.__name__}-{amount}"
            draw = lambda sample, w, h, amount=amount, spoil=spoil: spoil(typeset(sample, w, h), amount)  # noqa: E731
            values.append(numbers(score(path, make_folder(path, draw, rows(WORDS[:3])), [judge], resamples=0))[1])
        assert values == sorted(values, reverse=True) and values[0] == 1.0 and values[-1] == 0.0


def test_a_failing_judge_changes_the_failure_count_and_nothing_else(tmp_path: Path) -> None:
    """The same folder, judged over a real wire by a sound endpoint and by one that is silent, refuses, babbles, breaks."""

    def word(asked: Asked) -> str:
        return WORDS[int(asked.text.rsplit(" ", 1)[1])]

    def sound(asked: Asked, number: int) -> Answer:
        return says(word(asked) if word(asked) != "wolf" else "wool")

    def unsound(asked: Asked, number: int) -> Answer:
        broken = {
            "HELLO": Answer("overloaded", 503),
            "crystal": says(None, finish_reason="content_filter"),
            "KIT": Answer(b"\x00 no JSON"),
        }
        return broken.get(word(asked), sound(asked, number))

    class Ask(ChatJudge):
        """Puts the sample's number into the question, so that the server knows which picture it is about."""

        def request(self, case: Case) -> dict:
            return super().request(Case(case.id, case.kind, case.images, {"prompt": f"read {case.id.removeprefix('en-')}"}))

    results = []
    for name, answer in (("sound", sound), ("unsound", unsound)):
        benchmark = make_folder(tmp_path / name, lambda s, w, h: np.full((8, 8, 3), s.seed(), np.uint8))
        with serve(answer) as local:
            server = Server(local.url, timeout_s=5, attempts=2, pause_s=0.01)
            judge = Ask("vlm", Endpoint(server), workers=3)
            judge.__class__.identity = property(lambda self: "vlm")
            results.append(score(tmp_path / name, benchmark, [judge], resamples=0))
    good, bad = results
    assert good["failures"] == {} and bad["failures"] == {"error": 2, "refused": 1}
    failed = {row["sample"]: row["status"] for row in bad["rows"] if row["status"] != "ok"}
    assert failed == {"en-0": "error", "en-1": "refused", "en-4": "error"}
    assert all(row["values"] == {} and row["quality"] is None for row in bad["rows"] if row["sample"] in failed)
    assert [row for row in good["rows"] if row["sample"] not in failed] == [
        row for row in bad["rows"] if row["sample"] not in failed
    ]
    assert numbers(bad) == numbers_of(good["rows"], without=set(failed))
    exact = find_metric(bad, "exact", language="all")
    assert (exact["n"], exact["n_failed"], exact["value"], exact["worst_case"]) == (3, 3, 2 / 3, 2 / 6)


def numbers_of(found: list[dict], without: set[str]) -> list[float]:
    """The four micro averages by hand."""
    counts = [[row["values"][name] for row in found if row["sample"] not in without] for name in NAMES]
    return [sum(hits for hits, _ in pairs) / sum(total for _, total in pairs) for pairs in counts]


def test_strict_scoring_fails_when_anything_is_missing(tmp_path: Path) -> None:
    benchmark = make_folder(tmp_path, typeset)
    judge = Scripted(knows(benchmark))
    score(tmp_path, benchmark, [judge], strict=True)
    (tmp_path / "en-0.png").unlink()
    (tmp_path / "en-2.png").write_bytes((tmp_path / "en-2.png").read_bytes()[:200])
    with pytest.raises(InputError, match=r"2 of 6 judgements .*2 missing_image"):
        score(tmp_path, benchmark, [judge], strict=True)
    result = score(tmp_path, benchmark, [judge], typeset)
    reasons = {row["sample"]: row["reason"] for row in result["rows"] if row["status"] == "missing_image"}
    assert set(reasons) == {"en-0", "en-2"} and "missing" in reasons["en-0"] and "cannot be read" in reasons["en-2"]
    exact = find_metric(result, "exact", language="all")
    assert (exact["value"], exact["worst_case"], exact["ceiling"]) == (1.0, 4 / 6, 1.0)  # the manifest knows the size


def test_the_readable_subset_leaves_out_what_the_judge_cannot_read(tmp_path: Path) -> None:
    blind = {"wolf"}

    def perfect(sample: Sample, width: int, height: int) -> np.ndarray:
        image = typeset(sample, width, height).copy()
        image[0, 0] = 0  # tells the scripted judge that this is the ceiling's picture
        return image

    benchmark = make_folder(tmp_path, typeset)

    def answer(case: Case) -> list[str]:
        ceiling = not case.images[0][0, 0].any()
        target = WORDS[int(case.id.removeprefix("en-"))]
        return [] if target in blind else [target] if ceiling or case.id != "en-0" else ["HELXX"]

    exact = find_metric(score(tmp_path, benchmark, [Scripted(answer)], perfect), "exact", language="all")
    assert (exact["value"], exact["ceiling"], exact["readable"], exact["readable_n"]) == (4 / 6, 5 / 6, 4 / 5, 5)


def test_judged_once_and_again_only_for_a_new_picture_or_judge(tmp_path: Path) -> None:
    benchmark = make_folder(tmp_path, typeset)
    first = Scripted(knows(benchmark))
    before = score(tmp_path, benchmark, [first])
    assert sorted(first.asked) == sorted(sample.id for sample in benchmark.samples())

    again = Scripted(lambda case: ["never asked"])
    assert score(tmp_path, benchmark, [again]) == before and again.asked == []

    Image.fromarray(np.zeros((128, 128, 3), np.uint8)).save(tmp_path / "en-3.png")
    changed = Scripted(lambda case: [])
    score(tmp_path, benchmark, [changed])
    assert changed.asked == ["en-3"]

    other = Scripted(lambda case: [], identity="scripted/2")
    score(tmp_path, benchmark, [other])
    assert len(other.asked) == 6


def test_equal_questions_are_asked_once(tmp_path: Path) -> None:
    benchmark = make_folder(tmp_path, lambda sample, w, h: np.zeros((h, w, 3), np.uint8))
    judge = Scripted(lambda case: ["same"])
    result = score(tmp_path, benchmark, [judge])
    assert len(judge.asked) == 1 and len(result["rows"]) == 6 and result["failures"] == {}


def test_errors_are_asked_again_and_refusals_only_when_told_to(tmp_path: Path) -> None:
    benchmark = make_folder(tmp_path, typeset)

    def refuse(case: Case) -> list[str]:
        raise RuntimeError("busy")

    assert score(tmp_path, benchmark, [Scripted(refuse)])["failures"] == {"error": 6}
    later = Scripted(knows(benchmark))
    assert score(tmp_path, benchmark, [later])["failures"] == {} and len(later.asked) == 6

    with serve(lambda asked, number: says(None)) as local:
        judge = ChatJudge("vlm", Endpoint(Server(local.url)))
        assert score(tmp_path, benchmark, [judge])["failures"] == {"refused": 6}
        assert score(tmp_path, benchmark, [judge])["failures"] == {"refused": 6} and len(local.asked) == 6
        score(tmp_path, benchmark, [judge], again=True)
        assert len(local.asked) == 12


def test_a_killed_run_resumes_without_judging_twice(tmp_path: Path) -> None:
    """A real process is killed in the middle of a real run; what its book holds is not judged again."""
    words = [f"w{i}" for i in range(40)]
    folder = tmp_path / "folder"
    benchmark = make_folder(folder, lambda sample, w, h: np.full((h, w, 3), sample.seed(), np.uint8), rows(words))
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, time
            from pathlib import Path
            from glyphflow.evaluate import Verdict, score
            from glyphflow.evaluate.benchmarks.texts import TextBenchmark

            class Slow:
                identity, kinds = "slow/1", frozenset({"ocr"})
                def __call__(self, cases):
                    for case in cases:
                        with open(sys.argv[2], "a") as log:
                            log.write(case.id + "\\n")
                        time.sleep(0.02)
                        print(case.id, flush=True)
                    return [Verdict("ok", [{"text": "w" + c.id[3:]}], {}, self.identity) for c in cases]

            folder = Path(sys.argv[1])
            score(folder, TextBenchmark(folder / "prompts.jsonl", "toy"), [Slow()], resamples=0)
            """
        )
    )
    log = tmp_path / "log"
    command = [sys.executable, str(script), str(folder), str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _, line in zip(range(20), process.stdout, strict=False):  # two batches are on disk, a third is in work
            assert line
        process.send_signal(signal.SIGKILL)
    with (folder / "verdicts.jsonl").open("a") as book:
        book.write('{"key": "half a li')  # what a kill inside a write leaves
    kept = {row["id"] for row in map(json.loads, (folder / "verdicts.jsonl").read_text().splitlines()[:-1])}
    assert 8 <= len(kept) < 40
    killed_at = len(log.read_text().split())

    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    second = log.read_text().split()[killed_at:]
    assert not kept & set(second)
    assert sorted([*kept, *second]) == sorted(sample.id for sample in benchmark.samples())
    result = read_json(folder / "scores.json")
    assert result["failures"] == {} and numbers(result) == [1.0] * 4
    unasked = type("Slow", (), {"identity": "slow/1", "kinds": frozenset({"ocr"})})()
    assert score(folder, benchmark, [unasked], resamples=0) == result  # the healed book needs no judge at all


def test_a_kind_that_nobody_answers_is_a_failure(tmp_path: Path) -> None:
    benchmark = make_folder(tmp_path, typeset)
    result = score(tmp_path, benchmark, [])
    assert result["failures"] == {"error": 6} and result["judges"] == {"ocr": None}
    assert "no judge was named" in result["rows"][0]["reason"]
    with pytest.raises(ConfigError, match="Both a and b"):
        score(tmp_path, benchmark, [Scripted(lambda case: [], "a"), Scripted(lambda case: [], "b")])


def test_intervals_hold_the_value_and_shrink_with_samples(tmp_path: Path) -> None:
    widths = []
    for count in (12, 120):
        prompts = rows([f"w{i}" for i in range(count)])
        benchmark = make_folder(tmp_path / str(count), lambda s, w, h: np.full((4, 4, 3), s.seed(), np.uint8), prompts)
        judge = Scripted(lambda case: ["w" + case.id[3:]] if int(case.id[3:]) % 3 else [])
        exact = find_metric(score(tmp_path / str(count), benchmark, [judge]), "exact", language="all")
        low, high = exact["ci95"]
        assert exact["value"] == pytest.approx(2 / 3) and low < exact["value"] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2  # by the square root of ten, less chance


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    name = {"name": "toy", "version": "1"}
    write_manifest(tmp_path, Manifest(name, "m", {"steps": 20}))
    write_manifest(tmp_path, Manifest(name, "m", {"steps": 20}))
    for other, message in (
        (Manifest(name, "m", {"steps": 30}), "begun with steps = 20, now it is 30"),
        (Manifest(name, "other", {"steps": 20}), "model = m, now it is other"),
        (Manifest({"name": "toy", "version": "2"}, "m", {"steps": 20}), "benchmark version = 1, now it is 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            write_manifest(tmp_path, other)


def test_pictures_of_other_prompts_are_not_scored(tmp_path: Path) -> None:
    make_folder(tmp_path / "a", typeset)
    other = make_folder(tmp_path / "b", typeset, rows(WORDS[:3]))
    with pytest.raises(ConfigError, match="data_sha256"):
        score(tmp_path / "a", other, [])


def test_a_folder_of_somebody_elses_needs_pictures_and_three_words(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": 2, "benchmark": "nano16", "model": "a painter"}')
    assert read_manifest(tmp_path).name == "nano16"
    benchmark = benchmark_of(tmp_path)
    for sample in benchmark.samples():
        noise = np.random.default_rng(sample.seed()).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{sample.id}.png")
    result = score(tmp_path, benchmark, [Scripted(knows(benchmark))])
    assert (result["model"], result["failures"], numbers(result)) == ("a painter", {}, [1.0] * 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"manifest\.json does not exist"),
        ('{"format": 1}', "format 1"),
        ("[]", "format None"),
        ('{"format": 2, "model": "x"}', "names no benchmark"),
        ('{"format": 2, "benchmark": "gedit-en"}', "cannot be scored"),
    ],
)
def test_manifests_that_cannot_be_used_say_why(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=message):
        benchmark_of(tmp_path)


def test_every_picture_counts_or_is_counted_as_left_out(tmp_path: Path) -> None:
    benchmark = make_folder(tmp_path, typeset)
    for number, ending in enumerate((".PNG", ".JPG", ".Jpeg", ".webp", ".AVIF")):
        with Image.open(tmp_path / f"en-{number}.png") as image:
            image.load()
        (tmp_path / f"en-{number}.png").unlink()
        image.save(tmp_path / f"EN-{number}{ending}" if number == 4 else tmp_path / f"en-{number}{ending}")
    Image.new("RGB", (8, 8)).save(tmp_path / "en-0.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "stranger.png")
    (tmp_path / "en-5.png").unlink()
    found = score(tmp_path, benchmark, [Scripted(knows(benchmark))], resamples=0)["pictures"]
    assert (found["taken"], found["missing"]) == (5, ["en-5.png"])
    assert found["left_out"] == {"en-0.jpg": "en-0.PNG was taken", "stranger.png": "no sample has this name"}
    told = tally(found["taken"], found["missing"], found["left_out"])
    assert told.startswith("5 of 6 pictures were there; 1 missing (en-5.png); 1 left out because another format was taken")


def test_a_folder_without_any_of_the_pictures_is_an_error(tmp_path: Path) -> None:
    benchmark = make_folder(tmp_path, typeset)
    for path in tmp_path.glob("*.png"):
        path.rename(path.with_name(f"picture_{path.name}"))
    with pytest.raises(InputError, match=r"none of the 6 pictures of toy.*en-0\.png.*6 left out because no sample"):
        score(tmp_path, benchmark, [Scripted(knows(benchmark))])


def test_an_answer_that_is_no_number_is_a_failure_and_a_torn_line_costs_itself(tmp_path: Path) -> None:
    case = Case("a", "pixels", (), {})
    for value in ({"psnr": float("nan")}, {"psnr": float("inf")}, 7, None):
        assert ask(FunctionJudge(lambda _, value=value: value, "f", {"pixels"}), [case])[0].status == "error"
    benchmark, judge = make_folder(tmp_path, typeset), Scripted(lambda case: ["你好"])
    score(tmp_path, benchmark, [judge], resamples=0)
    data = (tmp_path / "verdicts.jsonl").read_bytes()
    (tmp_path / "verdicts.jsonl").write_bytes(data[: data.rindex("你".encode()) + 1])  # cut inside of a character
    judge.asked.clear()
    score(tmp_path, benchmark, [judge], resamples=0)
    assert len(judge.asked) == 1


def test_a_transparent_picture_is_judged_and_shown_as_people_see_it(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (load_picture(tmp_path / "clear.png") == 255).all()
