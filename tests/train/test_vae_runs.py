"""A VAE from fresh weights to a directory that diffusers opens, through the command line, on a corpus of renders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from glyphflow.cli import main as cli
from glyphflow.core.errors import ConfigError
from glyphflow.core.files import read_json
from glyphflow.feed.batches import PixelBatch
from glyphflow.feed.buckets import bucket_sizes
from glyphflow.feed.pixels import open_pixels
from glyphflow.feed.transport import open_transport
from glyphflow.generate import Pipeline
from glyphflow.models import VAE, VAEConfig
from glyphflow.train.metrics import read_metrics
from glyphflow.train.recipe import VAERecipe, read_recipe
from glyphflow.train.vae import Reconstruction, ocr_agreement
from glyphflow.train.vae_loss import edge_distance
from glyphflow.train.vae_run import pixels, train_vae
from tiny import tiny_pipeline

SMALL = VAEConfig(base_dim=8, num_res_blocks=1)
FINE = ["trained=decoder", "feed.text_crops=0.5", "ocr_pictures=4", "train.schedule=constant"]
CORPUS = """render:
  - {name: words, template: word, count: 24, width: 64, height: 64}
  - {name: wide, template: word, count: 12, width: 128, height: 64}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vae")
    (folder / "corpus.yaml").write_text(CORPUS)
    with pytest.MonkeyPatch.context() as patch:
        run(patch, "corpus", "render", folder / "corpus", "--recipe", folder / "corpus.yaml")
    tiny_pipeline(folder / "start")
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> None:
    monkeypatch.setattr("sys.argv", ["glyphflow", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code


def arguments(place: Path, out: str, start: str = "start") -> list[str]:
    changes = {
        "out": place / out,
        "train.init_from": place / start,
        "feed.sources": f"[{{corpus: {place / 'corpus'}}}]",
        "feed.area": 4096,
        "feed.crop": 32,
        "feed.batch_size": 4,
        "feed.heldout_share": 0.2,
        "train.compute_dtype": "float32",
        "train.steps": 6,
        "train.lr": 1e-3,
        "train.log_every": 2,
        "train.checkpoint_every": 3,
        "train.heldout_every": 3,
        "train.heldout_samples": 12,
        "train.preview_every": 6,
    }
    return [f"{key}={value}" for key, value in changes.items()]


def recipe(given: list[str], *changes: str) -> VAERecipe:
    found = read_recipe("nano-vae", [*given, *changes])
    assert isinstance(found, VAERecipe)
    return found


@pytest.fixture(scope="module")
def scratch(place: Path) -> Path:
    """The directory that a run from fresh weights was exported to."""
    with pytest.MonkeyPatch.context() as patch:
        run(patch, "train", "nano-vae", *arguments(place, "first"))
        run(patch, "export", place / "first", place / "scratch", "--dtype", "float32")
    return place / "scratch"


def test_from_scratch_every_channel_is_standardised(place: Path, scratch: Path) -> None:
    lines = read_metrics(place / "first")
    assert {line["step"] for line in lines if "heldout_psnr" in line} == {3, 6}
    assert all(0 < line["heldout_loss"] < 1 and -1 <= line["heldout_ssim"] <= 1 for line in lines if "heldout_ssim" in line)
    sheet = np.asarray(Image.open(place / "first/previews/step_000006.png"))
    feed = open_pixels(**pixels(recipe(arguments(place, "first"))).arguments)
    original = ((feed.heldout(12)[0].pixels[0].permute(1, 2, 0) + 1) * 127.5).round().numpy().astype(np.uint8)
    height, width = original.shape[:2]
    assert np.array_equal(sheet[4 : 4 + height, 4 : 4 + width], original)
    vae = VAE.from_pretrained(scratch / "vae", torch.float32)
    with torch.no_grad():
        whole = [*feed.heldout(12), *feed.pictures(1000)]
        latents = torch.cat([vae.standardise(vae.encode(one.pixels).mode()).transpose(0, 1).flatten(1) for one in whole], dim=1)
    assert len(whole) == 36 and latents.shape[0] == 16
    assert latents.mean(1).abs().max() < 1e-3 and (latents.std(1) - 1).abs().max() < 1e-3
    assert len(vae.config.latents_mean) == len(vae.config.latents_std) == 16


@pytest.fixture(scope="module")
def fine(place: Path, scratch: Path) -> Path:
    """The same after its decoder alone was trained on."""
    with pytest.MonkeyPatch.context() as patch:
        run(patch, "train", "nano-vae", *arguments(place, "second", "scratch"), *FINE)
        run(patch, "export", place / "second", place / "fine", "--dtype", "float32")
    return place / "fine"


def test_the_decoder_alone_learns_and_latents_stay_what_they_were(place: Path, scratch: Path, fine: Path) -> None:
    before, after = (load_file(path / "vae/diffusion_pytorch_model.safetensors") for path in (scratch, fine))
    assert before.keys() == after.keys()
    for name, value in after.items():
        same = torch.equal(value, before[name])
        if name.startswith(("encoder.", "quant_conv.")) or "time_conv" in name:
            assert same, name
        if name.startswith("decoder.") and value.ndim == 5 and value.shape[2] == 3 and value.shape[-1] == 3:
            assert torch.equal(value[:, :, :2], before[name][:, :, :2]) and not same, name  # what only video uses
    configs = [read_json(path / "vae/config.json") for path in (scratch, fine)]
    assert configs[0] == configs[1] and configs[0]["latents_std"] != [1.0] * 16
    last = [line for line in read_metrics(place / "second") if "heldout_psnr" in line][-1]
    assert 0 <= last["heldout_ocr"] <= 1
    pipeline = Pipeline.from_pretrained(fine, dtype=torch.float32, device="cpu")
    picture = Image.new("RGB", (64, 64), "orange")
    assert pipeline.reconstruct(picture).size == (64, 64)


def test_diffusers_decodes_the_export_the_same(scratch: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    ours = VAE.from_pretrained(scratch / "vae", torch.float32)
    theirs = diffusers.AutoencoderKLQwenImage.from_pretrained(scratch / "vae").eval()
    latents = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = theirs.decode(latents[:, :, None]).sample[:, :, 0]
        torch.testing.assert_close(ours.decode(latents), expected, atol=1e-5, rtol=0)
    assert theirs.config.latents_mean == list(ours.config.latents_mean)


def test_a_run_that_goes_on_ends_with_the_same_numbers(place: Path, fine: Path) -> None:
    changes = [*arguments(place, "resumed", "scratch"), *FINE, "ocr_pictures=0"]
    for steps in (3, 6):
        train_vae(recipe(changes, f"train.steps={steps}"))
    straight, resumed = (
        [{key: line[key] for key in ("step", "loss", "grad_norm", "heldout_loss") if key in line} for line in read_metrics(run)]
        for run in (place / "second", place / "resumed")
    )
    assert [line for line in straight if line["step"] == 6] == [line for line in resumed if line["step"] == 6]
    with pytest.raises(ConfigError, match="trained"):
        train_vae(recipe(changes, "trained=all"))


def test_processes_cut_the_same_crops_as_a_thread(place: Path) -> None:
    plan = pixels(recipe(arguments(place, "any"), "feed.text_crops=0.5"))
    with open_transport("files", plan) as thread, open_transport("local", plan, producers=1) as processes:
        held = [transport.heldout(5) for transport in (thread, processes)]
        for one, other in [*zip(*held, strict=True), *((thread.next()[0], processes.next()[0]) for _ in range(4))]:
            assert isinstance(other, PixelBatch) and one.ids == other.ids
            assert torch.equal(one.pixels, other.pixels)
            assert other.pixels.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("name", "trained"),
    [("nano-vae-256", "all"), ("nano-vae-decoder", "decoder"), ("qwen-image-20b/vae-decoder", "decoder")],
)
def test_packaged_recipes(name: str, trained: str) -> None:
    found = read_recipe(name)
    assert isinstance(found, VAERecipe) and found.trained == trained and 0 < found.feed.text_crops < 1
    assert found.ocr_pictures <= found.train.heldout_samples
    buckets = bucket_sizes(found.feed.area)
    assert found.feed.crop <= min(min(size) for size in buckets)


def test_decay_of_a_decoder_alone_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.weight_decay=0"):
        recipe(arguments(place, "any"), "trained=decoder", "train.weight_decay=0.01")


def test_agreement_of_readings() -> None:
    # kitten -> sitting is 3 edits of 7 characters; the empty pair weighs nothing
    assert ocr_agreement(["kitten", "", "店"], ["sitting", "", "店"]) == {"heldout_ocr": pytest.approx(5 / 8)}
    assert ocr_agreement(["", ""], ["", ""]) == {}


def test_reading_is_asked_for_as_many_pictures_as_the_recipe_says_and_originals_once() -> None:
    generator = torch.Generator().manual_seed(0)
    asked: list[int] = []

    def read(pictures: object) -> list[str]:
        asked.append(len(pictures))  # type: ignore[arg-type]
        return ["text"] * asked[-1]

    seen = Reconstruction(edge_distance, read, reading=2)
    assert seen.measure(VAE(SMALL)) == {}
    seen.pictures = [PixelBatch(0, (str(i),), torch.rand(1, 3, 16, 16, generator=generator), total=1) for i in range(3)]
    with torch.no_grad():
        first, _ = (seen.measure(VAE(SMALL)) for _ in range(2))
    assert asked == [2, 2, 2] and first["heldout_ocr"] == 1.0
