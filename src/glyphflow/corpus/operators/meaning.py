"""What a picture shows, and whether its captions say so: the operators embedding and alignment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from glyphflow.corpus.operator import Operator, Row
from glyphflow.corpus.operators.single import by_picture

if TYPE_CHECKING:
    from glyphflow.perception.embedding import Seen


def embedding() -> Operator:
    """``vector``: 1280 float16 (little-endian bytes) of unit length, for near duplicates and retrieval; ``labels``, ``classes``
    and ``scores``: the five likeliest ImageNet classes by name, number and probability, the likeliest first."""
    from glyphflow.perception.embedding import SHORT_SIDE, ImageEmbedder, class_names

    embedder = ImageEmbedder()

    def look(row: Row) -> Mapping[str, Any]:
        seen = embedder.look(row.scaled(SHORT_SIDE))
        return {
            "vector": seen.vector.astype("<f2").tobytes(),
            "labels": [class_names()[number] for number in seen.classes],
            "classes": list(seen.classes),
            "scores": list(seen.scores),
        }

    types = {"vector": "binary", "labels": "list<string>", "classes": "list<int16>", "scores": "list<float32>"}
    return by_picture("embedding", {"model": embedder.identity}, types, look)


def alignment(siglip2: str | None = None, chinese_clip: str | None = None, device: str = "cpu", batch: int = 1) -> Operator:
    """How well the raw captions fit their picture: cosines of ``siglip2`` and ``chinese_clip`` (directories of those models),
    or of the packaged ``bridge`` when neither is given.

    A column holds the least of the row's captions: siglip2 and bridge read all of them, chinese_clip the Chinese ones (key zh).
    ``captions`` has each by itself, as JSON {"en": {"siglip2": 0.12}, ...}. What is not measured is null. On a card give a
    ``batch`` of 32 or more; digits behind the fifth may then depend on which rows share one.
    """
    if siglip2 is None and chinese_clip is None:
        return _bridge()
    from glyphflow.perception.alignment import DualEncoder

    encoders = {
        name: DualEncoder(directory, device)
        for name, directory in (("siglip2", siglip2), ("chinese_clip", chinese_clip))
        if directory is not None
    }

    def compute(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
        found: list[dict[str, dict[str, float]]] = [{} for _ in rows]
        for name, encoder in encoders.items():
            said = [
                (number, variant, text)
                for number, row in enumerate(rows)
                for variant, text in _captions(row).items()
                if name != "chinese_clip" or variant == "zh"
            ]
            if said:
                texts = encoder.texts([text for _, _, text in said])
                pictures = encoder.pictures([row.prepared for row in rows])
                for (number, variant, _), vector in zip(said, texts, strict=True):
                    found[number].setdefault(variant, {})[name] = float(vector @ pictures[number])
        return [_least(each) for each in found]

    identity = {"stage": "alignment", "models": {name: encoder.identity for name, encoder in encoders.items()}}
    return Operator("alignment", identity, _ALIGNMENT, compute, batch, lambda row: row.scaled(_SHORT_SIDE))


_ALIGNMENT = {"siglip2": "float32", "chinese_clip": "float32", "bridge": "float32", "captions": "string"}
_SHORT_SIDE = 512  # px: the largest input of the encoders


def _bridge() -> Operator:
    from glyphflow.perception.alignment import Bridge
    from glyphflow.perception.embedding import SHORT_SIDE, ImageEmbedder

    embedder, bridge = ImageEmbedder(), Bridge()

    def look(row: Row) -> Mapping[str, Any]:
        captions = _captions(row)
        if not captions:
            return _least({})
        seen: Seen = embedder.look(row.scaled(SHORT_SIDE))
        picture = bridge.picture(seen)
        return _least({variant: {"bridge": float(np.dot(picture, bridge.text(text)))} for variant, text in captions.items()})

    return by_picture("alignment", {"models": [embedder.identity, bridge.identity]}, _ALIGNMENT, look)


def _captions(row: Row) -> dict[str, str]:
    said = json.loads(row["captions"] or "{}")
    return {variant: text for variant, text in said.items() if isinstance(text, str) and text.strip()}


def _least(found: Mapping[str, Mapping[str, float]]) -> Mapping[str, Any]:
    """The columns for the cosines of each variant by each model."""
    models = {model for scores in found.values() for model in scores}
    least = {model: min(scores[model] for scores in found.values() if model in scores) for model in models}
    rounded = {variant: {model: round(value, 5) for model, value in scores.items()} for variant, scores in found.items()}
    return {**least, "captions": json.dumps(rounded)}
