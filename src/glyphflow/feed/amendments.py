"""Changes to the feed of a running training: which, from which step on, and why every process agrees on them.

The log is a file in the run's directory, a line a change. A batch is a pure function of the settings, this log and the seed, so
an entry may only concern steps that no process has ordered yet. Processes therefore *settle* steps before they order them, some
ahead, and :meth:`AmendmentLog.append` refuses to touch what is settled. Both happen under one lock of the run's directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glyphflow.core.config import load_config, parse_yaml, to_dict
from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import read_json, storage_errors, write_json
from glyphflow.core.text import read_text, split_lines
from glyphflow.feed.locks import patient
from glyphflow.feed.settings import FeedSettings

FILE = "amendments.jsonl"
SETTLED_AHEAD = 16
"""Steps that are settled at once: as many may pass before a change takes effect."""
CHANGEABLE = ("producers", "view", "mixture", "captions", "tasks", "splits")


@dataclass(frozen=True)
class Amendment:
    """From step ``from_step`` to the end of that step's segment, ``changes`` (dotted key -> value) hold."""

    from_step: int
    changes: Mapping[str, Any]


def amended(settings: FeedSettings, amendments: Sequence[Amendment]) -> FeedSettings:
    """``settings`` with the changes of ``amendments`` in their order; a key or value that does not fit is a ConfigError."""
    if not amendments:
        return settings
    found = to_dict(settings)
    for amendment in amendments:
        for key, value in amendment.changes.items():
            check_key(key)
            found = to_dict(load_config(FeedSettings, found, [f"{key}={json.dumps(value)}"]))
    return load_config(FeedSettings, found)


def check_key(key: str) -> None:
    """Refuse a key that cannot be changed while a run goes on."""
    if key.split(".")[0] not in CHANGEABLE:
        raise ConfigError(
            f"{key!r} cannot be changed while a run goes on; these can: {', '.join(CHANGEABLE)} (mixture.people=0.2)."
        )


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """``["mixture.people=0.2"]`` -> ``{"mixture.people": 0.2}``; ConfigError for other forms and keys."""
    found = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key:
            raise ConfigError(f"The change {change!r} is not of the form key=value, for example mixture.people=0.2.")
        check_key(key)
        found[key] = parse_yaml(value, f"the value of {key}")
    return found


class AmendmentLog:
    """The log of one run. ``path`` is ``run / "amendments.jsonl"``; neither file nor directory need exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._state = self.path.parent / "feed"
        self._settled = 0
        self._entries: tuple[Amendment, ...] = ()

    def read(self) -> tuple[Amendment, ...]:
        """All entries in the order in which they were made."""
        if not self.path.exists():
            return ()
        lines = split_lines(read_text(self.path))
        try:
            entries = [json.loads(line) for line in lines if line.strip()]
            return tuple(Amendment(int(entry["from_step"]), dict(entry["changes"])) for entry in entries)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise InputError(f"{self.path} has a line that is no amendment ({error}); restore the file.") from error

    def settle(self, step: int) -> tuple[Amendment, ...]:
        """The entries that decide ``step``: from now on no entry can be added that changes it or a step before it."""
        if step >= self._settled:
            with self._locked():
                self._settled = max(self.horizon, step + SETTLED_AHEAD)
                write_json(self._state / "settled.json", {"steps": self._settled})
                self._entries = self.read()
        return self._entries

    def append(self, from_step: int | None, changes: Mapping[str, Any]) -> Amendment:
        """Add an entry that holds from ``from_step`` on (None: the first step that is not settled yet)."""
        for key in changes:
            check_key(key)
        with self._locked():
            horizon = self.horizon
            entry = Amendment(horizon if from_step is None else from_step, dict(changes))
            if entry.from_step < horizon:
                raise ConfigError(
                    f"The run has ordered the batches before step {horizon}, so a change from step {entry.from_step} on comes "
                    f"too late; use --from {horizon} or later."
                )
            line = {"from_step": entry.from_step, "changes": dict(changes), "time": round(time.time(), 3)}
            with storage_errors(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        return entry

    @property
    def horizon(self) -> int:
        """The first step that is not settled."""
        path = self._state / "settled.json"
        if not path.exists():
            return 0
        try:
            return int(read_json(path)["steps"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} does not say which steps are settled ({error}); restore the file.") from error

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return patient(self._state, "a change of the feed")
