"""A run that meets broken shards, a full disk, other encoders or kills keeps what it has and ends with the same bits."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from glyphflow.core.errors import ConfigError, InputError, StorageError
from glyphflow.feed.encode import Encoders
from glyphflow.feed.producing import encode_selection
from glyphflow.train.checkpoint import Checkpoints
from glyphflow.train.metrics import read_metrics
from glyphflow.train.preview import preview_sheet
from glyphflow.train.recipe import MMDiTRecipe, read_recipe
from glyphflow.train.run import train_mmdit
from tiny import tiny_pipeline
from tiny_pictures import TinySelection

STEPS = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("faults") / "model")


def encode(model: Path, cache: Path) -> Path:
    encode_selection(TinySelection(60), Encoders(model, torch.device("cpu"), torch.float32), cache, 64 * 64)
    return cache


@pytest.fixture(scope="module")
def cache(model: Path) -> Path:
    return encode(model, model.parent / "cache")


def recipe(model: Path, cache: Path, out: Path, **train: Any) -> MMDiTRecipe:
    changes = {"steps": STEPS, "lr": 1e-3, "log_every": 1, "checkpoint_every": 4, "heldout_samples": 0, **train}
    found = read_recipe(
        "demo-mmdit",
        [
            f"feed.sources=[{{cache: {cache}}}]",
            "feed.area=4096",
            "feed.batch_size=4",
            f"out={out}",
            f"train.init_from={model}",
            "train.schedule=constant",
            "preview.prompts=[]",
            *(f"train.{key}={value}" for key, value in changes.items()),
        ],
    )
    assert isinstance(found, MMDiTRecipe)
    return found


@pytest.fixture(scope="module")
def straight(model: Path, cache: Path) -> Path:
    out = model.parent / "straight"
    train_mmdit(recipe(model, cache, out))
    return out


def assert_same_run(out: Path, straight: Path) -> None:
    """The files of the last checkpoint, which hold weights, averages and moments, and every loss."""
    for file in sorted((straight / "checkpoints" / f"step_{STEPS:08d}").glob("*.distcp")):
        assert (out / "checkpoints" / file.parent.name / file.name).read_bytes() == file.read_bytes()
    one, other = ([(line["step"], line["loss"], line["grad_norm"]) for line in read_metrics(run)] for run in (out, straight))
    assert one == other and len(one) == STEPS


def test_a_shard_that_breaks_under_a_run_is_named_and_the_run_goes_on(model: Path, straight: Path, tmp_path: Path) -> None:
    cache = encode(model, tmp_path / "cache")
    broken = recipe(model, cache, tmp_path / "run", preview_every=4)
    prompts = broken.model_copy(update={"preview": broken.preview.model_copy(update={"prompts": ("a",), "steps": 1})})

    def damage(network: torch.nn.Module) -> Any:
        for shard in cache.glob("area-*/*.safetensors"):
            with shard.open("r+b") as file:
                for place in range(20_000, shard.stat().st_size, 997):
                    file.seek(place)
                    file.write(b"\xa5")
        return preview_sheet(prompts)(network)

    with pytest.raises(InputError, match=r"shard .*\.safetensors is damaged .*run glyphflow encode again"):
        train_mmdit(broken, damage)
    assert Checkpoints(tmp_path / "run" / "checkpoints", 2).steps() == [4]
    with pytest.raises(InputError, match="run glyphflow encode"):  # and what is missing now is not made up
        train_mmdit(recipe(model, cache, tmp_path / "run"))
    encode(model, cache)
    train_mmdit(recipe(model, cache, tmp_path / "run"))
    assert_same_run(tmp_path / "run", straight)


def test_a_full_disk_at_a_checkpoint_keeps_the_one_before(model: Path, cache: Path, straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train_mmdit(recipe(model, cache, out, steps=4))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))  # the operating system refuses, as a full disk does
    try:
        with pytest.raises(StorageError, match=r"Could not write .*step_00000008: .*run the same command again"):
            train_mmdit(recipe(model, cache, out))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [entry.name for entry in (out / "checkpoints").iterdir()] == ["step_00000004"]
    train_mmdit(recipe(model, cache, out))
    assert_same_run(out, straight)


def test_encoders_that_changed_since_a_run_began_are_refused(model: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train_mmdit(recipe(model, cache, out, steps=2))
    other = tiny_pipeline(tmp_path / "other", seed=3)
    with pytest.raises(ConfigError, match=r"was made with feed\.fingerprint = .* and the recipe now says"):
        train_mmdit(recipe(other, cache, out))
    with pytest.raises(ConfigError, match=r"was made with other encoders \(.*remove it, or choose another cache"):
        encode(other, cache)
    assert Checkpoints(out / "checkpoints", 2).steps() == [2]


@pytest.mark.slow
def test_kills_of_trainer_and_producers_leave_the_bits_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks.train import faults  # its commands start from nothing, as what they share in memory is counted, too

    faults.make_place(tmp_path, photos=30)
    assert faults.compare(tmp_path, ["local"], kills=3, steps=40, seed=1, producers=1), capsys.readouterr().out
