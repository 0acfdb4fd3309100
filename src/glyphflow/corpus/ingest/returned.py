"""What GlyphFlow exported and reads again: rows of edits name the new rows of the pictures that they start from.

An export tells ``id`` and ``references`` of every record; ingest keeps both as metadata, and here they become references again.
"""

from __future__ import annotations

import json
import re
from typing import Any

from glyphflow.core.files import read_json
from glyphflow.core.hardware import require
from glyphflow.corpus.ingest.shards import shard_name
from glyphflow.corpus.store import METADATA, Corpus

_ID, _REFERENCES = "id_", "references"  # as metadata calls them
_OURS = re.compile(r"[0-9a-f]{32}")


def relink(corpus: Corpus, source: str) -> list[str]:
    """Write the references of the rows of ``source`` that tell them and have none; gives a sentence about those not found."""
    told = {shard: columns for shard in _shards(corpus, source) if (columns := _told(corpus, shard))}
    ids: dict[str, str] = {}
    for shard, columns in told.items():
        ids |= {old: new for old, new in zip(columns[_ID], corpus.index(shard, ("id",))["id"], strict=True) if old}
    lost = 0
    for shard, columns in told.items():
        index = corpus.index(shard)
        fresh = 0
        for row, text in enumerate(columns[_REFERENCES]):
            names = _names(text)
            if not names or index["references"][row] or not index["size"][row]:
                continue
            if all(name in ids for name in names):
                index["references"][row] = json.dumps([ids[name] for name in names])
                fresh += 1
            else:
                lost += 1
        if fresh:
            corpus.write_index(
                shard, [{name: column[row] for name, column in index.items()} for row in range(len(index["id"]))]
            )
    return (
        [f"{lost} edits start from pictures that are not in this source; they are pictures without references."] if lost else []
    )


def _shards(corpus: Corpus, source: str) -> list[str]:
    path = corpus.directory / "sources" / f"{source}.json"
    count = len(read_json(path)["shards"]) if path.exists() else 0
    names = [shard_name(source, number) for number in range(count)]
    return [name for name in names if corpus.index_path(name).exists()]


def _told(corpus: Corpus, shard: str) -> dict[str, list[Any]] | None:
    """The two columns of a shard's metadata, where it has both."""
    path = corpus.column_path(METADATA, corpus.stage_fingerprint(METADATA) or "", shard)
    if not path.exists():
        return None
    names = require("pyarrow.parquet", "corpus").read_schema(path).names
    return corpus.columns(METADATA, shard, (_ID, _REFERENCES)) if {_ID, _REFERENCES} <= set(names) else None


def _names(text: Any) -> list[str]:
    try:
        names = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return []
    if not isinstance(names, list) or not all(isinstance(each, str) and _OURS.fullmatch(each) for each in names):
        return []
    return names
