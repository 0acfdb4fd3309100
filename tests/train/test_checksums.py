"""A checkpoint that lost data is found, put aside with a sentence, and the run continues from the one before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from glyphflow.core.errors import InputError
from glyphflow.train.checkpoint import Checkpoints
from glyphflow.train.checksums import SUMS, damage


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    """Of steps 1 to 3; the weights of a step are the step."""
    model = nn.Linear(32, 32)
    optimizer = torch.optim.AdamW(model.parameters())
    made = Checkpoints(tmp_path / "checkpoints", keep=3)
    for step in (1, 2, 3):
        with torch.no_grad():
            model.weight.fill_(step)
        made.save(step, model, optimizer, None, {"heldout_loss": float(step)})
        made.wait()
    return made


def spoil(directory: Path, how: str) -> None:
    data = next(directory.glob("*.distcp"))
    content = data.read_bytes()
    middle = len(content) // 2
    if how == "cut":
        data.write_bytes(content[:middle])
    elif how == "empty":
        data.write_bytes(b"")
    elif how == "zeros":
        data.write_bytes(content[:middle] + bytes(len(content) - middle))
    elif how == "one bit":
        data.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif how == "no data":
        data.unlink()
    elif how == "broken sums":
        (directory / SUMS).write_text("{")
    elif how == "odd sums":
        (directory / SUMS).write_text('{"extra.json": 3}')
    elif how == "empty extra":
        (directory / "extra.json").write_text("")
    else:
        (directory / how).unlink()


HOW = ["cut", "empty", "zeros", "one bit", "no data", ".metadata", "extra.json", "broken sums", "odd sums", "empty extra"]


@pytest.mark.parametrize("how", HOW)
def test_the_run_continues_from_the_last_whole_one(
    checkpoints: Checkpoints, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(checkpoints.path(3), how)
    assert checkpoints.latest() == 2 and checkpoints.steps() == [1, 2, 3]  # looking changes nothing
    capsys.readouterr()
    assert checkpoints.latest(set_aside=True) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "step_00000003 is damaged (" in said[0]
    assert "put aside as damaged_step_00000003; step 2 is the last whole one" in said[0]
    assert checkpoints.steps() == [1, 2] and (checkpoints.path(3).parent / "damaged_step_00000003").is_dir()
    weight = torch.empty(32, 32)
    checkpoints.load_weights(2, {"weight": weight, "bias": torch.empty(32)}, ema=False)
    assert weight.unique().tolist() == [2.0]
    assert checkpoints.latest(set_aside=True) == 2 and not capsys.readouterr().err


def test_a_whole_one_is_used_without_a_word(checkpoints: Checkpoints, capsys: pytest.CaptureFixture[str]) -> None:
    assert checkpoints.latest(set_aside=True) == 3 and not capsys.readouterr().err
    assert Checkpoints(checkpoints.path(3) / "none", 1).latest() is None


def test_where_all_are_damaged_nothing_is_begun_again(checkpoints: Checkpoints) -> None:
    for step in (1, 2, 3):
        spoil(checkpoints.path(step), "cut")
    with pytest.raises(InputError, match=r"All 3 checkpoints in .* are damaged .*\d+ bytes and should have \d+"):
        checkpoints.latest(set_aside=True)
    assert checkpoints.steps() == [1, 2, 3]


def test_the_best_one_is_found_beside_a_damaged_one(checkpoints: Checkpoints) -> None:
    spoil(checkpoints.path(1), "empty extra")
    assert checkpoints.best() == 2


def test_checkpoints_of_earlier_versions_have_no_sums(checkpoints: Checkpoints) -> None:
    (checkpoints.path(3) / SUMS).unlink()
    assert damage(checkpoints.path(3)) is None and checkpoints.latest() == 3
    spoil(checkpoints.path(3), "cut")
    assert "bytes and should have" in str(damage(checkpoints.path(3)))
    (checkpoints.path(3) / ".metadata").write_bytes(b"")
    assert "cannot be read" in str(damage(checkpoints.path(3)))
