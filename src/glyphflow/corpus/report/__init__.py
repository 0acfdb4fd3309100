"""The corpus as one HTML page that people look at: what was kept, what every filter refused and why, how every measured value
is spread, what the pictures are of, what is written in them and told about them.

Columns are read as arrays; of the pictures only those that the page shows are decoded. The page holds everything itself, has no
script, and is under :data:`LARGEST` bytes for any corpus: pictures get smaller where they would be too many. What the stage
safety gives more than the view's threshold is never shown but as a blur.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from glyphflow.core.errors import GlyphFlowError
from glyphflow.corpus.report import captions, categories, characters, overview, pairs, refused, values
from glyphflow.corpus.report.rows import Passage, Rows, longest_view, passages, view_of_recipe
from glyphflow.corpus.report.shots import Shots, flagged
from glyphflow.corpus.report.text import counted, percent, plain
from glyphflow.corpus.store import Corpus

__all__ = ["LARGEST", "fragment", "longest_view", "page", "view_of_recipe"]

LARGEST = 15_000_000  # bytes of a page
UNSAFE = 0.4  # of safety.nsfw, where no view has a threshold
# Nothing is loaded and nothing runs, whatever a caption tries.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Section:
    """A part of the page: ``body`` makes its HTML."""

    anchor: str
    title: str
    lead: str
    body: Callable[[], str]


def page(corpus: Corpus, view: str | None = None) -> str:
    """The whole page of ``view`` and of the views of its recipe before it; without a view, of all rows."""
    found = _Found(corpus, view)
    parts = [*found.sections(), *found.more()]
    links = "".join(f'<a href="#{part.anchor}">{part.anchor.capitalize()}</a>' for part in parts)
    body = "".join(_section(part) for part in parts)
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{plain(corpus.directory.name)}: the corpus</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_style('fragment')}{_style('page')}</style></head>"
        f'<body class="corpus"><nav><div>{links}</div></nav><main>{found.header()}{body}'
        f"<footer>{found.footer()}</footer></main></body></html>\n"
    )
    return found.shots.fill(text)


def fragment(corpus: Corpus, view: str) -> str:
    """The parts of the page that explain a decision, to be set into another page: flow, refused pictures, measured values."""
    found = _Found(corpus, view)
    body = "".join(f"<h3>{plain(part.title)}</h3>{_body(part)}" for part in found.sections()[1:])
    return found.shots.fill(f'<style>{_style("fragment")}</style><div class="corpus">{body}</div>')


def _style(name: str) -> str:
    return (importlib.resources.files("glyphflow") / f"corpus/data/report/{name}.css").read_text(encoding="utf-8")


def _section(part: Section) -> str:
    lead = f'<p class="lead">{plain(part.lead)}</p>' if part.lead else ""
    return f'<section id="{part.anchor}"><h2>{plain(part.title)}</h2>{lead}{_body(part)}</section>'


def _body(part: Section) -> str:
    try:
        return part.body()
    except GlyphFlowError as error:  # a damaged table of one stage does not take the other sections along
        return f'<p class="none">Not available: {plain(error)}</p>'


class _Found:
    """What the sections read."""

    def __init__(self, corpus: Corpus, view: str | None) -> None:
        self.corpus, self.rows = corpus, Rows(corpus)
        self.passed: list[Passage] = passages(corpus, len(self.rows), view) if view is not None else []
        self.last = self.passed[-1] if self.passed else None
        self.kept = self.last.view.kept if self.last else np.ones(len(self.rows), np.bool_)
        self.weight = self.last.view.weight if self.last else np.ones(len(self.rows))
        limits = [
            rule.max
            for passage in self.passed
            for stage in passage.stages
            for rule in stage.rules
            if rule.column == "safety.nsfw" and rule.max is not None
        ]
        self.unsafe = min(limits, default=UNSAFE)
        self.flagged = flagged(self.rows, self.unsafe)
        self.shots = Shots(self.rows, self.flagged)

    def sections(self) -> list[Section]:
        """The parts that explain a decision."""
        rows, passed, shots = self.rows, self.passed, self.shots
        return [
            Section(
                "sources",
                "What is in it",
                "Rows by source. Solid is what the view keeps; faint is what it refuses and the corpus still holds.",
                lambda: overview.legend() + overview.sources(rows, self.kept if self.last else None),
            ),
            Section(
                "flow",
                "What every filter refused",
                "From top to bottom, in the order of the stages; a row is counted at the first filter that refuses it. Per "
                "cent are of the rows that reach the filter.",
                lambda: overview.flows(rows, passed),
            ),
            Section(
                "refused",
                "Refused pictures",
                "By rule, with the measured value and the reason.",
                lambda: refused.sections(rows, passed, shots),
            ),
            Section(
                "values",
                "Every measured value",
                "Over all rows that were measured, kept or not, with pictures at its deciles. What a threshold refuses is "
                "shaded; rows lie beyond it also when an earlier filter had refused them. Skewed values have a logarithmic "
                "axis; a bar with a cut is higher than drawn.",
                lambda: overview.legend() + values.sections(rows, passed, shots),
            ),
        ]

    def more(self) -> list[Section]:
        """The parts about what was kept."""
        rows, shots = self.rows, self.shots
        return [
            Section(
                "categories",
                "What it is of",
                "Kept rows by the taxonomy, against the shares that it asks for; the upright line is the wanted share.",
                lambda: categories.tree(rows, self.kept, self.weight, shots),
            ),
            Section("splits", "Splits and weights", "", self._splits),
            Section(
                "characters",
                "Chinese characters",
                "The 8,105 of the Table of General Standard Chinese Characters, as they were read in kept pictures and as "
                "they are known of renders.",
                lambda: characters.section(rows, self.kept, self.weight),
            ),
            Section(
                "duplicates",
                "Duplicates side by side",
                "Left the picture that stays, right the copy that is refused.",
                lambda: pairs.section(rows, shots),
            ),
            Section(
                "captions",
                "Captions",
                "Raw came with the picture; recaption is a captioner's; fused joins both.",
                lambda: captions.section(rows, self.kept, self.last, self.passed, shots),
            ),
        ]

    def _splits(self) -> str:
        if self.last is None:
            return '<p class="none">No view has been decided yet.</p>'
        return categories.splits(self.rows, self.passed) + categories.weights(self.rows, self.last, self.shots)

    def header(self) -> str:
        """The title and the numbers that a reader wants first."""
        rows, kept = len(self.rows), int(self.kept.sum())
        photos, bytes_held = int(self.rows.photo.sum()), int(np.nansum(self.rows.numbers("index.size")))
        tiles = {
            "rows": f"{rows:,}",
            "pictures": f"{photos:,}",
            "renders": f"{rows - photos:,}",
            "sources": f"{len(self.rows.read('index.source').unique()):,}",
            "stages measured": f"{len(self.rows.stages):,}",
            "of pictures and specs": f"{bytes_held / 1e9:.2f} GB" if bytes_held >= 1e8 else f"{bytes_held / 1e6:.1f} MB",
        }
        if self.last is not None:
            tiles = {"kept": percent(kept, rows)} | tiles
        boxes = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in tiles.items())
        name = plain(self.corpus.directory.name)
        if self.last is None:
            title, said = counted(rows, "row"), f"The corpus <b>{name}</b>. No view was named, so nothing is refused here."
        else:
            title = f"{kept:,} of {counted(rows, 'row')} kept"
            said = (
                f"The view <b>{plain(self.last.view.name)}</b> of <b>{name}</b>. Nothing was deleted: every refused row stays "
                "in the corpus with the rule that refused it."
            )
        return f'<header><h1>{title}</h1><p>{said}</p><div class="tiles">{boxes}</div></header>'

    def footer(self) -> str:
        """What was blurred, and what made the page."""
        if self.rows.has("safety.nsfw"):
            number = counted(int(self.flagged.sum()), "picture")
            blurred = f"{number} with a safety score above {self.unsafe:g}, shown as a blur only."
        else:
            blurred = "The stage safety has not run, so no picture is blurred."
        return f"{blurred} GlyphFlow {importlib.metadata.version('glyphflow')}."
