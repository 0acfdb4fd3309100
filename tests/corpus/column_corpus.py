"""A corpus of columns without a picture: what curation reads, with values that a test chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glyphflow.corpus import Corpus
from glyphflow.corpus.tables import write_table

INDEX = {"kind": "photo", "offset": 0, "size": 1, "width": 1000, "height": 800, "orientation": 1, "captions": "{}"}
TYPES = {int: "int32", float: "float32", str: "string", bool: "bool", bytes: "binary"}


def column_corpus(
    place: Path,
    shards: Sequence[Sequence[Mapping[str, Any]]],
    shares: Mapping[str, float] | None = None,
    types: Mapping[str, str] | None = None,
) -> Corpus:
    """Rows as {"index.id": …, "pixels.clarity": …}; a column has the type of its first value that is not None, or of ``types``.

    A row without any column of a stage was not measured by it. ``shares``: of the branches of the taxonomy.
    """
    corpus = Corpus.create(place)
    names = dict.fromkeys(name for rows in shards for row in rows for name in row)
    for number, rows in enumerate(shards):
        shard = f"rows-{number:05d}"
        corpus.write_index(shard, [INDEX | _of(row, "index") | {"key": row["index.id"], "source": "rows"} for row in rows])
    for stage in dict.fromkeys(name.split(".")[0] for name in names if not name.startswith("index.")):
        mark = corpus.begin_stage(stage, {"stage": stage} | ({"shares": dict(shares or {})} if stage == "categories" else {}))
        columns = [name for name in names if name.startswith(f"{stage}.")]
        for number, rows in enumerate(shards):
            measured = [bool(_of(row, stage)) for row in rows]
            values = {name.split(".")[1]: [row.get(name) for row in rows] for name in columns}
            kinds = {name.split(".")[1]: _type(name, shards, types or {}) for name in columns}
            write_table(
                corpus.column_path(stage, mark, f"rows-{number:05d}"),
                {"id": [row["index.id"] for row in rows], "measured": measured, **values},
                {"id": "string", "measured": "bool", **kinds},
            )
    return corpus


def _of(row: Mapping[str, Any], stage: str) -> dict[str, Any]:
    return {name.split(".")[1]: value for name, value in row.items() if name.startswith(f"{stage}.")}


def _type(name: str, shards: Sequence[Sequence[Mapping[str, Any]]], types: Mapping[str, str]) -> str:
    known = next((row[name] for rows in shards for row in rows if row.get(name) is not None), None)
    return types.get(name) or TYPES[type(known)]
