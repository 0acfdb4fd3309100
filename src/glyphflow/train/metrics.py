"""What a run writes about itself: metrics.jsonl (one JSON object a line), TensorBoard, and Weights & Biases when asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.files import storage_errors, write_text
from glyphflow.core.hardware import require
from glyphflow.core.hashing import fingerprint
from glyphflow.core.text import read_text, split_lines


class Metrics:
    """Append measurements under ``directory``; lines beyond ``step``, written after the last checkpoint, are cut off first.

    ``wandb`` reports to Weights & Biases as well, under the directory's name; a run that continues continues there.
    """

    def __init__(self, directory: Path, step: int, *, wandb: bool = False) -> None:
        self._path = Path(directory) / "metrics.jsonl"
        kept = [line for line in read_metrics(directory) if line["step"] <= step]
        write_text(self._path, "".join(_line(entry) for entry in kept))
        board = require("torch.utils.tensorboard", "train")
        self._board = board.SummaryWriter(str(Path(directory) / "tensorboard"), purge_step=step + 1)
        self._wandb = _start_wandb(Path(directory)) if wandb else None

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if kind is None else 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record ``values`` as measured after ``step`` steps."""
        self._append({"step": step, **values})
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def note(self, step: int, text: str) -> None:
        """Record something that happened, in words: a stage began, the feed was changed."""
        self._append({"step": step, "note": text})
        self._board.add_text("notes", text, step)

    def _append(self, entry: Mapping[str, Any]) -> None:
        with storage_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(_line(entry))


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """All lines of a run's metrics.jsonl; a last line that a kill cut short is left out."""
    path = Path(directory) / "metrics.jsonl"
    if not path.exists():
        return []
    found = []
    for line in split_lines(read_text(path)):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            break
        if not (isinstance(entry, dict) and isinstance(entry.get("step"), int)):
            raise InputError(f"{path} has a line that no run wrote ({line[:60]!r}); restore the file, or move it away.")
        found.append(entry)
    return found


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _start_wandb(directory: Path) -> Any:
    wandb = require("wandb", "wandb")
    identity = fingerprint(str(directory.resolve()))
    return wandb.init(dir=str(directory), name=directory.name, id=identity, resume="allow")
