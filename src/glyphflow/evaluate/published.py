"""What others published: rows to read one's own numbers beside, always marked as published and never mixed with measured ones.

Judges, prompts and pictures of a published row are not ours, so it is a landmark and no rival: 0.5 points of GEdit can lie
between two judgements of the same pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from glyphflow.evaluate.benchmark import MetricIdentity
from glyphflow.evaluate.benchmarks.shared import shipped

_SAME = {"chineseword-300": "chineseword"}
"""Benchmarks that estimate the numbers of another."""


@dataclass(frozen=True)
class Reference:
    """A published row: ``values`` by (metric, dimensions); ``source`` says where, ``note`` what to know."""

    model: str
    values: Mapping[tuple[str, tuple[tuple[str, str], ...]], float]
    source: str
    note: str = ""
    status: str = "published"

    def value(self, identity: MetricIdentity) -> float | None:
        """The published number to set beside a measured one: of the same metric and, where it says so, of the same part."""
        if identity.variant != "official":
            return None
        own = set(identity.dimensions)
        found = [value for (name, part), value in self.values.items() if name == identity.name and set(part) <= own]
        return found[0] if len(found) == 1 else None


def references(benchmark: str) -> tuple[Reference, ...]:
    """The published rows of ``benchmark``, as their authors printed them; none where nothing is published."""
    tables = _content()["tables"]
    name = _SAME.get(benchmark, benchmark)
    if name not in tables:
        return ()
    table = tables[name]
    columns = [(column["metric"], tuple(column["dimensions"].items())) for column in table["columns"]]
    return tuple(
        Reference(
            str(model),
            {column: float(value) for column, value in zip(columns, values, strict=True) if value is not None},
            _content()["source"],
            table.get("note", ""),
        )
        for model, values in table["rows"].items()
    )


@cache
def _content() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(shipped("published.yaml").read_text(encoding="utf-8"))
    return found
