"""Checkpoints: whole and bit-exact on every layout, complete or absent, the latest and the best kept."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from parallel_runs import CONFIG, assembled, begin, state_pieces, train
from torch import nn

from glyphflow.core.errors import InputError, StorageError
from glyphflow.models import MMDiT
from glyphflow.train.checkpoint import Checkpoints
from glyphflow.train.ema import EMA
from glyphflow.train.lean import Adafactor, AdamW8bit
from ranks import run_ranks
from warm import Command

FOUR = {"tp": 2, "dp_shard": 2}


def write(config: dict[str, Any], directory: str) -> dict[str, Any]:
    run = begin(config)
    checkpoints = Checkpoints(Path(directory), 3, run.world.group)
    train(run, 0, 2)
    checkpoints.save(2, run.model, run.optimizer, run.ema, {"stage": 1})
    state = state_pieces(run)  # as it was when it was saved, which goes on while it is written
    after = train(run, 2, 2)
    checkpoints.wait()
    return {"state": state, "losses": after["losses"], "end": state_pieces(run)}


def read(config: dict[str, Any], directory: str) -> dict[str, Any]:
    run = begin(config)
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.zero_()
    extra = Checkpoints(Path(directory), 3, run.world.group).load(2, run.model, run.optimizer, run.ema)
    assert extra == {"stage": 1}
    state = state_pieces(run)
    after = train(run, 2, 2)
    return {"state": state, "losses": after["losses"], "end": state_pieces(run)}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    directory = tmp_path_factory.mktemp("checkpoints")
    return directory, run_ranks(4, write, FOUR, str(directory))


def read_all(configs: list[dict[str, Any]], directory: str) -> list[dict[str, Any]]:
    return [read(config, directory) for config in configs]


LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "one process": (1, {}),
    "tensor 2": (2, {"tp": 2}),
    "Ulysses 2": (2, {"sp": 2}),
    "the same": (4, FOUR),
    "FSDP 4": (4, {}),
}


@pytest.fixture(scope="module")
def readings(written: tuple[Path, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    found = {"one process": [read({}, str(written[0]))]}
    for count in (2, 4):
        names = [name for name, layout in LAYOUTS.items() if layout[0] == count]
        ranks = run_ranks(count, read_all, [LAYOUTS[name][1] for name in names], str(written[0]))
        found |= {name: list(each) for name, *each in zip(names, *ranks, strict=True)}
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_reads_it(
    name: str, written: tuple[Path, list[dict[str, Any]]], readings: dict[str, list[dict[str, Any]]]
) -> None:
    wrote, found = written[1], readings[name]
    state, expected = assembled([each["state"] for each in found]), assembled([each["state"] for each in wrote])
    assert state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in expected)
    end, expected = assembled([each["end"] for each in found]), assembled([each["end"] for each in wrote])
    if name == "the same":
        assert found[0]["losses"] == wrote[0]["losses"]
        assert all(torch.equal(end[key], expected[key]) for key in expected)
    else:
        assert found[0]["losses"] == pytest.approx(wrote[0]["losses"], rel=1e-4)
        for key, value in expected.items():  # averages and moments have gone on from where they were
            torch.testing.assert_close(end[key], value, atol=2e-5, rtol=1e-4)


def test_weights_are_whole_under_released_names(written: tuple[Path, list[dict[str, Any]]], tmp_path: Path) -> None:
    directory, wrote = written
    model = MMDiT(CONFIG)
    expected = assembled([each["state"] for each in wrote])
    for kind in ("model", "ema"):
        weights = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        Checkpoints(directory, 3).load_weights(2, weights, ema=kind == "ema")
        assert all(torch.equal(value, expected[f"{kind}.{name}"]) for name, value in weights.items())
    model.load_state_dict(weights)
    model.save_pretrained(tmp_path)
    again = MMDiT.from_pretrained(tmp_path, torch.float32)
    assert all(torch.equal(p, weights[name]) for name, p in again.named_parameters())


class Small(NamedTuple):
    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: EMA


def small(seed: int = 0, kind: type[torch.optim.Optimizer] = torch.optim.AdamW) -> Small:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(300, 5), nn.Linear(5, 3))
    return Small(model, kind(model.parameters(), lr=1e-2), EMA(model, 0.9))


def step(run: Small, number: int) -> None:
    run.model(torch.randn(2, 300, generator=torch.Generator().manual_seed(number))).square().sum().backward()
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.ema.update(number)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, AdamW8bit, Adafactor])
def test_every_optimizer_goes_on_bit_for_bit(kind: type[torch.optim.Optimizer], tmp_path: Path) -> None:
    one, other = small(0, kind), small(1, kind)
    step(one, 0)
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(1, *one)
    step(one, 1)  # while it is written
    checkpoints.wait()
    checkpoints.load(1, *other)
    step(other, 1)
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))
    assert all(torch.equal(value, other.ema.tensors()[name]) for name, value in one.ema.tensors().items())


def test_the_latest_and_the_best_stay(tmp_path: Path) -> None:
    run, checkpoints = small(), Checkpoints(tmp_path, 2)
    assert checkpoints.steps() == [] and checkpoints.best() is None
    for number, loss in enumerate((0.7, 0.3, 0.5, None, 0.4), start=1):
        checkpoints.save(number, *run, {} if loss is None else {"heldout_loss": loss})
    checkpoints.wait()
    assert checkpoints.steps() == [2, 4, 5] and checkpoints.best() == 2
    assert checkpoints.extra(4) == {} and checkpoints.extra(5) == {"heldout_loss": 0.4}


def test_frozen_weights_are_not_stored(tmp_path: Path) -> None:
    run = small()
    run.model[0].requires_grad_(False)
    checkpoints = Checkpoints(tmp_path, 2)
    checkpoints.save(1, run.model, run.optimizer, None)
    checkpoints.wait()
    weights = {name: torch.full_like(p, 7.0) for name, p in run.model.named_parameters()}
    checkpoints.load_weights(1, weights, ema=True)
    assert torch.equal(weights["1.weight"], run.model[1].weight) and bool((weights["0.weight"] == 7).all())
    with pytest.raises(InputError, match=r"holds 1\.(weight|bias), which this model has not"):
        checkpoints.load_weights(1, {"0.weight": weights["0.weight"]}, ema=False)
    with pytest.raises(InputError, match=r"0\.bias is missing"):
        checkpoints.load(1, *small())


def test_a_disk_that_fails_is_named_at_the_next_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, checkpoints = small(), Checkpoints(tmp_path, 2)
    checkpoints.save(1, *run)
    checkpoints.wait()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        checkpoints.save(2, *run)
        with pytest.raises(StorageError, match="the disk is full"):
            checkpoints.wait()
    assert checkpoints.steps() == [1] and [entry.name for entry in tmp_path.iterdir()] == ["step_00000001"]
    checkpoints.save(2, *run)
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2]


def save_again_and_again(directory: Path) -> None:
    torch.set_num_threads(1)
    model = nn.Linear(1000, 1000)
    optimizer, ema = torch.optim.AdamW(model.parameters()), EMA(model, 0.9)
    checkpoints = Checkpoints(directory, 2)
    for number in range(1, 1000):
        with torch.no_grad():
            model.weight.fill_(number)
        checkpoints.save(number, model, optimizer, ema)
        print(number, flush=True)


def test_a_kill_leaves_whole_checkpoints(tmp_path: Path) -> None:
    with Command(save_again_and_again, tmp_path) as process:
        for already, pause in enumerate((0.0, 0.004, 0.011)):
            while len(process.log.read_text().split()) < 3 * (already + 1) and process.poll() is None:
                time.sleep(0.001)
            time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        done = process.wait()
    assert done.returncode == -signal.SIGKILL, done.output
    checkpoints = Checkpoints(tmp_path, 2)
    assert checkpoints.steps()
    for number in checkpoints.steps():
        weights = {"weight": torch.zeros(1000, 1000), "bias": torch.zeros(1000)}
        checkpoints.load_weights(number, weights, ema=False)
        assert bool((weights["weight"] == number).all())
    run = small()
    checkpoints.save(1000, *run)  # over what the killed one left
    checkpoints.wait()
    assert checkpoints.steps()[-1] == 1000
