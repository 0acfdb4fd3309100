"""The benchmarks of measured pixels, from files to numbers: novel views, depth on five sets, reconstruction."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hand_verdicts import TIMEOUT, pick, read
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.evaluate.benchmark import Benchmark, Metric, picture_name
from glyphflow.evaluate.benchmarks import load_benchmark
from glyphflow.evaluate.benchmarks.depth_sets import SETS, Depth
from glyphflow.evaluate.benchmarks.reconstruction import Reconstruction
from glyphflow.evaluate.benchmarks.views import NovelViews
from glyphflow.evaluate.case import Case, Verdict
from glyphflow.evaluate.measure import PixelJudge, read_depth


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array) if path.suffix == ".npy" else Image.fromarray(array).save(path)
    return path


def flat(value: int, height: int = 16, width: int = 16) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def measured(bench: Benchmark, folder: Path, judge: PixelJudge | None = None) -> list[Metric]:
    """Judge every picture in ``folder`` as the scoring engine does."""
    judge, rows = judge or PixelJudge(), []
    for sample in bench.samples():
        paths = [folder / picture_name(sample.id, repeat, bench.repeats) for repeat in range(bench.repeats)]
        verdicts = []
        for question in bench.cases(sample, paths):
            assert {question.kind} <= bench.kinds
            case = question.load(judge.identity)
            verdicts += judge([case]) if isinstance(case, Case) else [case]
        rows += bench.score(sample, verdicts)
    return bench.aggregate(rows)


# ---------------------------------------------------------------- novel views


def views(folder: Path, count: int = 3) -> NovelViews:
    lines = []
    for number in range(count):
        write(folder / f"in{number}.png", flat(0))
        write(folder / f"out{number}.png", flat(100))
        lines.append({"id": f"v{number}", "object": "dog", "prompt": "turn left 90 degrees, a dog",
                      "input": f"in{number}.png", "target": f"out{number}.png"})  # fmt: skip
    (folder / "views.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return NovelViews(folder)


def test_views_by_hand(tmp_path: Path) -> None:
    """Equal (100 dB), off by 51 of 255 (0.2, 13.98 dB), and one that is missing; the mean of pictures, not of errors."""
    bench = views(tmp_path)
    write(tmp_path / "made" / "v0.png", flat(100))
    write(tmp_path / "made" / "v1.png", flat(151))
    metrics = measured(bench, tmp_path / "made")
    psnr = pick(metrics, "psnr")
    assert psnr.value == pytest.approx((100 - 20 * np.log10(0.2)) / 2) and (psnr.n, psnr.n_failed) == (2, 1)
    a, b = 100 / 255, 151 / 255
    assert pick(metrics, "ssim").value == pytest.approx((1 + (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)) / 2)
    assert "lpips" not in {metric.identity.name for metric in metrics}


def test_a_picture_of_another_size_is_no_number_but_of_a_view(tmp_path: Path) -> None:
    """An autoencoder gives back the size that it got; an editing model chooses its own."""
    bench = views(tmp_path, 1)
    write(tmp_path / "made" / "v0.png", flat(100, 32, 32))
    assert values(measured(bench, tmp_path / "made"))["psnr"] == 100.0
    write(tmp_path / "originals" / "a.png", flat(100))
    write(tmp_path / "made" / "a.png", flat(100, 32, 32))
    strict = Reconstruction(tmp_path / "originals")
    [row] = strict.score(strict.samples()[0], PixelJudge()(cases(strict, tmp_path / "made")))
    assert row.status == "error" and "32x32" in row.reason and "16x16" in row.reason


def cases(bench: Benchmark, folder: Path) -> list[Case]:
    found = []
    for sample in bench.samples():
        for question in bench.cases(sample, [folder / f"{sample.id}.png"]):
            case = question.load("judge")
            assert isinstance(case, Case), case
            found.append(case)
    return found


def test_one_batch_or_many_give_the_same(tmp_path: Path) -> None:
    bench, rng = views(tmp_path, 4), np.random.default_rng(0)
    for number, side in enumerate((16, 24, 16, 24)):
        for folder, name in ((tmp_path, f"out{number}.png"), (tmp_path / "made", f"v{number}.png")):
            write(folder / name, rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    judge, asked = PixelJudge(), cases(bench, tmp_path / "made")
    together, alone = judge(asked), [judge([case])[0] for case in asked]
    for a, b in zip(together, alone, strict=True):
        assert a.ok and a.value == pytest.approx(b.value, rel=1e-12)
    assert len({case.key(judge.identity) for case in asked}) == 4  # the files' content names a question


# ---------------------------------------------------------------- depth


def scene(height: int, width: int, low: float, high: float) -> np.ndarray:
    """A floor that runs away from the viewer, with a wall: known everywhere, in metres."""
    rows = np.linspace(1, 0, height)[:, None] ** 2
    depth = low + (high - low) * rows * np.ones((1, width))
    depth[: height // 3, width // 2 :] = high * 0.6
    return depth


SIZES = {"kitti": (375, 1242), "nyu": (480, 640), "scannet": (48, 64), "diode": (48, 64), "eth3d": (4032, 6048)}


def depth_set(folder: Path, name: str, truth: np.ndarray) -> Depth:
    """One picture in the set's own format: 16-bit PNG, .npy with a mask, or bare float32."""
    write(folder / "rgb" / "0.png", np.zeros((8, 8, 3), np.uint8))
    protocol, third = SETS[name], ""
    if name == "diode":
        write(folder / "depth" / "0.npy", truth[..., None].astype(np.float32))
        write(folder / "depth" / "mask.npy", (truth > 0).astype(np.float32))
        file, third = "depth/0.npy", " depth/mask.npy"
    else:
        write(folder / "depth" / "0.png", np.round(truth / protocol.unit).astype(np.uint16))
        file = "depth/0.png"
    (folder / "list.txt").write_text(f"rgb/0.png {file}{third}\nrgb/1.png None\n")
    return Depth(name, folder)


@pytest.mark.parametrize("name", ["kitti", "nyu", "scannet", "diode"])
def test_depth_sets_read_their_formats_and_align(tmp_path: Path, name: str) -> None:
    truth = scene(*SIZES[name], 1.0, 9.0)
    truth[5:9, 5:9] = 0  # not measured
    bench = depth_set(tmp_path, name, truth)
    [sample] = bench.samples()
    assert sample.id == "rgb-0" and sample.references[0].name == "0.png" and bench.task == "edit"
    filled = np.where(truth > 0, truth, 5.0)
    write(tmp_path / "made" / "rgb-0.npy", 3.0 - 0.1 * filled)
    metrics = measured(bench, tmp_path / "made")
    # a 16-bit map is rounded to its unit: 1/256 m for KITTI at 1 m is 0.2 %
    assert pick(metrics, "abs_rel", set=name, alignment="depth").value == pytest.approx(0, abs=1e-3)
    assert pick(metrics, "delta1", set=name, alignment="depth").value == 1.0
    wrong = pick(metrics, "abs_rel", set=name, alignment="disparity")
    assert wrong.value is not None and wrong.value > 0.05 and not wrong.higher_is_better
    write(tmp_path / "made" / "rgb-0.npy", 1 / filled + 0.2)
    assert pick(measured(bench, tmp_path / "made"), "abs_rel", set=name, alignment="disparity").value == pytest.approx(
        0, abs=1e-3
    )


def test_depth_ranges_masks_and_windows_decide_which_pixels_count(tmp_path: Path) -> None:
    truth = scene(480, 640, 1.0, 9.0)
    truth[:40] = 12.0  # beyond NYU's 10 m, and outside its window
    truth[100:110, 100:110] = 11.0  # beyond 10 m inside the window
    bench = depth_set(tmp_path, "nyu", truth)
    write(tmp_path / "made" / "rgb-0.npy", truth)
    [case] = cases(bench, tmp_path / "made")
    [verdict] = PixelJudge()([case])
    assert verdict.value["pixels"] == (471 - 45) * (601 - 41) - 100


def test_depth_eth3d_is_bare_floats_and_aligned_on_a_smaller_copy(tmp_path: Path) -> None:
    truth = np.array([[1.0, np.inf, 3.0], [-1.0, np.nan, 0.5]], np.float32)
    truth.tofile(tmp_path / "depth.JPG")
    assert read_depth(tmp_path / "depth.JPG", 1.0, (2, 3)).tolist() == [[1.0, 0.0, 3.0], [0.0, 0.0, 0.5]]
    with pytest.raises(InputError, match="not a depth map"):
        read_depth(tmp_path / "depth.JPG", 1.0, (4, 3))
    assert SETS["eth3d"].raw_shape == (4032, 6048) and SETS["eth3d"].max_side == 1024 and SETS["eth3d"].high is None


def test_depth_from_a_grey_picture_and_garg(tmp_path: Path) -> None:
    """A model that paints depth: 256 levels over 8 m leave about 0.3 %, whichever end is bright."""
    truth = scene(375, 1242, 2.0, 10.0)
    depth_set(tmp_path, "kitti", truth)
    bench = load_benchmark("depth-kitti-garg", tmp_path)
    assert bench.name == "depth-kitti-garg"
    grey = np.round(255 * (10 - truth) / 8).astype(np.uint8)
    for smaller, error in ((1, 2e-3), (3, 6e-3)):  # a model that paints at its own size is enlarged
        write(tmp_path / "made" / "rgb-0.png", np.repeat(grey[::smaller, ::smaller, None], 3, axis=2))
        metrics = measured(bench, tmp_path / "made")
        assert pick(metrics, "abs_rel", set="kitti", alignment="depth").value == pytest.approx(0.002, abs=error)
    assert "garg" in pick(metrics, "delta1", alignment="depth").identity.aggregation


def test_depth_sizes_and_lists_that_do_not_fit(tmp_path: Path) -> None:
    bench = depth_set(tmp_path, "scannet", scene(48, 64, 1, 9))
    write(tmp_path / "made" / "rgb-0.npy", np.ones((24, 32)))
    [verdict] = PixelJudge()(cases(bench, tmp_path / "made"))
    assert verdict.status == "error" and "32x24" in verdict.reason and "64x48" in verdict.reason
    (tmp_path / "list.txt").write_text("rgb/0.png depth/0.png\n")
    with pytest.raises(InputError, match="names 2 files; depth-diode needs 3"):
        Depth("diode", tmp_path)
    with pytest.raises(InputError, match="belongs to KITTI"):
        Depth("nyu", tmp_path, garg=True)


# ---------------------------------------------------------------- reconstruction


def test_reconstruction_by_hand(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg"):
        write(tmp_path / "originals" / name, flat(100))
    bench = Reconstruction(tmp_path / "originals", text=True)
    assert [s.id for s in bench.samples()] == ["a", "b"] and bench.task == "reconstruct"
    sample = bench.samples()[0]
    questions = bench.cases(sample, [tmp_path / "a.png"])
    assert bench.kinds == {"pixels", "ocr"} and Reconstruction(tmp_path / "originals").kinds == {"pixels"}
    assert [q.kind for q in questions] == ["pixels", "ocr", "ocr"] and questions[2].pictures == sample.references
    pixels = Verdict("ok", {"psnr": 30.0, "ssim": 0.9}, {}, "hand")
    rows = bench.score(sample, [pixels, read("HELO", "world"), read("HELLO world")])
    rows += bench.score(bench.samples()[1], [pixels, read("abc"), TIMEOUT])
    metrics = bench.aggregate(rows)
    agreement = pick(metrics, "character_agreement")
    assert agreement.value == pytest.approx(9 / 10) and (agreement.n, agreement.n_failed) == (1, 1)
    assert pick(metrics, "psnr").value == 30.0 and pick(metrics, "psnr").n_failed == 0


def test_black_pictures_are_seen(tmp_path: Path) -> None:
    from glyphflow.evaluate.question import Question

    almost = flat(0)
    almost[3, 3, 1] = 1
    answers: list[Verdict] = []
    for name, array in (("black.png", flat(0)), ("almost.png", almost)):
        case = Question(name, "pixels", (write(tmp_path / name, array),), {"measure": "black"}).load("judge")
        assert isinstance(case, Case)
        answers += PixelJudge()([case])
    assert [answer.value for answer in answers] == [{"black": True}, {"black": False}]


def values(metrics: Sequence[Metric]) -> dict[str, float | None]:
    return {metric.identity.name: metric.value for metric in metrics}


def test_corruptions_are_ordered(tmp_path: Path) -> None:
    """More noise: lower PSNR and SSIM, step by step."""
    rng = np.random.default_rng(1)
    base = rng.integers(60, 190, (32, 32, 3))
    write(tmp_path / "originals" / "a.png", base.astype(np.uint8))
    bench, previous = Reconstruction(tmp_path / "originals"), {"psnr": 101.0, "ssim": 1.1}
    for amount in (0, 2, 8, 24, 60):
        noisy = np.clip(base + rng.normal(0, amount, base.shape), 0, 255).astype(np.uint8)
        write(tmp_path / "made" / "a.png", noisy)
        found = values(measured(bench, tmp_path / "made"))
        assert all(found[name] < previous[name] for name in previous)  # type: ignore[operator]
        previous = found  # type: ignore[assignment]
