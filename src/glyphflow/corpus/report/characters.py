"""Which Chinese characters are written in the pictures, and how often: the curve over their ranks, and what is missing."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np

from glyphflow.core.hardware import require
from glyphflow.corpus.report.charts import part_bar, svg
from glyphflow.corpus.report.rows import Rows
from glyphflow.corpus.report.text import counted, percent, short
from glyphflow.render.schedule import standard_characters

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIERS = ((1, 3500), (2, 3000), (3, 1605))  # of the Table of General Standard Chinese Characters, in its order
ENOUGH = 10  # times: what the report asks of every character
_SHOWN = 120  # characters of a list
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 720, 270, 44, 40, 14


def section(rows: Rows, kept: NDArray[np.bool_], weight: NDArray[np.float64]) -> str:
    """The characters of the texts that the stage text knows of the ``kept`` rows."""
    if not rows.has("text.lines"):
        return '<p class="none">Nothing has been read yet: the stage text has not run.</p>'
    counts, drawn, texts = count_characters(rows, kept, weight)
    if not counts.sum():
        return f'<p class="none">No Chinese character was read in {counted(texts, "row")} with text.</p>'
    characters = standard_characters()
    order = np.argsort(-counts, kind="stable")
    seen = int((counts > 0).sum())
    first = " ".join(f"<span>{characters[n]}<small>{counts[n]:,}</small></span>" for n in order[:24].tolist() if counts[n])
    unseen = "".join(characters[n] for n in np.flatnonzero(counts == 0)[:_SHOWN].tolist())
    more = " …" if seen < len(characters) - _SHOWN else ""
    missing = f'<h4>The first that are missing</h4><p class="characters">{unseen}{more}</p>' if unseen else ""
    return (
        f"<p>{counted(int(counts.sum()), 'character')} of the table in {counted(texts, 'row')} with text; "
        f"<b>{seen:,}</b> of the {len(characters):,} occur, {int((counts >= ENOUGH).sum()):,} at least {ENOUGH} times.</p>"
        f"{curve(counts, drawn)}{_tiers(counts)}"
        f'<h4>The most frequent</h4><p class="characters frequent">{first}</p>{missing}'
    )


def count_characters(
    rows: Rows, kept: NDArray[np.bool_], weight: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """(8105,) how often each character of the table stands in the kept rows, (8105,) the same with each row counted by its
    ``weight``, and the number of rows with text."""
    number = {char: place for place, char in enumerate(standard_characters())}
    counts, drawn, texts = np.zeros(len(number), np.int64), np.zeros(len(number)), 0
    chosen = np.flatnonzero(kept)
    lines = rows.read("text.lines").take(require("pyarrow", "corpus").array(chosen))
    for row, told in zip(chosen.tolist(), lines.to_pylist(), strict=True):
        text = "".join(line["text"] for line in json.loads(told)) if told else ""
        texts += bool(text)
        places = [number[char] for char in text if char in number]
        np.add.at(counts, places, 1)
        np.add.at(drawn, places, weight[row])
    return counts, drawn, texts


def _tiers(counts: NDArray[np.int64]) -> str:
    """How many characters of each tier are never seen, seldom, and often enough."""
    lines, start = "", 0
    for tier, size in TIERS:
        own = counts[start : start + size]
        start += size
        never, often = int((own == 0).sum()), int((own >= ENOUGH).sum())
        parts = (
            ("often", often, f"{ENOUGH} times or more"),
            ("seldom", size - never - often, f"1 to {ENOUGH - 1} times"),
            ("never", never, "never"),
        )
        cells = "".join(f"<td class=n>{number:,} <i>{percent(number, size)}</i></td>" for _, number, _ in parts)
        lines += f"<tr><td>tier {tier}, {size:,}</td><td class=wide>{part_bar(parts, size, f'tier {tier}')}</td>{cells}</tr>"
    head = (
        "<tr><th>characters</th><th></th>"
        f'<th class=n><i class="key often"></i>{ENOUGH}+ times</th><th class=n><i class="key seldom"></i>1 to {ENOUGH - 1}</th>'
        '<th class=n><i class="key never"></i>never</th></tr>'
    )
    return f'<div class="scroll"><table class="numbers tiers">{head}{lines}</table></div>'


def curve(counts: NDArray[np.int64], drawn: NDArray[np.float64]) -> str:
    """Count over rank, both logarithmic: as they are, and as the view's weights have them drawn."""
    ordered = np.sort(counts[counts > 0])[::-1].astype(np.float64)
    even = drawn * (counts.sum() / max(drawn.sum(), 1e-9))  # for the same number of characters
    weighted = np.sort(even[even >= 1])[::-1]
    top = 10 ** math.ceil(math.log10(max(10.0, ordered[0], weighted[0] if len(weighted) else 1.0)))
    ranks = float(len(counts))
    parts = []
    for power in range(round(math.log10(top)) + 1):
        y = _y(10.0**power, top)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - 8}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(10.0**power)}</text>')
    for rank in (1, 10, 100, 1000, 8105):
        x, anchor = _x(rank, ranks), "end" if rank == 8105 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="{anchor}">{rank:,}</text>')
    y = _y(float(ENOUGH), top)
    parts.append(f'<path class="threshold" d="M{_LEFT} {y:.1f}H{_WIDTH - 8}"/>')
    parts.append(f'<text class="threshold" x="{_WIDTH - 10}" y="{y - 5:.1f}" text-anchor="end">{ENOUGH} times</text>')
    if not np.allclose(even, counts):
        parts.append(f'<polyline class="second" points="{_points(weighted, ranks, top)}"/>')
        parts.append(
            f'<text class="second" x="{_WIDTH - 10}" y="{_TOP + 26}" text-anchor="end">as drawn, for as many characters</text>'
        )
    parts.append(f'<polyline class="first" points="{_points(ordered, ranks, top)}"/>')
    parts.append(f'<text class="first" x="{_WIDTH - 10}" y="{_TOP + 10}" text-anchor="end">as they are</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_HEIGHT - _BOTTOM}H{_WIDTH - 8}"/>')
    parts.append(f'<text x="{_LEFT}" y="{_HEIGHT - 2}">rank of the character</text>')
    return svg(_WIDTH, _HEIGHT, "".join(parts), "how often each character occurs, by its rank", "ranks")


def _points(values: NDArray[np.float64], ranks: float, top: float) -> str:
    """Up to 160 points along the curve, evenly on its logarithmic axis."""
    if not len(values):
        return ""
    places = np.unique(np.round(np.geomspace(1, len(values), 160)).astype(np.int64))
    return " ".join(f"{_x(float(rank), ranks):.1f},{_y(float(values[rank - 1]), top):.1f}" for rank in places.tolist())


def _x(rank: float, ranks: float) -> float:
    return _LEFT + math.log10(rank) / math.log10(ranks) * (_WIDTH - 8 - _LEFT)


def _y(count: float, top: float) -> float:
    share = math.log10(max(1.0, count)) / math.log10(top)
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)
