"""Every measured value: how it is spread, real pictures along the way, and the thresholds that were applied to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from glyphflow.core.hardware import require
from glyphflow.corpus.operators import BUILDERS
from glyphflow.corpus.recipe import Rule
from glyphflow.corpus.report.charts import Mark, histogram, part_bar
from glyphflow.corpus.report.meanings import MEANINGS
from glyphflow.corpus.report.rows import Passage, Rows, encode, sample
from glyphflow.corpus.report.shots import Shots
from glyphflow.corpus.report.text import counted, percent, plain, short

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILES = 11  # pictures of a value: at its deciles and both ends
OFTEN = 0.2  # of all rows that have one and the same value: it is shown once, and the deciles are those of the others
NAMES, NAME = 30, 48  # different texts, and characters of each, up to which a column of texts counts as one of names
COLUMNS = 150  # that are shown
_UNSHOWN = {"id", "measured", "error", "phash"}


@dataclass(frozen=True)
class Threshold:
    """A rule at its place in a recipe, with how many of the ``asked`` rows that it judges lie ``beyond`` it."""

    stage: str
    rule: Rule
    asked: int
    beyond: int

    @property
    def said(self) -> str:
        """The rule in words, as HTML."""
        rule = self.rule
        of = f" of split {', '.join(rule.splits)}" if rule.splits else ""
        kinds = "rows" if len(rule.kinds) > 1 else "pictures" if "photo" in rule.kinds else "renders"
        return (
            f"<b>{plain(self.stage)} {plain(rule.filter)}</b>: {plain(limits(rule))}; "
            f"<b>{self.beyond:,}</b> of {self.asked:,} {kinds}{plain(of)} lie beyond"
        )


def limits(rule: Rule) -> str:
    """What a rule asks for: "at least 14"."""
    asked = [f"at least {rule.min:g}"] if rule.min is not None else []
    asked += [f"at most {rule.max:g}"] if rule.max is not None else []
    asked += [f"must be {str(rule.equals).lower()}"] if rule.equals is not None else []
    asked += ["must be empty" if rule.empty else "must be there"] if rule.empty is not None else []
    return " and ".join(asked)


def sections(rows: Rows, passed: Sequence[Passage], shots: Shots) -> str:
    """A part for each stage with a card for each of its columns."""
    if not rows.stages:
        return '<p class="none">Nothing has been measured yet: run glyphflow corpus measure.</p>'
    order = [*BUILDERS, "duplicates", "categories"]
    known = sorted(rows.stages, key=lambda stage: (order.index(stage) if stage in order else len(order), stage))
    shown, parts, left_out = 0, [], []
    for stage in known:
        cards = []
        for name, kind in rows.stages[stage].items():
            column = f"{stage}.{name}"
            if name in _UNSHOWN or not _is_shown(kind, stage):
                continue
            if shown >= COLUMNS:
                left_out.append(column)
                continue
            card = _card(rows, column, kind, thresholds(rows, passed, column), shots)
            shown += bool(card)
            cards.append(card)
        if any(cards):
            parts.append(f'<h3 id="stage-{plain(stage)}">{plain(stage)}</h3><div class="cards">{"".join(cards)}</div>')
    if left_out:
        parts.append(f'<p class="none">Not shown, only {COLUMNS} columns are: {plain(", ".join(left_out))}.</p>')
    return "".join(parts)


def _is_shown(kind: Any, stage: str) -> bool:
    types = require("pyarrow", "corpus").types
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    return bool(number or (types.is_string(kind) and stage not in ("categories", "duplicates")))


def thresholds(rows: Rows, passed: Sequence[Passage], column: str) -> list[Threshold]:
    """The rules about ``column``, in their order."""
    found = []
    for passage in passed:
        for stage in passage.stages:
            for rule in stage.rules:
                if rule.column == column and rule.filter not in passage.view.skipped and rows.has(column):
                    found.append(_threshold(rows, passage, stage.name, rule))
    return found


def _threshold(rows: Rows, passage: Passage, stage: str, rule: Rule) -> Threshold:
    values = rows.read(rule.column)
    asked = values.is_valid().to_numpy(zero_copy_only=False) & np.where(
        rows.photo, "photo" in rule.kinds, "render" in rule.kinds
    )
    if rule.splits:
        asked &= np.isin(passage.view.split, [n for n, name in enumerate(passage.view.splits) if name in rule.splits])
    beyond = asked & ~rule.passes(values)
    return Threshold(stage, rule, int(asked.sum()), int(beyond.sum()))


# -- a card ---------------------------------------------------------------------------------------------------------------


def _card(rows: Rows, column: str, kind: Any, rules: Sequence[Threshold], shots: Shots) -> str:
    types = require("pyarrow", "corpus").types
    if types.is_string(kind) or types.is_boolean(kind):
        return _names_card(rows, column, rules, shots)
    values = rows.numbers(column)
    there = np.isfinite(values)
    if not there.any():
        return ""
    facts = _facts(rows, values, there)
    tiles = "".join(shots.figure(row, said) for row, said in pictures(rows, column, values))
    return f'<article class="value">{_head(column, facts, rules)}{_spread(rows, values, there, rules)}{_strip(tiles)}</article>'


def _head(column: str, facts: str, rules: Sequence[Threshold]) -> str:
    stage, _, name = column.partition(".")
    meaning = MEANINGS.get(column, "")
    return (
        f'<h4 id="{plain(column)}"><code>{plain(stage)}.</code>{plain(name)} <small>{plain(meaning)}</small></h4>'
        f'<p class="facts">{facts}</p>' + "".join(f'<p class="rule">{rule.said}</p>' for rule in rules)
    )


def _facts(rows: Rows, values: NDArray[np.float64], there: NDArray[np.bool_]) -> str:
    known = values[there]
    low, middle, high = np.quantile(known, [0, 0.5, 1]).tolist()
    return (
        f"{counted(len(known), 'row')} of {len(rows):,} have it; least {short(low)}, median {short(middle)}, most {short(high)}"
    )


def _spread(rows: Rows, values: NDArray[np.float64], there: NDArray[np.bool_], rules: Sequence[Threshold]) -> str:
    known = values[there]
    if known.min() == known.max():
        return f'<p class="none">All have the value {short(float(known[0]))}.</p>'
    marks = []
    for each in rules:
        stage = plain(each.stage)
        marks += [Mark(each.rule.min, "min", f"{stage} ≥ {each.rule.min:g}")] if each.rule.min is not None else []
        marks += [Mark(each.rule.max, "max", f"{stage} ≤ {each.rule.max:g}")] if each.rule.max is not None else []
    marks = list(dict.fromkeys(marks))
    kinds = {"photo": values[there & rows.photo], "render": values[there & ~rows.photo]}
    return histogram({kind: group for kind, group in kinds.items() if len(group)}, marks, "the values")


def _strip(tiles: str) -> str:
    return f'<div class="strip">{tiles}</div>' if tiles else '<p class="none">No picture to show.</p>'


def pictures(rows: Rows, name: str, values: NDArray[np.float64]) -> list[tuple[int, str]]:
    """Rows along ``values`` (N,) with what each stands for: one of each value where they are few, else those at deciles."""
    usable = np.flatnonzero(np.isfinite(values) & rows.showable)
    if not len(usable):
        return []
    distinct, counts = np.unique(values[usable], return_counts=True)
    if len(distinct) <= TILES:
        return [
            (sample(usable[values[usable] == value], 1, f"{name} {value}")[0], f"{short(value)} <i>{counted(count, 'row')}</i>")
            for value, count in zip(distinct.tolist(), counts.tolist(), strict=True)
        ]
    often = int(np.argmax(counts))
    found: list[tuple[float, int, str]] = []
    if counts[often] >= OFTEN * len(usable):
        value = float(distinct[often])
        same = usable[values[usable] == value]
        said = f"{short(value)} <i>{percent(len(same), len(usable))} of rows</i>"
        found.append((value, sample(same, 1, f"{name} {value}")[0], said))
        usable = usable[values[usable] != value]
    ordered = usable[np.argsort(values[usable], kind="stable")]
    steps = TILES - 1 - len(found)
    for step in range(steps + 1):
        row = int(ordered[round(step * (len(ordered) - 1) / steps)])
        if step and values[row] == found[-1][0]:
            continue
        at = "least" if step == 0 else "most" if step == steps else f"{100 * step / steps:.0f} %"
        found.append((float(values[row]), row, f"{short(float(values[row]))} <i>{at}</i>"))
    return [(row, said) for _, row, said in sorted(found, key=lambda each: each[0])]


def _names_card(rows: Rows, column: str, rules: Sequence[Threshold], shots: Shots) -> str:
    """A column of names (or yes and no) as bars, with a picture of the most frequent."""
    values = rows.read(column)
    pc, types = require("pyarrow.compute", "corpus"), require("pyarrow", "corpus").types
    if types.is_boolean(values.type):
        values = pc.if_else(values, "yes", "no")
    counts = _few(values)
    if not counts:
        return ""
    names, codes = encode(values)
    total, largest = sum(counts.values()), max(counts.values())
    lines = "".join(
        f"<tr><td>{plain(name, 60)}</td><td class=wide>{part_bar([('photo', count, f'{count:,}')], largest, name)}</td>"
        f"<td class=n>{count:,}</td><td class='n soft'>{percent(count, total)}</td></tr>"
        for name, count in counts.items()
    )
    tiles = "".join(
        shots.figure(row, plain(name, 60))
        for name in list(counts)[:TILES]
        for row in sample(np.flatnonzero((codes == names.index(name)) & rows.showable), 1, f"{column} {name}")
    )
    facts = f"{counted(total, 'row')} of {len(rows):,} have it"
    table = f'<div class="spread"><table class="numbers">{lines}</table></div>'
    return f'<article class="value">{_head(column, facts, rules)}{table}{_strip(tiles)}</article>'


def _few(values: Any) -> dict[str, int]:
    """Name -> rows, the most frequent first; {} where there are none, or too many different ones to be names."""
    pc = require("pyarrow.compute", "corpus")
    there = values.drop_null()
    some = there.slice(0, 20_000)  # a column of long texts shows itself in its beginning
    if not len(there) or len(some.unique()) > NAMES:
        return {}
    found = [(each["values"], each["counts"]) for each in pc.value_counts(there).to_pylist()]
    if len(found) > NAMES or any(len(name) > NAME or name[:1] in ("[", "{") for name, _ in found):
        return {}
    return dict(sorted(found, key=lambda pair: (-pair[1], pair[0])))
