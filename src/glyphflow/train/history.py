"""What happened to a run besides steps: stages that began and changes that were made to its feed.

Weights and random numbers are functions of the recipe, the seed and the log of changes; so a checkpoint keeps the changes that
it was made under, and a run goes on only under the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from glyphflow.core.errors import ConfigError

Change = tuple[int, Mapping[str, Any]]
"""(first step of the feed that it holds for, key -> value)."""


class History:
    """Stages, as (first step, name), and changes, read anew at every step by ``changes``; ``news`` come before the first."""

    def __init__(
        self,
        stages: Sequence[tuple[int, str]],
        changes: Callable[[], Sequence[Change]] = lambda: (),
        news: Sequence[str] = (),
    ) -> None:
        self._stages = tuple(stages)
        self._news = tuple(news)
        self._changes = changes
        self._known: int | None = None

    def notes(self, step: int) -> list[str]:
        """What is new at ``step``, in words: the stage that begins here, and changes that were logged since the last call."""
        found = [*self._news, *(f"stage {name} begins" for start, name in self._stages if start == step)]
        self._news = ()
        changes = self._changes()
        known = len(changes) if self._known is None else self._known
        found += [f"from step {at} on: {_words(change)}" for at, change in changes[known:]]
        self._known = len(changes)
        return found

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint after ``step`` steps keeps: the changes that held for them."""
        return {"amendments": [[at, dict(change)] for at, change in self._changes() if at < step]}

    def check(self, state: Mapping[str, Any], step: int) -> None:
        """Raise ConfigError unless the first ``step`` steps would be the same again under the log as it is now."""
        before, now = state.get("amendments", []), self.state(step)["amendments"]
        if before != now:
            differing = next(
                (pair for pair in zip(before, now, strict=False) if pair[0] != pair[1]),
                (before[len(now) :][:1] or ["nothing"], now[len(before) :][:1] or ["nothing"]),
            )
            raise ConfigError(
                f"The checkpoint after step {step} was made under {len(before)} changes of the feed and amendments.jsonl holds "
                f"{len(now)} up to there ({differing[0]} against {differing[1]}); restore the file, as the run would not "
                "repeat without it."
            )


def _words(change: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in change.items())
