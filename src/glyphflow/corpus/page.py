"""The corpus as one HTML page: what was kept, what every filter refused and why, and how every measured value is spread."""

from __future__ import annotations

import base64
import html
import io
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from glyphflow.core.hashing import derive_seed
from glyphflow.corpus.charts import FilterCount, flow_table, histogram, legend
from glyphflow.corpus.curate import decisions, summarise
from glyphflow.corpus.decode import PictureError, decode_rgb
from glyphflow.corpus.recipe import Rule, Stage
from glyphflow.corpus.specs import Renderer
from glyphflow.corpus.store import PHOTO, Corpus
from glyphflow.corpus.variants import best_caption

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

THUMBNAIL = 144  # px of the long side
PER_FILTER = 8  # refused pictures shown
KEPT_SAMPLES = 18

STYLE = """
.corpus { --soft: #6b7280; --line: #e3e5ea; font: 15px/1.55 system-ui, "Noto Sans", "Noto Sans CJK SC", sans-serif; }
.corpus h3 { font-size: 17px; margin: 30px 0 6px; } .corpus h3 small { font-weight: 400; color: var(--soft); }
.corpus h4 { font-size: 14px; margin: 16px 0 6px; } .corpus h4 small { font-weight: 400; color: var(--soft); }
.corpus .flow { border-collapse: collapse; width: 100%; font-size: 14px; }
.corpus .flow td, .corpus .flow th { padding: 4px 10px; text-align: left; }
.corpus .flow th { color: var(--soft); font-weight: 500; } .corpus .flow .first td { border-top: 1px solid var(--line); }
.corpus .flow .bars { width: 42%; } .corpus .flow .bars span { display: flex; height: 12px; }
.corpus .flow .bars b { display: block; min-width: 2px; border-radius: 2px; }
.corpus .flow .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.corpus .legend { color: var(--soft); font-size: 13px; margin: 8px 0; } .corpus .legend span { margin-right: 18px; }
.corpus .legend i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 6px; }
.corpus .groups { display: flex; flex-wrap: wrap; column-gap: 36px; }
.corpus .shots { display: flex; flex-wrap: wrap; gap: 12px; }
.corpus figure { margin: 0; } .corpus .shots figure { width: 144px; font-size: 12px; line-height: 1.35; }
.corpus .shots figcaption { color: var(--soft); overflow-wrap: anywhere; margin-top: 4px; }
.corpus .shot { width: 144px; height: 144px; border-radius: 8px; background: #eef0f3; display: grid; place-items: center;
  overflow: hidden; color: #9aa1ac; }
.corpus .shot img { max-width: 100%; max-height: 100%; display: block; } .corpus .shots .pair { width: 300px; }
.corpus .pair .two { display: grid; grid-template-columns: 144px 144px; gap: 12px; }
.corpus .spread { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 18px; }
.corpus .spread figcaption { font-size: 13px; } .corpus .spread svg { width: 100%; height: auto; }
.corpus .spread text { font: 11px system-ui, sans-serif; fill: #6b7280; }
.corpus .kept { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 16px; font-size: 13px; }
.corpus .kept figure { display: grid; grid-template-columns: 144px 1fr; gap: 14px; } .corpus dl { margin: 0; }
.corpus dt { color: var(--soft); font-size: 12px; } .corpus dd { margin: 0 0 5px; overflow-wrap: anywhere; line-height: 1.35; }
"""

_PAGE_STYLE = """
body { margin: 0; background: #f4f5f7; color: #1d1f24; } main { max-width: 1180px; margin: 0 auto; padding: 40px 24px 80px;
  background: #fff; } h1 { font: 600 32px system-ui, sans-serif; letter-spacing: -0.02em; margin: 0; }
main > p { font: 15px/1.5 system-ui, sans-serif; color: #6b7280; margin: 4px 0 0; }
"""


def page(corpus: Corpus, view: str) -> str:
    """The whole page for ``view``, self-contained."""
    summary = summarise(corpus, view)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Corpus</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_PAGE_STYLE}</style></head><body><main><h1>{summary.kept:,} of {summary.total:,} pictures kept</h1>"
        f"<p>View <b>{html.escape(view)}</b> of {html.escape(corpus.directory.name)}. Nothing was deleted: every refused row "
        f"stays in the corpus with the rule that refused it.</p>{fragment(corpus, view)}"
        f'<div class="corpus"><h3>Kept <small>with their annotation</small></h3>{_kept(corpus, view)}</div>'
        "</main></body></html>\n"
    )


def fragment(corpus: Corpus, view: str) -> str:
    """The parts of the page that explain ``view``: the filters, refused pictures, the spread of every value."""
    rows = decisions(corpus, view)
    info = corpus.view_info(view)
    index = _by_id(corpus)
    stages = info["stages"]
    shots = _Shots(corpus, index)
    return (
        f'<style>{STYLE}</style><div class="corpus">'
        f"<h3>Filters <small>in the order in which they are applied</small></h3>{legend()}"
        f"{flow_table(_counts(rows, index, stages, info['skipped']), Counter(index[row['id']]['kind'] for row in rows))}"
        f"<h3>Refused <small>up to {PER_FILTER} of each filter</small></h3>{_refused(rows, stages, shots)}"
        "<h3>What was measured <small>each kind scaled to its own highest bar; the refused side is shaded</small></h3>"
        f'{legend()}<div class="spread">{_spreads(corpus, stages, index)}</div></div>'
    )


def _by_id(corpus: Corpus) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for shard in corpus.shards():
        table = corpus.index(shard, ("id", "key", "kind", "offset", "size"))
        for number, row in enumerate(table["id"]):
            rows[row] = {name: values[number] for name, values in table.items()} | {"shard": shard}
    return rows


def _counts(
    rows: Sequence[Mapping[str, Any]],
    index: Mapping[str, Mapping[str, Any]],
    stages: Sequence[Mapping[str, Any]],
    skipped: Sequence[str],
) -> list[FilterCount]:
    refused = Counter((row["stage"], row["rule"], index[row["id"]]["kind"]) for row in rows if not row["kept"])
    left = Counter(index[row["id"]]["kind"] for row in rows)
    counts = []
    for stage in stages:
        for name in Stage.model_validate(stage).filters:
            here = {kind: refused[stage["name"], name, kind] for kind in left}
            left = Counter({kind: left[kind] - here[kind] for kind in left})
            counts.append(FilterCount(f"{stage['name']} {stage['title']}", name, here, dict(left), name in skipped))
    return counts


def _refused(rows: Sequence[Mapping[str, Any]], stages: Sequence[Mapping[str, Any]], shots: _Shots) -> str:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if not row["kept"]:
            groups[row["stage"], row["rule"]].append(row)
    parts = []
    for stage in stages:
        for name in Stage.model_validate(stage).filters:
            group = sorted(groups.get((stage["name"], name), ()), key=lambda row: _photographs_first(row, shots))
            if group:
                title = f"<h4>{html.escape(name)} <small>{len(group):,} refused</small></h4>"
                figures = "".join(shots.refused(row) for row in group[:PER_FILTER])
                parts.append(f'<div>{title}<div class="shots">{figures}</div></div>')
    return f'<div class="groups">{"".join(parts)}</div>' if parts else "<p>Nothing was refused.</p>"


def _photographs_first(row: Mapping[str, Any], shots: _Shots) -> tuple[bool, int]:
    return shots.index[row["id"]]["kind"] != PHOTO, derive_seed(row["id"])


class _Shots:
    """Thumbnails of rows by id."""

    def __init__(self, corpus: Corpus, index: Mapping[str, Mapping[str, Any]]) -> None:
        self.corpus = corpus
        self.index = index
        self._renderer = Renderer()

    def refused(self, row: Mapping[str, Any]) -> str:
        """A refused row with the reason; a duplicate beside the picture that stays."""
        key, detail = self.index[row["id"]]["key"], row["detail"] or ""
        first = next((word for word in detail.split() if word in self.index), None)
        if first is None:
            caption = f"{html.escape(detail)}<br>{html.escape(key)}"
            return f"<figure>{self.picture(row['id'])}<figcaption>{caption}</figcaption></figure>"
        text = f"{html.escape(key)} = {html.escape(self.index[first]['key'])}"
        pictures = self.picture(row["id"]) + self.picture(first)
        return f'<figure class="pair"><div class="two">{pictures}</div><figcaption>{text}</figcaption></figure>'

    def picture(self, row_id: str) -> str:
        """The thumbnail as an HTML element, or a grey square that says there is none."""
        image = self._pixels(self.index[row_id])
        if image is None:
            return '<div class="shot">no picture</div>'
        return f'<div class="shot"><img alt="" src="{thumbnail(image)}"></div>'

    def _pixels(self, row: Mapping[str, Any]) -> NDArray[np.uint8] | None:
        if not row["size"]:
            return None
        data = self.corpus.payload(row["shard"], row["kind"], row["offset"], row["size"])
        if row["kind"] != PHOTO:
            return self._renderer.draw(data).image
        try:
            return decode_rgb(data, short_side=THUMBNAIL)
        except PictureError:
            return None


def thumbnail(image: NDArray[np.uint8]) -> str:
    """(H, W, 3) uint8 as a data URL, at most THUMBNAIL pixels a side."""
    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=84)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _spreads(corpus: Corpus, stages: Sequence[Mapping[str, Any]], index: Mapping[str, Mapping[str, Any]]) -> str:
    rules: dict[str, list[Rule]] = defaultdict(list)
    for stage in stages:
        for entry in stage["rules"]:
            rule = Rule.model_validate(entry)
            if rule.min is not None or rule.max is not None:
                rules[rule.column].append(rule)
    return "".join(
        histogram(
            _title(group[0].filter, column),
            _values(corpus, column, index),
            [(value, side) for rule in group for value, side in ((rule.min, "min"), (rule.max, "max")) if value is not None],
        )
        for column, group in rules.items()
    )


def _title(name: str, column: str) -> str:
    measured = column.split(".")[1].replace("_", " ")
    return name if measured == name.lower() else f"{name}: {measured}"


def _values(corpus: Corpus, column: str, index: Mapping[str, Mapping[str, Any]]) -> dict[str, list[float]]:
    stage, name = column.split(".")
    values: dict[str, list[float]] = defaultdict(list)
    for shard in corpus.shards():
        table = corpus.index(shard, ("id", name)) if stage == "index" else corpus.columns(stage, shard, ("id", name))
        for row, value in zip(table["id"], table[name], strict=True) if table else ():
            if value is not None:
                values[index[row]["kind"]].append(float(value))
    return values


def _kept(corpus: Corpus, view: str) -> str:
    """Some kept rows of every source with what the model is told about them."""
    selection = corpus.records(view)
    by_source: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(selection.rows):
        by_source[row.source].append(number)
    each = max(1, KEPT_SAMPLES // max(1, len(by_source)))
    chosen = [
        number
        for numbers in by_source.values()
        for number in sorted(numbers, key=lambda number: derive_seed(selection.rows[number].id))[:each]
    ]
    annotations: dict[str, str] = {}
    for shard in corpus.shards():
        table = corpus.columns("annotate", shard, ("id", "annotation"))
        if table:
            annotations.update((row, text) for row, text in zip(table["id"], table["annotation"], strict=True) if text)
    figures = []
    for number in chosen:
        record = selection.load(number)
        said = json.loads(annotations.get(record.id, "{}"))
        said = {"Caption": best_caption(record.captions, "en") or "", "中文": best_caption(record.captions, "zh") or ""} | said
        items = "".join(
            f"<dt>{html.escape(key)}</dt><dd>{html.escape(value if isinstance(value, str) else json.dumps(value))}</dd>"
            for key, value in said.items()
            if value
        )
        figures.append(f'<figure><div class="shot"><img alt="" src="{thumbnail(record.image)}"></div><dl>{items}</dl></figure>')
    return f'<div class="kept">{"".join(figures)}</div>'
