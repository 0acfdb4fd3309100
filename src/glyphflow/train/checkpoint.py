"""Checkpoints: one torch.distributed.checkpoint directory per step, complete or absent, the latest few kept.

The state is the parameters, the optimizer's moments and the moving average. There is no state of random generators or of the
feed: both are functions of the seed and the step.
"""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from glyphflow.core.errors import InputError
from glyphflow.core.files import atomic_path
from glyphflow.train.optimizer import EMA

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_NAME = re.compile(r"^step_(\d{8})$")


class Checkpoints:
    """The checkpoints of a run, in ``directory``; ``keep`` latest ones stay."""

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory = Path(directory)
        self._keep = keep

    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, ascending."""
        if not self._directory.is_dir():
            return []
        return sorted(int(found[1]) for entry in self._directory.iterdir() if (found := _NAME.match(entry.name)))

    def path(self, step: int) -> Path:
        """Directory of the checkpoint after ``step`` steps."""
        return self._directory / f"step_{step:08d}"

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA) -> Path:
        """Write the state after ``step`` steps, then remove the oldest checkpoints beyond ``keep``."""
        state = {"model": model.state_dict(), "optimizer": _moments(model, optimizer), "ema": ema.tensors()}
        with atomic_path(self.path(step)) as temporary, _quiet():
            _save_whole(state, temporary)
        for old in self.steps()[: -self._keep]:
            shutil.rmtree(self.path(old), ignore_errors=True)
        return self.path(step)

    def load(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA) -> None:
        """Restore ``model``, ``optimizer`` and ``ema`` in place, bit for bit."""
        path = self.path(step)
        weights, moments = model.state_dict(), _empty_moments(model, path)
        _read({"model": weights, "optimizer": moments, "ema": ema.tensors()}, path)
        model.load_state_dict(weights)
        for name, parameter in model.named_parameters():
            found = {key: moments[f"{name}.{key}"] for key in _MOMENTS if f"{name}.{key}" in moments}
            if found:
                optimizer.state[parameter] = found

    def load_weights(self, step: int, into: dict[str, torch.Tensor], *, ema: bool) -> None:
        """Fill the tensors of ``into`` (by parameter name) with the weights, or their moving average, after ``step`` steps."""
        _read({"ema" if ema else "model": into}, self.path(step))


def _save_whole(state: dict[str, Any], directory: Path) -> None:
    """Write ``state``; what went wrong in the writer arrives as itself, so that a full disk can be told from a bug."""
    failures: list[BaseException] = []
    try:
        dcp_save(state, checkpoint_id=directory, no_dist=True)
    except CheckpointException as error:
        failures = [failure for failure, _ in error.failures.values()]
    for failure in failures:  # outside the except block, where raising would replace the failure's own context
        raise failure


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """AdamW's state by parameter name; parameters that no gradient has reached have none."""
    state = ((name, optimizer.state.get(parameter)) for name, parameter in model.named_parameters())
    return {f"{name}.{key}": found[key] for name, found in state if found for key in _MOMENTS}


def _empty_moments(model: nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """Room for the optimizer state that the checkpoint in ``path`` holds."""
    stored = FileSystemReader(path).read_metadata().state_dict_metadata
    room = {}
    for name, parameter in model.named_parameters():
        for key in _MOMENTS:
            if f"optimizer.{name}.{key}" in stored:
                like = parameter.detach() if key != "step" else torch.zeros((), dtype=torch.float32, device=parameter.device)
                room[f"{name}.{key}"] = torch.empty_like(like)
    return room


def _read(state: dict[str, Any], path: Path) -> None:
    try:
        with _quiet():
            dcp_load(state, checkpoint_id=path, no_dist=True)
    except Exception as error:  # dcp wraps whatever went wrong, also a missing key, in errors of its own
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"The checkpoint {path} does not fit this model or is damaged ({reason}); remove it to continue from the "
            "one before."
        ) from error


def _quiet() -> warnings.catch_warnings[None]:
    """Keep dcp's remark that no process group is there to itself: one process is what was asked for."""
    found = warnings.catch_warnings()
    warnings.filterwarnings("ignore", module="torch.distributed")
    return found
