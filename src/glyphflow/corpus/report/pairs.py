"""Pictures that were found to be one picture, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from glyphflow.core.hardware import require
from glyphflow.corpus.report.charts import part_bar
from glyphflow.corpus.report.rows import Rows, sample
from glyphflow.corpus.report.shots import Shots
from glyphflow.corpus.report.text import counted, percent, plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAIRS = 30  # that are shown, an equal part for each distance


def section(rows: Rows, shots: Shots) -> str:
    """Pairs of every distance, the furthest first: there a threshold is wrong first."""
    if not rows.has("duplicates.duplicate_of"):
        return '<p class="none">No copies have been looked for yet: the stage duplicates has not run.</p>'
    firsts = rows.read("duplicates.duplicate_of")
    copies = np.flatnonzero(firsts.is_valid().to_numpy(zero_copy_only=False))
    if not len(copies):
        return '<p class="none">No picture is there twice.</p>'
    distance = rows.numbers("duplicates.distance")
    groups, sizes = _groups(rows, copies)
    levels = sorted(set(distance[copies][np.isfinite(distance[copies])].tolist()), reverse=True)
    each = max(2, PAIRS // max(1, len(levels)))
    parts = ""
    for level in levels:
        own = copies[distance[copies] == level]
        figures = "".join(_pair(rows, row, str(firsts[row].as_py()), shots) for row in sample(own, each, f"duplicates {level}"))
        what = "equal bytes or equal hashes" if level == 0 else f"{level:g} bits apart"
        head = f"<h4>{what} <small>{counted(len(own), 'picture')}</small></h4>"
        parts += f'<article class="refusal">{head}<div class="shots pairs">{figures}</div></article>'
    told = (
        f"<p>{counted(len(copies), 'picture')} are copies of {counted(groups, 'other')}; the largest group has {sizes} "
        "pictures. A cut copy is compared with windows of the whole one.</p>"
    )
    return f"{told}{_levels(distance[copies])}<div class=groups>{parts}</div>"


def _groups(rows: Rows, copies: NDArray[np.int64]) -> tuple[int, int]:
    """Number of groups with copies, and the size of the largest."""
    firsts = rows.read("duplicates.duplicate_of").take(require("pyarrow", "corpus").array(copies))
    sizes = rows.numbers("duplicates.group_size")[copies]
    return len(firsts.unique()), int(np.nanmax(sizes)) if np.isfinite(sizes).any() else 0


def _levels(distance: NDArray[np.float64]) -> str:
    known, counts = np.unique(distance[np.isfinite(distance)], return_counts=True)
    largest = int(counts.max()) if len(counts) else 1
    lines = "".join(
        f"<tr><td>{level:g} bits</td><td class=wide>{part_bar([('photo', count, '')], largest, f'{level:g} bits')}</td>"
        f"<td class=n>{count:,}</td><td class='n soft'>{percent(count, len(distance))}</td></tr>"
        for level, count in zip(known.tolist(), counts.tolist(), strict=True)
    )
    return f'<table class="numbers levels">{lines}</table>'


def _pair(rows: Rows, row: int, first: str, shots: Shots) -> str:
    other = rows.row_of(first)
    left = shots.picture(other) if other >= 0 else '<span class="shot"><i>gone</i></span>'
    said = (f"<span>{_said(rows, other)}</span>" if other >= 0 else "<span></span>") + f"<span>{_said(rows, row)}</span>"
    pictures = f'<div class="two">{left}{shots.picture(row)}</div>'
    return f'<figure class="pair">{pictures}<figcaption class="two">{said}</figcaption></figure>'


def _said(rows: Rows, row: int) -> str:
    width, height, size = (rows.cell(f"index.{name}", row) for name in ("width", "height", "size"))
    return f"<i>{plain(rows.key(row), 60)}</i><br>{width} × {height}, {size / 1000:,.0f} kB"
