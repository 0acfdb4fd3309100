"""What is told when a run goes on, and advice that can be followed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.feed.encode import Encoders
from glyphflow.feed.producing import encode_selection
from glyphflow.train.heldout import BINS, heldout_velocity
from glyphflow.train.metrics import read_metrics
from glyphflow.train.recipe import MMDiTRecipe, read_recipe
from glyphflow.train.resuming import rate_at
from glyphflow.train.run import train_mmdit
from tiny import tiny_pipeline
from tiny_pictures import TinySelection


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("resuming")
    model = tiny_pipeline(place / "model")
    encode_selection(TinySelection(12), Encoders(model, torch.device("cpu"), torch.float32), place / "cache", 64 * 64)
    return place


def recipe(place: Path, out: Path, *more: str) -> MMDiTRecipe:
    keys = [f"feed.sources=[{{cache: {place / 'cache'}}}]", "feed.area=4096", "feed.batch_size=2", f"out={out}"]
    keys += [f"train.init_from={place / 'model'}", "train.heldout_samples=0", "train.log_every=1", "preview.prompts=[]"]
    read = read_recipe("demo-mmdit", [*keys, "train.lora={rank: 2}", "train.steps=4", "train.warmup_steps=0", *more])
    assert isinstance(read, MMDiTRecipe)
    return read


def test_a_longer_schedule_and_another_rate_are_told_and_logged(place: Path, tmp_path: Path) -> None:
    said: list[str] = []
    first = recipe(place, tmp_path)
    assert train_mmdit(first, say=said.append) == 4
    assert said[0] == "What the run learns from:" and not any("learning rate" in line for line in said)
    said.clear()
    longer = recipe(place, tmp_path, "train.steps=6")
    assert train_mmdit(longer, say=said.append) == 6
    (line,) = [line for line in said if "learning rate" in line]
    assert f"{rate_at(longer, 4):.3g} in step 5" in line and f"{rate_at(first, 4):.3g}" in line and "train.steps 4 -> 6" in line
    assert any(line in entry.get("note", "") for entry in read_metrics(tmp_path))
    said.clear()
    train_mmdit(recipe(place, tmp_path, "train.steps=7", "train.lr=1e-6", "train.schedule=cosine"), say=said.append)
    assert any("train.lr 0.00015 -> 1e-06" in line for line in said)
    assert train_mmdit(recipe(place, tmp_path, "train.steps=2", "train.lr=1e-6")) == 7  # nothing to do, and said so
    with pytest.raises(ConfigError, match=r"feed\.batch_size"):
        train_mmdit(recipe(place, tmp_path, "feed.batch_size=3"))


def test_advice_after_numbers_that_are_not_finite_can_be_followed(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        train_mmdit(recipe(place, tmp_path, "train.lr=1e12", "train.schedule=constant"))
    sentence = str(error.value)
    assert "the weights or the learning rate" in sentence and "because of the records" not in sentence
    assert "train.lr" in sentence and "begin anew, as there is no checkpoint yet" in sentence
    # another recipe may begin where nothing was kept
    assert train_mmdit(recipe(place, tmp_path, "train.lr=1e-4", "feed.batch_size=3", "train.schedule=constant")) == 4


class _Zero(torch.nn.Module):
    def forward(self, hidden_states: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return torch.zeros_like(hidden_states)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 11])
def test_a_heldout_loss_covers_every_level(count: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Batch:
        def __init__(self, ids: tuple[str, ...]) -> None:
            self.ids, self.latents = ids, torch.zeros(len(ids), 2, 2)

    met: list[float] = []

    def errors(model: object, batch: Batch, sigmas: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        met.extend(sigmas.tolist())
        return sigmas

    monkeypatch.setattr("glyphflow.train.heldout.velocity_errors", errors)
    ids = [str(n) for n in range(count)]
    batches = [Batch(tuple(ids[start : start + 3])) for start in range(0, count, 3)]
    found = heldout_velocity(_Zero(), batches=batches, seed=0)  # type: ignore[arg-type]
    levels = [name for name in found if name.startswith("heldout_loss_sigma")]
    assert len(levels) == BINS and len(set(met)) == BINS
    assert len(met) == (count if count >= BINS else count * -(-BINS // count))
