"""Metrics: pure functions of texts, pictures and depth maps. Those on pixels need PyTorch and are imported from their modules
(:mod:`.pixels`, :mod:`.lpips`, :mod:`.depth`), so that reading scores does not wait for it."""

from glyphflow.evaluate.metrics.joined import words_found
from glyphflow.evaluate.metrics.normalise import NORMALISATION, comparable, is_han, units
from glyphflow.evaluate.metrics.strings import levenshtein, matched_characters
from glyphflow.evaluate.metrics.text import (
    IDENTITIES,
    Count,
    TextScore,
    aggregate,
    clip_score,
    edit_similarity,
    multiset_matches,
    score_text,
)

__all__ = [
    "IDENTITIES",
    "NORMALISATION",
    "Count",
    "TextScore",
    "aggregate",
    "clip_score",
    "comparable",
    "edit_similarity",
    "is_han",
    "levenshtein",
    "matched_characters",
    "multiset_matches",
    "score_text",
    "units",
    "words_found",
]
