"""Diagrams as SVG text: how values are spread, bars of parts, a curve over ranks. Colours are variables of the page's style."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from glyphflow.corpus.report.text import plain, short

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES = {"photo": "pictures", "render": "renders"}
BINS = 44
SKEWED = 5.0  # 99th percentile over median: above it the axis is logarithmic
TOWERS = 2.5  # a bar this many times the next one is cut, so that the others can be seen
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM = 520, 290, 8, 8, 26  # px of the drawing
_LABEL = 17  # px of a threshold's label


@dataclass(frozen=True)
class Mark:
    """A threshold in a histogram: what lies below (``side`` "min") or above ("max") is refused."""

    value: float
    side: str
    label: str


class Axis:
    """From values to places 0..1: linear or logarithmic, the latter with a place of its own for zero.

    It spans the values without the outermost half per cent on each side, and all marks; what is outside stands at its ends.
    """

    def __init__(self, values: NDArray[np.float64], marks: Sequence[float] = ()) -> None:
        positive = values[values > 0]
        self.log = _is_skewed(values, positive)
        self.zero = self.log and bool((values <= 0).any())
        used = positive if self.log else values
        ends = [*np.quantile(used, [0.005, 0.995]).tolist(), *(mark for mark in marks if mark > 0 or not self.log)]
        if len(np.unique(used)) <= BINS:  # few values: none of them is an outlier
            ends += [float(used.min()), float(used.max())]
        low, high = min(ends), max(ends)
        if high <= low:
            low, high = (low / 2, high * 2) if self.log else (low - 0.5, high + 0.5)
        self.low, self.high = low, high
        self._whole = bool((values == np.round(values)).all())
        ends = [math.log10(low), math.log10(high)] if self.log else [low, high]
        self._from, self._to = ends
        self._start = 1.5 / BINS if self.zero else 0.0

    def share(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) places in [0, 1]."""
        inside = np.log10(np.maximum(values, 1e-300)) if self.log else values
        part = np.clip((inside - self._from) / (self._to - self._from), 0, 1)
        placed: NDArray[np.float64] = self._start + part * (1 - self._start)
        return np.where(values <= 0, 0.5 / BINS, placed) if self.zero else placed

    def at(self, value: float) -> float:
        """The place of one value."""
        return float(self.share(np.array([value], np.float64))[0])

    def ticks(self) -> list[float]:
        """Round values on the axis."""
        if not self.log:
            return [tick for tick in round_values(self.low, self.high, 5) if not self._whole or tick == round(tick)]
        decades = range(math.floor(self._from), math.ceil(self._to) + 1)
        steps: tuple[int, ...] = (1, 2, 5) if self._to - self._from < 2.2 else (1, 3) if self._to - self._from < 3.5 else (1,)
        every = max(1, round((self._to - self._from) / 5))
        found = [step * 10.0**decade for decade in decades if steps != (1,) or decade % every == 0 for step in steps]
        return ([0.0] if self.zero else []) + [value for value in found if self.low <= value <= self.high]


def _is_skewed(values: NDArray[np.float64], positive: NDArray[np.float64]) -> bool:
    if not len(positive) or (values < 0).any() or len(np.unique(positive)) <= 6:
        return False
    median, far = np.quantile(positive, [0.5, 0.99])
    return bool(far / median > SKEWED)


def round_values(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers from ``low`` to ``high``, or ``low`` where there is nothing between."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [round(number * step, 12) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def histogram(values: Mapping[str, NDArray[np.float64]], marks: Sequence[Mark], name: str) -> str:
    """How the ``values`` of each kind of row are spread, one upon the other; what ``marks`` refuse is shaded."""
    everything = np.concatenate(list(values.values()))
    axis = Axis(everything, [mark.value for mark in marks])
    top = 16 + _LABEL * len(marks)
    base, room = _HEIGHT - _BOTTOM, _HEIGHT - _BOTTOM - top
    counts = {kind: _binned(axis, group) for kind, group in values.items()}
    highest, ceiling = _ceiling(np.sum(list(counts.values()), axis=0))
    parts = [_shade(axis, mark, top, base) for mark in marks]
    lines, told = _grid(ceiling, base, room)
    parts += lines + _bars(counts, highest, ceiling, base, room)
    parts += told + [_threshold(axis, mark, number, base) for number, mark in enumerate(marks)]
    parts.append(f'<path class="axis" d="M{_LEFT} {base}H{_WIDTH - _RIGHT}"/>')
    last = -99.0
    for tick in axis.ticks():
        x = _x(axis.at(tick))
        if x - last > 46:
            anchor = "start" if x < 16 else "end" if x > _WIDTH - 20 else "middle"
            parts.append(f'<text x="{x:.1f}" y="{base + 16}" text-anchor="{anchor}">{short(tick)}</text>')
            last = x
    return svg(_WIDTH, _HEIGHT, "".join(parts), f"histogram of {name}")


def svg(width: float, height: float, body: str, title: str, kind: str = "") -> str:
    """An SVG element that scales with its place and says what it shows."""
    return (
        f'<svg class="chart {kind}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{plain(title)}">'
        f"<title>{plain(title)}</title>{body}</svg>"
    )


def _x(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _binned(axis: Axis, values: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.bincount(np.minimum(BINS - 1, (axis.share(values) * BINS).astype(np.int64)), minlength=BINS)


def _ceiling(total: NDArray[np.int64]) -> tuple[int, float]:
    """The highest bar, and the count at the upper edge: lower where one bar would flatten all others."""
    ordered = np.sort(total[total > 0])[::-1]
    if len(ordered) > 1 and ordered[0] > TOWERS * ordered[1]:
        return int(ordered[0]), 1.5 * float(ordered[1])
    return int(ordered[0]), 1.04 * float(ordered[0])


def _grid(ceiling: float, base: float, room: float) -> tuple[list[str], list[str]]:
    """Lines at round counts, and the counts."""
    lines, told = [], []
    for count in round_values(0, ceiling, 3):
        if count >= 1 and count == int(count):
            y = base - room * count / ceiling
            lines.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
            told.append(f'<text class="count" x="{_LEFT + 2}" y="{y - 3:.1f}">{short(count)}</text>')
    return lines, told


def _bars(counts: Mapping[str, NDArray[np.int64]], highest: int, ceiling: float, base: float, room: float) -> list[str]:
    width = (_WIDTH - _LEFT - _RIGHT) / BINS
    floor, parts = np.zeros(BINS), []
    for kind, bins in counts.items():
        for number in np.flatnonzero(bins).tolist():
            low, high = floor[number], min(ceiling, floor[number] + bins[number])
            height = max(1.0, room * (high - low) / ceiling)
            parts.append(
                f'<rect class="{kind}" x="{_LEFT + number * width + 0.6:.1f}" y="{base - room * low / ceiling - height:.1f}" '
                f'width="{width - 1.2:.1f}" height="{height:.1f}"/>'
            )
        floor = np.minimum(ceiling, floor + bins)
    if highest > ceiling:
        number = int(np.argmax(sum(counts.values())))
        x, y = _LEFT + number * width, base - room * 0.9
        parts.append(f'<path class="cut" d="M{x - 1:.1f} {y + 4:.1f}L{x + width + 1:.1f} {y - 3:.1f}"/>')
        right = number < BINS * 0.75
        place = f'x="{x + width + 4:.1f}"' if right else f'x="{x - 4:.1f}" text-anchor="end"'
        parts.append(f'<text {place} y="{y + 4:.1f}">{highest:,}</text>')
    return parts


def _shade(axis: Axis, mark: Mark, top: float, base: float) -> str:
    x = _x(axis.at(mark.value))
    start, end = (_LEFT, x) if mark.side == "min" else (x, _WIDTH - _RIGHT)
    wide = max(0.0, end - start)
    return f'<rect class="beyond" x="{start:.1f}" y="{top - 8}" width="{wide:.1f}" height="{base - top + 8:.1f}"/>'


def _threshold(axis: Axis, mark: Mark, number: int, base: float) -> str:
    x, y = _x(axis.at(mark.value)), 12 + _LABEL * number
    # The label stands on the side that stays, unless there is no room for it.
    wide = 8.0 * len(mark.label)
    right = (mark.side == "min" or x - wide < 0) and x + wide < _WIDTH
    place = f'x="{x + 5:.1f}"' if right else f'x="{x - 5:.1f}" text-anchor="end"'
    line = f'<path class="threshold" d="M{x:.1f} {y - 10}V{base}"/>'
    return f'{line}<text class="threshold" {place} y="{y}">{plain(mark.label)}</text>'


def part_bar(parts: Sequence[tuple[str, float, str]], whole: float, name: str) -> str:
    """A bar of ``parts`` (CSS class, amount, what it is) side by side; its full width is ``whole``."""
    cells = "".join(
        f'<b class="{kind}" style="width:{100 * amount / whole:.3f}%" title="{plain(said)}"></b>'
        for kind, amount, said in parts
        if amount and whole
    )
    return f'<span class="bar" role="img" aria-label="{plain(name)}">{cells}</span>'
