"""What does not belong into a picture, or decides its split: the operators safety, faces, codes, mosaic, watermark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from glyphflow.corpus.operator import Operator, Row
from glyphflow.corpus.operators.single import by_picture


def safety() -> Operator:
    """``nsfw``: the probability that the picture is sexual (below 0.2 safe, above 0.8 not, say the model's authors).

    Drawn renders are asked, too: their backgrounds may be photographs.
    """
    from glyphflow.perception.nsfw import NSFW, SIDE

    model = NSFW()

    def look(row: Row) -> Mapping[str, Any]:
        return {"nsfw": model.score(row.scaled(SIDE))}

    return by_picture("safety", {"model": model.identity}, {"nsfw": "float32"}, look)


def faces() -> Operator:
    """``count`` of faces, ``largest``: share of the picture's area that the largest takes, ``boxes`` as JSON
    [{"box": [x, y, width, height], "certainty": c}, ...] in pixels of the upright picture, the largest first."""
    from glyphflow.perception.faces import Faces

    finder = Faces()

    def look(row: Row) -> Mapping[str, Any]:
        image = row.image
        found = finder.find(image)
        boxes = [{"box": [face.x, face.y, face.width, face.height], "certainty": round(face.certainty, 2)} for face in found]
        largest = found[0].width * found[0].height / (image.shape[0] * image.shape[1]) if found else 0.0
        return {"count": len(found), "largest": min(1.0, largest), "boxes": json.dumps(boxes)}

    return by_picture("faces", {"model": finder.identity}, {"count": "int32", "largest": "float32", "boxes": "string"}, look)


def codes() -> Operator:
    """``count`` of QR and bar codes, ``share`` of the picture's area that they take, ``found`` as JSON
    [{"format": "QRCode", "text": ..., "corners": [[x, y], ...]}, ...] in pixels of the upright picture."""
    from glyphflow.perception import codes as reader

    def look(row: Row) -> Mapping[str, Any]:
        image = row.image
        found = reader.find_codes(image)
        listed = [{"format": code.format, "text": code.text[:500], "corners": code.corners} for code in found]
        share = sum(code.area for code in found) / (image.shape[0] * image.shape[1])
        return {"count": len(found), "share": min(1.0, share), "found": json.dumps(listed, ensure_ascii=False)}

    return by_picture("codes", {"model": reader.identity()}, {"count": "int32", "share": "float32", "found": "string"}, look)


def mosaic() -> Operator:
    """``share`` of the picture's area that is pixelated, and the ``cell``'s side in px (0: there is none)."""
    from glyphflow.perception import mosaic as detector

    def look(row: Row) -> Mapping[str, Any]:
        found = detector.find_mosaic(row.image)
        return {"share": found.share, "cell": found.cell}

    return by_picture("mosaic", {"version": detector.VERSION}, {"share": "float32", "cell": "int16"}, look)


def watermark() -> Operator:
    """``count`` and ``lines`` (JSON) of what was read in the picture that reads like an owner's mark, ``repetition`` of fine
    structures (0..1: about 0.1 from a mark tiled at 20 % opacity, 0.2 at 40 %; patterns have more).

    Reads the stage text, which comes first; a picture that it has not read has no ``count``. Renders have text by design and no
    owner: only their repetition is measured.
    """
    from glyphflow.perception import watermark as detector

    def look(row: Row) -> Mapping[str, Any]:
        repeated = {"repetition": detector.repetition(row.scaled(detector.LONG_SIDE))}
        if row["text.lines"] is None or not row.is_photo:
            return repeated
        found = detector.marks([line["text"] for line in json.loads(row["text.lines"])])
        return repeated | {"count": len(found), "lines": json.dumps(found, ensure_ascii=False)}

    types = {"count": "int32", "lines": "string", "repetition": "float32"}
    return by_picture("watermark", {"version": detector.VERSION}, types, look, inputs=("text",))
