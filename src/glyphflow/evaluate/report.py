"""The page that shows what was asked for, what came out, and what the judge read."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

from glyphflow.evaluate.metrics import IDENTITIES, matched_characters
from glyphflow.evaluate.score import read_scores
from glyphflow.perception import normalise_text

TITLES = {
    "word_accuracy": "word accuracy",
    "character_accuracy": "character accuracy",
    "edit_similarity": "edit similarity",
    "exact": "exact",
}

CEILING, READABLE = "judge's ceiling", "readable only"

_STYLE = """
.gf-eval { font: 14px/1.45 system-ui, "Noto Sans", "Noto Sans CJK SC", sans-serif; color: #1c1e21; }
.gf-eval table { border-collapse: collapse; margin: 12px 0; }
.gf-eval th, .gf-eval td { padding: 4px 12px; text-align: right; border-bottom: 1px solid #ddd; }
.gf-eval th:first-child, .gf-eval td:first-child { text-align: left; }
.gf-eval .of { color: #767b84; font-size: 12px; }
.gf-eval .grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 14px; }
.gf-eval figure { margin: 0; border: 1px solid #d8dade; border-radius: 8px; overflow: hidden; background: #fff; }
.gf-eval figure.good { border-color: #2b8a3e; } .gf-eval figure.part { border-color: #e8890c; }
.gf-eval figure.bad { border-color: #c92a2a; } .gf-eval figure.failed { border-style: dashed; }
.gf-eval img { width: 100%; display: block; background: #eee; image-rendering: auto; }
.gf-eval figcaption { padding: 8px 10px; font-size: 13px; overflow-wrap: anywhere; }
.gf-eval .asked, .gf-eval .read { font-size: 16px; }
.gf-eval .hit { color: #2b8a3e; } .gf-eval .miss { color: #c92a2a; text-decoration: underline; }
.gf-eval .extra { color: #b35c00; } .gf-eval small { color: #767b84; }
"""


def page(folder: Path) -> str:
    """The whole report of a scored folder as one self-contained HTML page."""
    scores = read_scores(folder)
    title = html.escape(f"{scores['benchmark']}: what was asked for and what was read")
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
    figures = "".join(_figure(folder, row) for row in scores["rows"])
    return (
        f'<section class="gf-eval"><style>{_STYLE}</style>{_table(scores)}'
        f"<p><small>judge {html.escape(scores['judge'])}; model {html.escape(scores['model'])}; "
        f"{html.escape(', '.join(f'{name} {value}' for name, value in scores['settings'].items()))}. "
        "Green was read as asked, red is missing, orange was read and not asked for.</small></p>"
        f'<div class="grid">{figures}</div></section>'
    )


def table(scores: dict[str, Any]) -> str:
    """The summary as plain text: every metric with the judge's ceiling, for all prompts and by language."""
    lines = [f"{'':24}" + "".join(f"{TITLES[name]:>22}" for name in IDENTITIES) + f"{'pictures':>14}"]
    for label, values, count in _lines(scores):
        lines.append(f"{label:24}" + "".join(f"{_percent(values[name]):>22}" for name in IDENTITIES) + f"{count:>14}")
    labels = {label.strip() for label, _, _ in _lines(scores)}
    if CEILING in labels:
        lines.append(f"{CEILING}: the same texts perfectly typeset, read by the same judge")
    if READABLE in labels:
        lines.append(f"{READABLE}: prompts whose perfect picture the judge reads without a mistake")
    return "\n".join(lines)


def _lines(scores: dict[str, Any]) -> list[tuple[str, dict[str, float | None], str]]:
    lines = []
    for name, group in scores["groups"].items():
        failures = f" ({group['failed']} failed)" if group["failed"] else ""
        lines.append((name, group["scores"], f"{group['n'] - group['failed']}{failures}"))
        if "ceiling" in group:
            lines.append((f"  {CEILING}", group["ceiling"], str(group["n"] - group["ceiling_failed"])))
            if group["readable_n"] != group["n"] - group["failed"]:
                lines.append((f"  {READABLE}", group["readable"], str(group["readable_n"])))
    return lines


def _table(scores: dict[str, Any]) -> str:
    head = "".join(f'<th title="{html.escape(identity)}">{TITLES[name]}</th>' for name, identity in scores["metrics"].items())
    body = ""
    for label, values, count in _lines(scores):
        kind = ' class="of"' if label.startswith(" ") else ""
        cells = "".join(f"<td>{_percent(values[name])}</td>" for name in scores["metrics"])
        body += f"<tr{kind}><td>{html.escape(label.strip())}</td>{cells}<td>{html.escape(count)}</td></tr>"
    return f"<table><tr><th>{html.escape(scores['benchmark'])}</th>{head}<th>pictures</th></tr>{body}</table>"


def _figure(folder: Path, row: dict[str, Any]) -> str:
    picture = _inline(folder / f"{row['id']}.png")
    prompt = f"<small>{html.escape(row['prompt'])}</small>"
    if row["status"] != "ok":
        reason = html.escape(str(row["reason"]))
        return f'<figure class="failed">{picture}<figcaption>{prompt}<br><b>not judged</b>: {reason}</figcaption></figure>'
    target, reading = " ".join(row["targets"]), " ".join(row["reading"])
    hits, total = row["counts"]["edit_similarity"]
    kind = "good" if hits == total else "part" if row["counts"]["character_accuracy"][0] else "bad"
    ceiling = row.get("ceiling")
    note = ""
    if ceiling is not None and ceiling["status"] == "ok" and not ceiling["counts"]["exact"][0]:
        note = f"<br><small>perfectly typeset it reads {html.escape(' '.join(ceiling['reading']) or 'nothing')}</small>"
    asked = _coloured(target, reading, "miss")
    read = _coloured(reading, target, "extra") or "<small>nothing</small>"
    return (
        f'<figure class="{kind}">{picture}<figcaption>{prompt}<div class="asked"><small>asked</small> {asked}</div>'
        f'<div class="read"><small>read</small> {read} <small>{_percent(hits / total)}</small></div>'
        f"{note}</figcaption></figure>"
    )


def _coloured(text: str, other: str, miss: str) -> str:
    """``text`` with the characters it shares with ``other`` (compared as the metrics do) marked as hits, the rest ``miss``."""
    folded = [normalise_text(char, casefold=True) for char in text]  # "" for spaces, several for a ligature
    flags = matched_characters("".join(folded), normalise_text(other, casefold=True).replace(" ", ""))
    parts, start = [], 0
    for char, plain in zip(text, folded, strict=True):
        hit = all(flags[start : start + len(plain)])
        start += len(plain)
        parts.append(f'<span class="{"hit" if hit else miss}">{html.escape(char)}</span>' if plain else html.escape(char))
    return "".join(parts)


def _inline(path: Path) -> str:
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img alt="" loading="lazy" src="data:image/png;base64,{data}">'


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
