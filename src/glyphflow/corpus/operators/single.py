"""Operators that look at one picture at a time, in threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from glyphflow.corpus.operator import Operator, Row


def by_picture(
    stage: str,
    identity: Mapping[str, Any],
    types: Mapping[str, str],
    look: Callable[[Row], Mapping[str, Any]],
    inputs: tuple[str, ...] = (),
) -> Operator:
    """An operator that asks ``look`` about each row by itself; ``look`` may be called from several threads."""
    return Operator(stage, {"stage": stage, **identity}, types, lambda rows: [look(row) for row in rows], inputs=inputs)
