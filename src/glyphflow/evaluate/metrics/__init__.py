"""Metrics: pure functions of texts, pictures and depth maps. Those on pixels need PyTorch and are imported from their modules
(:mod:`.pixels`, :mod:`.lpips`, :mod:`.depth`), so that reading scores does not wait for it."""

from glyphflow.evaluate.metrics.text import (
    IDENTITIES,
    Count,
    TextScore,
    aggregate,
    clip_score,
    edit_similarity,
    is_han,
    levenshtein,
    matched_characters,
    multiset_matches,
    score_text,
    units,
)

__all__ = [
    "IDENTITIES",
    "Count",
    "TextScore",
    "aggregate",
    "clip_score",
    "edit_similarity",
    "is_han",
    "levenshtein",
    "matched_characters",
    "multiset_matches",
    "score_text",
    "units",
]
