"""Checkpoints: one torch.distributed.checkpoint directory per step, complete or absent, the latest few and the best kept.

The state is that of the trained parameters, the optimizer, the moving average, and what the loop wants to know again. There is
none of random generators or of the feed: both are functions of the seed and the step. Tensors are stored whole under their
released names, each process writing its pieces, so that any layout reads what any other wrote; frozen weights are not stored.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.metadata import (
    Metadata,
    TensorStorageMetadata,
)
from torch.distributed.tensor import DTensor

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import read_json_object, storage_errors, write_json
from glyphflow.train.checksums import SUMS, damage, sums_of
from glyphflow.train.ema import EMA
from glyphflow.train.lean import LeanOptimizer
from glyphflow.train.piece_files import read_metadata, read_pieces, write_pieces
from glyphflow.train.pieces import Piece, local, pieces, whole_names

T = TypeVar("T")
EXTRA = "extra.json"
METRIC = "heldout_loss"
"""The entry of a checkpoint's ``extra`` that the best one is chosen by; lower is better."""
_NAME = re.compile(r"^step_(\d{8})$")


class Checkpoints:
    """The checkpoints of a run, in ``directory``: the ``keep`` latest ones and the best stay.

    ``group`` is a gloo group of all processes of the run, which write together into a directory that all of them see; None for
    one process. Every method but :meth:`steps` and :meth:`best` must then be called by all.
    """

    def __init__(self, directory: Path, keep: int, group: ProcessGroup | None = None) -> None:
        self._directory = Path(directory)
        self._keep = keep
        self._group = group
        self._rank = 0 if group is None else group.rank()
        self._main = self._rank == 0
        self._writing: threading.Thread | None = None
        self._failure: BaseException | None = None

    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, ascending."""
        if not self._directory.is_dir():
            return []
        return sorted(int(found[1]) for entry in self._directory.iterdir() if (found := _NAME.match(entry.name)))

    def best(self, metric: str = METRIC) -> int | None:
        """The step whose checkpoint has the lowest ``extra[metric]``; None when none has any. Damaged ones do not count."""
        found = []
        for step in self.steps():
            with contextlib.suppress(InputError, KeyError):
                found.append((self.extra(step)[metric], step))
        return min(found)[1] if found else None

    def latest(self, *, set_aside: bool = False) -> int | None:
        """The newest step whose checkpoint is whole, None where there is none yet; what was passed over is said on stderr.

        With ``set_aside`` the damaged ones are renamed, so that the run continues from the whole one. Raises InputError when
        all are damaged: a run is not begun again where someone may still save it.
        """
        passed: list[tuple[int, str]] = []
        for step in reversed(self.steps()):
            reason = self._damage(step)
            if reason is None:
                self._pass_over(passed, step, set_aside)
                return step
            passed.append((step, reason))
        if passed:
            raise InputError(
                f"All {len(passed)} checkpoints in {self._directory} are damaged (the newest: {passed[0][1]}); copy one back "
                "from elsewhere, or move the directory away to begin again."
            )
        return None

    def path(self, step: int) -> Path:
        """Directory of the checkpoint after ``step`` steps."""
        return self._directory / f"step_{step:08d}"

    def extra(self, step: int) -> dict[str, Any]:
        """What was saved as ``extra`` after ``step`` steps."""
        path = self.path(step) / EXTRA
        return read_json_object(path) if path.exists() else {}

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema: EMA | None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Copy the state after ``step`` steps to main memory and write it behind the caller's back.

        ``extra`` is JSON. The checkpoint appears when it is complete; then the oldest beyond ``keep`` go. At most one is being
        written at a time: this waits for the one before, and raises what went wrong with it.
        """
        self.wait()
        staged = {name: _staged(piece) for name, piece in _state(model, optimizer, ema).items()}
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._writing = threading.Thread(target=self._write, args=(step, staged, dict(extra or {})), name="checkpoint")
        self._writing.start()

    def wait(self) -> None:
        """Until what :meth:`save` began is on the disk; raises what went wrong, a full disk as a StorageError."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def load(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA | None) -> dict[str, Any]:
        """Restore ``model``, ``optimizer`` and ``ema`` in place, bit for bit, on any layout; returns ``extra``."""
        path = self.path(step)
        state = _state(model, None, ema)
        moments, names = _room_for_moments(model, read_metadata(path), path), whole_names(model)
        for name, found in moments.items():
            state |= {f"optimizer.{names[name]}.{key}": piece for key, piece in found.items()}
        read_pieces(state, path)
        for name, parameter in model.named_parameters():
            if name in moments:
                _restore(optimizer, parameter, moments[name])
        return self.extra(step)

    def load_weights(self, step: int, into: Mapping[str, Tensor | Piece], *, ema: bool) -> None:
        """Fill the tensors of ``into`` (by released name) with the weights, or their moving average, after ``step`` steps.

        Those that were not trained keep the values they have. Raises InputError for trained ones that ``into`` lacks.
        """
        path = self.path(step)
        stored = read_metadata(path).state_dict_metadata
        kind = "ema" if ema and any(key.startswith("ema.") for key in stored) else "model"
        trained = {key.removeprefix(f"{kind}.") for key in stored if key.startswith(f"{kind}.")}
        if missing := sorted(trained - into.keys()):
            raise InputError(
                f"The checkpoint {path} holds {missing[0]}, which this model has not; they do not belong together."
            )
        wanted = {f"{kind}.{name}": into[name] for name in trained}
        read_pieces({key: value if isinstance(value, Piece) else Piece.of(value) for key, value in wanted.items()}, path)

    def _write(self, step: int, state: dict[str, Piece], extra: dict[str, Any]) -> None:
        path = self.path(step)
        unfinished = path.with_name(f".{path.name}.tmp")
        try:
            with storage_errors(path):
                if self._main:
                    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed here
                    unfinished.mkdir(parents=True)
                self._meet()
                write_pieces(state, unfinished, self._group)
                if self._main:
                    write_json(unfinished / EXTRA, extra)
                sums = self._gathered(sums_of(unfinished, self._rank))
                if self._main:
                    write_json(unfinished / SUMS, {name: found for part in sums for name, found in part.items()})
                    _remove(path)
                    unfinished.replace(path)
                    _sync_directory(path.parent)
                    self._prune()
                self._meet()
        except BaseException as error:
            self._failure = error
            if self._main:
                shutil.rmtree(unfinished, ignore_errors=True)

    def _prune(self) -> None:
        kept = {*self.steps()[-self._keep :], self.best()}
        for step in self.steps():
            if step not in kept:
                _remove(self.path(step))

    def _damage(self, step: int) -> str | None:
        """What is wrong with the checkpoint, for all processes alike, each of which looks at its share of the files."""
        ranks = 1 if self._group is None else self._group.size()
        return next((reason for reason in self._gathered(damage(self.path(step), self._rank, ranks)) if reason), None)

    def _pass_over(self, passed: Sequence[tuple[int, str]], good: int, set_aside: bool) -> None:
        for step, reason in passed if self._main else ():
            path = self.path(step)
            aside = path.with_name(f"damaged_{path.name}")
            where = "is left out"
            if set_aside:
                shutil.rmtree(aside, ignore_errors=True)
                path.replace(aside)
                where = f"was put aside as {aside.name}"
            text = f"The checkpoint {path} is damaged ({reason}) and {where}; step {good} is the last whole one and is used."
            print(text, file=sys.stderr, flush=True)
        self._meet()

    def _gathered(self, value: T) -> list[T]:
        """The ``value`` of every process, in all of them."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self._group.size()
        dist.all_gather_object(values, value, group=self._group)
        return values

    def _meet(self) -> None:
        if self._group is not None:
            dist.barrier(self._group)


def _state(model: nn.Module, optimizer: torch.optim.Optimizer | None, ema: EMA | None) -> dict[str, Piece]:
    """Everything that is stored, by the name it is stored under."""
    state: dict[str, Piece] = {}
    held, names = pieces(model), whole_names(model)
    averages = {} if ema is None else ema.tensors()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            state[f"model.{names[name]}"] = held[name]
        if name in averages:
            state[f"ema.{names[name]}"] = held[name].like(averages[name])
        for key, value in ({} if optimizer is None else optimizer.state.get(parameter, {})).items():
            state[f"optimizer.{names[name]}.{key}"] = _moment(held[name], value, name, key)
    return state


def _moment(parameter: Piece, value: Tensor, name: str, key: str) -> Piece:
    """An entry of the optimizer's state as a piece of what it would be in one process."""
    found = parameter.beside(local(value))
    if found is None:
        raise ConfigError(
            f"The optimizer's {key} of {name} is {tuple(value.shape)} beside a part {tuple(parameter.data.shape)} of "
            f"the whole {parameter.whole} and cannot be stored whole; use train.optimizer=adamw on this layout."
        )
    return found


def _room_for_moments(model: nn.Module, metadata: Metadata, path: Path) -> dict[str, dict[str, Piece]]:
    """Memory for the optimizer state that the checkpoint holds, by own name of the parameter."""
    held = pieces(model)
    names = {whole: name for name, whole in whole_names(model).items()}
    room: dict[str, dict[str, Piece]] = {}
    for stored, facts in metadata.state_dict_metadata.items():
        name, _, key = stored.removeprefix("optimizer.").rpartition(".")
        if not stored.startswith("optimizer.") or name not in names or not isinstance(facts, TensorStorageMetadata):
            continue
        piece = held[names[name]].room_beside(facts.size, facts.properties.dtype)
        if piece is None:
            raise ConfigError(
                f"The checkpoint {path} has a {key} of {tuple(facts.size)} for {name}, of which this layout cannot take its "
                "part; continue on the layout that wrote it, or with train.optimizer=adamw from the start."
            )
        room.setdefault(names[name], {})[key] = piece
    return room


def _restore(optimizer: torch.optim.Optimizer, parameter: Tensor, found: Mapping[str, Piece]) -> None:
    """Put state back in the form in which the optimizer makes it."""
    [group] = [group for group in optimizer.param_groups if any(p is parameter for p in group["params"])]
    state: dict[str, Tensor] = {}
    for key, piece in found.items():
        data = piece.data
        if not data.ndim:  # the number of the step, which only these two read on the card
            data = data if group.get("fused") or group.get("capturable") else data.cpu()
        elif isinstance(parameter, DTensor) and not isinstance(optimizer, LeanOptimizer):
            mesh, placements = parameter.device_mesh, parameter.placements
            stride = parameter.stride()
            data = DTensor.from_local(data, mesh, placements, run_check=False, shape=parameter.shape, stride=stride)
        state[key] = data
    optimizer.state[parameter] = state


def _staged(piece: Piece) -> Piece:
    """A copy in main memory; from a card without waiting, in pinned memory that PyTorch keeps for the next time."""
    data = piece.data
    if not data.is_cuda:
        return piece.like(data.clone(memory_format=torch.contiguous_format))
    return piece.like(torch.empty_like(data, device="cpu", pin_memory=True).copy_(data, non_blocking=True))


def _remove(path: Path) -> None:
    """Take away a checkpoint. It loses its name first: one that a kill leaves half removed is none."""
    nameless = path.with_name(f".{path.name}.gone")
    shutil.rmtree(nameless, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        path.replace(nameless)
    shutil.rmtree(nameless, ignore_errors=True)


def _sync_directory(directory: Path) -> None:
    """Make a rename in ``directory`` last; Windows does that by itself."""
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
