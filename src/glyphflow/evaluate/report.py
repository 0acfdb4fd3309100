"""The result for people: a table as plain text, and a page with the worst and best pictures and what the judge saw in them."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glyphflow.evaluate.benchmark import MetricIdentity
from glyphflow.evaluate.figures import STYLE, Shown, figure
from glyphflow.evaluate.published import Reference, references
from glyphflow.evaluate.score import read_scores

ALL = 64  # pictures that a page shows without choosing
EACH = 4  # of the worst, of the best and of the failed pictures of a category otherwise
COLUMNS = {"ceiling": "ceiling", "readable": "readable only", "worst_case": "worst case"}
MEANING = {
    "ceiling": "ceiling: the same texts perfectly typeset, seen by the same judge",
    "readable": "readable only: samples whose perfectly typeset picture the judge reads without a mistake",
    "worst_case": "worst case: had every failed judgement been as bad as can be; the value itself leaves failures out",
}


def table(scores: Mapping[str, Any]) -> str:
    """Every metric with its interval and what must be read beside it, as plain text."""
    columns = _columns(scores)
    head = ["", "value", "95 % interval", *(COLUMNS[name] for name in columns), "pictures", "failed"]
    rows = [
        [
            metric_name(metric),
            _number(metric["value"]),
            " to ".join(_number(end) for end in metric["ci95"]) if metric["ci95"] else "",
            *(_number(metric.get(name)) for name in columns),
            str(metric["n"]),
            str(metric["n_failed"] or ""),
        ]
        for metric in scores["metrics"]
    ]
    rows += [
        [f"  {reference.model}, published", *map(_number, values[:1]), f"({metric_name(metric)})"]
        for metric in scores["metrics"][:1]
        for reference, values in _published(scores["benchmark"]["name"], [metric])
    ]
    rows = [row + [""] * (len(head) - len(row)) for row in [head, *rows]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(_cell(row[column], widths[column], column) for column in range(len(head))) for row in rows]
    judges = [f"judge of {kind}: {identity or 'none named'}" for kind, identity in scores["judges"].items()]
    notes = [MEANING[name] for name in columns]
    failures = ", ".join(f"{count} {status}" for status, count in scores["failures"].items())
    lost = f"{sum(scores['failures'].values())} of {scores['judgements']} judgements failed: {failures}"
    title = f"{scores['benchmark']['name']} {scores['benchmark']['version']}, pictures of {scores['model']}"
    return "\n".join([title, *judges, *(line.rstrip() for line in lines), *notes, *([lost] if failures else [])])


def page(folder: Path) -> str:
    """The whole report of a scored folder as one self-contained HTML page."""
    title = html.escape(f"{read_scores(folder)['benchmark']['name']}: what was asked for and what was seen")
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
    settings = "".join(f", {name} {value}" for name, value in scores["settings"].items() if value != "")
    judges = "; ".join(f"{kind}: {identity or 'no judge'}" for kind, identity in scores["judges"].items())
    when = f", judged {scores['judged']['first'][:10]}" if scores["judged"] else ""
    notes = [MEANING[name] for name in _columns(scores)]
    return (
        f'<section class="gf-eval"><style>{STYLE}</style>{_table(scores)}'
        f"<p><small>{html.escape('. '.join(notes))}.</small></p>"
        f"<p><small>{html.escape(judges)}{when}. Model {html.escape(scores['model'])}{html.escape(settings)}. "
        "Green was read as asked, red is missing, orange was read and not asked for; frames show where the judge saw it."
        f"</small></p>{_pictures(folder, scores)}</section>"
    )


def _columns(scores: Mapping[str, Any]) -> list[str]:
    """The columns that say something: a worst case only where something failed."""
    found = [name for name in ("ceiling", "readable") if any(name in metric for metric in scores["metrics"])]
    return found + (["worst_case"] if scores["failures"] else [])


def _table(scores: Mapping[str, Any]) -> str:
    columns = _columns(scores)
    head = "".join(f"<th>{text}</th>" for text in ("value", "95 %", *(COLUMNS[name] for name in columns), "pictures", "failed"))
    body = ""
    for metric in scores["metrics"]:
        spread = " to ".join(_number(end) for end in metric["ci95"]) if metric["ci95"] else ""
        cells = [_number(metric["value"]), spread, *(_number(metric.get(name)) for name in columns)]
        cells = [f"<td>{cell}</td>" for cell in [*cells, str(metric["n"]), str(metric["n_failed"] or "")]]
        about = html.escape(f"{metric['identity']['variant']}; {metric['identity']['aggregation']}")
        body += f'<tr><td title="{about}">{html.escape(metric_name(metric))}</td>{"".join(cells)}</tr>'
    return f"<table><tr><th>{html.escape(scores['benchmark']['name'])}</th>{head}</tr>{body}</table>{_published_table(scores)}"


def _published_table(scores: Mapping[str, Any]) -> str:
    """Others' published rows beside ours, in the metrics that they gave."""
    found = _published(scores["benchmark"]["name"], scores["metrics"])
    if not found:
        return ""
    used = [place for place in range(len(scores["metrics"])) if any(values[place] is not None for _, values in found)]
    metrics = [scores["metrics"][place] for place in used]
    head = "".join(f"<th>{html.escape(metric_name(metric))}</th>" for metric in metrics)
    own = "".join(f"<td>{_number(metric['value'])}</td>" for metric in metrics)
    rows = "".join(
        f'<tr class="of"><td>{html.escape(reference.model)} (published)</td>'
        + "".join(f"<td>{_number(values[place])}</td>" for place in used)
        + "</tr>"
        for reference, values in found
    )
    source = html.escape("; ".join(filter(None, (found[0][0].source, found[0][0].note))))
    return (
        f"<table><tr><th></th>{head}</tr><tr><td>these pictures</td>{own}</tr>{rows}</table>"
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
    shown = Shown.of(folder, scores)
    if len(shown) <= ALL:
        return f'<div class="grid">{"".join(figure(entry) for entry in shown)}</div>'
    parts = []
    for category in dict.fromkeys(entry.category for entry in shown):
        members = [entry for entry in shown if entry.category == category]
        failed = [entry for entry in members if entry.quality is None]
        ranked = sorted((entry for entry in members if entry.quality is not None), key=lambda entry: entry.quality or 0.0)
        worst, best = ranked[:EACH], ranked[EACH:][-EACH:][::-1]
        for label, chosen in (("worst", worst), ("best", best), ("not judged", failed[:EACH])):
            if chosen:
                title = html.escape(f"{category or 'all'}: {label} {len(chosen)} of {len(members)}")
                parts.append(f'<h3>{title}</h3><div class="grid">{"".join(figure(entry) for entry in chosen)}</div>')
    return "".join(parts)


def metric_name(metric: Mapping[str, Any]) -> str:
    """The metric with its part and variant, as tables show it."""
    identity = metric["identity"]
    parts = ", ".join(f"{key} {value}" for key, value in identity["dimensions"].items())
    corrected = ", corrected" if identity["variant"] == "corrected" else ""
    return f"{identity['name']}{f' [{parts}]' if parts else ''}{corrected}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _cell(text: str, width: int, column: int) -> str:
    return text.ljust(width) if column == 0 else text.rjust(width)
