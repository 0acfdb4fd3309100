"""A curriculum from corpora to weights through the command line: five axes, a change while it runs, a kill and a resume."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from glyphflow.core.config import load_config, to_dict
from glyphflow.core.errors import ConfigError, GlyphFlowError
from glyphflow.corpus import Corpus, add_specs
from glyphflow.corpus.decide.curate import curate_all
from glyphflow.corpus.operators.measure import measure
from glyphflow.corpus.recipe import load_recipe
from glyphflow.feed.amendments import AmendmentLog
from glyphflow.models import MMDiTConfig
from glyphflow.train.checkpoint import Checkpoints
from glyphflow.train.curriculum import Curriculum, read_curriculum
from glyphflow.train.history import History
from glyphflow.train.metrics import read_metrics
from glyphflow.train.recipe import check_same_run
from glyphflow.train.run import encode_sources, train_mmdit
from tiny import HIDDEN, tiny_pipeline
from warm import command, run

STEPS = 24
MODEL = {
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": HIDDEN,
    "axes_dims_rope": [4, 6, 6],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rendered corpora with the views of the packaged recipes, and a toy pipeline."""
    place = tmp_path_factory.mktemp("curriculum")
    tiny_pipeline(place / "model")
    for name in ("pictures", "text"):
        recipe = load_recipe(f"nano-{name}-corpus")
        corpus = Corpus.create(place / name)
        for part in recipe.render:
            if not part.missing_font():
                add_specs(corpus, part.name, part.model_copy(update={"count": 8}).specs())
        measure(corpus, workers=1)
        curate_all(corpus, recipe.stages)
    return place


def curriculum(place: Path, out: Path) -> dict[str, Any]:
    """The packaged curriculum's stages at a quarter of its sides, a few steps each, on the toy corpora."""
    found = to_dict(read_curriculum("nano-curriculum"))
    found |= {"out": str(out), "model": MODEL, "from_scratch": True, "preview": {}, "heldout_share": 0.1}
    names = ("pictures", "text")
    found["sources"] = [{"name": n, "corpus": str(place / n), "cache": str(place / f"{n}-cache")} for n in names]
    found["train"] |= {
        "compute_dtype": "bfloat16",  # float32 norms of two threads may differ in the last bit (seen with AVX2)
        "init_from": str(place / "model"),
        "log_every": 1,
        "checkpoint_every": 4,
        "heldout_every": 12,
        "heldout_samples": 8,
    }
    found["optimizer"]["warmup_steps"] = 3
    for stage in found["stages"]:
        stage["steps"] = STEPS // len(found["stages"])
        stage["resolutions"] = [{**each, "side": each["side"] // 2, "batch": 4} for each in stage["resolutions"]]
    return found


def arguments_of(recipe: dict[str, Any], file: Path) -> list[str]:
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return ["train", str(file), "--producers", "1"]


def amended(out: Path) -> Path:
    """A change that was asked for before the run began: from the 9th step on nearly everything is text."""
    AmendmentLog(out / "amendments.jsonl").append(8, {"mixture.text": 0.95, "mixture.pictures": 0.05})
    return out


def state(out: Path, *, ema: bool) -> dict[str, torch.Tensor]:
    from glyphflow.models import MMDiT

    found = {name: torch.zeros_like(p) for name, p in MMDiT(load_config(MMDiTConfig, MODEL)).named_parameters()}
    Checkpoints(out / "checkpoints", 2).load_weights(STEPS, found, ema=ema)
    return found


def measured(out: Path) -> list[dict[str, Any]]:
    keys = ("step", "note", "loss", "grad_norm", "lr", "heldout_loss")
    return [{key: line[key] for key in keys if key in line} for line in read_metrics(out)]


@pytest.fixture(scope="module")
def straight(place: Path) -> Path:
    """Encoded beforehand, and trained in this process."""
    out = amended(place / "straight")
    recipe = load_config(Curriculum, curriculum(place, out))
    assert sum(count for _, count in encode_sources(recipe)) > 40
    train_mmdit(recipe)
    return out


def test_all_stages_run_in_one_process_and_leave_their_marks(straight: Path) -> None:
    lines = measured(straight)
    notes = {line["step"]: line["note"] for line in lines if "note" in line}
    assert notes == {
        0: "stage initial begins",
        6: "stage words begins",
        12: "stage lines begins",
        18: "stage multi-scale begins",
    }
    rates = {line["step"]: line["lr"] for line in lines if "lr" in line}
    assert [rates[step] for step in (1, 2, 3, 12)] == pytest.approx([1e-4, 2e-4, 3e-4, 3e-4])
    assert rates[13] == pytest.approx(2e-4) and rates[19] == pytest.approx(2e-4) and rates[24] < 0.5e-4
    extra = Checkpoints(straight / "checkpoints", 2).extra(STEPS)
    assert extra["amendments"] == [[8, {"mixture.text": 0.95, "mixture.pictures": 0.05}]] and extra["heldout_loss"] > 0


@pytest.mark.slow
def test_killed_in_another_stage_and_continued_is_bit_equal(place: Path, straight: Path, tmp_path: Path) -> None:
    """Encoded by processes beside the trainer, which die with it: they have to notice that themselves."""
    out = amended(tmp_path / "killed")
    arguments = arguments_of(curriculum(place, out), tmp_path / "recipe.yaml")
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    with command(*arguments, environment=environment) as process:
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            if any(line["step"] >= 9 for line in read_metrics(out)):
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        killed = process.wait()
    kept = Checkpoints(out / "checkpoints", 2).steps()
    assert killed.returncode == -signal.SIGKILL and kept and kept[-1] < STEPS, killed.output
    done = run(*arguments, environment=environment)
    assert done.returncode == 0 and f"step {STEPS}" in done.output, done.output
    assert measured(out) == measured(straight)
    for ema in (False, True):
        one, other = state(straight, ema=ema), state(out, ema=ema)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_whose_log_was_lost_is_not_continued(place: Path, straight: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(straight, out)
    (out / "amendments.jsonl").unlink()
    recipe = curriculum(place, out)
    recipe["stages"].append({**recipe["stages"][-1], "name": "more"})
    with pytest.raises(GlyphFlowError, match=r"amendments\.jsonl"):
        train_mmdit(load_config(Curriculum, recipe))


def test_stages_may_be_added_and_not_changed(place: Path) -> None:
    saved = load_config(Curriculum, curriculum(place, place / "x"))
    more = saved.model_copy(update={"stages": (*saved.stages, saved.stages[0].model_copy(update={"name": "more"}))})
    check_same_run(saved, more)
    check_same_run(
        saved, saved.model_copy(update={"stages": tuple(s.model_copy(update={"producers": 3}) for s in saved.stages)})
    )
    with pytest.raises(ConfigError, match=r"stages\.1\.lr_floor = 0\.0"):
        changed = saved.stages[1].model_copy(update={"lr_floor": 0.5})
        check_same_run(saved, saved.model_copy(update={"stages": (saved.stages[0], changed, *saved.stages[2:])}))
    with pytest.raises(ConfigError, match=r"stages\.3"):
        check_same_run(saved, saved.model_copy(update={"stages": saved.stages[:3]}))


def test_what_happens_while_it_runs_is_noted_once() -> None:
    log: list[tuple[int, dict[str, Any]]] = [(0, {"view": "a"})]
    history = History([(0, "one"), (5, "two")], lambda: log)
    assert history.notes(0) == ["stage one begins"]
    log.append((7, {"mixture.text": 0.5}))
    assert history.notes(1) == ["from step 7 on: mixture.text = 0.5"]
    assert history.notes(2) == [] and history.notes(5) == ["stage two begins"]
    assert history.state(7) == {"amendments": [[0, {"view": "a"}]]}
    history.check(history.state(7), 7)
    log[0] = (0, {"view": "b"})
    with pytest.raises(ConfigError, match=r"'view': 'a'.*'view': 'b'"):
        history.check({"amendments": [[0, {"view": "a"}]]}, 7)
