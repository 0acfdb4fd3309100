"""How the rows of a corpus flow through the filters of every view: a diagram, and the same numbers as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from glyphflow.corpus.report.charts import svg
from glyphflow.corpus.report.rows import Passage, Rows
from glyphflow.corpus.report.text import counted, percent, plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

Count = tuple[int, int]  # pictures, renders

_LINE, _HEAD, _GAP = 25.0, 38.0, 12.0  # px: a filter's row at least, a stage's title, below a view
_LEAST = 1.5  # px of the thinnest ribbon


@dataclass(frozen=True)
class Station:
    """A place on the way: a stage's title, a patch that brings rows back, a filter that refuses some, or a view.

    ``rows`` are those refused or brought back (of a view: its kept ones), ``left`` those that go on.
    """

    what: str  # "stage", "back", "filter", "view"
    name: str
    rows: Count
    left: Count
    stage: str = ""
    note: str = ""


def stations(rows: Rows, passed: Sequence[Passage]) -> list[Station]:
    """The way through all views, each with its own filters in their order."""
    found: list[Station] = []
    for passage in passed:
        decided = passage.view
        left = _minus(_count(rows, passage.came), _lost(rows, passage))
        for stage in passage.stages:
            found.append(Station("stage", stage.title, (0, 0), left, stage.name))
            back = _count(rows, passage.back)
            if stage.patch is not None or (any(back) and stage == passage.stages[0]):
                left = left[0] + back[0], left[1] + back[1]
                found.append(Station("back", "brought back", back, left, stage.name, "into weak categories"))
            for number in passage.filters:
                each = decided.filters[number]
                if each.stage == stage.name:
                    gone = _count(rows, decided.by == number)
                    left = _minus(left, gone)
                    note = "not measured yet" if each.name in decided.skipped else ""
                    found.append(Station("filter", each.name, gone, left, stage.name, note))
        found.append(Station("view", decided.name, _count(rows, decided.kept), left, note=_splits(passage)))
    return found


def _count(rows: Rows, chosen: NDArray[np.bool_]) -> Count:
    photos = int((chosen & rows.photo).sum())
    return photos, int(chosen.sum()) - photos


def _minus(one: Count, other: Count) -> Count:
    return one[0] - other[0], one[1] - other[1]


def _lost(rows: Rows, passage: Passage) -> Count:
    """Rows that an earlier stage refuses now and did not when the view before was decided."""
    own = np.isin(passage.view.by, passage.filters)
    return _count(rows, passage.came & ~passage.view.kept & ~own)


def _splits(passage: Passage) -> str:
    decided = passage.view
    counts = np.bincount(decided.split[decided.kept & (decided.split >= 0)], minlength=len(decided.splits)).tolist()
    return ", ".join(f"{name} {count:,}" for name, count in zip(decided.splits, counts, strict=True) if count)


def diagram(start: Count, way: Sequence[Station]) -> str:
    """The flow from top to bottom, drawn for wide and for narrow windows; the page's style shows one of them."""
    return _drawn(start, way, 1000, 520, "wide") + _drawn(start, way, 380, 120, "narrow")


def _drawn(start: Count, way: Sequence[Station], width: int, trunk: int, kind: str) -> str:
    scale = trunk / max(1, sum(start))
    end, parts, y, left = trunk + (70 if kind == "wide" else 26), [], 6.0, start
    label = end + 10
    parts.append(_text(label, y + 16, f"<tspan class='strong'>{counted(sum(start), 'row')}</tspan> in the corpus", "head"))
    y = _trunk(parts, y, 28, left, scale)
    for station in way:
        thick = max(_LEAST, sum(station.rows) * scale) if station.what != "view" and any(station.rows) else 0.0
        if station.what == "stage":
            y = _trunk(parts, y, _HEAD, left, scale)
            parts.append(_text(label, y - 12, f"{plain(station.stage)} {plain(station.name)}", "stage"))
        elif station.what == "view":
            y = _view(parts, y, station, left, scale, start, label, kind)
        elif station.what == "filter":
            height = max(_LINE, thick + 10)
            parts.append(_leaving(sum(station.left) * scale, thick, y, end))
            y = _trunk(parts, y, height, station.left, scale)
            parts.append(_text(label, y - height + 5 + thick / 2 + 5, _said(station, left)))
        else:
            height = max(_LINE, thick + 10)
            parts.append(_joining(sum(left) * scale, thick, y, height, end))
            y = _trunk(parts, y, height, left, scale)
            parts.append(_text(label, y - height + 5 + thick / 2 + 5, _said(station, left)))
        left = station.left if station.what != "stage" else left
    return svg(width, y + 4, "".join(parts), "how many rows every filter refused", f"flow {kind}")


def _trunk(parts: list[str], y: float, height: float, left: Count, scale: float) -> float:
    """Draw ``height`` px of the trunk: renders, then pictures; gives where it ends."""
    renders, photos = left[1] * scale, left[0] * scale
    for kind, x, width in (("render", 0.0, renders), ("photo", renders, photos)):
        if width > 0:
            parts.append(f'<rect class="{kind}" x="{x:.2f}" y="{y:.1f}" width="{width:.2f}" height="{height + 0.3:.1f}"/>')
    return y + height


def _leaving(x: float, thick: float, y: float, end: float) -> str:
    """The ribbon of what a filter refuses: it leaves the trunk at its right edge, from ``x`` to ``x + thick``, and bends."""
    if not thick:
        return ""
    top, bend = y + 5, min(26.0, end - x - thick)
    outer, inner = x + thick, x
    return (
        f'<path class="refused" d="M{outer:.2f} {y:.1f}Q{outer:.2f} {top:.1f} {outer + bend / 2:.2f} {top:.1f}H{end}'
        f'V{top + thick:.2f}H{inner + bend + thick / 2:.2f}Q{inner:.2f} {top + thick:.2f} {inner:.2f} {y:.1f}Z"/>'
    )


def _joining(x: float, thick: float, y: float, height: float, end: float) -> str:
    """The ribbon of what a patch brings back: from the right into the trunk, whose edge is ``x`` before."""
    if not thick:
        return ""
    top, foot = y + 5, y + height
    return (
        f'<path class="back" d="M{end} {top:.1f}H{x + 20:.2f}Q{x:.2f} {top:.1f} {x:.2f} {foot:.1f}H{x + thick:.2f}'
        f'Q{x + thick:.2f} {top + thick:.2f} {x + thick + 16:.2f} {top + thick:.2f}H{end}Z"/>'
    )


def _said(station: Station, before: Count) -> str:
    number = sum(station.rows)
    if station.note and not number:
        return f'{plain(station.name)} <tspan class="soft">{plain(station.note)}</tspan>'
    if not number:
        return f'<tspan class="soft">{plain(station.name)} –</tspan>'
    what = percent(number, sum(before)) if station.what == "filter" else plain(station.note)
    of = f", {station.rows[1]:,} renders" if station.rows[1] else ""
    return f"{plain(station.name)} <tspan class='strong'>{number:,}</tspan> <tspan class='soft'>{what}{of}</tspan>"


def _view(
    parts: list[str], y: float, station: Station, left: Count, scale: float, start: Count, label: float, kind: str
) -> float:
    kept = sum(station.rows)
    lines = [
        f"<tspan class='strong'>{kept:,} kept</tspan> <tspan class='soft'>{percent(kept, sum(start))} of all, "
        f"{plain(station.name)}</tspan>"
    ]
    if station.note and kind == "wide":
        lines.append(f"<tspan class='soft'>{plain(station.note, 90)}</tspan>")
    height = 30.0 + 17 * (len(lines) - 1) + _GAP
    parts.append(f'<path class="line" d="M0 {y + 0.5:.1f}H{label - 10:.0f}"/>')
    end = _trunk(parts, y, height, left, scale)
    for number, line in enumerate(lines):
        parts.append(_text(label, y + 17 + 17 * number, line))
    return end


def _text(x: float, y: float, body: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.1f}">{body}</text>'


def table(start: Count, way: Sequence[Station]) -> str:
    """Every number of the diagram, pictures and renders apart."""
    lines = [
        "<tr><th>stage</th><th>filter</th><th class=n>refused</th><th class=n>pictures</th><th class=n>renders</th>"
        "<th class=n>pictures left</th><th class=n>renders left</th></tr>",
        f"<tr><td></td><td>all rows</td><td></td><td></td><td></td>{_cells(start)}</tr>",
    ]
    lines += _lines(way)
    return f'<div class="scroll"><table class="numbers flows">{"".join(lines)}</table></div>'


def _lines(way: Sequence[Station]) -> Iterator[str]:
    for station in way:
        if station.what == "filter":
            said = station.note or f"{sum(station.rows):,}"
            yield (
                f"<tr><td>{plain(station.stage)}</td><td>{plain(station.name)}</td><td class=n>{said}</td>"
                f"{_cells(station.rows)}{_cells(station.left)}</tr>"
            )
        elif station.what == "back":
            yield (
                f"<tr><td>{plain(station.stage)}</td><td>brought back</td><td class=n>+{sum(station.rows):,}</td>"
                f"{_cells(station.rows)}{_cells(station.left)}</tr>"
            )
        elif station.what == "view":
            yield (
                f'<tr class="view"><td></td><td>kept in {plain(station.name)}</td><td class=n></td><td></td><td></td>'
                f"{_cells(station.rows)}</tr>"
            )


def _cells(count: Count) -> str:
    return "".join(f"<td class=n>{number:,}</td>" for number in count)


def start_of(rows: Rows) -> Count:
    """All rows, by kind."""
    return _count(rows, np.ones(len(rows), np.bool_))
