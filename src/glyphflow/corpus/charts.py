"""The two diagrams of the corpus page, as HTML and SVG text: what every filter refused, and how a measured value is spread."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COLOURS = {"photo": "#2f5bea", "render": "#e0913a"}
NAMES = {"photo": "photographs", "render": "renders"}
_THRESHOLD = "#c0392b"
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 340, 150, 10, 22, 18  # px
_BINS = 36
_SKEWED = 8.0  # 99th percentile over median: above it the axis is logarithmic


@dataclass(frozen=True)
class FilterCount:
    """How many rows of each kind a filter refused, and how many are left after it."""

    stage: str
    name: str
    refused: Mapping[str, int]
    left: Mapping[str, int]
    waiting: bool = False  # its columns have not been measured


def legend() -> str:
    """Which colour is which kind of row."""
    marks = "".join(f'<span><i style="background:{COLOURS[kind]}"></i>{NAMES[kind]}</span>' for kind in COLOURS)
    return f'<p class="legend">{marks}</p>'


def flow_table(counts: Sequence[FilterCount], start: Mapping[str, int]) -> str:
    """One line a filter: a bar of what it refused (scaled to the largest), and the numbers that are left."""
    largest = max((sum(count.refused.values()) for count in counts), default=0) or 1
    rows = [
        '<tr><th>stage</th><th>filter</th><th class="bars">refused</th><th></th>'
        '<th class="n">photographs left</th><th class="n">renders left</th></tr>',
        f"<tr><td></td><td>all rows</td><td></td><td></td>{_left(start)}</tr>",
    ]
    previous = ""
    for count in counts:
        bars = "".join(
            f'<b style="width:{100 * number / largest:.2f}%;background:{COLOURS[kind]}"></b>'
            for kind, number in count.refused.items()
            if number
        )
        total = sum(count.refused.values())
        said = "not measured yet" if count.waiting else (f"{total:,}" if total else "–")
        stage = f"<td>{html.escape(count.stage) if count.stage != previous else ''}</td>"
        rows.append(
            f"<tr{' class=first' if count.stage != previous else ''}>{stage}<td>{html.escape(count.name)}</td>"
            f'<td class="bars"><span>{bars}</span></td><td class="n">{said}</td>{_left(count.left)}</tr>'
        )
        previous = count.stage
    return f'<table class="flow">{"".join(rows)}</table>'


def _left(left: Mapping[str, int]) -> str:
    return "".join(f'<td class="n">{left.get(kind, 0):,}</td>' for kind in COLOURS)


def histogram(title: str, values: Mapping[str, Sequence[float]], thresholds: Sequence[tuple[float, str]]) -> str:
    """How ``values`` of each kind are spread, each kind scaled to its own highest bin, with the ``thresholds`` drawn in.

    ``thresholds`` are (value, "min" or "max"); what lies on the refused side is shaded.
    """
    everything = sorted(value for group in values.values() for value in group)
    if not everything:
        return ""
    log = _is_skewed(everything)
    marks = [value for value, _ in thresholds]
    # The axis ends at the 99.5th percentile so that one extreme value does not squeeze the rest into a line.
    low = min(everything[0], *marks) if marks else everything[0]
    high = max(everything[min(len(everything) - 1, int(len(everything) * 0.995))], *marks) if marks else everything[-1]
    axis = _Axis(low, high if high > low else low + 1.0, log)
    parts = [
        f'<rect x="{min(axis(mark), edge):.1f}" y="{_TOP}" width="{abs(axis(mark) - edge):.1f}" '
        f'height="{_HEIGHT - _BOTTOM - _TOP}" fill="{_THRESHOLD}" opacity="0.07"/>'
        for mark, side in thresholds
        for edge in [_LEFT if side == "min" else _WIDTH - _LEFT]
    ]
    for kind, group in values.items():
        parts += _bars(axis, group, COLOURS[kind])
    for mark, side in thresholds:
        x = axis(mark)
        anchor = "start" if x < _WIDTH / 2 else "end"
        parts.append(f'<path d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="{_THRESHOLD}" stroke-dasharray="4 3"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{_TOP - 6}" text-anchor="{anchor}" style="fill:{_THRESHOLD}">{side} {mark:g}</text>'
        )
    base = _HEIGHT - _BOTTOM
    parts.append(f'<path d="M{_LEFT} {base}H{_WIDTH - _LEFT}" stroke="#cfd3da"/>')
    for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        x = _LEFT + share * (_WIDTH - 2 * _LEFT)
        parts.append(f'<text x="{x:.0f}" y="{base + 15}" text-anchor="{anchor}">{_short(axis.at(share))}</text>')
    scale = " (log axis)" if log else ""
    return (
        f"<figure><figcaption>{html.escape(title)}{scale}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg></figure>'
    )


class _Axis:
    """From a value to pixels and, for the labels, from a share of the axis to a value."""

    def __init__(self, low: float, high: float, log: bool) -> None:
        self._log = log
        self._low, self._high = self._to(low), self._to(high)

    def _to(self, value: float) -> float:
        return math.log10(1.0 + max(0.0, value)) if self._log else value

    def share(self, value: float) -> float:
        return min(1.0, max(0.0, (self._to(value) - self._low) / (self._high - self._low)))

    def __call__(self, value: float) -> float:
        return _LEFT + self.share(value) * (_WIDTH - 2 * _LEFT)

    def at(self, share: float) -> float:
        value = self._low + share * (self._high - self._low)
        return 10.0**value - 1.0 if self._log else value


def _bars(axis: _Axis, group: Sequence[float], colour: str) -> list[str]:
    counts = [0] * _BINS
    for value in group:
        counts[min(_BINS - 1, int(axis.share(value) * _BINS))] += 1
    highest = max(counts) or 1
    width = (_WIDTH - 2 * _LEFT) / _BINS
    room = _HEIGHT - _BOTTOM - _TOP
    return [
        f'<rect x="{_LEFT + number * width + 0.5:.1f}" y="{_HEIGHT - _BOTTOM - room * count / highest:.1f}" '
        f'width="{width - 1:.1f}" height="{room * count / highest:.1f}" rx="1" fill="{colour}" opacity="0.62"/>'
        for number, count in enumerate(counts)
        if count
    ]


def _is_skewed(values: Sequence[float]) -> bool:
    median, far = values[len(values) // 2], values[int(len(values) * 0.99)]
    return values[0] >= 0 and median > 0 and far / median > _SKEWED


def _short(value: float) -> str:
    if abs(value) >= 1_000_000:
        return f"{value / 1_000_000:.3g}M"
    if abs(value) >= 1_000:
        return f"{value / 1_000:.3g}k"
    return f"{value:.3g}"
