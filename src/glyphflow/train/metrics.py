"""What a run writes about itself: metrics.jsonl (one JSON object a line) and TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from glyphflow.core.files import storage_errors, write_text
from glyphflow.core.hardware import require


class Metrics:
    """Append measurements under ``directory``; lines beyond ``step``, written after the last checkpoint, are cut off first."""

    def __init__(self, directory: Path, step: int) -> None:
        self._path = Path(directory) / "metrics.jsonl"
        kept = [line for line in read_metrics(directory) if line["step"] <= step]
        write_text(self._path, "".join(_line(entry) for entry in kept))
        board = require("torch.utils.tensorboard", "train")
        self._board = board.SummaryWriter(str(Path(directory) / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._board.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record ``values`` as measured after ``step`` steps."""
        with storage_errors(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(_line({"step": step, **values}))
        for name, value in values.items():
            self._board.add_scalar(name, value, step)


def read_metrics(directory: Path) -> list[dict[str, float]]:
    """All lines of a run's metrics.jsonl; a last line that a kill cut short is left out."""
    path = Path(directory) / "metrics.jsonl"
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def _line(entry: Mapping[str, float]) -> str:
    return json.dumps(entry) + "\n"
