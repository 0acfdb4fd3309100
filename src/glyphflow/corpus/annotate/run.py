"""Annotating a view with one call: what the command line does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glyphflow.corpus.annotate.operator import ANNOTATION_TYPES, NO_ANSWER, captioner
from glyphflow.corpus.runner.stage import run
from glyphflow.corpus.store import Corpus
from glyphflow.corpus.tables import read_table, write_table

_TYPES = {"id": "string", "measured": "bool", **ANNOTATION_TYPES, "error": "string"}


@dataclass(frozen=True)
class Annotated:
    """What a call did: rows annotated in it, and how often each kind of trouble stands in the columns now."""

    rows: int
    errors: Mapping[str, int]


def annotate(corpus: Corpus, view: str, options: Mapping[str, Any] | None = None, workers: int | None = None) -> Annotated:
    """Annotate the rows that ``view`` keeps and that are not yet (``options`` of :func:`annotator`).

    The text in them is read first, by the stage text, unless the option "reading" is off. Rows that an earlier call
    got no answer for, because of the server and not of the picture, are asked again.
    """
    corpus.view_info(view)  # a wrong name shows before the models are loaded, and so does what cannot annotate
    captioner((options or {}).get("using", "rules"), (options or {}).get("model"))
    with corpus.measuring():
        _ask_again(corpus)
    if (options or {}).get("reading", True):
        run(corpus, "text", view=view, workers=workers)
    rows = run(corpus, "annotate", options or {}, view=view, workers=workers)
    errors: Counter[str] = Counter()
    for shard in corpus.shards():
        columns = corpus.columns("annotate", shard, ("error", "refusal")) or {"error": [], "refusal": []}
        errors.update(error.partition(":")[0] for error in columns["error"] if error)
        errors.update("refused" for words in columns["refusal"] if words)
    return Annotated(rows, dict(errors.most_common()))


def _ask_again(corpus: Corpus) -> None:
    """Mark the rows without an answer as not measured, in the columns that count now."""
    mark = corpus.stage_fingerprint("annotate")
    for shard in corpus.shards() if mark else ():
        path = corpus.column_path("annotate", mark or "", shard)
        if not path.exists():
            continue
        columns = read_table(path)
        silent = [str(error or "").startswith(NO_ANSWER) for error in columns["error"]]
        if any(silent):
            columns["measured"] = [known and not again for known, again in zip(columns["measured"], silent, strict=True)]
            write_table(path, columns, _TYPES)
