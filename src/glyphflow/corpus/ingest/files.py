"""Pictures that come packed: WebDataset tars, the output of img2dataset, and Parquet tables with bytes or paths.

A sample of a tar is the run of members that share their name up to the first dot; its picture, its .txt or .json caption and
nothing else are taken. A table's picture is a column of bytes, a Hugging Face image ({bytes, path}) or a path below the table.
Files are read in slices of ``per_shard`` samples, so a source of any size needs the memory of one sample.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import require
from glyphflow.corpus.ingest.captions import MAX_CAPTION_BYTES, NOTHING, from_json, from_mapping, from_text
from glyphflow.corpus.ingest.shards import (
    MAX_FILE_BYTES,
    PICTURES_PER_SHARD,
    Ingested,
    Item,
    extension_of,
    is_planned,
    open_plan,
    read_picture,
    save_plan,
    write_shards,
)
from glyphflow.corpus.ingest.tree import EXTENSIONS, find_files
from glyphflow.corpus.store import Corpus, check_name

_BYTES = ("image", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "data")
_PATHS = ("path", "file", "file_name", "filename", "image_path")
_KEYS = ("key", "id", "uid", "__key__")

Part = tuple[str, int, int]  # file, first sample, how many


def ingest_tars(corpus: Corpus, place: Path | str, source: str, licence: str, per_shard: int = PICTURES_PER_SHARD) -> Ingested:
    """Add the samples of a WebDataset tar, or of every tar in a folder (as img2dataset writes them), as rows of ``source``.

    A sample without a picture, a member that is cut off and an archive that is damaged become rows with the reason.
    """
    return _ingest_files(corpus, Path(place), source, licence, per_shard, "tar")


def ingest_parquet(
    corpus: Corpus, place: Path | str, source: str, licence: str, per_shard: int = PICTURES_PER_SHARD
) -> Ingested:
    """Add the rows of a Parquet file, or of every one in a folder, as rows of ``source``.

    The picture is in the first of the columns image, jpg, jpeg, png, webp, bytes, image_bytes, data, or at the path in path,
    file, file_name, filename or image_path; captions are in caption, text, prompt, or en and zh. A row without a picture gets
    the reason (img2dataset's ``error_message`` where there is one).
    """
    return _ingest_files(corpus, Path(place), source, licence, per_shard, "parquet")


def has_pictures(table: Path) -> bool:
    """Whether a Parquet file has a column that can be a picture; False for one that cannot be read."""
    names = _table(table)
    return not isinstance(names, str) and _picture_column(names.schema_arrow.names) is not None


def _ingest_files(corpus: Corpus, place: Path, source: str, licence: str, per_shard: int, kind: str) -> Ingested:
    check_name(source, "source")
    folder = place if place.is_dir() else place.parent
    names = find_files(place, (f".{kind}",))
    if not names:
        raise InputError(f"{place} holds no .{kind} files; give such a file or a folder of them.")
    with corpus.writing(f"ingesting {source!r}"):
        plan = open_plan(corpus, source, kind, place)
        scans: dict[str, _Scan] = {}
        for each in names:
            if not is_planned(plan, folder / each, each):
                total = _count(scans, folder, each, kind)
                plan["shards"] += [[each, start, min(per_shard, total - start)] for start in range(0, total, per_shard)]
        save_plan(corpus, source, plan)

        def read(part: Part) -> Iterator[Item]:
            name, first, count = part
            if kind == "parquet":
                return _read_table(folder / name, name, first, count)
            return _read_tar(folder / name, _scanned(scans, folder, name), first, count)

        return write_shards(corpus, source, licence, plan["shards"], lambda part: part[2], read)


def _count(scans: dict[str, _Scan], folder: Path, name: str, kind: str) -> int:
    if kind == "tar":
        return len(_scanned(scans, folder, name).samples)
    table = _table(folder / name)
    return 1 if isinstance(table, str) else int(table.metadata.num_rows)


# -- tars -----------------------------------------------------------------------------------------------------------------


@dataclass
class _Sample:
    key: str
    members: list[tarfile.TarInfo] = field(default_factory=list)
    error: str | None = None


@dataclass
class _Scan:
    size: int
    samples: list[_Sample]


def _scanned(scans: dict[str, _Scan], folder: Path, name: str) -> _Scan:
    """The samples of a tar, from its headers alone; only the last one is remembered."""
    if name not in scans:
        scans.clear()
        scans[name] = _Scan((folder / name).stat().st_size, _samples(folder / name, name))
    return scans[name]


def _samples(path: Path, name: str) -> list[_Sample]:
    samples: list[_Sample] = []
    seen: set[str] = set()
    group: str | None = None
    try:
        with tarfile.open(path, "r:", errors="replace", encoding="utf-8") as tar:
            for member in tar:
                if not member.isfile() or PurePosixPath(member.name).name.startswith("."):
                    continue
                stem = _stem(member.name)
                if stem != group:
                    group = stem
                    number = f"#{len(samples)}" if stem in seen else ""  # a name that came before would be no name
                    seen.add(stem)
                    samples.append(_Sample(f"{name}/{stem}{number}"))
                samples[-1].members.append(member)
            end = tar.offset
        with path.open("rb") as file:  # tarfile takes a header that it cannot read for the end
            file.seek(end)
            if file.read(512).strip(b"\0"):
                raise tarfile.ReadError(f"no member begins at byte {end}")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        told = " ".join(str(error).split()) or "it ends too early"
        samples.append(_Sample(f"{name}#{len(samples)}", error=f"the archive is damaged here: {told}"))
    return samples


def _stem(name: str) -> str:
    place = PurePosixPath(name)
    return (place.parent / place.name.partition(".")[0]).as_posix()


def _read_tar(path: Path, scan: _Scan, first: int, count: int) -> Iterator[Item]:
    with path.open("rb") as file:
        for sample in scan.samples[first : first + count]:
            yield _from_sample(file, scan.size, sample)


def _from_sample(file: io.BufferedReader, size: int, sample: _Sample) -> Item:
    key = sample.key.encode("utf-8", "replace").decode("utf-8")
    picture = next((member for member in sample.members if extension_of(member.name) in EXTENSIONS), None)
    said = NOTHING
    for suffix, parse in ((".txt", from_text), (".json", from_json)):  # a .json says more and goes over a .txt
        text = next((member for member in sample.members if extension_of(member.name) == suffix), None)
        if text is not None and text.size <= MAX_CAPTION_BYTES and text.offset_data + text.size <= size:
            said = parse(_member(file, text)).over(said)
    if picture is None or sample.error:
        return Item(key, None, sample.error or "the sample holds no picture", *said)
    if picture.size == 0 or picture.size > MAX_FILE_BYTES:
        return Item(key, None, "the file is empty" if not picture.size else f"the file has {picture.size} bytes", *said)
    if picture.offset_data + picture.size > size:
        return Item(key, None, "the archive ends in the middle of the file", *said)
    return Item(key, _member(file, picture), None, *said, extension=extension_of(picture.name))


def _member(file: io.BufferedReader, member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)
    return file.read(member.size)


# -- tables ---------------------------------------------------------------------------------------------------------------


def _table(path: Path) -> Any:
    """The opened Parquet file, or why it cannot be opened."""
    parquet, arrow = require("pyarrow.parquet", "corpus"), require("pyarrow", "corpus")
    try:
        return parquet.ParquetFile(path)
    except (arrow.ArrowException, OSError, ValueError) as error:
        return f"the table cannot be read: {' '.join(str(error).split())[:200]}"


def _picture_column(names: Sequence[str]) -> str | None:
    return next((name for name in (*_BYTES, *_PATHS) if name in names), None)


def _read_table(path: Path, told: str, first: int, count: int) -> Iterator[Item]:
    table = _table(path)
    if isinstance(table, str):
        yield Item(told, None, table)
        return
    column = _picture_column(table.schema_arrow.names)
    key_column = next((name for name in _KEYS if name in table.schema_arrow.names), None)
    texts = [
        name
        for name in ("caption", "text", "prompt", "instruction", "en", "zh", "licence", "license", "error_message")
        if name in table.schema_arrow.names
    ]
    wanted = [name for name in (column, key_column, *texts) if name is not None]
    done = 0
    try:
        for number, row in _rows(table, first, count, wanted):
            name = row.get(key_column) if key_column else None
            yield _from_row(path, f"{told}/{number}" + (f"/{name}" if name is not None else ""), row, column)
            done += 1
    except (OSError, ValueError, require("pyarrow", "corpus").ArrowException) as error:
        why = " ".join(str(error).split())[:200]
        for number in range(first + done, first + count):  # a damaged page costs the rows after it in this slice
            yield Item(f"{told}/{number}", None, f"the table is damaged here: {why}")


def _rows(table: Any, first: int, count: int, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows [first, first + count) with their numbers, from the row groups that hold them."""
    groups: list[int] = []
    start = before = 0
    for group in range(table.metadata.num_row_groups):
        end = start + table.metadata.row_group(group).num_rows
        if end > first and start < first + count:
            if not groups:
                before = start
            groups.append(group)
        start = end
    number = before
    for batch in table.iter_batches(batch_size=32, row_groups=groups, columns=list(columns), use_threads=False):
        if number + len(batch) > first:
            for offset in range(max(0, first - number), min(len(batch), first + count - number)):
                yield number + offset, {name: batch.column(name)[offset].as_py() for name in batch.schema.names}
        number += len(batch)
        if number >= first + count:
            return


def _from_row(table: Path, key: str, row: dict[str, Any], column: str | None) -> Item:
    key = key.encode("utf-8", "replace").decode("utf-8")
    said = from_mapping(row)
    value: Any = row.get(column) if column else None
    path = None
    if isinstance(value, dict):  # a Hugging Face image
        value, path = value.get("bytes"), value.get("path")
    if isinstance(value, str):
        value, path = None, value
    if isinstance(value, bytes | bytearray):
        data: bytes | None = bytes(value)
        error = None if value else "the file is empty"
        return Item(key, data or None, error, *said, extension=extension_of(str(path or "")) or ".jpg")
    if path:
        inside = (table.parent / path).resolve()
        if not inside.is_relative_to(table.parent.resolve()):
            return Item(key, None, f"the path {path} leads out of the folder of the table", *said)
        data, error = read_picture(inside)
        return Item(key, data, error, *said, extension=extension_of(path) or ".jpg")
    told = row.get("error_message")
    return Item(key, None, str(told) if told else "the row holds no picture", *said)
