"""Few-step schedules by name: the reference pipeline with the few-step scheduler makes the same picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pipeline_pairs import assert_same_pictures, our_pipeline, reference_pipeline, texts

from glyphflow.core.errors import InputError
from glyphflow.flow import LIGHTNING, ScheduleConfig
from glyphflow.generate.speed import Speed
from tiny import tiny_pipeline

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("lightning") / "model")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("steps", [4, 8])
def test_equals_the_reference_with_the_few_step_scheduler(root: Path, steps: int, dtype: torch.dtype) -> None:
    reference = reference_pipeline("QwenImagePipeline", root, dtype)
    reference.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**LIGHTNING.model_dump())
    call: dict[str, Any] = {"prompt_embeds": texts(False)["prompt_embeds"].to(dtype), "true_cfg_scale": 1.0}
    call |= {"num_inference_steps": steps, "height": 64, "width": 96, "output_type": "latent"}
    one, other = (torch.Generator().manual_seed(2) for _ in range(2))
    exact = our_pipeline(root, dtype=dtype)
    exact.speed = Speed.reference()
    ours = exact.generate(**call, schedule="lightning", generator=one).images
    theirs = reference(**call, generator=other).images
    if dtype == torch.bfloat16:
        assert torch.equal(ours, theirs)
    else:
        assert_same_pictures(ours, theirs)


def test_times_are_those_of_the_distillation(root: Path) -> None:
    times: list[float] = []
    pipeline = our_pipeline(root)
    call: dict[str, Any] = {"num_inference_steps": 4, "output_type": "latent", "true_cfg_scale": 1.0}
    call["callback_on_step_end"] = lambda _, step, t, values: times.append(float(t))
    named = pipeline.generate("x", schedule="lightning", generator=torch.Generator().manual_seed(0), **call).images
    given = pipeline.generate("x", schedule=LIGHTNING, generator=torch.Generator().manual_seed(0), **call).images
    assert torch.equal(named, given)
    assert times[:4] == pytest.approx([1000, 900, 750, 500])
    own = pipeline.generate("x", generator=torch.Generator().manual_seed(0), **call).images
    assert not torch.allclose(named, own)


def test_a_directory_may_carry_the_few_step_schedule(root: Path, tmp_path: Path) -> None:
    LIGHTNING.to_json(tmp_path / "scheduler_config.json")
    assert ScheduleConfig.from_json(tmp_path / "scheduler_config.json") == LIGHTNING


def test_an_unknown_schedule_is_named(root: Path) -> None:
    with pytest.raises(InputError, match=r"'turbo'.*lightning"):
        our_pipeline(root).generate("x", schedule="turbo")
