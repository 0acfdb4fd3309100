"""Previews look at the model that trains and change nothing of it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import glyphflow.train.run as run_module
from glyphflow.feed.encode import Encoders
from glyphflow.feed.producing import encode_selection
from glyphflow.flow import ScheduleConfig
from glyphflow.generate import Pipeline, Speed
from glyphflow.generate.directory import ModelFacts
from glyphflow.models import VAE, MMDiT
from glyphflow.models.kernels import EAGER, TRACEABLE
from glyphflow.train.checkpoint import Checkpoints
from glyphflow.train.curriculum import read_training
from glyphflow.train.parallel import recompute
from glyphflow.train.preview import preview_sheet
from glyphflow.train.recipe import MMDiTRecipe, _may_change, check_same_run, read_recipe
from tiny import tiny_pipeline
from tiny_pictures import TinySelection


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("start") / "model")


@pytest.fixture(scope="module")
def cache(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("caches") / "numbers"
    encode_selection(TinySelection(12), Encoders(model, torch.device("cpu"), torch.float32), path, 64 * 64)
    return path


def recipe(model: Path, cache: Path, out: Path, *more: str) -> MMDiTRecipe:
    keys = [f"feed.sources=[{{cache: {cache}}}]", "feed.area=4096", "feed.batch_size=2", f"out={out}", "train.steps=3"]
    keys += [f"train.init_from={model}", "train.heldout_samples=0", "train.checkpoint_every=3", "train.preview_every=1"]
    read = read_recipe("demo-mmdit", [*keys, "preview={prompts: [], steps: 1, guidance: 2.0}", *more])
    assert isinstance(read, MMDiTRecipe)
    return read


def forwards(network: nn.Module) -> list[Any]:
    return [block.__dict__.get("forward") for block in network.transformer_blocks]  # type: ignore[attr-defined, union-attr]


LAYOUTS = {
    "checkpointing": ["train.parallel.checkpointing=full"],
    "adapter": ["train.lora={rank: 2}"],
    "offload": ["train.lora={rank: 2}", "train.offload=1", "train.modulation=host"],
    "fused": ["train.weights=bfloat16", "train.optimizer=adafactor", "train.ema_decay=0", "train.compute_dtype=bfloat16"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_with_previews_is_bit_equal_and_laid_out_as_before(
    layout: str, model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[Any], list[Any]]] = []

    def watched(settings: MMDiTRecipe, network: nn.Module) -> Any:
        before = forwards(network)
        sheet = preview_sheet(settings)(network)
        seen.append((before, forwards(network)))
        return sheet

    found = []
    for name, prompts in (("with", "[a]"), ("without", "[]")):
        read = recipe(model, cache, tmp_path / name, *LAYOUTS[layout], f"preview.prompts={prompts}")
        run_module.train_mmdit(read, functools.partial(watched, read) if prompts == "[a]" else None)
        path = Checkpoints(tmp_path / name / "checkpoints", 1).path(3)
        found.append({file.name: file.read_bytes() for file in sorted(path.glob("*.distcp"))})
    assert len(seen) == 3 and all(before == after for before, after in seen)
    assert layout == "adapter" or all(all(each is not None for each in before) for before, _ in seen)
    assert found[0] == found[1] and found[0]


def test_a_pipeline_leaves_a_network_alone_that_it_did_not_load(model: Path) -> None:
    network, vae = MMDiT.from_pretrained(model / "transformer", torch.float32), VAE.from_pretrained(model / "vae")
    recompute(network, "full")
    network.use_kernels(TRACEABLE)
    before = forwards(network)
    pipeline = Pipeline(network, vae, None, ScheduleConfig())
    assert forwards(network) == before and None not in before
    assert all(block.kernels is TRACEABLE for block in network.transformer_blocks)
    pipeline.speed = Speed(fused=False)  # asked for, kernels change; what others wrapped stays
    assert forwards(network) == before
    assert all(block.kernels is EAGER for block in network.transformer_blocks)


def test_only_what_was_compiled_is_forgotten(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *given: function(*given))
    network = MMDiT.from_pretrained(model / "transformer", torch.float32)
    plain = forwards(network)
    recompute(network, 2)
    wrapped = forwards(network)
    network.compile_blocks()
    assert all(one is not other for one, other in zip(forwards(network), wrapped, strict=True))
    network.forget_compiled()
    assert forwards(network) == wrapped != plain


def test_previews_default_to_the_model_and_the_largest_area() -> None:
    for name, side in (("qwen-image-20b/lora", 1024), ("nano-curriculum", None), ("qwen-image-20b", 1328)):
        read = read_training(name, ["preview={prompts: [a]}"])
        preview = read.preview  # type: ignore[union-attr]
        assert preview.guidance is None and preview.steps is None and preview.width == preview.height
        assert side is None or preview.width == side
    wide = read_recipe("demo-mmdit", ["feed.area=65536", "preview={prompts: [a], width: 512}"])
    assert isinstance(wide, MMDiTRecipe) and (wide.preview.width, wide.preview.height) == (512, 128)
    facts = ModelFacts()
    assert (facts.default_steps, facts.default_true_cfg_scale) == (50, 4.0)


def test_what_is_looked_at_may_change_and_keys_are_matched_whole(tmp_path: Path) -> None:
    one = read_recipe("demo-mmdit", [f"out={tmp_path}"])
    check_same_run(
        one, read_recipe("demo-mmdit", [f"out={tmp_path}", "preview.guidance=7", "train.parallel.checkpointing=full"])
    )

    assert _may_change("train.keep", 0) and not _may_change("train.keep_best", 0)
    assert not _may_change("train.steps_per_rollout", 0) and not _may_change("train.offload_optimizer", 0)
    assert _may_change("train.parallel.sp", 0) and not _may_change("train.parallelism", 0)
