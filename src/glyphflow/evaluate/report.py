"""The result for people: a table as plain text, and a page with the worst and best pictures and what the judge saw in them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glyphflow.evaluate.benchmark import MetricIdentity
from glyphflow.evaluate.figures import STYLE, Shown, figure
from glyphflow.evaluate.published import Reference, references
from glyphflow.evaluate.score import read_scores, shaped

ALL = 64  # pictures that a page shows without choosing
EACH = 5  # of the worst, of the best and of the failed pictures of a category otherwise: a row each
MOST = 240  # pictures of a page in all: some 7 MB, which a browser opens in under a second
COLUMNS = {"ceiling": "ceiling", "readable": "readable only", "worst_case": "worst case"}
MEANING = {
    "ceiling": "ceiling: what was asked for, perfectly typeset or drawn, seen by the same judge",
    "readable": "readable only: samples in whose perfect picture the judge sees no mistake",
    "worst_case": "worst case: had every failed judgement been as bad as can be; the value itself leaves failures out",
}
COLOURS = {
    "ocr": "Green was read as asked, red is missing, orange was read and not asked for; frames show where the judge read",
    "objects": "Frames show where the judge saw an object",
}


def table(scores: Mapping[str, Any]) -> str:
    """Every metric with its interval and what must be read beside it, as plain text."""
    columns = _columns(scores)
    head = ["", "value", "95 % interval", *(COLUMNS[name] for name in columns), "pictures", "failed"]
    rows = [[metric_name(metric), *_cells(metric, columns)] for metric in scores["metrics"]]
    first = scores["metrics"][0]
    published = [
        [f"  {reference.model}", number(value, max(_scale(first), value or 0.0))]
        for reference, [value] in _published(scores["benchmark"]["name"], [first])
    ]
    rows += [[f"published {metric_name(first)}:"], *published] if published else []
    judges = [f"judge of {kind}: {identity or 'none named'}" for kind, identity in scores["judges"].items()]
    failures = ", ".join(f"{count} {status}" for status, count in scores["failures"].items())
    lost = f"{sum(scores['failures'].values())} of {scores['judgements']} judgements failed: {failures}"
    title = f"{benchmark_name(scores['benchmark'])}: pictures of {scores['model']}"
    return "\n".join([title, *judges, *aligned([head, *rows]), *_notes(scores), *([lost] if failures else [])])


def page(folder: Path) -> str:
    """The whole report of a scored folder as one self-contained HTML page."""
    with shaped(folder):
        title = html.escape(f"{benchmark_name(read_scores(folder)['benchmark'])}: what was asked for and what was seen")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<style>body { max-width: 1180px; margin: 24px auto; padding: 0 16px; background: #f6f7f8; "
        "font-family: system-ui, sans-serif; }</style></head>"
        f"<body><h1>{title}</h1>{fragment(folder)}</body></html>\n"
    )


def fragment(folder: Path) -> str:
    """The report as a piece of HTML with its own style, pictures inlined, to set into another page."""
    scores = read_scores(folder)
    with shaped(folder):
        return _fragment(folder, scores)


def _fragment(folder: Path, scores: Mapping[str, Any]) -> str:
    settings = "".join(f", {name} {value}" for name, value in scores["settings"].items() if value != "")
    judges = "; ".join(f"{kind}: {identity or 'no judge'}" for kind, identity in scores["judges"].items())
    notes = [*_notes(scores), *(sentence for kind, sentence in COLOURS.items() if kind in scores["judges"])]
    when = f", judged {scores['judged']['first'][:10]}" if scores["judged"] else ""
    return (
        f'<section class="gf-eval"><style>{STYLE}</style>{_table(scores)}'
        f"<p><small>{html.escape(judges)}{when}. Model {html.escape(scores['model'])}{html.escape(settings)}.</small></p>"
        f"<p><small>{html.escape(' '.join(f'{note}.' for note in notes))}</small></p>{_pictures(folder, scores)}</section>"
    )


def _columns(scores: Mapping[str, Any]) -> list[str]:
    """The columns that say something: a worst case only where something failed."""
    found = [name for name in ("ceiling", "readable") if any(name in metric for metric in scores["metrics"])]
    return found + (["worst_case"] if scores["failures"] else [])


def _notes(scores: Mapping[str, Any]) -> list[str]:
    """What the columns mean, and which subset the readable one is."""
    notes = {name: MEANING[name] for name in _columns(scores)}
    if "readable" in notes:
        subset = scores["readable"]
        notes["readable"] += f" ({subset['samples']} of {subset['of']}, set {subset['hash']})"
    return list(notes.values())


def _table(scores: Mapping[str, Any]) -> str:
    columns = _columns(scores)
    head = "".join(f"<th>{text}</th>" for text in ("value", "95 %", *(COLUMNS[name] for name in columns), "pictures", "failed"))
    body = ""
    for metric in scores["metrics"]:
        cells = [f"<td>{cell}</td>" for cell in _cells(metric, columns)]
        about = html.escape(f"{metric['identity']['variant']}; {metric['identity']['aggregation']}")
        body += f'<tr><td title="{about}">{html.escape(metric_name(metric))}</td>{"".join(cells)}</tr>'
    name = html.escape(scores["benchmark"]["name"])
    return f'<div class="wide"><table><tr><th>{name}</th>{head}</tr>{body}</table></div>{_published_table(scores)}'


def _published_table(scores: Mapping[str, Any]) -> str:
    """Others' published rows beside ours, in the metrics that they gave."""
    found = _published(scores["benchmark"]["name"], scores["metrics"])
    if not found:
        return ""
    used = [place for place in range(len(scores["metrics"])) if any(values[place] is not None for _, values in found)]
    metrics = [scores["metrics"][place] for place in used]
    head = "".join(f"<th>{html.escape(metric_name(metric)).replace(' [', '<br>[')}</th>" for metric in metrics)
    own = "".join(f"<td>{number(metric['value'], _scale(metric))}</td>" for metric in metrics)
    rows = "".join(
        f'<tr class="of"><td>{html.escape(reference.model)} (published)</td>'
        + "".join(f"<td>{number(values[place], _scale(scores['metrics'][place]))}</td>" for place in used)
        + "</tr>"
        for reference, values in found
    )
    source = html.escape("; ".join(filter(None, (found[0][0].source, found[0][0].note))))
    return (
        f'<div class="wide"><table><tr><th></th>{head}</tr><tr><td>these pictures</td>{own}</tr>{rows}</table></div>'
        f"<p><small>Published rows: {source}. Other judges, prompts and pictures than here.</small></p>"
    )


def _published(benchmark: str, metrics: Sequence[Mapping[str, Any]]) -> list[tuple[Reference, list[float | None]]]:
    """Every published row that has a value for one of ``metrics``, with its values in their order."""
    identities = [
        MetricIdentity(
            entry["identity"]["name"],
            entry["identity"]["aggregation"],
            entry["identity"]["variant"],
            tuple(entry["identity"]["dimensions"].items()),
        )
        for entry in metrics
    ]
    rows = [(reference, [reference.value(identity) for identity in identities]) for reference in references(benchmark)]
    return [(reference, values) for reference, values in rows if any(value is not None for value in values)]


def _pictures(folder: Path, scores: Mapping[str, Any]) -> str:
    """All pictures, or of large folders the worst, the best and some that nobody judged in each category."""
    shown, parts = Shown.of(folder, scores), list[tuple[str, list[Shown]]]()
    categories = dict.fromkeys(entry.category for entry in shown)
    if 3 * len(categories) > MOST:  # too many to show some of each
        categories = {"": None}
    each = min(EACH, MOST // (3 * max(1, len(categories))))
    every: list[Shown] = []
    for category in categories:
        members = [entry for entry in shown if len(categories) == 1 or entry.category == category]
        failed = [entry for entry in members if entry.quality is None]
        ranked = sorted((entry for entry in members if entry.quality is not None), key=lambda entry: entry.quality or 0.0)
        every += [*ranked, *failed]
        worst, best = ranked[:each], ranked[each:][-each:][::-1]
        for label, chosen in (("the worst", worst), ("the best", best), ("not judged", failed[:each])):
            if chosen:
                parts.append((f"{category or 'All'}: {label} ({len(chosen)} of {len(members)})", chosen))
    if len(every) <= ALL:
        parts = [(f"All pictures, {'each category ' if len(categories) > 1 else ''}from worst to best", every)]
    return "".join(_grid(title, chosen) for title, chosen in parts)


def _grid(title: str, chosen: Sequence[Shown]) -> str:
    return f'<h3>{html.escape(title)}</h3><div class="grid">{"".join(map(figure, chosen))}</div>'


def benchmark_name(identity: Mapping[str, str]) -> str:
    """Name, version, and how many samples where they are not all."""
    part = f", {identity['limit']} of its samples" if "limit" in identity else ""
    return f"{identity['name']} (version {identity['version']}{part})"


def metric_name(metric: Mapping[str, Any]) -> str:
    """The metric with its part and variant, as tables show it."""
    identity = metric["identity"]
    parts = ", ".join(f"{key} {value}" for key, value in identity["dimensions"].items())
    corrected = ", corrected" if identity["variant"] == "corrected" else ""
    return f"{identity['name']}{f' [{parts}]' if parts else ''}{corrected}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text with the columns of ``rows`` below each other, the first to the left and the others to the right."""
    width = max(map(len, rows))
    full = [[*row, *[""] * (width - len(row))] for row in rows]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    lines = ["  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]) for first, *rest in full]
    return [line.rstrip() for line in lines]


def number(value: float | None, scale: float) -> str:
    """``value`` with as many digits as values up to ``scale`` need; nothing of nothing."""
    return "" if value is None else f"{value:.{4 if scale <= 1 else 2}f}"


def _scale(metric: Mapping[str, Any]) -> float:
    """The largest number that stands in the row of ``metric``, which says whether it is a share or counts to a hundred."""
    values = [metric["value"], *(metric["ci95"] or ()), *(metric.get(name) for name in COLUMNS)]
    return max((abs(value) for value in values if value is not None), default=0.0)


def _cells(metric: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    scale = _scale(metric)
    spread = " to ".join(number(end, scale) for end in metric["ci95"] or ())
    beside = [number(metric.get(name), scale) for name in columns]
    return [number(metric["value"], scale), spread, *beside, str(metric["n"]), str(metric["n_failed"] or "")]
