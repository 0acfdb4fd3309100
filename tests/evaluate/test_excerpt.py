"""A quick look at some samples, pictures that somebody else made, and what must be quick to ask."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toys import Scripted, knows, make_folder, typeset
from typer.testing import CliRunner

from glyphflow.cli.main import app
from glyphflow.core.errors import ConfigError, InputError
from glyphflow.evaluate import load_benchmark, score
from glyphflow.evaluate.folder import Manifest, find_picture, read_manifest, write_manifest
from glyphflow.evaluate.report import page
from glyphflow.evaluate.sample import benchmark_of


def test_an_excerpt_is_spread_over_the_whole_and_always_the_same() -> None:
    whole, part = load_benchmark("chineseword-300"), load_benchmark("chineseword-300", limit=30)
    assert Counter(sample.tags["tier"] for sample in part.samples()) == {1: 10, 2: 10, 3: 10}
    assert part.samples() == load_benchmark("chineseword-300", limit=30).samples()
    assert {sample.id for sample in part.samples()} <= {sample.id for sample in whole.samples()}
    assert (part.name, part.version, part.repeats, part.typeset) == (whole.name, whole.version, 1, True)
    assert part.identity["limit"] == "30" and part.data_sha256 != whole.data_sha256
    assert load_benchmark("nano16", limit=16).samples() == load_benchmark("nano16").samples()


@pytest.mark.parametrize("limit", [0, 17])
def test_a_limit_is_a_number_of_samples_that_are_there(limit: int) -> None:
    with pytest.raises(InputError, match="nano16 has 16 samples and cannot be limited to"):
        load_benchmark("nano16", limit=limit)


def test_a_folder_of_an_excerpt_is_scored_as_one(tmp_path: Path) -> None:
    """Its manifest says so, whoever wrote it; pictures of another excerpt are refused."""
    (tmp_path / "manifest.json").write_text(
        json.dumps({"format": 2, "benchmark": {"name": "nano16", "limit": 4}, "model": "m"}), encoding="utf-8"
    )
    benchmark = benchmark_of(tmp_path)
    for sample in benchmark.samples():
        Image.fromarray(typeset(sample, 64, 64)).save(tmp_path / f"{sample.id}.png")
    result = score(tmp_path, benchmark, [Scripted(lambda case: ["HELLO"])], resamples=0)
    assert result["judgements"] == 4 and not result["failures"] and result["benchmark"]["limit"] == "4"
    assert "nano16 (version 1, 4 of its samples)" in page(tmp_path)
    with pytest.raises(ConfigError, match="begun with benchmark limit = 4, now it is None"):
        write_manifest(tmp_path, Manifest({"name": "nano16"}, "m"))
    (tmp_path / "manifest.json").write_text(
        json.dumps({"format": 2, "benchmark": {"name": "nano16", "limit": "few"}, "model": "m"}), encoding="utf-8"
    )
    with pytest.raises(InputError, match="the limit is a number of samples"):
        read_manifest(tmp_path)


def test_pictures_of_others_may_be_jpeg_or_webp(tmp_path: Path) -> None:
    benchmark = make_folder(tmp_path, typeset)
    pictures = sorted(tmp_path.glob("*.png"))
    for picture, suffix in zip(pictures, (".jpg", ".jpeg", ".webp"), strict=False):
        Image.open(picture).save(picture.with_suffix(suffix))
        picture.unlink()
    Image.new("RGB", (8, 8)).save(pictures[3].with_suffix(".webp"))  # the PNG is what counts
    result = score(tmp_path, benchmark, [Scripted(knows(benchmark))], resamples=0)
    assert not result["failures"] and find_picture(pictures[3]) == pictures[3]
    found = [name for sample in result["samples"] for name in sample["pictures"]]
    assert [Path(name).suffix for name in found[:4]] == [".jpg", ".jpeg", ".webp", ".png"]
    assert page(tmp_path).count("<figure") == len(pictures)


def test_prompts_say_what_to_make() -> None:
    done = CliRunner().invoke(app, ["evaluate", "prompts", "longtext-en", "--limit", "3"], catch_exceptions=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    samples = load_benchmark("longtext-en", limit=3).samples()
    assert [row["prompt"] for row in rows] == [sample.prompt for sample in samples]
    assert rows[0]["pictures"] == [f"{samples[0].id}_{repeat}.png" for repeat in range(4)]
    assert rows[0]["seeds"] == [samples[0].seed(repeat) for repeat in range(4)] and "references" not in rows[0]


def test_maps_are_shown_where_there_is_no_picture(tmp_path: Path) -> None:
    benchmark = make_folder(tmp_path, typeset)
    (tmp_path / "en-0.png").unlink()
    score(tmp_path, benchmark, [Scripted(knows(benchmark))], resamples=0)
    before = page(tmp_path).count("<img")
    np.save(tmp_path / "en-0.npy", np.linspace(0.0, 9.0, 64).reshape(8, 8))
    assert page(tmp_path).count("<img") == before + 1


def test_asking_for_a_benchmark_does_not_wait_for_pytorch() -> None:
    code = "import sys, glyphflow.evaluate as e; e.load_benchmark('nano16'); raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
