"""Measure once: the operators whose columns every later decision reads.

``header`` asks the bytes without decoding, ``pixels`` decodes each picture once, small and strictly, ``duplicates`` looks at
the hashes of the whole corpus. A stage works shard by shard; the shards without its file are the work that is left.
"""

from __future__ import annotations

import functools
import mmap
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from glyphflow.core.hashing import fingerprint
from glyphflow.core.progress import Progress
from glyphflow.corpus.decode import (
    MAX_PIXELS,
    MAX_SIDE,
    PictureError,
    check_size,
    decode_rgb,
    jpeg_quality,
    read_header,
    upright_size,
)
from glyphflow.corpus.duplicates import DUPLICATE_TYPES, Candidate, group_duplicates
from glyphflow.corpus.forget import tombstones
from glyphflow.corpus.metrics import SHORT_SIDE, pixel_metrics
from glyphflow.corpus.specs import Renderer
from glyphflow.corpus.store import PHOTO, Corpus
from glyphflow.corpus.tables import write_table

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
    "version": 2,
    "distance": HASH_DISTANCE,
    "crop_distance": CROP_DISTANCE,
    "min_entropy": MIN_ENTROPY,
}

Row = Mapping[str, Any]


def measure(corpus: Corpus, workers: int | None = None) -> dict[str, int]:
    """Run all stages for what they have not seen yet; gives the number of rows each one measured in this call."""
    renderer = Renderer()
    with corpus.writing("measuring"):
        header = measure_headers(corpus)
        pixels = run_stage(corpus, "pixels", PIXEL_OPERATOR, PIXEL_TYPES, functools.partial(_pixel_row, renderer), workers)
        return {"header": header, "pixels": pixels, "duplicates": _duplicates(corpus)}


def run_stage(
    corpus: Corpus,
    stage: str,
    operator: Mapping[str, Any],
    types: Mapping[str, str],
    compute: Callable[[Row, bytes], Mapping[str, Any]],
    workers: int | None = None,
) -> int:
    """Apply ``compute`` (index row, payload) to every row of every shard that has no columns of this stage yet.

    ``compute`` runs in threads (decoding and drawing release the interpreter lock) and states a row's own trouble in its
    columns; a column that it leaves out is null. Rows without a payload get their index ``error`` without being computed.
    """
    mark = corpus.begin_stage(stage, operator)
    missing = corpus.missing(stage, mark)
    if not missing:
        return 0
    indexes = {shard: corpus.index(shard) for shard in missing}
    done = 0
    with (
        Progress(f"measure {stage}", sum(len(index["id"]) for index in indexes.values()), "row") as progress,
        ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool,
    ):
        for shard, index in indexes.items():

            def one(number: int, shard: str = shard, index: dict[str, list[Any]] = index) -> Mapping[str, Any]:
                row = {name: values[number] for name, values in index.items()}
                values = (
                    {"error": row["error"]}
                    if row["error"]
                    else compute(row, corpus.payload(shard, row["kind"], row["offset"], row["size"]))
                )
                progress.advance()
                return values

            rows = list(pool.map(one, range(len(index["id"]))))
            columns = {name: [row.get(name) for row in rows] for name in types}
            write_table(corpus.column_path(stage, mark, shard), {"id": index["id"], **columns}, {"id": "string", **types})
            done += len(rows)
    return done


def measure_headers(corpus: Corpus) -> int:
    """What the bytes say without being decoded: a whole shard's JPEG headers at once, any other row by itself."""
    mark = corpus.begin_stage("header", HEADER_OPERATOR)
    missing, done = corpus.missing("header", mark), 0
    with Progress("measure header", len(missing), "shard") as progress:
        for shard in missing:
            index = corpus.index(shard, ("id", "kind", "offset", "size", "width", "height", "error"))
            columns = _header_columns(corpus, shard, index)
            write_table(
                corpus.column_path("header", mark, shard), {"id": index["id"], **columns}, {"id": "string", **HEADER_TYPES}
            )
            done += len(index["id"])
            progress.advance()
    return done


def _header_columns(corpus: Corpus, shard: str, index: dict[str, list[Any]]) -> dict[str, Any]:
    from glyphflow.corpus import kernels

    found = np.zeros((len(index["id"]), 5), np.int32)
    path = corpus.pixels_path(shard)
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            data = np.frombuffer(mapped, np.uint8)
            kernels.jpeg_headers(data, np.array(index["offset"], np.int64), np.array(index["size"], np.int64), found)
            del data  # a map cannot be closed while something looks into it
    width, height = found[:, kernels.WIDTH].astype(np.int64), found[:, kernels.HEIGHT].astype(np.int64)
    read = (width > 0) & (np.maximum(width, height) <= MAX_SIDE) & (width * height <= MAX_PIXELS)
    turned = found[:, kernels.ORIENTATION] >= 5
    width, height = np.where(turned, height, width), np.where(turned, width, height)
    short = np.minimum(width, height)
    qualities = {int(total): jpeg_quality(int(total)) for total in np.unique(found[read, kernels.TABLE_SUM])}
    columns: dict[str, list[Any]] = {
        "bytes": list(index["size"]),
        "width": width.tolist(),
        "height": height.tolist(),
        "short_side": short.tolist(),
        "aspect": (np.maximum(width, height) / np.maximum(1, short)).tolist(),
        "orientation": found[:, kernels.ORIENTATION].tolist(),
        "mode": [_JPEG_MODES.get(count) for count in found[:, kernels.COMPONENTS].tolist()],
        "jpeg_quality": [qualities.get(total) for total in found[:, kernels.TABLE_SUM].tolist()],
        "error": [None] * len(read),
    }
    for number in np.flatnonzero(~read).tolist():
        row = {name: values[number] for name, values in index.items()}
        values = {"error": row["error"]} if row["error"] else _header_row(corpus, shard, row)
        for name, column in columns.items():
            column[number] = values.get(name)
    return columns


_JPEG_MODES = {1: "L", 3: "RGB", 4: "CMYK"}  # number of components -> Pillow's name


def _header_row(corpus: Corpus, shard: str, row: Row) -> Mapping[str, Any]:
    if row["kind"] != PHOTO:
        return _sizes(row["width"], row["height"])
    try:
        header = read_header(corpus.payload(shard, PHOTO, row["offset"], row["size"]))
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


def _pixel_row(renderer: Renderer, row: Row, data: bytes) -> Mapping[str, Any]:
    if row["kind"] != PHOTO:
        return pixel_metrics(renderer.draw(data).image)
    try:
        return pixel_metrics(decode_rgb(data, short_side=SHORT_SIDE))
    except PictureError as error:
        return {"error": str(error)}


def _duplicates(corpus: Corpus) -> int:
    """Group the photographs of the whole corpus; a corpus that grew is grouped anew, since a better copy may have come."""
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
    for shard in shards:
        index = corpus.index(shard, ("id", "kind", "key", "sha256", "size", "width", "height"))
        pixels = corpus.columns("pixels", shard, ("phash", "crop_phashes", "entropy")) or {}
        ids[shard] = index["id"]
        for number, kind in enumerate(index["kind"]):
            if kind == PHOTO and index["size"][number]:
                candidates.append(_candidate(index, pixels, number))
    found = group_duplicates(candidates, HASH_DISTANCE, CROP_DISTANCE)
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
