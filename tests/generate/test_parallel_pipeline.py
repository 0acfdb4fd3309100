"""The same picture by one process and by several, over gloo, and under torchrun from the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pipeline_pairs import photo, texts
from typer.testing import CliRunner

from glyphflow.cli.main import app
from glyphflow.core.errors import InputError
from glyphflow.generate import Parallel, Pipeline, Speed, read_metadata
from glyphflow.generate.parallel import Ranks
from glyphflow.models import MMDiT
from ranks import run_ranks
from tiny import tiny_pipeline

PRELOAD = ("glyphflow.generate", "glyphflow.models.condition", "tiny")
PLANS = ("cfg=2", "ulysses=2", "tensor=2")
PROMPTS = ["a poster that says 'HELLO'", "你好"]


def written(pipeline: Pipeline) -> Any:
    """Two pictures of the nano model, whose prompts have different lengths: the pixels of their files."""
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    call: dict[str, Any] = {"height": 80, "width": 64, "num_inference_steps": 5, "generator": generators}
    return np.stack([np.asarray(image) for image in pipeline.generate(PROMPTS, "blurry", **call, progress=False).images])


def approximate(pipeline: Pipeline) -> Any:
    pipeline.speed = Speed(step_cache=0.5, packed_cfg=False)
    try:
        return written(pipeline)
    finally:
        pipeline.speed = Speed()


def edited(pipeline: Pipeline) -> Any:
    pipeline.kind = "edit-plus"
    pictures = [photo(64, 48), photo(48, 80, 1)]
    generator = torch.Generator().manual_seed(3)
    call: dict[str, Any] = {"height": 48, "width": 64, "num_inference_steps": 2, "output_type": "np", "progress": False}
    return pipeline.edit(pictures, **texts(True), **call, generator=generator).images


def inpainted(pipeline: Pipeline) -> Any:
    """Without a generator: the default one of every process is in the first one's state."""
    pipeline.kind = "t2i"
    mask = photo(64, 64, 4).convert("L").point(lambda v: 255 * (v > 128))
    call: dict[str, Any] = {"height": 64, "width": 64, "num_inference_steps": 3, "output_type": "np", "progress": False}
    return pipeline.inpaint(photo(64, 64), mask, **texts(True), **call).images


def adapted(pipeline: Pipeline) -> Any:
    """With a LoRA on every linear of the blocks, beside the weights and then inside."""
    generator = torch.Generator().manual_seed(5)
    linears = {n for n, part in MMDiT(pipeline.transformer.config).named_modules() if isinstance(part, torch.nn.Linear)}
    width = pipeline.transformer.config.width
    tensors = {}
    for name in sorted(name for name in linears if name.startswith("transformer_blocks.")):
        inner = 4 * width if "net.2" in name else width
        outer = 6 * width if "_mod." in name else 4 * width if "net.0" in name else width
        tensors[f"{name}.lora_A.weight"] = torch.randn(3, inner, generator=generator) * inner**-0.5
        tensors[f"{name}.lora_B.weight"] = torch.randn(outer, 3, generator=generator) * 0.1
    pipeline.load_lora_weights(tensors, adapter_name="a", weight=0.7)
    beside = edited(pipeline)
    pipeline.fuse_lora()
    inside = edited(pipeline)
    pipeline.unload_lora_weights()
    return np.stack([beside, inside])


NANO = {"written": written, "approximate": approximate}
TOY = {"inpainted": inpainted, "edited": edited, "adapted": adapted}


def make(directory: str, parallel: str | None) -> dict[str, Any]:
    if parallel is not None:
        torch.manual_seed(100 + torch.distributed.get_rank())
    pipeline = Pipeline.from_pretrained(dtype=torch.float32, device="cpu", parallel=parallel)
    toy = Pipeline.from_pretrained(directory, dtype=torch.float32, device="cpu", parallel=parallel)
    found = {name: picture(toy) for name, picture in TOY.items()} | {name: picture(pipeline) for name, picture in NANO.items()}
    speed = Speed(packed_cfg=False)
    half = Pipeline.from_pretrained(directory, dtype=torch.bfloat16, device="cpu", speed=speed, parallel=parallel)
    return found | {"half": edited(half), "leads": pipeline.leads}


def share(directory: str) -> dict[str, Any]:
    found: dict[str, Any] = {plan: make(directory, plan) for plan in PLANS}
    found["streamed"] = streamed(directory)
    try:
        Pipeline.from_pretrained(directory, device="cpu", parallel="ulysses=2", speed=Speed(compile=True))
    except InputError as error:
        found["refused compile"] = str(error)
    for plan, call in (("cfg=2", {"true_cfg_scale": 1.0}), ("ulysses=3", {}), ("cfg=2,tensor=2", {})):
        try:
            pipeline = Pipeline.from_pretrained(directory, dtype=torch.float32, device="cpu", parallel=plan)
            pipeline.generate("a", height=32, width=32, num_inference_steps=1, progress=False, **call)
        except InputError as error:
            found[f"refused {plan}"] = str(error)
    return found


def streamed(directory: str) -> Any:
    """With the smallest budget, as on a card that is too small even for a part."""
    one = Pipeline.from_pretrained(directory, dtype=torch.float32, device="cpu", parallel="tensor=2")
    parts = (one.transformer, one.vae, one.condition_encoder, one.schedule, one.facts)
    return edited(Pipeline(*parts, device=torch.device("cpu"), budget=0, ranks=one.ranks))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("toy") / "model")


@pytest.fixture(scope="module")
def alone(directory: Path) -> dict[str, Any]:
    """With one thread, as each of the several processes: how many share a product decides the order of its sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(100)
    try:
        return make(str(directory), None)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def shared(directory: Path) -> list[dict[str, Any]]:
    return run_ranks(2, share, str(directory), preload=PRELOAD)


@pytest.mark.parametrize("plan", PLANS)
def test_the_picture_does_not_depend_on_the_number_of_processes(
    plan: str, alone: dict[str, Any], shared: list[dict[str, Any]]
) -> None:
    for found in shared:
        for name in NANO:
            assert_same_levels(found[plan][name], alone[name])
        for name in TOY:
            assert np.abs(found[plan][name] - alone[name]).max() <= 1e-5, name
        assert all(np.array_equal(found[plan][name], shared[0][plan][name]) for name in (*NANO, *TOY))
    assert [found[plan]["leads"] for found in shared] == [True, False]


def assert_same_levels(got: Any, expected: Any) -> None:
    """The same but for values that lie so near the middle between two of the 256 levels that the last bits decide."""
    differ = got != expected
    assert differ.mean() <= 0.001
    assert np.abs(got.astype(int) - expected)[differ].max(initial=0) <= 1


def test_passes_in_two_processes_are_the_passes_of_one(alone: dict[str, Any], shared: list[dict[str, Any]]) -> None:
    """Where the single process, too, runs the passes one by one, even the order of sums is the same."""
    assert np.array_equal(shared[0]["cfg=2"]["half"], alone["half"])
    assert np.array_equal(shared[0]["cfg=2"]["approximate"], alone["approximate"])
    assert np.abs(alone["approximate"].astype(int) - alone["written"]).max() > 1
    assert np.abs(alone["adapted"] - alone["edited"]).max() > 0.01


def test_a_part_of_the_weights_can_be_streamed(alone: dict[str, Any], shared: list[dict[str, Any]]) -> None:
    for found in shared:
        assert np.abs(found["streamed"] - alone["edited"]).max() <= 1e-5


def test_what_cannot_be_shared_is_refused(shared: list[dict[str, Any]]) -> None:
    for found in shared:
        assert found["refused cfg=2"].startswith("cfg=2,ulysses=1,tensor=1 shares the two passes of guidance, and without")
        assert found["refused compile"].startswith("compile is on with cfg=1,ulysses=2,tensor=1, whose blocks")
        assert "is for 3 processes, and 2 were started; start 3 with: torchrun" in found["refused ulysses=3"]
        assert "is for 4 processes, and 2 were started" in found["refused cfg=2,tensor=2"]


def test_what_a_plan_may_be() -> None:
    assert Parallel.parse("cfg=2, ulysses=4") == Parallel(cfg=2, ulysses=4, tensor=1)
    assert Parallel.parse("tensor=3").count == 3
    for wrong in ("", "ulysses", "ulysses=two", "ring=2"):
        with pytest.raises(InputError, match=r"write it like cfg=2,ulysses=2,tensor=1"):
            Parallel.parse(wrong)
    with pytest.raises(InputError, match="cfg is 3"):
        Parallel.parse("cfg=3")
    with pytest.raises(InputError, match="at least 1"):
        Parallel.parse("tensor=0")
    with pytest.raises(InputError, match="and 1 was started"):
        Ranks.start("ulysses=2", "cpu")


REQUEST = ["generate", "a poster", "--size", "64x64", "--steps", "2", "--dtype", "float32", "--device", "cpu"]


@pytest.mark.slow
def test_under_torchrun_one_process_writes(tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone.png", tmp_path / "shared.png"
    assert CliRunner().invoke(app, [*REQUEST, "-o", str(alone)]).exit_code == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "glyphflow"]
    command = [*torchrun, *REQUEST, "-o", str(shared), "--parallel", "ulysses=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(shared)) == 1
    assert_same_levels(np.asarray(Image.open(shared)), np.asarray(Image.open(alone)))
    assert read_metadata(shared) == read_metadata(alone)


def test_processes_that_were_not_told_to_share_make_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = CliRunner().invoke(app, [*REQUEST, "-o", str(tmp_path / "twice.png")])
    assert "2 processes were started and --parallel was not given" in str(done.exception)


def test_one_process_takes_the_same_path(directory: Path, alone: dict[str, Any]) -> None:
    """Meets nobody, and leaves nothing behind for other tests."""
    (found,) = run_ranks(1, one, str(directory), preload=PRELOAD)
    assert np.array_equal(found, alone["edited"])


def one(directory: str) -> Any:
    torch.distributed.destroy_process_group()
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        del os.environ[name]
    pipeline = Pipeline.from_pretrained(directory, dtype=torch.float32, device="cpu", parallel=Parallel())
    return edited(pipeline)
