"""Taking pictures back out: their bytes, captions and everything measured about them, from every shard; a tombstone stays.

What is to be forgotten is written down first (``forgotten.json``) and marked when it is done; a run that dies in between is
completed by whoever writes to the corpus next. Each file is replaced whole, so a reader never sees a half; one that has the
old index and meets the new tar gets an error instead of the zeros there. The row keeps its
place and its id, so no other row moves and an ingest of the same source does not bring the picture back.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.files import atomic_path, read_json, write_json
from glyphflow.core.hardware import require
from glyphflow.corpus.copies import copies
from glyphflow.corpus.store import BLANK, FORGOTTEN, PHOTO, Corpus

_BLOCK = 512  # of a tar


def forget(corpus: Corpus, ids: Sequence[str]) -> int:
    """Forget the pictures with these ids; gives how many were there until now.

    Every row that holds the same bytes goes with them, and an ingest refuses these bytes from now on. An id that the corpus
    does not hold, or that is a render (which holds no picture), is an :class:`InputError` and nothing is changed. Copies
    outside of the corpus, such as exports and latent caches, are not touched: see :func:`left_behind`.
    """
    wanted = list(dict.fromkeys(ids))
    with corpus.writing("forgetting"):
        known = _tombstones(corpus)
        places = _locate(corpus, [each for each in wanted if each not in known])
        if places:
            write_json(_journal(corpus), {**known, **{each: {**place, "done": False} for each, place in places.items()}})
            complete(corpus)
    return len(places)


def left_behind(corpus: Corpus, before: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """What forgetting does not reach, when ``before`` is what was forgotten already: edits that start from a row that is gone
    since, by id, and (kind, place) of exports, caches and pages that were made and are still there."""
    gone = set(tombstones(corpus)) - set(before)
    edits = []
    for shard in corpus.shards() if gone else ():
        index = corpus.index(shard, ("id", "references"))
        told = zip(index["id"], index["references"], strict=True)
        edits += [each for each, references in told if references and not gone.isdisjoint(json.loads(references))]
    return edits, copies(corpus) if gone else []


def complete(corpus: Corpus) -> None:
    """Finish what was written down and not finished. The caller is the one writer of the corpus."""
    known = _tombstones(corpus)
    waiting: dict[str, list[int]] = defaultdict(list)
    for place in known.values():
        if not place["done"]:
            waiting[place["shard"]].append(place["row"])
    for shard, rows in waiting.items():
        _forget_rows(corpus, shard, sorted(rows))
    if waiting:
        write_json(_journal(corpus), {each: {**place, "done": True} for each, place in known.items()})


def _journal(corpus: Corpus) -> Path:
    return corpus.directory / "forgotten.json"


def _tombstones(corpus: Corpus) -> dict[str, dict[str, Any]]:
    return dict(read_json(_journal(corpus))) if _journal(corpus).exists() else {}


def _locate(corpus: Corpus, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Where the rows ``ids`` are, and all others that hold the bytes of one of them."""
    lacking, hashes = set(ids), set()
    for shard in corpus.shards() if lacking else ():
        index = corpus.index(shard, ("id", "kind", "size", "sha256"))
        for each, kind, size, sha256 in zip(*index.values(), strict=True):
            if each not in lacking:
                continue
            if kind != PHOTO:
                raise InputError(
                    f"{each} is a render, which holds no picture; take it out of its recipe and make a new corpus."
                )
            hashes |= {sha256} if size else set()
            lacking.discard(each)
    if lacking:
        raise InputError(f"The corpus {corpus.directory} has no row {sorted(lacking)[0]}; nothing was forgotten.")
    places: dict[str, dict[str, Any]] = {}
    wanted = set(ids)
    for shard in corpus.shards() if wanted else ():
        index = corpus.index(shard, ("id", "kind", "size", "sha256"))
        for row, (each, kind, size, sha256) in enumerate(zip(*index.values(), strict=True)):
            if each in wanted or (kind == PHOTO and size and sha256 in hashes):
                places[each] = {"shard": shard, "row": row, **({"sha256": sha256} if size else {})}
    return places


def _forget_rows(corpus: Corpus, shard: str, rows: Sequence[int]) -> None:
    """Every step can be repeated; the index is last, since it tells where the bytes are."""
    if corpus.pixels_path(shard).exists():
        _blank_pictures(corpus.pixels_path(shard), shard, rows)
    for table in sorted((corpus.directory / "columns").glob(f"*@*/{shard}.parquet")):
        _replace(table, rows, {"error": FORGOTTEN, "measured": True})
    for table in sorted((corpus.directory / "views").glob(f"*/{shard}.parquet")):
        _replace(table, rows, {"kept": False, "rule": "Forgotten", "detail": FORGOTTEN})
    from glyphflow.corpus.annotate.replies import forget_replies  # which knows the corpus, whose module knows this one

    hashes = corpus.index(shard, ("sha256",))["sha256"]
    forget_replies(corpus, shard, {hashes[row] for row in rows})
    tombstone = {"offset": -1, "size": 0, "width": 0, "height": 0, "orientation": 1, "key": "", "sha256": "", "format": ""}
    stays = ("kind", "source", "licence")
    _replace(corpus.index_path(shard), rows, {**tombstone, "captions": "{}", "error": FORGOTTEN}, stays)


def _replace(table: Path, rows: Sequence[int], values: Mapping[str, Any], stays: Sequence[str] = ()) -> None:
    """Write ``values`` into ``rows`` of a table and null into their other columns, but for the id and those that stay."""
    arrow, parquet = require("pyarrow", "corpus"), require("pyarrow.parquet", "corpus")
    with parquet.ParquetFile(table) as file:
        content = file.read(use_threads=False)
    columns = []
    for name in content.column_names:
        column = content.column(name)
        if name != "id" and name not in stays:
            told = column.to_pylist()
            for row in rows:
                told[row] = values.get(name)
            column = arrow.array(told, type=content.schema.field(name).type)
        columns.append(column)
    with atomic_path(table) as temporary:
        parquet.write_table(arrow.table(columns, schema=content.schema), temporary, compression="zstd")


def _blank_pictures(path: Path, shard: str, rows: Sequence[int]) -> None:
    """Zeros instead of the members of ``rows``, under names without an ending, which WebDataset readers pass over.

    Every other member keeps its place, so the offsets of the index stay right.
    """
    gone = {f"{shard}/{row:06d}" for row in rows}
    with atomic_path(path) as temporary:
        shutil.copyfile(path, temporary)
        with tarfile.open(path, "r:") as tar, temporary.open("r+b") as file:
            for member in tar:
                stem, _, ending = member.name.partition(".")
                if stem not in gone or not ending:
                    continue
                blank = tarfile.TarInfo(f"{shard}/{BLANK}{member.offset:015d}")
                blank.size, blank.mode = member.size, 0o644
                file.seek(member.offset)
                file.write(blank.tobuf(tarfile.PAX_FORMAT))
                left = -(-member.size // _BLOCK) * _BLOCK
                while left:
                    left -= file.write(bytes(min(left, 1 << 20)))
            file.flush()
            os.fsync(file.fileno())


def tombstones(corpus: Corpus) -> list[str]:
    """The ids that were forgotten."""
    return sorted(_tombstones(corpus))


def is_waiting(corpus: Corpus) -> bool:
    """Whether a forgetting was begun and not finished."""
    return any(not place["done"] for place in _tombstones(corpus).values())
