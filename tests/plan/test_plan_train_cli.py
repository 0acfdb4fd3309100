"""``glyphflow plan train`` as people call it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from glyphflow.cli.main import app
from glyphflow.core.errors import ConfigError, GlyphFlowError, InputError
from tiny import tiny_pipeline

RECIPE = """
kind: curriculum
out: runs/x
model: {num_layers: 6, attention_head_dim: 64, num_attention_heads: 4, joint_attention_dim: 256, axes_dims_rope: [8, 28, 28]}
stages:
  - {name: small, steps: 1000, lr: 1e-4, view: all, text: none, resolutions: [{side: 128, batch: 512}]}
  - {name: both, steps: 500, lr: 1e-4, view: all, text: line, producers: 1,
     resolutions: [{side: 128, batch: 512}, {side: 256, batch: 128}]}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plan") / "run.yaml"
    path.write_text(RECIPE)
    return str(path)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["plan", "train", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_the_table(recipe: str) -> None:
    text = run(recipe, "--gpus", "8xH200", "--price", "2", "--compare")
    for words in ("on 8xH200: dp", "small", "both", "producers", "GPU hours", "at 2 an hour", "A card is fullest at", "tp 4"):
        assert words in text
    assert len([line for line in text.splitlines() if line.startswith("dp ")]) >= 4  # the layouts that were compared


def test_several_numbers_of_cards_make_one_table(recipe: str) -> None:
    lines = run(recipe, "--gpus", "8xH100,16xH200").splitlines()
    assert lines[0].startswith("gpus") and any(line.startswith("16xH200") for line in lines)


def test_json(recipe: str) -> None:
    found = json.loads(run(recipe, "--gpus", "4xH100", "--tp", "2", "--dp", "2", "--checkpoint", "2", "--json", "--price", "3"))
    assert found["layout"] == {"dp_replicate": 1, "dp_shard": 2, "sp": 1, "tp": 2} and len(found["tried"]) == 1
    first = found["stages"][0]["steps"][0]
    parts = {key: value for key, value in first["memory"].items() if key != "total"}
    assert sum(parts.values()) == first["memory"]["total"] and first["every"] == 2
    assert found["cost"] == pytest.approx(3 * found["gpu_hours"])
    assert sum(stage["days"] for stage in found["stages"]) == pytest.approx(found["days"])


def test_measured_rates_and_overrides(recipe: str, tmp_path: Path) -> None:
    log = tmp_path / "feed.jsonl"
    log.write_text('{"side": 128, "pictures": 10, "seconds": 10}\n')
    slow = run(recipe, "--gpus", "1xH100", "--feed-log", str(log))
    assert "The producers of the recipe are too few; trainers wait in both" in slow
    rated = json.loads(run(recipe, "--gpus", "1xH100", "--feed-log", str(log), "--encode-rate", "128=1e9,256=1e9", "--json"))
    assert rated["stages"][1]["waiting"] == 0
    assert "captions of 77 tokens" in run(recipe, "caption_tokens=77", "--gpus", "1xH100", "--memory", "10GB")


def test_a_recipe_of_one_stage(tmp_path: Path) -> None:
    model = tiny_pipeline(tmp_path / "model")
    text = run("nano-mmdit-grid", f"train.init_from={model}", "--gpus", "RTX4090")
    assert "nano-mmdit-grid" in text and "parameters, on RTX4090" in text


def test_refusals(recipe: str) -> None:
    for arguments, kind, words in (
        (("--gpus", "8xH200", "--tp", "3"), InputError, "tp 3"),
        (("--gpus", "8xH200", "--tp", "8"), InputError, "4 attention heads"),
        (("--gpus", "8xH200", "--dp", "16"), InputError, "16 processes, and there are 8"),
        (("--gpus", "8xH200", "--dp", "axb"), InputError, "32x8"),
        (("--gpus", "lots"), InputError, "8xH200"),
        (("--checkpoint", "some"), InputError, "none, full"),
        (("--memory", "20MB"), InputError, "are free"),
        (("--efficiency", "2"), InputError, "share of the peak"),
        (("captoin_tokens=3",), ConfigError, "caption_tokens"),
    ):
        with pytest.raises(kind, match=words):
            run(recipe, *arguments)
    for name, words in (("nano-vae", "kind vae"), ("nowhere", "Cannot read the recipe")):
        with pytest.raises(GlyphFlowError, match=words):
            run(name)


def test_the_line_to_run_repeats_what_was_planned_for() -> None:
    asked = [
        "feed.batch_size=1",
        "feed.area=262144",
        "train.lora={rank: 64, targets: [attention, mlp]}",
        "train.optimizer=adamw8bit",
    ]
    lines = run("qwen-image-20b/lora", "--memory", "24GB", *asked, "preview={prompts: [a]}").splitlines()
    words = shlex.split(lines[-1])
    assert words[:3] == ["glyphflow", "train", "qwen-image-20b/lora"] and words[3:6] == asked[:3]
    assert sum(word.startswith("train.optimizer=") for word in words) == 1  # the plan's own choice, not both
    assert any("glyphflow encode" in line and "GB" in line for line in lines) and any(
        "A preview takes" in line for line in lines
    )
    small = run("qwen-image-20b/lora", "--memory", "16GB", *asked[:3])
    assert "add --memory 15GB" in small


def test_numbers_that_are_none_are_refused(recipe: str) -> None:
    for option, value in (("--price", "nan"), ("--efficiency", "nan"), ("--encode-rate", "256=nan"), ("--encode-rate", "0=4")):
        with pytest.raises(InputError):
            run(recipe, option, value)
