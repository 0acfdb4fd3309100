"""What a picture shows, and whether its captions say so: the operators embedding and alignment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from glyphflow.corpus.operator import Operator, Row


def embedding(batch: int = 16) -> Operator:
    """``vector``: 1280 float16 (little-endian bytes) of unit length, for near duplicates and retrieval; ``labels``, ``classes``
    and ``scores``: the five likeliest ImageNet classes by name, number and probability, the likeliest first."""
    from glyphflow.perception.embedding import SHORT_SIDE, ImageEmbedder, class_names, prepared

    embedder = ImageEmbedder()

    def compute(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
        return [
            {
                "vector": seen.vector.astype("<f2").tobytes(),
                "labels": [class_names()[number] for number in seen.classes],
                "classes": list(seen.classes),
                "scores": list(seen.scores),
            }
            for seen in embedder.look_at([row.prepared for row in rows])
        ]

    return Operator(
        "embedding",
        {"stage": "embedding", "model": embedder.identity},
        {"vector": "binary", "labels": "list<string>", "classes": "list<int16>", "scores": "list<float32>"},
        compute,
        batch,
        prepare=lambda row: prepared(row.scaled(SHORT_SIDE)),
        parallel="one",
    )


def alignment(siglip2: str | None = None, chinese_clip: str | None = None, device: str = "cpu", batch: int = 16) -> Operator:
    """How well the raw captions fit their picture: cosines of ``siglip2`` and ``chinese_clip`` (directories of those models),
    or of the packaged ``bridge`` when neither is given.

    A column holds the least of the row's captions: siglip2 and bridge read all of them, chinese_clip the Chinese ones (key zh).
    ``captions`` has each by itself, as JSON {"en": {"siglip2": 0.12}, ...}. What is not measured is null. ``batch`` pictures
    are shown to a model at once; digits behind the fifth may depend on which.
    """
    if siglip2 is None and chinese_clip is None:
        return _bridge(batch)
    from glyphflow.perception.alignment import DualEncoder

    encoders = {
        name: DualEncoder(directory, device)
        for name, directory in (("siglip2", siglip2), ("chinese_clip", chinese_clip))
        if directory is not None
    }

    def prepare(row: Row) -> dict[str, Any]:
        image = row.scaled(_SHORT_SIDE)
        return {name: encoder.prepare(image) for name, encoder in encoders.items()}

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
                pictures = encoder.prepared_pictures([row.prepared[name] for row in rows])
                for (number, variant, _), vector in zip(said, texts, strict=True):
                    found[number].setdefault(variant, {})[name] = float(vector @ pictures[number])
        return [_least(each) for each in found]

    identity = {"stage": "alignment", "models": {name: encoder.identity for name, encoder in encoders.items()}}
    return Operator("alignment", identity, _ALIGNMENT, compute, batch, prepare, parallel="one")


_ALIGNMENT = {"siglip2": "float32", "chinese_clip": "float32", "bridge": "float32", "captions": "string"}
_SHORT_SIDE = 512  # px: the largest input of the encoders


def _bridge(batch: int) -> Operator:
    from glyphflow.perception.alignment import Bridge
    from glyphflow.perception.embedding import SHORT_SIDE, ImageEmbedder, prepared

    embedder, bridge = ImageEmbedder(), Bridge()

    def compute(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
        found: list[dict[str, dict[str, float]]] = [{} for _ in rows]
        told = [number for number, row in enumerate(rows) if row.prepared is not None]
        seen = embedder.look_at([rows[number].prepared for number in told]) if told else []
        for number, each in zip(told, seen, strict=True):
            picture = bridge.picture(each)
            for variant, text in _captions(rows[number]).items():
                found[number][variant] = {"bridge": float(np.dot(picture, bridge.text(text)))}
        return [_least(each) for each in found]

    return Operator(
        "alignment",
        {"stage": "alignment", "models": [embedder.identity, bridge.identity]},
        _ALIGNMENT,
        compute,
        batch,
        prepare=lambda row: prepared(row.scaled(SHORT_SIDE)) if _captions(row) else None,
        parallel="one",
    )


def _captions(row: Row) -> dict[str, str]:
    said = json.loads(row["captions"] or "{}")
    return {variant: text for variant, text in said.items() if isinstance(text, str) and text.strip()}


def _least(found: Mapping[str, Mapping[str, float]]) -> Mapping[str, Any]:
    """The columns for the cosines of each variant by each model."""
    models = {model for scores in found.values() for model in scores}
    least = {model: min(scores[model] for scores in found.values() if model in scores) for model in models}
    rounded = {variant: {model: round(value, 5) for model, value in scores.items()} for variant, scores in found.items()}
    return {**least, "captions": json.dumps(rounded)}
