"""What the corpus is: its rows by source, licence and kind, and how many of them every filter took."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from glyphflow.corpus.report import flow
from glyphflow.corpus.report.charts import part_bar
from glyphflow.corpus.report.rows import Passage, Rows, encode
from glyphflow.corpus.report.text import counted, percent, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SOURCES = 40  # the largest are listed, the others together
LICENCES = 3  # of a source that are named


def legend() -> str:
    """Which colour is which kind of row."""
    return '<p class="legend"><span><i class="photo"></i>pictures</span><span><i class="render"></i>renders</span></p>'


def sources(rows: Rows, kept: NDArray[np.bool_] | None) -> str:
    """A line for each source: its rows, their licences, what could not be read, and how many the view keeps."""
    names, of_row = encode(rows.read("index.source"))
    licences, licence = encode(rows.read("index.licence"))
    unread = rows.read("index.error").is_valid().to_numpy(zero_copy_only=False)
    sizes = np.bincount(of_row, minlength=len(names))
    order = np.argsort(-sizes, kind="stable")
    groups = [(plain(names[number]), of_row == number) for number in order[:SOURCES].tolist()]
    if len(order) > SOURCES:
        rest = np.isin(of_row, order[SOURCES:])
        groups.append((f"{len(order) - SOURCES} other sources", rest))
    largest = max((int(chosen.sum()) for _, chosen in groups), default=1)
    lines = [
        "<tr><th>source</th><th class=wide></th><th class=n>rows</th><th>licence</th><th class=n>unread</th>"
        + ("" if kept is None else "<th class=n>kept</th><th class=n></th>")
        + "</tr>"
    ]
    for name, chosen in groups:
        lines.append(_line(rows, name, chosen, unread, kept, largest, _licences(licences, licence[chosen])))
    return f'<div class="scroll"><table class="numbers sources">{"".join(lines)}</table></div>'


def _line(
    rows: Rows,
    name: str,
    chosen: NDArray[np.bool_],
    unread: NDArray[np.bool_],
    kept: NDArray[np.bool_] | None,
    largest: int,
    licences: str,
) -> str:
    number, bad = int(chosen.sum()), int((chosen & unread).sum())
    stay = chosen & (kept if kept is not None else chosen)
    parts = [
        (f"{kind} {state}", int((of_kind & stays).sum()), f"{kind}s {state}")
        for kind, of_kind in (("photo", rows.photo), ("render", ~rows.photo))
        for state, stays in (("kept", stay), ("gone", chosen & ~stay))
    ]
    cells = (
        f"<td>{name}</td><td>{part_bar(parts, largest, f'{number} rows')}</td><td class=n>{number:,}</td><td>{licences}</td>"
    )
    cells += f"<td class=n>{bad or ''}</td>"
    if kept is not None:
        cells += f"<td class=n>{int(stay.sum()):,}</td><td class='n soft'>{percent(int(stay.sum()), number)}</td>"
    return f"<tr>{cells}</tr>"


def _licences(names: Sequence[str], codes: NDArray[np.int64]) -> str:
    """The most frequent licences of a source."""
    numbers, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts, kind="stable").tolist()
    told = [f"{plain(names[numbers[place]] or 'not stated', 60)} {counts[place]:,}" for place in order[:LICENCES]]
    if len(order) == 1:
        told = [plain(names[numbers[0]] or "not stated", 60)]
    if len(order) > LICENCES:
        told.append(f"{len(order) - LICENCES} others")
    return "<br>".join(told)


def flows(rows: Rows, passed: Sequence[Passage]) -> str:
    """The diagram of all filters, and its numbers."""
    if not passed:
        return '<p class="none">No view has been decided yet, so nothing is refused: run glyphflow corpus curate or run.</p>'
    start, way = flow.start_of(rows), flow.stations(rows, passed)
    changed = sum(passage.changed for passage in passed)
    late = (
        f'<p class="none">{counted(changed, "row")} of an earlier view would be decided otherwise from what is measured now; '
        "run glyphflow corpus run again to bring all views up to date.</p>"
        if changed
        else ""
    )
    return (
        f"{legend()}{flow.diagram(start, way)}{late}<details><summary>All numbers, pictures and renders apart</summary>"
        f"{flow.table(start, way)}</details>"
    )
