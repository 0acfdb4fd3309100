"""The demo's page: one HTML file with everything in it, so that it can be sent and opened without a network."""

from __future__ import annotations

import base64
import html
import io
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import glyphflow
from glyphflow.cli.steps import StepRecord
from glyphflow.core.errors import GlyphFlowError

CHART = (760, 240)  # px
MARGIN = (56, 14, 30, 34)  # px left, right, top, bottom

STYLE = """
:root { --ink: #1d1f24; --soft: #6b7280; --line: #e3e5ea; --paper: #fff; --accent: #2f5bea; --warm: #d9622b; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f5f7; color: var(--ink); }
body { font: 15px/1.55 system-ui, "Noto Sans", "Noto Sans CJK SC", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 40px 24px 80px; }
header h1 { font-size: 34px; letter-spacing: -0.02em; margin: 0 0 6px; }
header p { margin: 0; color: var(--soft); max-width: 70ch; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 12px; margin: 26px 0 0; }
.facts div { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.facts b { display: block; font-size: 24px; letter-spacing: -0.01em; } .facts span { color: var(--soft); font-size: 13px; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 12px; padding: 22px 26px; margin-top: 26px; }
.card > h2 { margin: 0 0 2px; font-size: 21px; } .card > p { color: var(--soft); margin: 0 0 14px; max-width: 80ch; }
.card svg { max-width: 100%; height: auto; } .card svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
.steps { border-collapse: collapse; width: 100%; font-size: 14px; }
.steps td, .steps th { padding: 7px 10px; border-bottom: 1px solid var(--line); }
.steps th { text-align: left; color: var(--soft); font-weight: 500; }
.steps .n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; } .steps .failed { color: #c0392b; }
.steps code { font-size: 12px; color: var(--soft); overflow-wrap: anywhere; }
.bar { display: block; height: 6px; border-radius: 3px; background: var(--accent); min-width: 1px; }
.strip { display: grid; gap: 14px; } .strip figure, .samples figure { margin: 0; }
.strip img { max-width: 100%; border-radius: 8px; display: block; }
figcaption { color: var(--soft); font-size: 13px; margin-top: 4px; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 18px; }
.pairs figure { margin: 0; } .pairs div { position: relative; } .pairs img { width: 100%; border-radius: 8px; display: block; }
.pairs div + div { margin-top: 6px; } .pairs b { position: absolute; right: 6px; top: 4px; padding: 0 6px; border-radius: 6px; }
.pairs .right b { background: #e6f6ea; color: #1b7a34; } .pairs .wrong b { background: #fbe9e7; color: #b3361e; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 18px; }
.samples figure { display: grid; grid-template-columns: 128px 1fr; gap: 14px; align-items: start; }
.samples img { width: 128px; border-radius: 8px; background: #eee; }
.samples dl { margin: 0; font-size: 13px; } .samples dt { color: var(--soft); }
.samples dd { margin: 0 0 6px; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--accent); }
footer { color: var(--soft); font-size: 13px; margin-top: 26px; }
"""


@dataclass(frozen=True)
class Section:
    """A card of the page: ``body`` makes its HTML and may find that there is nothing to show yet."""

    title: str
    text: str
    body: Callable[[], str]


def render_page(sections: Iterable[Section], facts: Mapping[str, str], records: Sequence[StepRecord]) -> str:
    """The whole page. A section whose material is missing says so in a sentence and the others are shown all the same."""
    cards = "".join(_card(section) for section in sections)
    tiles = "".join(f"<div><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>" for name, value in facts.items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>GlyphFlow demo</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body><main>'
        "<header><h1>GlyphFlow, from pictures to pictures</h1><p>Every part of a text-writing image model at toy size, run "
        "on this machine: a corpus is collected and curated, a small model learns emoji that it had never seen, and judges "
        f'look at what it draws and writes.</p><div class="facts">{tiles}</div></header>{cards}'
        + _card(
            Section("Time and memory", "Each line is a command that can be repeated by hand.", lambda: steps_table(records))
        )
        + f"<footer>{html.escape(versions())}</footer></main></body></html>\n"
    )


def _card(section: Section) -> str:
    try:
        body = section.body()
    except GlyphFlowError as error:
        body = f"<p>Not available: {html.escape(str(error))}</p>"
    return f'<section class="card"><h2>{html.escape(section.title)}</h2><p>{html.escape(section.text)}</p>{body}</section>'


def steps_table(records: Sequence[StepRecord]) -> str:
    """Seconds and peak memory of each step, with its command."""
    longest = max((record.wall_s for record in records), default=0) or 1
    rows = "".join(
        f'<tr><td class="{record.state}">{html.escape(record.title)}'
        f"{'' if record.state == 'done' else f' ({record.state})'}<br><code>{html.escape(record.command)}</code></td>"
        f'<td style="width:22%"><span class="bar" style="width:{100 * record.wall_s / longest:.1f}%"></span></td>'
        f'<td class="n">{record.wall_s:.1f} s</td><td class="n">{record.peak_bytes / 2**20:.0f} MiB</td></tr>'
        for record in records
    )
    total = sum(record.wall_s for record in records)
    peak = max((record.peak_bytes for record in records), default=0)
    return (
        '<table class="steps"><tr><th>step</th><th></th><th class="n">time</th><th class="n">peak memory</th></tr>'
        f'{rows}<tr><td><b>all</b></td><td></td><td class="n"><b>{total:.0f} s</b></td>'
        f'<td class="n"><b>{peak / 2**20:.0f} MiB</b></td></tr></table>'
    )


def loss_chart(metrics: Sequence[Mapping[str, float]], names: Sequence[str] = ("loss", "heldout_loss")) -> str:
    """Curves of the metrics called ``names`` over the steps, as an SVG; names that were not measured are left out."""
    from glyphflow.corpus.report.charts import round_values  # imports numpy, which `--help` does not wait for

    curves = {name: [(entry["step"], entry[name]) for entry in metrics if name in entry] for name in names}
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return "<p>No step was logged.</p>"
    points = [point for curve in curves.values() for point in curve]
    first, last = 0.0, max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    pad = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - pad, high + pad
    left, right, top, bottom = MARGIN
    width, height = CHART

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / ((last - first) or 1)
        up = (y - low) / (high - low)
        return left + across * (width - left - right), height - bottom - up * (height - top - bottom)

    parts = []
    for tick in round_values(low, high, 4):
        y = place(first, tick)[1]
        parts.append(f'<path d="M{left} {y:.1f}H{width - right}" stroke="#e3e5ea"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in round_values(first, last, 6):
        x = place(tick, low)[0]
        parts.append(f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{tick:g}</text>')
    for number, (name, curve) in enumerate(curves.items()):
        colour = ("#2f5bea", "#d9622b", "#2b8a3e")[number % 3]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>')
        if len(curve) < 25:
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>' for x, y in (place(*point) for point in curve)
            ]
        key = left + 150 * number
        parts.append(f'<path d="M{key} 12h18" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{key + 24}" y="16">{html.escape(name.replace("_", " "))}</text>')
    parts.append(f'<text x="{(left + width - right) / 2}" y="{height - 2}" text-anchor="middle">step</text>')
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">{"".join(parts)}</svg>'


def preview_strip(folder: Path, most: int = 6) -> str:
    """The preview sheets of a training run, first, last and some between."""
    files = sorted(folder.glob("step_*.png"))
    if not files:
        return "<p>No preview was made.</p>"
    shown = min(most, len(files))
    chosen = [files[round(i * (len(files) - 1) / max(1, shown - 1))] for i in range(shown)]
    figures = "".join(
        f'<figure><img alt="" src="{png_uri(file.read_bytes())}">'
        f"<figcaption>after {int(file.stem.removeprefix('step_'))} steps</figcaption></figure>"
        for file in chosen
    )
    return f'<div class="strip">{figures}</div>'


@dataclass(frozen=True)
class Compared:
    """One prompt's pictures (PNG bytes) before and after a training, and whether the judge calls each of them right."""

    prompt: str
    before: bytes
    after: bytes
    right_before: bool
    right_after: bool


def comparison(pairs: Sequence[Compared]) -> str:
    """Pictures before above pictures after, each with the judge's verdict, under the prompt that both answer."""
    if not pairs:
        return "<p>The prompts ask for no emoji, so there is nothing to compare.</p>"
    figures = "".join(
        f"<figure>{''.join(_judged(*each) for each in ((one.before, one.right_before), (one.after, one.right_after)))}"
        f"<figcaption>{html.escape(one.prompt)}</figcaption></figure>"
        for one in pairs
    )
    counts = [sum(getattr(one, f"right_{when}") for one in pairs) for when in ("before", "after")]
    return f'<p><b>{counts[0]} of {len(pairs)} right before, {counts[1]} after.</b></p><div class="pairs">{figures}</div>'


def _judged(data: bytes, right: bool) -> str:
    sign, state = ("✓", "right") if right else ("✗", "wrong")
    return f'<div class="{state}"><img alt="" src="{png_uri(data)}"><b>{sign}</b></div>'


def folded(label: str, body: str) -> str:
    """``body`` behind a line to click on."""
    return f"<details><summary>{html.escape(label)}</summary>{body}</details>"


def annotated_samples(samples: Iterable[tuple[Any, Mapping[str, Any]]]) -> str:
    """Pictures (uint8 H W 3) beside what the annotation says about them."""
    figures = []
    for image, annotation in samples:
        lines = "".join(
            f"<dt>{html.escape(str(name))}</dt><dd>{html.escape(_plain(value))}</dd>" for name, value in annotation.items()
        )
        figures.append(f'<figure><img alt="" src="{array_uri(image)}"><dl>{lines}</dl></figure>')
    return f'<div class="samples">{"".join(figures)}</div>'


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_plain(below)}" for name, below in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(below) for below in value) or "none"
    return "none" if value in (None, "") else str(value)


def png_uri(data: bytes) -> str:
    """PNG bytes as an address that holds the picture itself."""
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def array_uri(image: Any, side: int = 256) -> str:
    """A uint8 array (H, W, 3) as an address that holds a JPEG of at most ``side`` pixels."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def versions() -> str:
    """What made the page."""
    import importlib.metadata

    packages = ("torch", "numpy", "transformers", "rapidocr", "skia-python", "pyarrow")
    named = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return f"GlyphFlow {glyphflow.__version__}, Python {platform.python_version()}, {named}, {platform.platform(terse=True)}"
