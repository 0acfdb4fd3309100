"""The plan against a run that is counted, against the released sizes, and on the command line."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from glyphflow.cli.main import app
from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.hardware import gigabytes, parse_bytes
from glyphflow.flow import ScheduleConfig
from glyphflow.generate import Pipeline
from glyphflow.generate.activations import LiveBytes
from glyphflow.generate.rooms import of_sampling
from glyphflow.generate.sizes import EncoderConfig, ModelConfig
from glyphflow.models import VAE, MMDiT, MMDiTConfig, VAEConfig
from glyphflow.plan import PRESETS, GenerationPlan, Request, plan_generation
from tiny import HIDDEN, seeded_weights, tiny_encoder, tiny_pipeline

CONFIG = ModelConfig(
    MMDiTConfig(
        num_layers=6, attention_head_dim=64, num_attention_heads=4, joint_attention_dim=HIDDEN, axes_dims_rope=(8, 28, 28)
    ),
    VAEConfig(base_dim=16),
    EncoderConfig(HIDDEN, 48, 2, 4, 2, 600, vision_depth=0),
)
STEPS = 4
TOKENS = 24


@pytest.fixture(scope="module")
def networks() -> tuple[MMDiT, VAE, Any]:
    transformer, vae = MMDiT(CONFIG.transformer).requires_grad_(False), VAE(CONFIG.vae).requires_grad_(False)
    for network in (transformer, vae):
        seeded_weights(network, 5)
    return transformer, vae, tiny_encoder()


def counted(pipeline: Pipeline, request: Request) -> tuple[torch.Tensor, dict[str, int]]:
    """The picture, and the most bytes that were alive in each phase."""
    peaks: dict[str, int] = {}
    generator = torch.Generator().manual_seed(1)
    embeds = {
        "prompt_embeds": torch.randn(request.batch, request.text_tokens, HIDDEN, generator=generator),
        "negative_prompt_embeds": torch.randn(request.batch, 5, HIDDEN, generator=generator),
    }
    with LiveBytes() as live:

        def watch(name: str, method: Any) -> Any:
            def run(*args: Any) -> Any:
                result = method(*args)
                peaks[name] = live.peak
                return result

            return run

        def use(*names: str, room: Any) -> None:
            lend(*names, room=room)
            live.peak = live.now  # what was on the device before belongs to the phase before

        pipeline.sample = watch("denoise", pipeline.sample)  # type: ignore[method-assign]
        pipeline.decode = watch("decode", pipeline.decode)  # type: ignore[method-assign]
        lend, pipeline.residency.use = pipeline.residency.use, use  # type: ignore[method-assign]
        image = pipeline.generate(
            **embeds,
            width=request.width,
            height=request.height,
            true_cfg_scale=4.0 if request.guided else 1.0,
            num_inference_steps=request.steps,
            generator=torch.Generator().manual_seed(2),
            output_type="pt",
            progress=False,
        ).images
    return image, peaks


@pytest.mark.parametrize(("share", "guided", "batch"), [(0.0, True, 1), (0.5, True, 1), (0.5, False, 2)])
def test_a_streamed_run_takes_what_the_plan_says(networks: Any, share: float, guided: bool, batch: int) -> None:
    request = Request(192, 128, batch=batch, guided=guided, steps=STEPS, text_tokens=TOKENS)
    part = CONFIG.part_sizes(torch.float32)["transformer"]
    least = plan_generation(CONFIG, request, 0, torch.float32).phase("denoise").placement.peak
    budget = 0 if share == 0 else least + int(share * (sum(part.blocks) - part.buffers))
    plan = plan_generation(CONFIG, request, budget, torch.float32)
    stay = len(plan.phase("denoise").placement.resident["transformer"])
    assert 0 < stay < 6 if share else stay == 0

    transformer, vae, _ = networks
    schedule = ScheduleConfig(use_dynamic_shifting=False)
    expected, _ = counted(Pipeline(transformer, vae, None, schedule), request)
    pipeline = Pipeline(transformer, vae, None, schedule, device=torch.device("cpu"), budget=budget)
    image, peaks = counted(pipeline, request)
    assert torch.equal(image, expected)
    for name, peak in peaks.items():
        assert peak == pytest.approx(plan.phase(name).placement.peak, rel=0.05), name
    assert pipeline.residency.copied == request.steps * plan.per_step
    pipeline.residency.recall()


def test_reading_prompts_takes_what_the_plan_says(networks: Any) -> None:
    transformer, vae, encoder = networks
    pipeline = Pipeline(transformer, vae, encoder, ScheduleConfig(), device=torch.device("cpu"), budget=0)
    from glyphflow.generate.inputs import Call

    with LiveBytes() as live:
        rows = pipeline.condition(Call("words " * 150, true_cfg_scale=1.0)).positive
    sizes = CONFIG.part_sizes(torch.float32)["condition encoder"]
    room = CONFIG.encoder.encoding_bytes(len(rows[0]) + encoder.prefix_tokens(), torch.float32)
    assert sizes.total <= live.peak <= sizes.total + 2 * room
    pipeline.residency.recall()


def test_the_released_model_on_a_card_of_24_gb() -> None:
    plan = plan_generation(PRESETS["qwen-image"], Request(1328, 1328), 24 * 10**9)
    transformer = plan.parts["transformer"]
    parameters = (transformer.total + sum(transformer.passing)) / 2
    assert parameters == pytest.approx(20_430_401_088, rel=1e-4)  # biases are rounded up to 512 bytes
    assert sum(transformer.passing) == pytest.approx(13.6e9, rel=0.01)
    denoise = plan.phase("denoise").placement
    assert plan.peak.name == "denoise" and denoise.peak <= 24 * 10**9 < denoise.peak + transformer.blocks[0]
    assert not denoise.others_stay and 0 < len(denoise.resident["transformer"]) < 60
    assert plan.per_step == sum(b for i, b in enumerate(transformer.blocks) if i not in denoise.resident["transformer"])
    assert 0.4e9 < plan.phase("denoise").activations < 2e9
    assert plan.phase("decode").activations == pytest.approx(1328 * 1328 * 1156, rel=0.5)  # bytes a pixel, counted elsewhere


def test_more_asks_for_more() -> None:
    config, base = PRESETS["qwen-image-edit-2511"], Request(1024, 1024, references=1)

    def room(request: Request) -> int:
        return of_sampling(config.transformer, request.work, torch.bfloat16)

    larger = [Request(1024, 1024, references=3), Request(1024, 1024, 2, 3)]
    assert all(room(a) < room(b) for a, b in itertools.pairwise([base, *larger]))
    assert room(Request(1024, 1024, references=1, guided=False)) < room(base)
    plan = plan_generation(config, Request(256, 256, references=1, reference_area=256 * 256), 0)
    assert [phase.name for phase in plan.phases] == ["encode references", "read the prompt", "denoise", "decode"]
    assert "vision tower" in plan.phase("read the prompt").placement.resident
    assert Request(1920, 1080 - 1080 % 16).reference_size == (768, 1376)


def test_everything_on_the_device() -> None:
    plan = plan_generation(PRESETS["qwen-image"], Request(1328, 1328), None)
    assert plan.per_step == plan.per_call == plan.per_schedule == 0
    assert all(phase.placement.weights == plan.peak.placement.weights for phase in plan.phases)
    assert 55e9 < plan.peak.placement.weights < 60e9


def test_too_little_memory_names_both_numbers() -> None:
    with pytest.raises(InputError, match=r"memory is 2\.00 GB and the condition encoder needs \d\.\d\d GB: 1\.09 GB"):
        plan_generation(PRESETS["qwen-image"], Request(1328, 1328), 2 * 10**9)


@pytest.mark.parametrize(("text", "count"), [("24GB", 24 * 10**9), ("16 GiB", 2**34), ("1.5g", 15 * 10**8), ("800", 800)])
def test_amounts_of_memory(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "24 apples", "-1GB", "1.5", "4ib", "1e9"])
def test_nonsense_is_no_amount(text: str) -> None:
    with pytest.raises(InputError, match="24GB or 16GiB"):
        parse_bytes(text)


def test_amounts_in_words() -> None:
    assert gigabytes(24 * 10**9) == "24.00 GB" and gigabytes(1_234_567) == "1.2 MB"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["plan", "generate", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tiny_pipeline(tmp_path_factory.mktemp("plan") / "model")


def test_the_command_line(directory: Path) -> None:
    text = run("--size", "1328x1328", "--memory", "24GB")
    assert "transformer with" in text and "of 60 blocks" in text and "GB/s" in text and "Every step copies" in text
    slow = run("--size", "1328x1328", "--memory", "24GB", "--bus", "5GB")
    assert "at 5.00 GB/s" in slow
    text = run("--model", str(directory), "--size", "64x64", "--memory", "streamed", "--references", "2", "--no-cfg")
    assert "2 references, not guided" in text and "encode references" in text
    assert "everything resident" in run("--model", str(directory), "--size", "64x64")


def test_the_command_line_refuses(directory: Path) -> None:
    for arguments, kind, words in (
        (("--memory", "lots"), InputError, "'lots'"),
        (("--memory", "auto"), InputError, "24GB"),
        (("--memory", "1GB"), InputError, "memory is 1.00 GB"),
        (("--size", "100x100"), InputError, "multiples of 16"),
        (("--size", "64x64", "--batch", "0"), InputError, "batch is 0"),
        (("--model", "nowhere"), MissingError, "qwen-image"),
        (("--dtype", "int8"), InputError, "int8"),
    ):
        with pytest.raises(kind, match=words):
            run(*arguments)


def test_plans_know_the_parts_of_a_pipeline() -> None:
    plan: GenerationPlan = plan_generation(CONFIG, Request(64, 64, steps=1), 0, torch.float32)
    assert plan.parts.keys() == {"condition encoder", "transformer", "VAE"}
