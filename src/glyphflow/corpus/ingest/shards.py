"""Pictures into shards: exactly once, whatever happens in between.

The plan (what goes into which shard) is written before the first shard. A shard is its tar, renamed into place, then its index,
renamed into place; the index commits. A run that was killed continues the plan; what appeared since is planned into new shards,
so no row ever moves. Every kind of source (folders, archives, tars, tables, pages, edits) has a module of its own beside this.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from glyphflow.core.errors import InputError
from glyphflow.core.files import atomic_path, read_json, write_bytes
from glyphflow.core.hashing import sha256_bytes
from glyphflow.core.pictures import PictureError
from glyphflow.core.progress import Progress
from glyphflow.core.text import whole_characters
from glyphflow.corpus.decode import read_header, seems_cut
from glyphflow.corpus.ingest.metadata import write_metadata
from glyphflow.corpus.ingest.tally import Tally
from glyphflow.corpus.store import FORGOTTEN, PHOTO, Corpus, record_id

PICTURES_PER_SHARD = 1000
MAX_FILE_BYTES = 1 << 30
_BLOCK = 512  # of a tar

Part = TypeVar("Part")  # of a plan: what goes into one shard


@dataclass(frozen=True)
class Ingested:
    """What an ingest did: rows that this call added, rows of the source in all, and what it tells of them."""

    added: int
    total: int
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True)
class Item:
    """One picture on its way in. ``data`` None: it could not be had, and ``error`` says why.

    From ``captions`` to ``notes`` it is what :class:`~glyphflow.corpus.ingest.captions.Said` holds, in its order.
    """

    key: str  # unique in its source
    data: bytes | None
    error: str | None = None
    captions: Mapping[str, str] | None = None
    licence: str | None = None  # its own, where it states one
    metadata: Mapping[str, Any] | None = None  # other values that came with it, by name
    notes: Sequence[str] = ()  # what the closing count tells of it; equal notes are counted
    references: Sequence[str] = ()  # ids of the rows that an edit starts from, in order
    extension: str = ".jpg"


def extension_of(name: str) -> str:
    """The ending of a file name in small letters, with its dot; the name may be any bytes."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - see above


def read_picture(path: Path) -> tuple[bytes | None, str | None]:
    """The bytes of a file, or why there are none."""
    try:
        size = path.stat().st_size
        if size == 0:
            return None, "the file is empty"
        if size > MAX_FILE_BYTES:
            return None, f"the file has {size} bytes, over the guard of {MAX_FILE_BYTES}"
        return path.read_bytes(), None
    except OSError as error:
        return None, f"the file cannot be read: {error.strerror}"


def open_plan(corpus: Corpus, source: str, kind: str, place: Path) -> dict[str, Any]:
    """The plan of ``source``, empty if it is new; a name that stands for something else is an :class:`InputError`."""
    path = corpus.directory / "sources" / f"{source}.json"
    if not path.exists() and corpus.index_path(shard_name(source, 0)).exists():
        raise InputError(f"The corpus already has renders named {source!r}; give the pictures another --source name.")
    resolved = str(place.resolve())
    known: dict[str, Any] = read_json(path) if path.exists() else {"kind": kind, "folder": resolved, "shards": []}
    if known["folder"] != resolved or known.setdefault("kind", "folder") != kind:
        raise InputError(
            f"The source {source!r} of this corpus was ingested from {known['folder']} ({known['kind']}), not from {resolved} "
            f"({kind}); give the new one another --source name."
        )
    return known


def save_plan(corpus: Corpus, source: str, plan: Mapping[str, Any]) -> None:
    """Write the plan of ``source``, before anything that it promises."""
    # ASCII JSON keeps file names that are not valid UTF-8 (Python's surrogate escapes).
    write_bytes(corpus.directory / "sources" / f"{source}.json", json.dumps(plan).encode("ascii"))


def is_planned(plan: dict[str, Any], path: Path, name: str) -> bool:
    """Whether the file ``path`` is in the plan as ``name``; from now on it is.

    One that has another size than when it was planned is an :class:`InputError`: its rows would not be what was promised.
    """
    sizes: dict[str, int] = plan.setdefault("sizes", {})
    size = path.stat().st_size if path.exists() else 0  # a link to nothing becomes a row with the reason
    if sizes.get(name, size) != size:
        raise InputError(f"{path} had {sizes[name]} bytes when it was ingested, now it has {size}; put new ones elsewhere.")
    known = name in sizes
    sizes[name] = size
    return known


def write_shards(
    corpus: Corpus,
    source: str,
    licence: str,
    plan: Sequence[Part],
    count: Callable[[Part], int],
    read: Callable[[Part], Iterator[Item]],
) -> Ingested:
    """Write the shards of ``plan`` that are not committed yet; ``read`` gives the ``count`` items of one, always the same."""
    waiting = [number for number in range(len(plan)) if not corpus.index_path(shard_name(source, number)).exists()]
    total, todo = sum(map(count, plan)), sum(count(plan[number]) for number in waiting)
    licence = whole_characters(licence)  # a word of the command line may be any bytes
    tally, forgotten = Tally(), corpus.forgotten_hashes()

    def admitted(part: Part) -> Iterator[Item]:
        for item in read(part):
            refused = item.data is not None and forgotten and sha256_bytes(item.data) in forgotten
            yield _refused(item) if refused else item

    with Progress(f"ingest {source}", total, "file", initial=total - todo) as progress:
        for number in waiting:
            _write_shard(corpus, shard_name(source, number), (source, licence), admitted(plan[number]), progress, tally)
    return Ingested(todo, total, tally)


def _refused(item: Item) -> Item:
    """The row of bytes that were forgotten in this corpus: nothing of them comes in, the name as little as the captions."""
    name = sha256_bytes(item.key.encode("utf-8", "surrogatepass"))[:16]
    return Item(f"{FORGOTTEN}-{name}", None, FORGOTTEN)


def shard_name(source: str, number: int) -> str:
    return f"{source}-{number:05d}"


def _write_shard(
    corpus: Corpus, shard: str, of: tuple[str, str], items: Iterator[Item], progress: Progress, tally: Tally
) -> None:
    """``of``: the names of the source and of the licence where a picture states none."""
    rows: list[dict[str, Any]] = []
    metadata: list[Mapping[str, Any]] = []
    with atomic_path(corpus.pixels_path(shard)) as temporary, temporary.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for number, item in enumerate(items):
                row, reason = _row(item, *of)
                if item.data is not None:
                    stem = f"{shard}/{number:06d}"
                    row["offset"] = _add(tar, stem + item.extension, item.data)
                    said = {"key": row["key"], **json.loads(row["captions"]), "source": of[0], "licence": row["licence"]}
                    if item.references:
                        said["references"] = list(item.references)
                    _add(tar, stem + ".json", json.dumps(said, ensure_ascii=False).encode("utf-8"))
                rows.append(row)
                metadata.append(item.metadata or {})
                tally.row(item.key, item.captions or {}, reason, seems_cut(item.data or b""), item.notes)
                progress.advance()
        file.flush()
        os.fsync(file.fileno())
    write_metadata(corpus, shard, [row["id"] for row in rows], metadata)
    corpus.write_index(shard, rows)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a member whose bytes depend on nothing but its content; gives the offset of its data."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = 0o644
    tar.addfile(member, BytesIO(data))
    return tar.offset - -(-len(data) // _BLOCK) * _BLOCK


def _row(item: Item, source: str, licence: str) -> tuple[dict[str, Any], str | None]:
    """The row of the index, and why its picture cannot be read where its header says so already."""
    data = item.data or b""
    digest = sha256_bytes(data)
    row: dict[str, Any] = {
        "id": record_id(source, item.key, digest),
        "key": item.key,
        "kind": PHOTO,
        "offset": -1,
        "size": len(data),
        "sha256": digest,
        "width": 0,
        "height": 0,
        "format": "",
        "orientation": 1,
        "source": source,
        "licence": item.licence or licence,
        "captions": json.dumps(dict(item.captions or {}), ensure_ascii=False),
        "references": json.dumps(list(item.references)) if item.references else None,
        "error": item.error,
    }
    if item.data is not None:
        try:
            header = read_header(data)
        except PictureError as error:
            return row, str(error)  # the row keeps its bytes; the stages "header" and "pixels" state the reason, too
        else:
            row |= {"width": header.width, "height": header.height, "format": header.format, "orientation": header.orientation}
    return row, item.error
