"""Scoring folders: ceilings, floors, failures, and what a killed run costs."""

import json
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import read_json
from glyphflow.evaluate import Case, OCRJudge, Prompt, Verdict, score
from glyphflow.evaluate.folder import Manifest, write_manifest
from glyphflow.evaluate.judge import ask
from glyphflow.evaluate.report import fragment, page, table

WORDS = ("HELLO", "crystal", "wolf", "Screen", "KIT", "rivers")
PROMPTS = tuple(Prompt(f"en-{i}", f'a poster that says "{word}"', "en", (word,), i) for i, word in enumerate(WORDS))


def typeset(prompt: Prompt, width: int, height: int) -> np.ndarray:
    image = Image.new("RGB", (width, height), (250, 240, 200))
    font = ImageFont.load_default(height * 0.22)
    ImageDraw.Draw(image).text((width / 2, height / 2), " ".join(prompt.targets), font=font, fill=(20, 20, 40), anchor="mm")
    return np.asarray(image)


def make_folder(path: Path, draw: Callable[[Prompt, int, int], np.ndarray], prompts: Sequence[Prompt] = PROMPTS) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    write_manifest(path, Manifest("toy", tuple(prompts), "somebody", {"width": 128, "height": 128}))
    for prompt in prompts:
        Image.fromarray(draw(prompt, 128, 128)).save(path / f"{prompt.id}.png")
    return path


class Scripted:
    """A judge that answers from a function of the case and remembers whom it was asked about."""

    def __init__(self, answer: Callable[[Case], list[str]], identity: str = "scripted/1") -> None:
        self.answer, self.identity, self.asked = answer, identity, list[str]()

    def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
        verdicts = []
        for case in cases:
            self.asked.append(case.id)
            lines = [{"text": text} for text in self.answer(case)]
            verdicts.append(Verdict("ok", 1.0, {"lines": lines}, self.identity))
        return verdicts


def test_a_perfect_renderer_reaches_the_ceiling_and_blank_pictures_the_floor(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    from glyphflow.perception import OCR

    judge = OCRJudge(OCR(fast=True, threads=1))
    perfect = score(make_folder(tmp_path / "perfect", typeset), judge, typeset)["groups"]["all"]
    assert perfect["scores"] == perfect["ceiling"] == dict.fromkeys(perfect["scores"], 1.0)
    assert (perfect["failed"], perfect["readable_n"]) == (0, len(WORDS))

    def blank(prompt: Prompt, width: int, height: int) -> np.ndarray:
        return np.full((height, width, 3), 40 * prompt.seed, np.uint8)

    floor = score(make_folder(tmp_path / "blank", blank), judge, typeset)["groups"]["all"]
    assert set(floor["scores"].values()) == {0.0}
    assert set(floor["ceiling"].values()) == {1.0}


def test_a_worse_picture_scores_no_better(tmp_path: Path) -> None:
    """Known corruption is ordered: the more of the picture is covered, the lower the score."""
    pytest.importorskip("rapidocr")
    from glyphflow.perception import OCR

    judge, previous = OCRJudge(OCR(fast=True, threads=1)), 1.0
    for covered in (0, 48, 80, 128):

        def draw(prompt: Prompt, width: int, height: int, covered: int = covered) -> np.ndarray:
            image = typeset(prompt, width, height).copy()
            image[:, :covered] = (250, 240, 200)
            return image

        value = score(make_folder(tmp_path / str(covered), draw, PROMPTS[:3]), judge)["groups"]["all"]["scores"][
            "character_accuracy"
        ]
        assert value <= previous
        previous = value
    assert previous == 0.0


def test_a_judge_that_raises_changes_the_failure_count_only(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, typeset)

    def answer(case: Case) -> list[str]:
        if case.id in ("en-1", "en-4"):
            raise TimeoutError("no answer")
        return list(case.targets)

    group = score(folder, Scripted(answer))["groups"]["all"]
    assert (group["n"], group["failed"]) == (6, 2)
    assert set(group["scores"].values()) == {1.0}
    row = next(row for row in read_json(folder / "scores.json")["rows"] if row["id"] == "en-1")
    assert (row["status"], row["value"], row["reason"]) == ("failed", None, "TimeoutError: no answer")


def test_rubbish_is_a_failure() -> None:
    class Short(Scripted):
        def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
            return super().__call__(cases)[:-1]

    case = Case("a", np.zeros((4, 4, 3), np.uint8), "", ("x",))
    verdicts = ask(Short(lambda case: ["x"]), [case, case])
    assert [verdict.status for verdict in verdicts] == ["failed", "failed"]
    assert "0 verdicts for 1 pictures" in verdicts[0].raw["reason"]


def test_a_verdict_without_a_reading_is_a_failure(tmp_path: Path) -> None:
    class Numbers(Scripted):
        def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
            return [Verdict("ok", 7.0, {"text": "seven of ten"}, self.identity) for _ in cases]

    group = score(make_folder(tmp_path, typeset), Numbers(lambda case: []))["groups"]["all"]
    assert group["failed"] == 6 and set(group["scores"].values()) == {None}


def test_missing_and_broken_pictures_fail_with_their_reason(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, typeset)
    (folder / "en-0.png").unlink()
    (folder / "en-2.png").write_bytes((folder / "en-2.png").read_bytes()[:200])
    judge = Scripted(lambda case: list(case.targets))
    result = score(folder, judge, typeset)
    reasons = {row["id"]: row["reason"] for row in result["rows"] if row["status"] == "failed"}
    assert set(reasons) == {"en-0", "en-2"} and "missing" in reasons["en-0"]
    assert "can be read" in reasons["en-2"]
    assert result["groups"]["all"]["failed"] == 2
    assert result["groups"]["all"]["ceiling_failed"] == 0  # the manifest knows the size


def test_the_readable_subset_leaves_out_what_the_judge_cannot_read(tmp_path: Path) -> None:
    blind = {"wolf"}

    def perfect(prompt: Prompt, width: int, height: int) -> np.ndarray:
        image = typeset(prompt, width, height).copy()
        image[0, 0] = 0  # tells the scripted judge that this is the ceiling's picture
        return image

    def answer(case: Case) -> list[str]:
        ceiling = not case.image[0, 0].any()
        return [] if case.targets[0] in blind else list(case.targets) if ceiling or case.id != "en-0" else ["HELXX"]

    group = score(make_folder(tmp_path, typeset), Scripted(answer), perfect)["groups"]["all"]
    assert group["scores"]["exact"] == 4 / 6
    assert group["ceiling"]["exact"] == 5 / 6
    assert (group["readable_n"], group["readable"]["exact"]) == (5, 4 / 5)


def test_judged_once_and_again_only_for_a_new_picture_or_judge(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, typeset)
    first = Scripted(lambda case: list(case.targets))
    before = score(folder, first)
    assert sorted(first.asked) == sorted(prompt.id for prompt in PROMPTS)

    again = Scripted(lambda case: ["never asked"])
    assert score(folder, again) == before and again.asked == []

    Image.fromarray(np.zeros((128, 128, 3), np.uint8)).save(folder / "en-3.png")
    changed = Scripted(lambda case: [])
    score(folder, changed)
    assert changed.asked == ["en-3"]

    other = Scripted(lambda case: [], identity="scripted/2")
    score(folder, other)
    assert len(other.asked) == 6


def test_failures_are_asked_again(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, typeset)

    def refuse(case: Case) -> list[str]:
        raise RuntimeError("busy")

    assert score(folder, Scripted(refuse))["groups"]["all"]["failed"] == 6
    later = Scripted(lambda case: list(case.targets))
    assert score(folder, later)["groups"]["all"]["failed"] == 0 and len(later.asked) == 6


def test_a_killed_run_resumes_without_judging_twice(tmp_path: Path) -> None:
    """A real process is killed in the middle of a real run; what its book holds is not judged again."""
    words = [f"w{i}" for i in range(40)]
    prompts = [Prompt(word, word, "en", (word,), i) for i, word in enumerate(words)]
    folder = make_folder(tmp_path / "folder", lambda prompt, w, h: np.full((h, w, 3), prompt.seed, np.uint8), prompts)
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, time
            from pathlib import Path
            from glyphflow.evaluate import Verdict, score

            class Slow:
                identity = "slow/1"
                def __call__(self, cases):
                    for case in cases:
                        with open(sys.argv[2], "a") as log:
                            log.write(case.id + "\\n")
                        time.sleep(0.02)
                        print(case.id, flush=True)
                    return [Verdict("ok", 1.0, {"lines": [{"text": c.targets[0]}]}, self.identity) for c in cases]

            score(Path(sys.argv[1]), Slow())
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
    assert sorted([*kept, *second]) == sorted(words)
    result = read_json(folder / "scores.json")
    assert result["groups"]["all"] == {"n": 40, "failed": 0, "scores": dict.fromkeys(result["metrics"], 1.0)}
    assert score(folder, type("Slow", (), {"identity": "slow/1"})()) == result  # the healed book needs no judge at all


def test_settings_that_differ_are_named(tmp_path: Path) -> None:
    write_manifest(tmp_path, Manifest("toy", PROMPTS, "m", {"steps": 20}))
    write_manifest(tmp_path, Manifest("toy", PROMPTS, "m", {"steps": 20}))
    with pytest.raises(ConfigError, match="begun with steps = 20, now it is 30"):
        write_manifest(tmp_path, Manifest("toy", PROMPTS, "m", {"steps": 30}))
    with pytest.raises(ConfigError, match="model = m, now it is other"):
        write_manifest(tmp_path, Manifest("toy", PROMPTS, "other", {"steps": 20}))
    with pytest.raises(ConfigError, match="prompts"):
        write_manifest(tmp_path, Manifest("toy", PROMPTS[:2], "m", {"steps": 20}))


def test_a_folder_without_manifest_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.json does not exist"):
        score(tmp_path, Scripted(lambda case: []))


def test_report_shows_what_was_read_and_needs_no_other_file(tmp_path: Path) -> None:
    prompts = (
        Prompt("a", 'a <b> "HELLO"', "en", ("HELLO",), 0),
        Prompt("b", "", "zh", ("你好",), 1),
        Prompt("c", "", "zh", ("世界",), 2),
    )
    folder = make_folder(tmp_path, typeset, prompts)
    (folder / "c.png").unlink()
    result = score(folder, Scripted(lambda case: {"a": ["HEXLO"], "b": ["你好"]}.get(case.id, [])), typeset)
    html = page(folder)
    style = "".join(re.findall("<style>(.*?)</style>", html, re.S))
    assert "{{" not in style and style.count("{") == style.count("}")
    assert html.startswith("<!doctype html>") and fragment(folder) in html
    assert html.count("data:image/png;base64,") == 2 and 'src="http' not in html and "a &lt;b&gt;" in html
    assert '<span class="extra">X</span>' in html and '<span class="miss">L</span>' in html
    assert '<span class="hit">你</span>' in html and "not judged" in html
    text = table(result)
    assert "judge's ceiling" in text and "(1 failed)" in text and "85.7 %" in text  # 4 of HELLO's 5 and 2 of 2 characters


def test_report_before_scoring_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="evaluate score"):
        page(make_folder(tmp_path, typeset))
