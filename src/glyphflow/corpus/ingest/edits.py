"""Edit triplets: reference pictures in order, an instruction, and the picture that it asks for.

They come as a .jsonl file, one edit a line, with paths below its folder::

    {"references": ["room.jpg", "lamp.png"], "instruction": "put the lamp on the table", "target": "room-lamp.jpg"}

``instruction`` may also be {"en": ..., "zh": ...}. Every reference picture is one row, however many edits start from it; the
row of a target has the instruction as its caption and names the rows of its references.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.hashing import sha256_bytes, sha256_file
from glyphflow.core.text import split_lines
from glyphflow.corpus.ingest.below import read_below
from glyphflow.corpus.ingest.captions import NOTHING, Said, from_mapping
from glyphflow.corpus.ingest.csv_rows import decode_damaged
from glyphflow.corpus.ingest.shards import (
    PICTURES_PER_SHARD,
    Ingested,
    Item,
    extension_of,
    open_plan,
    save_plan,
    write_shards,
)
from glyphflow.corpus.ingest.tree import same
from glyphflow.corpus.store import Corpus, check_name, record_id


@dataclass(frozen=True)
class _Edit:
    """One line; ``error`` says why it is none."""

    key: str
    target: str = ""
    references: tuple[str, ...] = ()
    said: Said = NOTHING
    error: str | None = None


def ingest_edits(corpus: Corpus, file: Path | str, source: str, licence: str, per_shard: int = PICTURES_PER_SHARD) -> Ingested:
    """Add the pictures of the edits in ``file`` (see above) as rows of ``source``.

    A line that is no edit, and an edit one of whose pictures cannot be read, is a row with the reason. The file may not change
    once it was ingested.
    """
    check_name(source, "source")
    file = Path(file)
    if not file.is_file():
        raise InputError(f"{file} is not a file; give a .jsonl with one edit a line (references, instruction, target).")
    folder = file.parent
    with corpus.writing(f"ingesting {source!r}"):
        plan, digest = open_plan(corpus, source, "edits", file), sha256_file(file)
        if plan.setdefault("sha256", digest) != digest:
            raise InputError(
                f"{file} has changed since it was ingested as {source!r}; give the new file another --source name."
            )
        items = _items(file)
        if not plan["shards"]:
            plan["shards"] = [[start, min(per_shard, len(items) - start)] for start in range(0, len(items), per_shard)]
            save_plan(corpus, source, plan)

        def read(part: Sequence[int]) -> Iterator[Item]:
            for item in items[part[0] : part[0] + part[1]]:
                if isinstance(item, str):
                    data, error = read_below(folder, item)
                    yield Item(item, data, error, extension=extension_of(item))
                else:
                    yield _target(folder, source, item)

        return write_shards(corpus, source, licence, plan["shards"], lambda part: part[1], read)


def _items(file: Path) -> list[str | _Edit]:
    """The rows in order: the path of each reference where it is first used, and the edits."""
    items: list[str | _Edit] = []
    known: set[str] = set()
    for number, line in enumerate(split_lines(decode_damaged(file.read_bytes())[0]), 1):
        if not line.strip():
            continue
        edit = _edit(number, line)
        fresh = [path for path in dict.fromkeys(edit.references) if path not in known]
        known.update(fresh)
        items += [*fresh, edit]
    return items


def _edit(number: int, line: str) -> _Edit:
    key = f"line-{number:06d}"
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        return _Edit(key, error="the line is not JSON")
    if not isinstance(value, dict) or not isinstance(value.get("target"), str) or not value["target"]:
        return _Edit(key, error='the line has no "target"')
    references = value.get("references")
    if not isinstance(references, list) or not references or not all(isinstance(each, str) and each for each in references):
        return _Edit(key, error='the line has no "references" (a list of paths)')
    said = value.get("instruction")
    without = ("target", "references", *(("instruction",) if isinstance(said, dict) else ()))
    found = from_mapping({**value, **said} if isinstance(said, dict) else value, without)
    if not found.captions:
        return _Edit(key, error='the line has no "instruction"')
    target, *others = (same(each).encode("utf-8", "replace").decode("utf-8") for each in (value["target"], *references))
    return _Edit(f"{key}/{target}", target, tuple(others), found)


def _target(folder: Path, source: str, edit: _Edit) -> Item:
    if edit.error:
        return Item(edit.key, None, edit.error)
    ids = []
    for path in edit.references:
        data, error = read_below(folder, path)
        if error:
            return Item(edit.key, None, f"the reference {path}: {error}", *edit.said)
        ids.append(record_id(source, path, sha256_bytes(data or b"")))
    data, error = read_below(folder, edit.target)
    return Item(edit.key, data, error, *edit.said, references=ids, extension=extension_of(edit.target))
