"""How good a picture is at full size: the operators detail, quality, aesthetics."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from glyphflow.core.errors import ConfigError
from glyphflow.corpus.operator import Operator, Row
from glyphflow.corpus.operators.single import by_picture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def detail() -> Operator:
    """Sharpness, grain, compression blocks and clipped light of the undiminished picture; what each column means is said in
    :class:`glyphflow.perception.detail.Detail`."""
    from glyphflow.perception import detail as measures

    types = {field.name: "float32" for field in dataclasses.fields(measures.Detail)}

    def look(row: Row) -> Mapping[str, Any]:
        return dataclasses.asdict(measures.measure_detail(row.image))

    return by_picture("detail", {"version": measures.VERSION}, types, look)


def quality(brisque: bool = False) -> Operator:
    """``unnaturalness``: distance of the picture's local statistics from good photographs' (3 to 8 for good ones, 10 visible,
    15 strong blur, noise or compression). With ``brisque`` also ``brisque`` (0 good .. 100 bad), from the package of that name.

    Both are null for pictures below 32 px and for flat ones; drawings are unnatural by design.
    """
    from glyphflow.perception import quality as scores

    natural = scores.Natural()
    regression = scores.Brisque() if brisque else None

    def look(row: Row) -> Mapping[str, Any]:
        found = scores.features(row.image)
        if found is None:
            return {}
        values = {"unnaturalness": natural.distance(found)}
        return values | {"brisque": regression.score(found)} if regression is not None else values

    models = [natural.identity, *([regression.identity] if regression is not None else [])]
    return by_picture("quality", {"models": models}, {"unnaturalness": "float32", "brisque": "float32"}, look)


def aesthetics(head: str | None = None, encoder: str | None = None, device: str = "cpu", batch: int = 16) -> Operator:
    """``hand``: 0..10 by the formula of :class:`glyphflow.perception.aesthetics.Hand`, and its four parts. With a ``head`` (the
    file of a LAION-style predictor) and its ``encoder`` (a directory) also ``learned``, the opinion that it predicts."""
    from glyphflow.perception import aesthetics as measures

    if (head is None) != (encoder is None):
        raise ConfigError("aesthetics needs both head=FILE and encoder=DIRECTORY, or neither.")
    parts = tuple(field.name for field in dataclasses.fields(measures.Hand))
    types = dict.fromkeys(("hand", *parts, "learned"), "float32")

    def by_hand(image: NDArray[np.uint8]) -> dict[str, Any]:
        found = measures.by_hand(image)
        return {"hand": found.score, **dataclasses.asdict(found)}

    if head is None or encoder is None:
        return by_picture(
            "aesthetics", {"version": measures.VERSION}, types, lambda row: by_hand(row.scaled(measures.SHORT_SIDE))
        )
    predictor = measures.Head(head, encoder, device)

    def prepare(row: Row) -> tuple[dict[str, Any], Any]:
        image = row.scaled(measures.SHORT_SIDE)
        return by_hand(image), predictor.prepare(image)

    def compute(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
        learned = predictor.scores([row.prepared[1] for row in rows])
        return [row.prepared[0] | {"learned": score} for row, score in zip(rows, learned, strict=True)]

    identity = {"stage": "aesthetics", "version": measures.VERSION, "head": predictor.identity}
    return Operator("aesthetics", identity, types, compute, batch, prepare, parallel="one")
