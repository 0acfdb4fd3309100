"""Schedule, step and guidance against the reference scheduler and published values."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.flow import LIGHTNING, ScheduleConfig, choose_schedule, euler_step, model_time, sigmas, true_cfg
from tiny import SCHEDULER

RELEASED = {key: value for key, value in SCHEDULER.items() if not key.startswith("_")}
FEW_STEPS = RELEASED | {"base_shift": math.log(3), "max_shift": math.log(3), "shift_terminal": None}
LINEAR = RELEASED | {"time_shift_type": "linear"}
STATIC = {"shift": 3.0}
PLAIN: dict[str, Any] = {}


def reference(settings: dict[str, Any], steps: int, tokens: int) -> Any:
    import numpy as np
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift

    scheduler = FlowMatchEulerDiscreteScheduler(**settings)
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    mu = calculate_shift(tokens, *[scheduler.config[name] for name in names])
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    return scheduler


@pytest.mark.parametrize("settings", [RELEASED, FEW_STEPS, LINEAR, STATIC, PLAIN])
@pytest.mark.parametrize("tokens", [64, 256, 4096, 6032, 6889, 8192, 16384])
@pytest.mark.parametrize("steps", [4, 8, 40, 50])
def test_schedule_is_the_reference(settings: dict[str, Any], tokens: int, steps: int) -> None:
    ours = sigmas(ScheduleConfig(**settings), steps, tokens)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, reference(settings, steps, tokens).sigmas)


def test_goldens() -> None:
    config = ScheduleConfig(**RELEASED)
    assert config.mu(4096) == pytest.approx(0.693548, abs=1e-6)
    assert config.mu(6889) == pytest.approx(0.834325, abs=1e-6)
    s = sigmas(config, 50, 4096).tolist()
    assert s[:4] == pytest.approx([1, 0.9897, 0.97919, 0.96847], abs=1e-5)
    assert s[-3:] == pytest.approx([0.05848, 0.02, 0], abs=1e-5)
    assert sigmas(config, 50, 6889)[:3].tolist() == pytest.approx([1, 0.99099, 0.98177], abs=1e-5)


@pytest.mark.parametrize("tokens", [64, 4096, 16384])
def test_lightning_goldens(tokens: int) -> None:
    assert ScheduleConfig(**FEW_STEPS) == LIGHTNING
    assert sigmas(LIGHTNING, 4, tokens).tolist() == pytest.approx([1, 0.9, 0.75, 0.5, 0], abs=1e-6)
    assert [float(model_time(s, 1, torch.float32)) for s in sigmas(LIGHTNING, 4, tokens)] == pytest.approx(
        [1, 0.9, 0.75, 0.5, 0]
    )
    eight = sigmas(LIGHTNING, 8, tokens).tolist()
    assert [eight[n] for n in (0, 1, 2, 3, 7, 8)] == pytest.approx([1, 0.95455, 0.9, 0.83333, 0.3, 0], abs=1e-5)


def test_schedules_by_name() -> None:
    own = ScheduleConfig(**RELEASED)
    assert choose_schedule(None, own) is own
    assert choose_schedule("lightning", own) is LIGHTNING
    assert choose_schedule(LIGHTNING, own) is LIGHTNING
    with pytest.raises(InputError, match=r"'turbo'.*lightning"):
        choose_schedule("turbo", own)


@pytest.mark.parametrize("settings", [RELEASED, LINEAR])
@pytest.mark.parametrize("mu", [0.5, 2.5, 4.0])
def test_a_given_shift_is_the_references(settings: dict[str, Any], mu: float) -> None:
    import numpy as np
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(**settings)
    for steps in (4, 50):
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0, steps + 1)[:-1], mu=mu)
        assert torch.equal(sigmas(ScheduleConfig(**settings), steps, 4096, mu=mu), scheduler.sigmas)


@pytest.mark.parametrize("settings", [RELEASED, FEW_STEPS, STATIC])
def test_one_step_goes_from_noise_to_picture(settings: dict[str, Any]) -> None:
    assert sigmas(ScheduleConfig(**settings), 1, 4096).tolist() == [1.0, 0.0]


def test_no_step_is_refused() -> None:
    with pytest.raises(InputError, match="num_inference_steps is 0"):
        sigmas(ScheduleConfig(), 0, 256)


def test_config_round_trip(tmp_path: Path) -> None:
    file = tmp_path / "scheduler_config.json"
    file.write_text(json.dumps(SCHEDULER))
    config = ScheduleConfig.from_json(file)
    assert config.max_shift == 0.9 and config.shift_terminal == 0.02
    config.to_json(tmp_path / "again.json")
    assert ScheduleConfig.from_json(tmp_path / "again.json") == config
    file.write_text(json.dumps(SCHEDULER | {"use_karras_sigmas": True}))
    with pytest.raises(InputError, match="use_karras_sigmas"):
        ScheduleConfig.from_json(file)
    file.write_text(json.dumps(SCHEDULER | {"shift_termnal": 0.1}))
    with pytest.raises(ConfigError, match="shift_terminal"):
        ScheduleConfig.from_json(file)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_steps_and_times_are_bit_equal_to_the_reference(dtype: torch.dtype) -> None:
    scheduler = reference(RELEASED, 8, 4096)
    s = sigmas(ScheduleConfig(**RELEASED), 8, 4096)
    generator = torch.Generator().manual_seed(0)
    x = theirs = torch.randn(2, 64, 64, generator=generator).to(dtype)
    for n, t in enumerate(scheduler.timesteps):
        assert torch.equal(model_time(s[n], 2, dtype), t.expand(2).to(dtype) / 1000)
        v = torch.randn(2, 64, 64, generator=generator).to(dtype)
        x = euler_step(x, v, s[n], s[n + 1])
        theirs = scheduler.step(v, t, theirs, return_dict=False)[0]
        assert x.dtype == dtype
        assert torch.equal(x, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_guidance(dtype: torch.dtype) -> None:
    cond, uncond = torch.randn(2, 3, 16, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    guided = true_cfg(cond, uncond, 4.0)
    combined = uncond + 4.0 * (cond - uncond)
    expected = combined * (torch.norm(cond, dim=-1, keepdim=True) / torch.norm(combined, dim=-1, keepdim=True))
    assert torch.equal(guided, expected)
    assert torch.allclose(guided.float().norm(dim=-1), cond.float().norm(dim=-1), rtol=2e-2 if dtype != torch.float32 else 1e-5)
    assert torch.equal(true_cfg(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), 4.0), torch.zeros(1, 2, 4))
