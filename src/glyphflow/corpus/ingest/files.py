"""Pictures that come packed, in WebDataset tars (:mod:`.tars`) or Parquet tables (:mod:`.tables`): a file, or a folder of them.

Files are read in slices of ``per_shard`` samples, so a source of any size needs the memory of one sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import require
from glyphflow.corpus.ingest.shards import (
    PICTURES_PER_SHARD,
    Ingested,
    Item,
    is_planned,
    open_plan,
    save_plan,
    shard_name,
    write_shards,
)
from glyphflow.corpus.ingest.tables import Tables, has_pictures
from glyphflow.corpus.ingest.tally import Kinds
from glyphflow.corpus.ingest.tars import ENDINGS, Tars
from glyphflow.corpus.ingest.tree import find_files, key_of
from glyphflow.corpus.store import Corpus, check_name

__all__ = ["has_pictures", "ingest_parquet", "ingest_tars"]

Part = tuple[str, int, int]  # file, first sample, how many


class _Reader(Protocol):
    """What a kind of file is read with."""

    left_out: Kinds

    def count(self, path: Path) -> int:
        """How many samples a file holds; one that cannot be opened has one, which says why."""

    def read(self, path: Path, name: str, first: int, count: int) -> Iterator[Item]:
        """The rows of some samples of a file, which is called ``name`` in their keys."""


def ingest_tars(corpus: Corpus, place: Path | str, source: str, licence: str, per_shard: int = PICTURES_PER_SHARD) -> Ingested:
    """Add the samples of a WebDataset tar, or of every tar below a folder (as img2dataset writes them), as rows of ``source``.

    A sample without a picture, a member that is cut off and an archive that is damaged become rows with the reason.
    """
    return _ingest_files(corpus, Path(place), source, licence, per_shard, "tar")


def ingest_parquet(
    corpus: Corpus, place: Path | str, source: str, licence: str, per_shard: int = PICTURES_PER_SHARD
) -> Ingested:
    """Add the rows of a Parquet file, or of every one with pictures below a folder, as rows of ``source``."""
    return _ingest_files(corpus, Path(place), source, licence, per_shard, "parquet")


def _ingest_files(corpus: Corpus, place: Path, source: str, licence: str, per_shard: int, kind: str) -> Ingested:
    check_name(source, "source")
    folder = place if place.is_dir() else place.parent
    names = find_files(place, ENDINGS if kind == "tar" else (".parquet",))
    if not names:
        raise InputError(f"{place} holds no .{kind} files; give such a file or a folder of them.")
    with corpus.writing(f"ingesting {source!r}"):
        plan = open_plan(corpus, source, kind, place)
        reader: _Reader = (
            Tars(corpus.directory) if kind == "tar" else Tables([folder / name for name in names], alone=not place.is_dir())
        )
        for name in names:
            if not is_planned(plan, folder / name, name):
                total = reader.count(folder / name)
                plan["shards"] += [[name, start, min(per_shard, total - start)] for start in range(0, total, per_shard)]
        save_plan(corpus, source, plan)

        def read(part: Part) -> Iterator[Item]:
            name, first, count = part
            return reader.read(folder / name, key_of(name), first, count)

        before = _rows(corpus, source, len(plan["shards"]))
        done = write_shards(corpus, source, licence, plan["shards"], lambda part: part[2], read)
        done.tally.left_out.counts.update(reader.left_out.counts)
        total = _rows(corpus, source, len(plan["shards"]))
        return replace(done, added=total - before, total=total)  # a sample may be several rows


def _rows(corpus: Corpus, source: str, shards: int) -> int:
    """The committed rows of a source."""
    parquet = require("pyarrow.parquet", "corpus")
    paths = [corpus.index_path(shard_name(source, number)) for number in range(shards)]
    return sum(parquet.read_metadata(path).num_rows for path in paths if path.exists())
