"""What every rule refused, as pictures: the worst, the nearest to the threshold, and some drawn by lot."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from glyphflow.core.hardware import require
from glyphflow.corpus.recipe import Rule
from glyphflow.corpus.report.rows import Passage, Rows, sample
from glyphflow.corpus.report.shots import Shots
from glyphflow.corpus.report.text import counted, plain
from glyphflow.corpus.report.values import limits

if TYPE_CHECKING:
    from numpy.typing import NDArray

EACH = 4  # pictures of the worst, and of the nearest; twice as many by lot
_ID = re.compile(r"\b[0-9a-f]{32}\b")


@dataclass(frozen=True)
class Group:
    """The rows that one rule of a view refused, or several that give the same reason. ``depth`` (M,): how far each lies beyond
    the threshold, NaN where that is not a number."""

    stage: str
    filter: str
    column: str
    limits: str
    rows: NDArray[np.int64]
    values: NDArray[np.float64]
    depth: NDArray[np.float64]
    details: Sequence[str]

    @property
    def has_depth(self) -> bool:
        """Whether the rows can be ordered."""
        return bool(np.isfinite(self.depth).any()) and bool(np.unique(self.depth[np.isfinite(self.depth)]).size > 1)


def groups(passed: Sequence[Passage]) -> Iterator[Group]:
    """All rules that refused something, in the order of the stages."""
    for passage in passed:
        decided = passage.view
        details = decided.details()
        for stage in passage.stages:
            for name in stage.filters:
                number = next(
                    n for n in passage.filters if decided.filters[n].stage == stage.name and decided.filters[n].name == name
                )
                rows = np.flatnonzero(decided.by == number)
                if not len(rows):
                    continue
                said = details.take(require("pyarrow", "corpus").array(rows)).fill_null("")
                rules = [rule for rule in stage.rules if rule.filter == name]
                left = np.ones(len(rows), np.bool_)
                for rule in rules:
                    own = left & _gave(rule.reason, said)
                    left &= ~own
                    if own.any():
                        values = decided.value[rows[own]]
                        yield Group(
                            stage.name,
                            name,
                            rule.column,
                            limits(rule),
                            rows[own],
                            values,
                            _depth(rule, values),
                            said.filter(require("pyarrow", "corpus").array(own)).to_pylist(),
                        )
                if left.any():  # the best of a category: what stands lowest is worst
                    values = decided.value[rows[left]]
                    rest = said.filter(require("pyarrow", "corpus").array(left)).to_pylist()
                    yield Group(stage.name, name, "", "", rows[left], values, -values, rest)


def _gave(reason: str, said: object) -> NDArray[np.bool_]:
    """(M,) which sentences were made of ``reason``."""
    pc = require("pyarrow.compute", "corpus")
    before, _, after = reason.partition("{value}")
    found = pc.and_(pc.starts_with(said, before), pc.ends_with(said, after))
    return np.asarray(found.to_numpy(zero_copy_only=False), np.bool_)


def _depth(rule: Rule, values: NDArray[np.float64]) -> NDArray[np.float64]:
    below = rule.min - values if rule.min is not None else np.full(len(values), -np.inf)
    above = values - rule.max if rule.max is not None else np.full(len(values), -np.inf)
    depth = np.maximum(below, above)
    return np.where(np.isfinite(depth), depth, np.nan)


def sections(rows: Rows, passed: Sequence[Passage], shots: Shots) -> str:
    """A part for each group."""
    if not passed:
        return '<p class="none">No view has been decided yet.</p>'
    parts = [_part(rows, group, shots) for group in groups(passed)]
    return f'<div class="groups">{"".join(parts)}</div>' if parts else '<p class="none">Nothing was refused.</p>'


def _part(rows: Rows, group: Group, shots: Shots) -> str:
    column = (
        f' <small><a href="#{plain(group.column)}">{plain(group.column)}</a> {plain(group.limits)}</small>'
        if group.column
        else ""
    )
    head = (
        f"<h4>{plain(group.stage)} {plain(group.filter)} <small>{counted(len(group.rows), 'row')} refused</small>{column}</h4>"
    )
    shown = "" if rows.showable[group.rows].any() else _listed(rows, group)
    for name, places in _chosen(group) if not shown else ():
        figures = "".join(_figure(rows, group, place, shots) for place in places)
        shown += f'<div class="lot"><span>{name}</span><div class="shots">{figures}</div></div>'
    return f'<article class="refusal">{head}<div class="lots">{shown}</div></article>'


def _listed(rows: Rows, group: Group) -> str:
    """Rows without a picture, by lot."""
    lines = "".join(
        f"<tr><td>{plain(rows.key(int(group.rows[place])), 80)}</td><td class=soft>{plain(group.details[place], 160)}</td></tr>"
        for place in sample(np.arange(len(group.rows)), 2 * EACH, f"{group.stage} {group.filter} {group.column}")
    )
    return f'<table class="numbers">{lines}</table>'


def _chosen(group: Group) -> list[tuple[str, list[int]]]:
    """Which of the group's rows are shown, by their places in it."""
    every = np.arange(len(group.rows))
    name = f"{group.stage} {group.filter} {group.column}"
    if not group.has_depth:
        chosen = sample(every, 4 * EACH, name)
        return [("all" if len(chosen) == len(every) else "drawn by lot", chosen)]
    order = np.argsort(-np.nan_to_num(group.depth, nan=-np.inf), kind="stable")
    if len(every) <= 4 * EACH:
        return [("all, the worst first", order.tolist())]
    middle = order[EACH:-EACH]
    return [
        ("the worst", order[:EACH].tolist()),
        ("nearest to the threshold", order[-EACH:].tolist()),
        ("others, drawn by lot", sample(middle, 2 * EACH, name)),
    ]


def _figure(rows: Rows, group: Group, place: int, shots: Shots) -> str:
    row, value = int(group.rows[place]), float(group.values[place])
    said = _ID.sub(lambda match: rows.name_of(match[0]), group.details[place])
    before, number, after = said.partition(_as_told(value)) if np.isfinite(value) else (said, "", "")
    sentence = f"{plain(before, 160)}<b>{plain(number)}</b>{plain(after, 160)}"
    return shots.figure(row, f"{sentence}<br><i>{plain(rows.key(row), 80)}</i>")


def _as_told(value: float) -> str:
    """A value as sentences about it have it (see :mod:`glyphflow.corpus.decide.scan`)."""
    return f"{value:.0f}" if value.is_integer() else f"{value:.4g}"
