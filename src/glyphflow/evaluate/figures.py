"""One picture of a report: what was asked for, what came out, and what the judge saw in it, drawn into the picture."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.core.pictures import open_picture, read_rgb
from glyphflow.evaluate.metrics.normalise import letters, pieces
from glyphflow.evaluate.metrics.strings import matched_characters

SIDE = 448  # px; larger pictures are shown smaller
MOST_BYTES = 100_000  # of a picture's own file; larger ones are shown as JPEG, a quarter of that

STYLE = """
.gf-eval { font: 14px/1.45 system-ui, "Noto Sans", "Noto Sans CJK SC", sans-serif; color: #1c1e21; }
.gf-eval table { border-collapse: collapse; margin: 12px 0; }
.gf-eval th, .gf-eval td { padding: 4px 12px; text-align: right; border-bottom: 1px solid #ddd; }
.gf-eval th:first-child, .gf-eval td:first-child { text-align: left; white-space: nowrap; }
.gf-eval th { vertical-align: bottom; }
.gf-eval .of { color: #767b84; }
.gf-eval .wide { overflow-x: auto; } .gf-eval td { font-variant-numeric: tabular-nums; }
.gf-eval h3 { margin: 24px 0 8px; font-size: 15px; }
.gf-eval .grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 14px; }
.gf-eval figure { margin: 0; border: 1px solid #d8dade; border-radius: 8px; overflow: hidden; background: #fff; }
.gf-eval figure.good { border-color: #2b8a3e; } .gf-eval figure.part { border-color: #e8890c; }
.gf-eval figure.bad { border-color: #c92a2a; } .gf-eval figure.failed { border-style: dashed; }
.gf-eval .seen { position: relative; } .gf-eval .seen svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.gf-eval .seen i { position: absolute; left: 6px; top: 6px; padding: 0 6px; border-radius: 4px; font-size: 11px;
  font-style: normal; background: #ffffffd0; color: #1c1e21; }
.gf-eval img { width: 100%; display: block; background: #eee; }
.gf-eval polygon { fill: none; stroke: #1c7ed6; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.gf-eval svg text { fill: #1c7ed6; font-weight: 600; paint-order: stroke; stroke: #fff; stroke-width: 3px; }
.gf-eval figcaption { padding: 8px 10px; font-size: 13px; overflow-wrap: anywhere; }
.gf-eval .asked, .gf-eval .read { font-size: 16px; }
.gf-eval .hit { color: #2b8a3e; } .gf-eval .miss { color: #c92a2a; text-decoration: underline; }
.gf-eval .extra { color: #b35c00; } .gf-eval small { color: #767b84; }
"""


@dataclass(frozen=True)
class Shown:
    """One picture with everything that scores.json says of it. ``quality`` is None when no judge answered."""

    path: Path
    sample: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    verdicts: tuple[Mapping[str, Any], ...]
    ceiling: tuple[str, ...] | None
    """What the judge read in the perfectly typeset picture, where that is not what was asked for."""

    @staticmethod
    def of(folder: Path, scores: Mapping[str, Any]) -> list[Shown]:
        """All pictures of a scored folder, in the benchmark's order."""
        rows: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
        for row in scores["rows"]:
            rows.setdefault((row["sample"], row["repeat"]), []).append(row)
        ceilings = {
            row["sample"]: tuple(row["values"]["reading"])
            for row in scores.get("ceiling_rows", [])
            if row["quality"] is not None and row["quality"] < 1 and "reading" in row["values"]
        }
        return [
            Shown(
                folder / name,
                sample,
                tuple(rows.get((sample["id"], repeat), ())),
                tuple(verdict for verdict in sample["verdicts"] if _about(verdict, name)),
                ceilings.get(sample["id"]),
            )
            for sample in scores["samples"]
            for repeat, name in enumerate(sample["pictures"])
        ]

    @property
    def quality(self) -> float | None:
        """From 0 to 1: the worst of the picture's rows."""
        known = [row["quality"] for row in self.rows if row["quality"] is not None]
        return min(known) if known else None

    @property
    def category(self) -> str:
        """The group that it is shown in."""
        return next((str(row["category"]) for row in self.rows if row["category"]), "")


def figure(shown: Shown) -> str:
    """The picture with its frames and a caption."""
    quality = shown.quality
    kind = "failed" if quality is None else "good" if quality >= 1 else "part" if quality > 0 else "bad"
    given = [f'<div class="seen">{_inline(Path(path))[0]}<i>given</i></div>' for path in shown.sample["references"]]
    picture, size = _inline(shown.path)
    frames = _frames(shown.verdicts, size) if size else ""
    made = "<i>made</i>" if given and size else ""
    asked = " · ".join(filter(None, (shown.category, shown.sample["prompt"])))
    caption = [f"<small>{html.escape(asked)}</small>", *_said(shown)]
    caption += [
        f"<b>not judged</b> ({html.escape(row['status'])}): {html.escape(row['reason'])}"
        for row in shown.rows
        if row["status"] != "ok"
    ]
    caption += [f"<small>{html.escape(row['reason'])}</small>" for row in shown.rows if row["status"] == "ok" and row["reason"]]
    body = "".join(f"<div>{part}</div>" for part in caption)
    return (
        f'<figure class="{kind}">{"".join(given)}<div class="seen">{picture}{frames}{made}</div>'
        f"<figcaption>{body}</figcaption></figure>"
    )


def coloured(text: str, other: str, miss: str) -> str:
    """``text`` with the characters it shares with ``other`` (compared as the metrics do) marked as hits, the rest ``miss``."""
    cut = pieces(text)
    folded = [letters(piece) for piece in cut]  # "" for spaces, several for a ligature
    flags = matched_characters("".join(folded), letters(other))
    parts, start = [], 0
    for char, plain in zip(cut, folded, strict=True):
        hit = all(flags[start : start + len(plain)])
        start += len(plain)
        parts.append(f'<span class="{"hit" if hit else miss}">{html.escape(char)}</span>' if plain else html.escape(char))
    return "".join(parts)


def _about(verdict: Mapping[str, Any], picture: str) -> bool:
    return verdict["picture"] == picture or str(verdict["id"]).split("/")[0] == Path(picture).stem


def _said(shown: Shown) -> list[str]:
    """What each judge said of the picture."""
    parts = []
    for verdict in shown.verdicts:
        if verdict["status"] != "ok":
            if verdict.get("reply"):
                parts.append(f"<small>it said</small> {html.escape(str(verdict['reply'])[:400])}")
            continue
        value = verdict["value"]
        if verdict["kind"] == "ocr":
            name = str(verdict["id"]).partition("/")[2] or "read"
            parts += _reading(shown, " ".join(line["text"] for line in value), name)
        elif verdict["kind"] == "objects":
            names = ", ".join(f"{found['label']} {found['score']:.2f}{_colour(found)}" for found in value) or "nothing"
            parts.append(f"<small>found</small> {html.escape(names)}")
        else:
            told = value if isinstance(value, str) else _plain(value)
            name = str(verdict["id"]).partition("/")[2] or verdict["kind"]
            parts.append(f"<small>{html.escape(name)}</small> {html.escape(told[:400])}")
    return parts


def _reading(shown: Shown, reading: str, name: str) -> list[str]:
    target = " ".join(shown.sample["targets"])
    if not target:
        return [f"<small>{html.escape(name)}</small> {html.escape(reading) or 'nothing'}"]
    read = coloured(reading, target, "extra") or "<small>nothing</small>"
    quality = shown.quality
    grade = "" if quality is None else f" <small>{100 * quality:.0f} %</small>"
    parts = [
        f'<span class="asked"><small>asked</small> {coloured(target, reading, "miss")}</span>',
        f'<span class="read"><small>read</small> {read}{grade}</span>',
    ]
    if shown.ceiling is not None:
        parts.append(f"<small>perfectly typeset it reads {html.escape(' '.join(shown.ceiling) or 'nothing')}</small>")
    return parts


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _colour(found: Mapping[str, Any]) -> str:
    colours = found.get("colours")
    return f" ({max(colours, key=lambda name: colours[name])})" if colours else ""


def _frames(verdicts: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> str:
    """Where the judge saw lines and objects, over the picture."""
    width, height = size
    parts = []
    for verdict in verdicts:
        if verdict["status"] != "ok" or verdict["kind"] not in ("ocr", "objects"):
            continue
        for found in verdict["value"]:
            box = found["box"]
            if verdict["kind"] == "objects":
                left, top, right, bottom = box
                box = [(left, top), (right, top), (right, bottom), (left, bottom)]
                place = f'x="{left:.0f}" y="{max(top, height / 20):.0f}" font-size="{height / 22:.0f}"'
                parts.append(f"<text {place}>{html.escape(found['label'])}</text>")
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in box)
            parts.append(f'<polygon points="{points}"/>')
    return f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none">{"".join(parts)}</svg>' if parts else ""


def _inline(path: Path) -> tuple[str, tuple[int, int] | None]:
    """The picture as a data URL, and its size in pixels; nothing of a file that is none. A map in its place (.npy) is grey."""
    try:
        if not path.is_file() and path.with_suffix(".npy").is_file():
            return _shown(_grey(path.with_suffix(".npy")))
        image = read_rgb(path)  # as the judge saw it
        data = path.read_bytes()
        with open_picture(data) as stored:
            same = stored.mode == "RGB" and stored.size == image.size and not stored.info.keys() & {"icc_profile", "exif"}
            if same and stored.format in ("PNG", "JPEG") and max(image.size) <= SIDE and len(data) <= MOST_BYTES:
                return _tag(data, stored.format), image.size
        return _shown(image)
    except (InputError, OSError, SyntaxError, ValueError):
        return "", None


def _shown(image: Image.Image) -> tuple[str, tuple[int, int]]:
    size, buffer = image.size, io.BytesIO()
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.save(buffer, format="JPEG", quality=88)
    return _tag(buffer.getvalue(), "JPEG"), size


def _tag(data: bytes, kind: str) -> str:
    text = base64.b64encode(data).decode("ascii")
    return f'<img alt="" loading="lazy" decoding="async" src="data:image/{kind.lower()};base64,{text}">'


def _grey(path: Path) -> Image.Image:
    """A map of numbers, from its smallest (black) to its largest (white)."""
    values = np.nan_to_num(np.load(path).squeeze().astype(np.float64))
    spread = max(float(values.max() - values.min()), 1e-12)
    return Image.fromarray((255 * (values - values.min()) / spread).astype(np.uint8))
