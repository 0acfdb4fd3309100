"""Whole runs at toy size: learning, exact resume after a kill, refusals, export."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import glyphflow.train.run as run_module
from glyphflow.core.errors import ConfigError, InputError, InterruptedRun, StorageError
from glyphflow.core.files import exclusive
from glyphflow.feed.encode import Encoders
from glyphflow.feed.prefetch import Prefetch
from glyphflow.feed.producing import encode_selection
from glyphflow.feed.staged import StagedFeed
from glyphflow.generate import Pipeline
from glyphflow.models import MMDiT
from glyphflow.train.checkpoint import Checkpoints
from glyphflow.train.export import export_run
from glyphflow.train.loop import Loop
from glyphflow.train.metrics import read_metrics
from glyphflow.train.objectives import flow_matching, image_tokens, predicted_elements
from glyphflow.train.parallel import World
from glyphflow.train.preview import preview_sheet
from glyphflow.train.recipe import FlowObjective, MMDiTRecipe, TrainConfig, read_recipe
from glyphflow.train.run import train_mmdit
from tiny import tiny_pipeline
from tiny_pictures import TinySelection
from warm import command


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("start") / "model")


@pytest.fixture(scope="module")
def cache(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("caches") / "numbers"
    encode_selection(TinySelection(40), Encoders(model, torch.device("cpu"), torch.float32), path, 64 * 64)
    return path


def mmdit_recipe(model: Path, cache: Path, out: Path, *changes: str) -> MMDiTRecipe:
    recipe = read_recipe("demo-mmdit", [*arguments(model, cache, out), *changes])
    assert isinstance(recipe, MMDiTRecipe)
    return recipe


def arguments(model: Path, cache: Path, out: Path) -> list[str]:
    return [
        f"feed.sources=[{{cache: {cache}}}]",
        "feed.area=4096",
        "feed.batch_size=4",
        f"out={out}",
        f"train.init_from={model}",
        "train.steps=20",
        "train.lr=1e-3",
        "train.log_every=2",
        "train.checkpoint_every=4",
        "train.heldout_every=10",
        "train.heldout_samples=8",
        "feed.heldout_share=0.1",
        "preview.prompts=[]",
    ]


def weights(out: Path, model: Path, *, ema: bool) -> dict[str, torch.Tensor]:
    network = MMDiT.from_pretrained(model / "transformer", torch.float32)
    found = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    checkpoints = Checkpoints(out / "checkpoints", 2)
    checkpoints.load_weights(checkpoints.steps()[-1], found, ema=ema)
    return found


def feed_of(recipe: MMDiTRecipe) -> StagedFeed:
    return StagedFeed(run_module.course_of(recipe).segments, recipe.seed)


@pytest.fixture(scope="module")
def straight(model: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "straight"
    train_mmdit(mmdit_recipe(model, cache, out))
    return out


def test_killed_and_continued_is_bit_equal_to_uninterrupted(model: Path, cache: Path, straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    with command("train", "demo-mmdit", *arguments(model, cache, out), environment=environment) as process:
        deadline = time.monotonic() + 300
        while len(read_metrics(out)) < 5 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        killed = process.wait()
    kept = Checkpoints(out / "checkpoints", 2).steps()
    assert killed.returncode == -signal.SIGKILL and kept and kept[-1] < 20, killed.output
    train_mmdit(mmdit_recipe(model, cache, out))
    assert Checkpoints(out / "checkpoints", 2).steps() == [16, 20]
    for ema in (False, True):
        one, other = weights(straight, model, ema=ema), weights(out, model, ema=ema)
        assert all(torch.equal(one[name], other[name]) for name in one)
    lines = [{k: line[k] for k in line if k in ("step", "loss", "heldout_loss", "grad_norm")} for line in read_metrics(out)]
    assert lines == [
        {k: line[k] for k in line if k in ("step", "loss", "heldout_loss", "grad_norm")} for line in read_metrics(straight)
    ]


@pytest.mark.slow
def test_two_processes_of_torchrun_train_the_same(model: Path, cache: Path, straight: Path, tmp_path: Path) -> None:
    changes = ["train.steps=8", "preview.prompts=[a]", "preview.steps=1", "preview.width=64", "preview.height=64"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    started = [*launch, "-m", "glyphflow", "train", "demo-mmdit", *arguments(model, cache, tmp_path / "run"), *changes]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(started, capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0 and done.stdout.count("Trained to step 8") == 1, done.stderr
    ours, theirs = (
        {line["step"]: line for line in read_metrics(out) if "loss" in line} for out in (straight, tmp_path / "run")
    )
    assert list(theirs) == [2, 4, 6, 8]  # the schedule is still warming up, so the length of the run does not matter
    for step, line in theirs.items():
        assert line["loss"] == pytest.approx(ours[step]["loss"], rel=0.01)  # both compute in bfloat16
    assert (tmp_path / "run" / "previews" / "step_000008.png").exists()


def test_interrupt_saves_and_says_how_to_go_on(model: Path, cache: Path, straight: Path, tmp_path: Path) -> None:
    recipe = mmdit_recipe(model, cache, tmp_path / "run")

    def interrupt(network: torch.nn.Module) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return preview_sheet(mmdit_recipe(model, cache, tmp_path, "preview.prompts=[a]", "preview.steps=1"))(network)

    with pytest.raises(InterruptedRun, match="step 7 of 20"):
        train_mmdit(recipe.model_copy(update={"train": recipe.train.model_copy(update={"preview_every": 7})}), interrupt)
    train_mmdit(recipe)
    one, other = weights(straight, model, ema=True), weights(tmp_path / "run", model, ema=True)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_second_run_and_another_recipe_are_refused(model: Path, cache: Path, straight: Path) -> None:
    with exclusive(straight, "training"), pytest.raises(StorageError, match=str(os.getpid())):
        train_mmdit(mmdit_recipe(model, cache, straight))
    with pytest.raises(ConfigError, match=r"feed\.batch_size = 4"):
        train_mmdit(mmdit_recipe(model, cache, straight, "feed.batch_size=5"))


def test_other_encoders_than_the_caches_are_refused(cache: Path, tmp_path: Path) -> None:
    other = tiny_pipeline(tmp_path / "other", seed=3)
    with pytest.raises(ConfigError, match="made by the encoders"):
        train_mmdit(mmdit_recipe(other, cache, tmp_path / "run"))
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_a_tiny_model_overfits(model: Path, cache: Path, tmp_path: Path) -> None:
    recipe = mmdit_recipe(
        model,
        cache,
        tmp_path / "run",
        "train.steps=60",
        "train.lr=5e-3",
        "train.heldout_samples=0",
        "train.checkpoint_every=60",
    )
    train_mmdit(recipe)
    losses = [line["loss"] for line in read_metrics(tmp_path / "run")]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def loop_of(network: torch.nn.Module, objective: Any, feed: Any, out: Path, **changes: Any) -> Loop[Any]:
    settings = TrainConfig(**{"steps": 5, "checkpoint_every": 2, "weight_decay": 0, "compute_dtype": "float32", **changes})
    return Loop(
        network,
        objective,
        lambda start: Prefetch(feed.batch, start),
        settings,
        out,
        seed=0,
        world=World.start(settings.parallel, "cpu"),
        weight=predicted_elements,
        size=image_tokens,
    )


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_not_a_number_stops_with_the_record_that_made_it(where: str, model: Path, cache: Path, tmp_path: Path) -> None:
    network = MMDiT.from_pretrained(model / "transformer", torch.float32).requires_grad_(True)
    feed = feed_of(mmdit_recipe(model, cache, tmp_path))
    start = {name: p.detach().clone() for name, p in network.named_parameters()}
    guilty = feed.batch(2).ids[1]

    def objective(net: torch.nn.Module, batch: Any, rng: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        value = sum(p.sum() for p in net.parameters())
        if batch.step != 2 or guilty not in batch.ids:
            return value * 0.0, {}
        return (value * float("nan") if where == "loss" else (value * 0.0).sqrt()), {}  # the root's slope at 0 is infinite

    with pytest.raises(InputError, match="step 3") as caught:
        loop_of(network, objective, feed, tmp_path).run()
    assert [record for record in feed.batch(2).ids if record in str(caught.value)] == [guilty]
    assert Checkpoints(tmp_path / "checkpoints", 2).steps() == [2]
    assert all(torch.equal(start[name], p) for name, p in network.named_parameters())


def counted(net: torch.nn.Module, batch: Any, rng: torch.Generator, *, sizes: list[int]) -> Any:
    sizes.append(len(batch.ids))
    return flow_matching(net, batch, rng, times=FlowObjective())


def test_micro_batches_change_nothing_but_rounding(model: Path, cache: Path, tmp_path: Path) -> None:
    feed = feed_of(mmdit_recipe(model, cache, tmp_path))
    found = []
    for number, changes in enumerate(({}, {"micro_batch": 1}, {"micro_batch": 3}, {"micro_tokens": 40})):
        network = MMDiT.from_pretrained(model / "transformer", torch.float32).requires_grad_(True)
        sizes: list[int] = []
        loop_of(
            network, functools.partial(counted, sizes=sizes), feed, tmp_path / str(number), steps=4, log_every=1, **changes
        ).run()
        found.append([(line["loss"], line["grad_norm"]) for line in read_metrics(tmp_path / str(number))])
        assert max(sizes) == (4, 1, 2, 2)[number]  # of 4: 3 does not divide it; two pictures of 16 or 18 tokens are within 40
    for other in found[1:]:
        assert other == [pytest.approx(pair, rel=1e-4) for pair in found[0]]


def test_accumulated_batches_of_two_shapes_weigh_every_token_alike(model: Path, cache: Path, tmp_path: Path) -> None:
    feed = feed_of(mmdit_recipe(model, cache, tmp_path))
    pair = [feed.batch(0), next(b for b in map(feed.batch, range(1, 20)) if b.shapes[0] != feed.batch(0).shapes[0])]

    class Two:
        def batch(self, step: int) -> Any:
            return dataclasses.replace(pair[step % 2], step=step)

    def squares(net: torch.nn.Module, batch: Any, rng: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return (batch.latents.float() * next(net.parameters()).sum()).square().mean(), {}

    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 1.0)
    loop_of(network, squares, Two(), tmp_path, steps=1, accumulate=2, clip=1e9).run()
    tokens = torch.cat([batch.latents.float().flatten(0, 1) for batch in pair])
    line = read_metrics(tmp_path)[0]
    assert line["loss"] == pytest.approx(float(tokens.square().mean()), rel=1e-5)
    assert line["grad_norm"] == pytest.approx(2 * float(tokens.square().mean()), rel=1e-5)


def test_an_adapter_learns_and_the_rest_stays(model: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train_mmdit(mmdit_recipe(model, cache, out, "train.steps=4", "train.lora={rank: 2}"))
    line = [found for found in read_metrics(out) if "loss" in found][-1]
    assert line["peak_share"] > 0 and line["tflops_per_device"] > 0 and 0 <= line["wait_share"] <= 1
    assert export_run(out, tmp_path / "lora") == 4
    stored = load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    assert any(float(value.abs().max()) > 0 for name, value in stored.items() if "lora_B" in name)


@pytest.mark.parametrize(
    "changes",
    [
        ["train.lora={rank: 2}", "train.offload=1", "train.modulation=host"],
        ["train.weights=bfloat16", "train.optimizer=adamw8bit", "train.offload=1", "train.ema_decay=0"],
    ],
)
def test_weights_off_the_card_learn_the_same_after_a_resume(
    changes: list[str], model: Path, cache: Path, tmp_path: Path
) -> None:
    for out, ends in ((tmp_path / "straight", (6,)), (tmp_path / "resumed", (4, 6))):
        for end in ends:
            train_mmdit(mmdit_recipe(model, cache, out, *changes, f"train.steps={end}", "train.schedule=constant"))
    straight, resumed = (
        [(line["loss"], line["grad_norm"]) for line in read_metrics(tmp_path / name) if "loss" in line]
        for name in ("straight", "resumed")
    )
    assert straight == resumed and len(straight) == 3
    assert export_run(tmp_path / "resumed", tmp_path / "out", average=False) == 6


def test_export_is_a_whole_pipeline_with_averaged_weights(model: Path, straight: Path, tmp_path: Path) -> None:
    assert export_run(straight, tmp_path / "out") == 20
    stored = load_file(tmp_path / "out" / "transformer" / "diffusion_pytorch_model.safetensors")
    for name, value in weights(straight, model, ema=True).items():
        assert stored[name].dtype == torch.bfloat16 and torch.equal(stored[name], value.to(torch.bfloat16))
    for part in ("vae", "text_encoder"):
        for file in (model / part).iterdir():
            assert (tmp_path / "out" / part / file.name).read_bytes() == file.read_bytes()
    pipeline = Pipeline.from_pretrained(tmp_path / "out", dtype=torch.float32, device="cpu")
    assert pipeline.generate("7", num_inference_steps=1, progress=False).images[0].size == (64, 64)
    with pytest.raises(StorageError, match="exists already"):
        export_run(straight, tmp_path / "out")


def test_diffusers_opens_an_export(straight: Path, tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    export_run(straight, tmp_path / "out", dtype="float32")
    ours = MMDiT.from_pretrained(tmp_path / "out" / "transformer", torch.float32)
    theirs = diffusers.QwenImageTransformer2DModel.from_pretrained(tmp_path / "out" / "transformer").eval()
    latents = torch.randn(1, 4, ours.config.in_channels)
    call = {"encoder_hidden_states": torch.randn(1, 3, ours.config.joint_attention_dim), "timestep": torch.tensor([0.5])}
    with torch.no_grad():
        expected = theirs(hidden_states=latents, **call, img_shapes=[[(1, 2, 2)]]).sample
        torch.testing.assert_close(ours(latents, **call, img_shapes=[[(1, 2, 2)]]), expected, atol=1e-5, rtol=0)
