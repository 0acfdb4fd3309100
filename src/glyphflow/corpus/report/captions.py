"""What is told about the pictures: captions by variant and language, their lengths, and what was refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from glyphflow.core.hardware import require
from glyphflow.corpus.recipe import VARIANTS, Rule
from glyphflow.corpus.report.charts import histogram
from glyphflow.corpus.report.rows import Passage, Rows, sample
from glyphflow.corpus.report.shots import Shots
from glyphflow.corpus.report.text import counted, plain
from glyphflow.corpus.selection import captions_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXAMPLES = 8  # kept rows that are shown with all that is told about them
REFUSED = 4  # rows of each variant that lost it
_SHOWN = 320  # characters of a caption
_ANNOTATED = ("recaption_en", "recaption_zh", "fused_en", "fused_zh")


def section(rows: Rows, kept: NDArray[np.bool_], last: Passage | None, passed: Sequence[Passage], shots: Shots) -> str:
    """Counts, lengths, refusals, and examples."""
    texts = _texts(rows)
    if not any(len(text.drop_null()) for text in texts.values()):
        return '<p class="none">No row has a caption.</p>'
    lost = _lost(rows, last)
    return (
        f"{_table(texts, kept, lost)}{_lengths(texts, kept)}{_wrong(rows)}"
        f"{_refusals(rows, lost, passed, shots)}{_examples(rows, kept, texts, shots)}"
    )


def _texts(rows: Rows) -> dict[str, Any]:
    """ "raw_en", "recaption_zh", … -> (N,) Arrow array of strings, null without such a caption."""
    pa, pc = require("pyarrow", "corpus"), require("pyarrow.compute", "corpus")
    raw = rows.read("index.captions")
    spoken = [captions_of(text, {}, 0) for text in raw.to_pylist()]
    names = [name for name, _ in Counter(name for each in spoken for name in each).most_common(6)]
    found = {name: pa.array([each.get(name) or None for each in spoken], "string") for name in sorted(names)}
    for name in _ANNOTATED:
        if rows.has(f"annotate.{name}"):
            values = rows.read(f"annotate.{name}")
            found[name] = pc.if_else(pc.equal(values, ""), None, values)
    return found


def _lost(rows: Rows, last: Passage | None) -> dict[str, NDArray[np.bool_]]:
    """Variant -> (N,) the rows that it was taken from."""
    if last is None:
        return {}
    pa, pc = require("pyarrow", "corpus"), require("pyarrow.compute", "corpus")
    chunks = [
        chunk
        for shard in rows.shards
        for chunk in rows.corpus.view_arrow(last.view.name, shard, ("refused_captions",))["refused_captions"].chunks
    ]
    told = pa.chunked_array([chunk.cast("string") for chunk in chunks], "string").combine_chunks().fill_null("")
    padded = pc.binary_join_element_wise("", told, "", ",")  # ",raw,fused,"
    return {
        variant: np.asarray(pc.match_substring(padded, f",{variant},").to_numpy(zero_copy_only=False), np.bool_)
        for variant in VARIANTS
    }


def _variant(name: str) -> str:
    return name.partition("_")[0]


def _table(texts: dict[str, Any], kept: NDArray[np.bool_], lost: dict[str, NDArray[np.bool_]]) -> str:
    pc = require("pyarrow.compute", "corpus")
    lines = [
        "<tr><th>captions</th><th class=n>rows that have it</th><th class=n>kept rows</th><th class=n>of these refused</th>"
        "<th class=n>characters: median</th><th class=n>nine in ten below</th><th class=n>most</th></tr>"
    ]
    for name, values in texts.items():
        has = values.is_valid().to_numpy(zero_copy_only=False)
        if not has.any():
            continue
        gone = int((has & kept & lost[_variant(name)]).sum()) if _variant(name) in lost else 0
        lengths = np.asarray(pc.utf8_length(values).drop_null().to_numpy(zero_copy_only=False), np.float64)
        numbers = [f"{length:,.0f}" for length in np.quantile(lengths, [0.5, 0.9, 1.0])]
        lines.append(
            f"<tr><td>{plain(name.replace('_', ' '))}</td><td class=n>{int(has.sum()):,}</td>"
            f"<td class=n>{int((has & kept).sum()):,}</td><td class=n>{gone or '–'}</td>"
            + "".join(f"<td class=n>{number}</td>" for number in numbers)
            + "</tr>"
        )
    return f'<div class="scroll"><table class="numbers">{"".join(lines)}</table></div>'


def _lengths(texts: dict[str, Any], kept: NDArray[np.bool_]) -> str:
    pc = require("pyarrow.compute", "corpus")
    parts = ""
    for name, values in texts.items():
        lengths = np.asarray(pc.utf8_length(values).cast("float64").to_numpy(zero_copy_only=False), np.float64)
        there = lengths[np.isfinite(lengths) & kept]
        if len(np.unique(there)) > 1:
            chart = histogram({"photo": there}, [], f"lengths of {name}")
            parts += f"<figure><figcaption>{plain(name.replace('_', ' '))}, characters</figcaption>{chart}</figure>"
    return f'<div class="small">{parts}</div>' if parts else ""


def _wrong(rows: Rows) -> str:
    """What the stages captions and annotate hold against captions, counted."""
    pc = require("pyarrow.compute", "corpus")
    lines = ""
    for stage, names in (
        ("captions", [f"{variant}_{what}" for variant in VARIANTS for what in ("refusal", "boilerplate")]),
        ("annotate", ["refusal", "error"]),
    ):
        for name in names:
            column = f"{stage}.{name}"
            values = rows.read(column).drop_null() if rows.has(column) else []
            if len(values):
                counts = sorted(pc.value_counts(values).to_pylist(), key=lambda each: -each["counts"])[:6]
                told = ", ".join(f"{plain(each['values'], 80)} {each['counts']:,}" for each in counts)
                lines += f"<tr><td>{plain(name.replace('_', ' '))}</td><td class=n>{len(values):,}</td><td>{told}</td></tr>"
    if not lines:
        return '<p class="none">No refusal, and nothing that describes no picture, was found in any caption.</p>'
    return f'<h4>What is wrong with captions</h4><div class="scroll"><table class="numbers">{lines}</table></div>'


def _refusals(rows: Rows, lost: dict[str, NDArray[np.bool_]], passed: Sequence[Passage], shots: Shots) -> str:
    """Pictures that lost a variant, with the caption and the rule."""
    rules = [rule for passage in passed for stage in passage.stages for rule in stage.rules if rule.captions]
    parts = ""
    for variant, gone in lost.items():
        chosen = sample(np.flatnonzero(gone & rows.showable), REFUSED, f"lost {variant}")
        if chosen:
            figures = "".join(_refused(rows, row, variant, rules, shots) for row in chosen)
            parts += f"<h4>Lost {variant} <small>{counted(int(gone.sum()), 'row')}</small></h4><div class=told>{figures}</div>"
    return parts


def _refused(rows: Rows, row: int, variant: str, rules: Sequence[Rule], shots: Shots) -> str:
    why = "a rule of the view"
    pa = require("pyarrow", "corpus")
    for rule in rules:
        if variant in rule.captions and rows.has(rule.column):
            value = rows.cell(rule.column, row)
            kind = rows.stages[rule.source][rule.column.partition(".")[2]] if rule.source != "index" else pa.string()
            if not rule.passes(pa.array([value], kind))[0]:
                said = f"{value:.4g}" if isinstance(value, float) else str(value)
                why = f"{rule.filter}: {rule.reason.replace('{value}', said)}"
                break
    captions = {name: text for name, text in _all(rows, row).items() if _variant(name) == variant}
    said = f"<dt>{plain(why, 160)}</dt>" + "".join(f"<dd><s>{plain(text, _SHOWN)}</s></dd>" for text in captions.values())
    return f"<figure>{shots.picture(row)}<dl>{said}</dl></figure>"


def _examples(rows: Rows, kept: NDArray[np.bool_], texts: dict[str, Any], shots: Shots) -> str:
    """Kept rows with all their captions; those with most variants first."""
    variants = sum(text.is_valid().to_numpy(zero_copy_only=False).astype(int) for text in texts.values())
    usable = kept & rows.showable & rows.photo & (variants > 0)
    rich = np.flatnonzero(usable & (variants >= np.max(variants, where=usable, initial=1)))
    chosen = sample(rich, EXAMPLES, "captions")
    figures = "".join(f"<figure>{shots.picture(row)}<dl>{_told(_all(rows, row))}</dl></figure>" for row in chosen)
    return f"<h4>Examples</h4><div class=told>{figures}</div>" if figures else ""


def _told(captions: Mapping[str, str]) -> str:
    """Each text once, under the names of the captions that it is."""
    names: dict[str, list[str]] = {}
    for name, text in captions.items():
        names.setdefault(text, []).append(name.replace("_", " "))
    return "".join(f"<dt>{plain(', '.join(same))}</dt><dd>{plain(text, _SHOWN)}</dd>" for text, same in names.items())


def _all(rows: Rows, row: int) -> dict[str, str]:
    annotated = {name: [rows.cell(f"annotate.{name}", row)] for name in _ANNOTATED if rows.has(f"annotate.{name}")}
    return captions_of(rows.cell("index.captions", row), annotated, 0)
