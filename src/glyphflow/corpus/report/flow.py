"""How the rows of a corpus flow through the filters of every view: a diagram, and the same numbers as a table."""

from __future__ import annotations

import textwrap
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
    return _drawn(start, way, 1000, 520, "wide") + _drawn(start, way, 380, 96, "narrow")


def _drawn(start: Count, way: Sequence[Station], width: int, trunk: int, kind: str) -> str:
    drawing = _Drawing(trunk / max(1, sum(start)), trunk + (70 if kind == "wide" else 22), 90 if kind == "wide" else 34)
    drawing.tell(16, [f"<tspan class='strong'>{counted(sum(start), 'row')}</tspan> in the corpus"])
    drawing.flow(28, start)
    left = start
    for station in way:
        if station.what == "stage":
            title = textwrap.wrap(f"{station.stage} {station.name}", drawing.columns - 4)
            drawing.tell(26, [plain(line) for line in title], "stage")
            drawing.flow(_HEAD + 17 * (len(title) - 1), left)
            continue
        if station.what == "view":
            drawing.line()
            lines = _kept(station, start, drawing.columns)
            drawing.tell(17, lines)
            drawing.flow(30.0 + 17 * (len(lines) - 1) + _GAP, station.left)
        else:
            thick = max(_LEAST, sum(station.rows) * drawing.scale) if any(station.rows) else 0.0
            height = max(_LINE, thick + 10)
            if thick and station.what == "filter":
                drawing.leave(sum(station.left), thick)
            elif thick:
                drawing.join(sum(left), thick, height)
            drawing.tell(10 + thick / 2, [_said(station, left)])
            drawing.flow(height, station.left if station.what == "filter" else left)
        left = station.left
    return svg(width, drawing.y + 4, drawing.body(), "how many rows every filter refused", f"flow {kind}")


class _Drawing:
    """A flow that is drawn from top to bottom: the trunk of renders and pictures at the left, what is said beside it."""

    def __init__(self, scale: float, end: float, columns: int) -> None:
        self.scale, self.columns, self.y = scale, columns, 6.0  # px a row; characters of a line; where the drawing goes on
        self._end = end  # of the ribbons; text begins behind it
        self._ribbons: list[str] = []
        self._trunk: list[tuple[float, float, Count]] = []

    def flow(self, height: float, left: Count) -> None:
        """The trunk goes on for ``height`` px with ``left`` rows."""
        self._trunk.append((self.y, self.y + height, left))
        self.y += height

    def tell(self, below: float, lines: Sequence[str], kind: str = "") -> None:
        """Lines of text (SVG), the first ``below`` px below where the drawing goes on."""
        for number, line in enumerate(lines):
            y = self.y + below + 17 * number
            self._ribbons.append(f'<text class="{kind}" x="{self._end + 10:.0f}" y="{y:.1f}">{line}</text>')

    def line(self) -> None:
        """A thin line across: here a view ends."""
        self._ribbons.append(f'<path class="line" d="M0 {self.y + 0.5:.1f}H{self._end:.0f}"/>')

    def leave(self, left: int, thick: float) -> None:
        """The ribbon of what a filter refuses: it leaves the trunk, of which ``left`` rows stay, at its right edge."""
        inner, top = left * self.scale, self.y + 5
        outer, bend = inner + thick, min(26.0, self._end - inner - thick)
        self._ribbons.append(
            f'<path class="refused" d="M{outer:.2f} {self.y:.1f}Q{outer:.2f} {top:.1f} {outer + bend / 2:.2f} {top:.1f}'
            f"H{self._end}V{top + thick:.2f}H{inner + bend + thick / 2:.2f}"
            f'Q{inner:.2f} {top + thick:.2f} {inner:.2f} {self.y:.1f}Z"/>'
        )

    def join(self, before: int, thick: float, height: float) -> None:
        """The ribbon of what a patch brings back: from the right into the trunk, which had ``before`` rows."""
        x, top, foot = before * self.scale, self.y + 5, self.y + height
        self._ribbons.append(
            f'<path class="back" d="M{self._end} {top:.1f}H{x + 20:.2f}Q{x:.2f} {top:.1f} {x:.2f} {foot:.1f}H{x + thick:.2f}'
            f'Q{x + thick:.2f} {top + thick:.2f} {x + thick + 16:.2f} {top + thick:.2f}H{self._end}Z"/>'
        )

    def body(self) -> str:
        """All of it; the trunk as one shape for each kind, without seams."""
        shapes = ""
        for kind, begin, end in (("render", lambda left: 0, lambda left: left[1]), ("photo", lambda left: left[1], sum)):
            right = "".join(f"L{end(left) * self.scale:.2f} {y:.1f}V{foot:.1f}" for y, foot, left in self._trunk)
            back = "".join(f"L{begin(left) * self.scale:.2f} {foot:.1f}V{y:.1f}" for y, foot, left in reversed(self._trunk))
            if any(end(left) > begin(left) for _, _, left in self._trunk):
                shapes += f'<path class="{kind}" d="M{right[1:]}{back}Z"/>'
        return shapes + "".join(self._ribbons)


def _said(station: Station, before: Count) -> str:
    number = sum(station.rows)
    if station.note and not number:
        return f'{plain(station.name)} <tspan class="soft">{plain(station.note)}</tspan>'
    if not number:
        return f'<tspan class="soft">{plain(station.name)} –</tspan>'
    what = percent(number, sum(before)) if station.what == "filter" else plain(station.note)
    of = f", {station.rows[1]:,} renders" if station.rows[1] else ""
    return f"{plain(station.name)} <tspan class='strong'>{number:,}</tspan> <tspan class='soft'>{what}{of}</tspan>"


def _kept(station: Station, start: Count, columns: int) -> list[str]:
    """What is said at the end of a view."""
    kept = sum(station.rows)
    first = f"<tspan class='strong'>{kept:,} kept</tspan> <tspan class='soft'>{percent(kept, sum(start))} of all"
    name, told = plain(station.name, 80), textwrap.wrap(station.note, columns)
    if len(name) + 22 > columns:  # "174 kept 64 % of all, " stands before it
        lines = [f"{first}</tspan>", f"<tspan class='soft'>{name}</tspan>"]
    else:
        lines = [f"{first}, {name}</tspan>"]
    return lines + [f"<tspan class='soft'>{plain(line)}</tspan>" for line in told]


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
