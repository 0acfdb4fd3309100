"""Measure once: the operators whose columns every later decision reads.

``header`` asks the bytes without decoding, ``pixels`` decodes each picture once, small and strictly, ``duplicates`` looks at
the hashes of the whole corpus. A stage works shard by shard; the shards without its file are the work that is left.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from glyphflow.core.hashing import fingerprint
from glyphflow.core.pictures import PictureError
from glyphflow.corpus.decode import MAX_PIXELS, MAX_SIDE, check_size, decode_rgb, jpeg_quality, read_header, upright_size
from glyphflow.corpus.forget import tombstones
from glyphflow.corpus.operator import Operator, Row
from glyphflow.corpus.operators.alike import SIDE, alike, cells_of
from glyphflow.corpus.operators.duplicates import DUPLICATE_TYPES, Candidate, group_duplicates
from glyphflow.corpus.operators.metrics import SHORT_SIDE, pixel_metrics
from glyphflow.corpus.runner.stage import run
from glyphflow.corpus.store import PHOTO, Corpus
from glyphflow.corpus.tables import write_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEADER_TYPES = {
    "bytes": "int64",  # of the file; null for renders
    "width": "int32",  # upright
    "height": "int32",
    "short_side": "int32",
    "aspect": "float32",  # long side / short side
    "orientation": "int8",
    "mode": "string",
    "jpeg_quality": "int16",
    "error": "string",
}
PIXEL_TYPES = {
    "clarity": "float32",
    "luma": "float32",
    "saturation": "float32",
    "entropy": "float32",
    "texture": "float32",
    "phash": "uint64",
    "crop_phashes": "binary",
    "error": "string",
}
HEADER_OPERATOR = {"stage": "header", "version": 1}
PIXEL_OPERATOR = {"stage": "pixels", "version": 2, "short_side": SHORT_SIDE}
HASH_DISTANCE = 3  # bits
CROP_DISTANCE = 5  # bits; distances are even, since 31 of 63 bits are always set
MIN_ENTROPY = 1.0  # bits: nearly flat pictures share one hash whatever they show, so only their bytes are compared
DUPLICATE_OPERATOR = {
    "stage": "duplicates",
    "version": 4,
    "distance": HASH_DISTANCE,
    "crop_distance": CROP_DISTANCE,
    "min_entropy": MIN_ENTROPY,
}

HEAD = 1024  # bytes of a file that are read for its header
HEADER_BATCH = 1024  # rows: their headers are read in one call


def measure(corpus: Corpus, workers: int | None = None) -> dict[str, int]:
    """Run the stages that every corpus has for what they have not seen; gives the number of rows each measured in this call."""
    return {stage: run(corpus, stage, workers=workers) for stage in ("header", "pixels", "duplicates")}


def header() -> Operator:
    """What the bytes say without being decoded: the JPEG headers of many rows at once, any other row by itself."""
    identity = {key: value for key, value in HEADER_OPERATOR.items() if key != "stage"}
    return Operator("header", identity, HEADER_TYPES, _header_rows, HEADER_BATCH)


def pixels() -> Operator:
    """Every cheap number about a picture, from one small strict decode (:mod:`glyphflow.corpus.operators.metrics`)."""
    identity = {key: value for key, value in PIXEL_OPERATOR.items() if key != "stage"}
    return Operator("pixels", identity, PIXEL_TYPES, lambda rows: [pixel_metrics(row.scaled(SHORT_SIDE)) for row in rows])


def _header_rows(rows: Sequence[Row]) -> list[Mapping[str, Any]]:
    from glyphflow.corpus.operators import kernels

    shard = rows[0].shard
    numbers = [row.number for row in rows]
    offsets, sizes = (np.array(shard.values(name), np.int64)[numbers] for name in ("offset", "size"))
    photos = np.flatnonzero(np.array(shard.values("kind"))[numbers] == PHOTO)
    found = np.zeros((len(rows), 5), np.int32)
    # Most headers are short, and touching a mapped page costs more than reading one; the others are looked for in the map.
    heads = shard.heads([numbers[photo] for photo in photos.tolist()], HEAD)
    ends, short = np.cumsum([len(head) for head in heads], dtype=np.int64), np.zeros((len(photos), 5), np.int32)
    starts = np.concatenate([np.zeros(1, np.int64), ends])[:-1]
    kernels.jpeg_headers(np.frombuffer(b"".join(heads), np.uint8), starts, np.minimum(sizes[photos], ends - starts), short)
    found[photos] = short
    long = photos[short[:, kernels.WIDTH] == 0]
    if len(long):
        rest = np.zeros((len(long), 5), np.int32)
        kernels.jpeg_headers(shard.pixels(), offsets[long], sizes[long], rest)
        found[long] = rest
    width, height = found[:, kernels.WIDTH].astype(np.int64), found[:, kernels.HEIGHT].astype(np.int64)
    read = (width > 0) & (np.maximum(width, height) <= MAX_SIDE) & (width * height <= MAX_PIXELS)
    turned = found[:, kernels.ORIENTATION] >= 5
    width, height = np.where(turned, height, width), np.where(turned, width, height)
    short = np.minimum(width, height)
    qualities = {int(total): jpeg_quality(int(total)) for total in np.unique(found[read, kernels.TABLE_SUM])}
    columns: dict[str, list[Any]] = {
        "bytes": sizes.tolist(),
        "width": width.tolist(),
        "height": height.tolist(),
        "short_side": short.tolist(),
        "aspect": (np.maximum(width, height) / np.maximum(1, short)).tolist(),
        "orientation": found[:, kernels.ORIENTATION].tolist(),
        "mode": [_JPEG_MODES.get(count) for count in found[:, kernels.COMPONENTS].tolist()],
        "jpeg_quality": [qualities.get(total) for total in found[:, kernels.TABLE_SUM].tolist()],
    }
    told: list[Mapping[str, Any]] = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for number in np.flatnonzero(~read).tolist():
        told[number] = _header_row(rows[number])
    return told


_JPEG_MODES = {1: "L", 3: "RGB", 4: "CMYK"}  # number of components -> Pillow's name


def _header_row(row: Row) -> Mapping[str, Any]:
    if not row.is_photo:
        return _sizes(row["width"], row["height"])
    try:
        header = read_header(row.data)
        check_size(header)
    except PictureError as error:
        return {"bytes": row["size"], "error": str(error)}
    width, height = upright_size(header.width, header.height, header.orientation)
    return _sizes(width, height) | {
        "bytes": row["size"],
        "orientation": header.orientation,
        "mode": header.mode,
        "jpeg_quality": header.jpeg_quality,
    }


def _sizes(width: int, height: int) -> dict[str, Any]:
    short, long = sorted((width, height))
    return {"width": width, "height": height, "short_side": short, "aspect": long / max(1, short)}


def duplicates(corpus: Corpus) -> int:
    """Group the photographs of the whole corpus; a corpus that grew is grouped anew, since a better copy may have come.

    Gives the number of photographs compared in this call. The caller is the one writer of the corpus.
    """
    pixels_mark = corpus.stage_fingerprint("pixels")
    shards = corpus.shards()
    mark = corpus.begin_stage(
        "duplicates",
        DUPLICATE_OPERATOR | {"pixels": pixels_mark, "shards": len(shards), "of": fingerprint([*shards, *tombstones(corpus)])},
    )
    if not corpus.missing("duplicates", mark):
        return 0
    candidates: list[Candidate] = []
    ids: dict[str, list[str]] = {}
    places: dict[str, tuple[str, int, int]] = {}
    made_from: dict[str, list[str]] = {}
    for shard in shards:
        index = corpus.index(shard, ("id", "kind", "key", "sha256", "size", "width", "height", "offset", "references"))
        pixels = corpus.columns("pixels", shard, ("phash", "crop_phashes", "entropy")) or {}
        ids[shard] = index["id"]
        for number, kind in enumerate(index["kind"]):
            if kind == PHOTO and index["size"][number]:
                candidates.append(_candidate(index, pixels, number))
                places[index["id"][number]] = (shard, index["offset"][number], index["size"][number])
                if index["references"][number]:
                    made_from[index["id"][number]] = json.loads(index["references"][number])
    found = group_duplicates(_apart(candidates, made_from), HASH_DISTANCE, CROP_DISTANCE, _Look(corpus, places))
    for shard in shards:
        nothing = {"first_of_group": None, "duplicate_of": None, "distance": None, "group_size": 1}
        rows = [found.get(each, nothing | {"first_of_group": each}) for each in ids[shard]]
        columns = {name: [row[name] for row in rows] for name in DUPLICATE_TYPES}
        write_table(
            corpus.column_path("duplicates", mark, shard),
            {"id": ids[shard], **columns},
            {"id": "string", **DUPLICATE_TYPES},
        )
    return len(candidates)


def _apart(candidates: Sequence[Candidate], made_from: Mapping[str, Sequence[str]]) -> list[Candidate]:
    """The candidates, each knowing the pictures that it was made from."""
    if not made_from:
        return list(candidates)
    hashes = {each.id: each.sha256 for each in candidates}
    apart = {row: frozenset(hashes[each] for each in others if each in hashes) for row, others in made_from.items()}
    return [replace(each, apart=apart[each.id]) if each.id in apart else each for each in candidates]


class _Look:
    """Whether two pictures of a corpus are one; each is decoded, small, when it is first looked at."""

    def __init__(self, corpus: Corpus, places: Mapping[str, tuple[str, int, int]]) -> None:
        self._corpus, self._places = corpus, places
        self._seen = functools.lru_cache(maxsize=2048)(self._decoded)  # 64 KB each

    def __call__(self, one: Candidate, other: Candidate) -> bool:
        (first, short), (second, other_short) = self._seen(one.id), self._seen(other.id)
        return first is not None and second is not None and alike(first, second, min(short, other_short))

    def _decoded(self, row: str) -> tuple[NDArray[np.float32] | None, int]:
        from glyphflow.corpus.operators import kernels

        shard, offset, size = self._places[row]
        try:
            image = decode_rgb(self._corpus.payload(shard, PHOTO, offset, size), short_side=2 * SIDE)
        except PictureError:
            return None, 0
        gray = np.empty(image.shape[:2], np.uint8)
        kernels.gray_and_saturation(image, gray)
        return cells_of(gray), min(gray.shape)


def _candidate(index: dict[str, list[Any]], pixels: dict[str, list[Any]], number: int) -> Candidate:
    entropy = pixels["entropy"][number]
    comparable = entropy is not None and entropy >= MIN_ENTROPY
    return Candidate(
        id=index["id"][number],
        sha256=index["sha256"][number],
        phash=pixels["phash"][number] if comparable else None,
        area=index["width"][number] * index["height"][number],
        size=index["size"][number],
        key=index["key"][number],
        crops=np.frombuffer(pixels["crop_phashes"][number], np.dtype("<u8")) if comparable else None,
    )
