"""The other values that came with pictures (scores, tags, addresses) as the columns of a stage of their own, ``metadata``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from glyphflow.corpus.ingest.captions import MAX_CAPTION_BYTES
from glyphflow.corpus.store import METADATA, Corpus
from glyphflow.corpus.tables import write_table

_OPERATOR = {"stage": METADATA, "version": 1}
_OURS = ("id", "shard", "measured", "error")  # names of every table of a corpus
_MOST = 256  # columns of a shard: more are keys of somebody's dictionary


def write_metadata(corpus: Corpus, shard: str, ids: Sequence[str], values: Sequence[Mapping[str, Any]]) -> None:
    """Write the ``values`` of the rows ``ids`` as columns of ``shard``; where there are none, nothing is written.

    Numbers stay numbers where every row has one, texts stay texts, anything else becomes JSON. A column that is called as one
    of ours gets a _ behind its name.
    """
    names: dict[str, str] = {}  # in small letters, which is how SQL compares them -> as it came first
    for row in values:
        for name in row:
            if len(names) < _MOST:
                names.setdefault(name.strip().lower(), name)
    path = corpus.column_path(METADATA, corpus.begin_stage(METADATA, _OPERATOR), shard) if names else None
    if path is None:
        return
    columns: dict[str, Sequence[Any]] = {"id": ids}
    types = {"id": "string"}
    for small, name in names.items():
        told = [next((each for key, each in row.items() if key.strip().lower() == small), None) for row in values]
        title = _title(name) + ("_" if small in _OURS else "")
        types[title], columns[title] = _typed(told)
    write_table(path, columns, types)


def _title(name: str) -> str:
    return name.encode("utf-8", "replace").decode("utf-8").replace("\x00", "").strip()[:200] or "unnamed"


def _typed(values: Sequence[Any]) -> tuple[str, list[Any]]:
    there = [each for each in values if each is not None]
    if all(isinstance(each, bool) for each in there):
        return "bool", list(values)
    if all(isinstance(each, int) and not isinstance(each, bool) and abs(each) < 1 << 62 for each in there):
        return "int64", list(values)
    if all(isinstance(each, float) or (isinstance(each, int) and abs(each) <= 1 << 53) for each in there) and not any(
        isinstance(each, bool) for each in there
    ):
        return "double", [None if each is None else float(each) for each in values]
    return "string", [None if each is None else _text(each) for each in values]


def _text(value: Any) -> str | None:
    if isinstance(value, bytes | bytearray | memoryview):
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if len(text) > MAX_CAPTION_BYTES:
        return None
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "")
