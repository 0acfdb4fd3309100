"""What is told when a run goes on, and advice that can be followed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from glyphflow.core.config import dump_config
from glyphflow.core.errors import ConfigError, InputError
from glyphflow.corpus import Corpus
from glyphflow.corpus.ingest.pictures import ingest_folder
from glyphflow.feed.encode import Encoders
from glyphflow.feed.producing import encode_selection
from glyphflow.train.checkpoint import Checkpoints
from glyphflow.train.curriculum import Curriculum, read_curriculum
from glyphflow.train.heldout import BINS, heldout_velocity
from glyphflow.train.metrics import read_metrics
from glyphflow.train.recipe import MMDiTRecipe, read_recipe
from glyphflow.train.resuming import RECIPE, as_begun, crop_limit, rate_at, read_run, saved_steps
from glyphflow.train.run import encode_sources, train_mmdit
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
    assert any(f"train.lr {first.train.lr} -> 1e-06" in line for line in said)
    assert train_mmdit(recipe(place, tmp_path, "train.steps=2", "train.lr=1e-6")) == 7  # nothing to do, and said so
    with pytest.raises(ConfigError, match=r"feed\.batch_size"):
        train_mmdit(recipe(place, tmp_path, "feed.batch_size=3"))


@pytest.fixture(scope="module")
def banners(place: Path) -> Path:
    """A corpus of two squares and two banners, of which the crop cuts away more than half."""
    folder = place / "pictures"
    folder.mkdir()
    for number, size in enumerate([(64, 64), (64, 64), (640, 64), (640, 64)]):
        Image.new("RGB", size, (60 * number, 10, 10)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture {number}", encoding="utf-8")
    ingest_folder(Corpus.create(place / "corpus"), folder, "mine", "CC0")
    return place / "corpus"


def forget_the_limit(out: Path, *parents: str) -> None:
    """Make the directory one of the version that had no crop_limit, and noted no contents."""
    saved = yaml.safe_load((out / RECIPE).read_text())
    holder = saved
    for parent in parents:
        holder = holder[parent]
    del holder["crop_limit"]
    (out / RECIPE).write_text(yaml.safe_dump(saved))
    (out / "data.json").unlink(missing_ok=True)


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out) if "loss" in line]


def test_a_run_of_the_version_without_crop_limit_draws_on_what_it_drew(place: Path, banners: Path, tmp_path: Path) -> None:
    sources = f"feed.sources=[{{corpus: {banners}, cache: {place / 'banners-cache'}}}]"
    keys = (sources, "feed.heldout_share=0", "train.schedule=constant")
    everything = recipe(place, tmp_path / "straight", *keys, "feed.crop_limit=1")
    assert encode_sources(everything) == [(place / "banners-cache", 4)]
    assert train_mmdit(everything) == 4

    out = tmp_path / "old"
    train_mmdit(recipe(place, out, *keys, "feed.crop_limit=1", "train.steps=2"))
    forget_the_limit(out, "feed")
    assert crop_limit(read_run(out)) == 1.0  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"feed\.crop_limit = 1\.0 and the recipe now says 0\.5"):
        train_mmdit(recipe(place, out, *keys, "feed.crop_limit=0.5"))
    assert not (out / "data.json").exists()  # a refused run notes nothing
    said: list[str] = []
    encode_sources(recipe(place, out, *keys), say=said.append)
    assert any("goes on with feed.crop_limit = 1, as it was begun; the default 0.5 would leave out 2 of its" in s for s in said)
    said.clear()
    assert train_mmdit(recipe(place, out, *keys), say=said.append) == 4
    assert len([line for line in said if "feed.crop_limit" in line]) == 1
    assert losses(out) == losses(tmp_path / "straight")
    assert yaml.safe_load((out / RECIPE).read_text())["feed"]["crop_limit"] == 1.0
    assert train_mmdit(recipe(place, out, *keys, "feed.crop_limit=1")) == 4


def test_no_word_of_crop_limit_where_it_decides_nothing(place: Path, tmp_path: Path) -> None:
    train_mmdit(recipe(place, tmp_path, "train.steps=2"))
    forget_the_limit(tmp_path, "feed")
    said: list[str] = []
    assert train_mmdit(recipe(place, tmp_path), say=said.append) == 4
    assert not any("crop_limit" in line for line in said)


def test_a_curriculum_keeps_the_crop_limit_it_was_begun_with(tmp_path: Path) -> None:
    now = read_curriculum("nano-curriculum", [f"out={tmp_path}"])
    dump_config(now, tmp_path / RECIPE)
    forget_the_limit(tmp_path)
    assert as_begun(now) is now  # no checkpoint: any recipe may begin
    (tmp_path / "checkpoints" / "step_00000003").mkdir(parents=True)
    begun = as_begun(now)
    assert isinstance(begun, Curriculum) and {begun.feed(stage).crop_limit for stage in begun.stages} == {1.0}
    assert crop_limit(as_begun(read_curriculum("nano-curriculum", [f"out={tmp_path}", "crop_limit=0.3"]))) == 0.3
    dump_config(now.model_copy(update={"crop_limit": 0.7}), tmp_path / RECIPE)
    assert crop_limit(as_begun(now)) == 0.7


def test_news_speak_of_the_step_that_the_run_goes_on_from(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_mmdit(recipe(place, tmp_path, "train.checkpoint_every=2"))
    assert Checkpoints(tmp_path / "checkpoints", 2).steps() == [2, 4] and saved_steps(tmp_path) == 4
    data = next((tmp_path / "checkpoints" / "step_00000004").glob("*.distcp"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    capsys.readouterr()
    said: list[str] = []
    assert train_mmdit(recipe(place, tmp_path, "train.steps=6"), say=said.append) == 6
    (line,) = [line for line in said if "learning rate" in line]
    assert " in step 3," in line
    assert capsys.readouterr().err.count("put aside") == 1


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
