"""Pictures into shards: exactly once, whatever happens in between.

The plan (what goes into which shard) is written before the first shard. A shard is its tar, renamed into place, then its index,
renamed into place; the index commits. A run that was killed continues the plan; what appeared since is planned into new shards,
so no row ever moves. This module has folders of pictures and what every kind of source shares; tars, tables and edits have
modules of their own.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from glyphflow.core.errors import InputError
from glyphflow.core.files import atomic_path, read_json, write_bytes
from glyphflow.core.hashing import sha256_bytes
from glyphflow.core.pictures import PictureError
from glyphflow.core.progress import Progress
from glyphflow.corpus.decode import read_header
from glyphflow.corpus.ingest.captions import beside, from_csv, language_of
from glyphflow.corpus.store import PHOTO, Corpus, check_name, record_id

__all__ = ["EXTENSIONS", "Ingested", "Item", "ingest_folder", "language_of"]

PICTURES_PER_SHARD = 1000
EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"))
MAX_FILE_BYTES = 1 << 30
_BLOCK = 512  # of a tar

Part = TypeVar("Part")  # of a plan: what goes into one shard


@dataclass(frozen=True)
class Ingested:
    """What an ingest did: rows that this call added, and rows of the source in all."""

    added: int
    total: int


@dataclass(frozen=True)
class Item:
    """One picture on its way in. ``data`` None: it could not be had, and ``error`` says why."""

    key: str  # unique in its source
    data: bytes | None
    error: str | None = None
    captions: Mapping[str, str] | None = None
    licence: str | None = None  # its own, where it states one
    references: Sequence[str] = ()  # ids of the rows that an edit starts from, in order
    extension: str = ".jpg"


# -- folders --------------------------------------------------------------------------------------------------------------


def ingest_folder(
    corpus: Corpus,
    folder: Path | str,
    source: str,
    licence: str,
    per_shard: int = PICTURES_PER_SHARD,
    captions: Path | str | None = None,
) -> Ingested:
    """Add every picture below ``folder`` as rows of ``source``; captions come from the CSV or from beside the files.

    A .txt is one caption (its language told by its script); a .json holds {"en": ..., "zh": ...} or {"caption": ...} and may
    hold "licence". A picture that cannot be read becomes a row without bytes and with the reason. A source is tied to its
    folder: another folder under the same name is an :class:`InputError`.
    """
    check_name(source, "source")
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder that can be read; give the folder that holds the pictures.")
    said = from_csv(Path(captions)) if captions is not None else {}

    def read(names: list[str]) -> Iterator[Item]:
        for name in names:
            path = folder / name
            data, error = read_picture(path)
            texts, own = said.get(name) or beside(path)
            # A name that is not UTF-8 is shown with its bytes escaped; the table holds text only.
            key = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            yield Item(key, data, error, texts, own, extension=extension_of(name))

    with corpus.writing(f"ingesting {source!r}"):
        return write_shards(corpus, source, licence, _plan(corpus, folder, source, per_shard), len, read)


def _plan(corpus: Corpus, folder: Path, source: str, per_shard: int) -> list[list[str]]:
    """The shards of ``source`` as lists of paths below ``folder``; extended by the files that are not in it yet."""
    known = open_plan(corpus, source, "folder", folder)
    shards: list[list[str]] = known["shards"]
    planned = {name for shard in shards for name in shard}
    fresh = sorted(name for name in _pictures(folder) if name not in planned)
    if fresh:
        shards += [list(fresh[start : start + per_shard]) for start in range(0, len(fresh), per_shard)]
        save_plan(corpus, source, known)
    return shards


def _pictures(folder: Path) -> list[str]:
    found = []
    for root, directories, names in os.walk(folder):
        directories[:] = [name for name in directories if not name.startswith(".")]
        base = Path(root).relative_to(folder)
        found += [(base / name).as_posix() for name in names if extension_of(name) in EXTENSIONS and not name.startswith(".")]
    return found


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


# -- what every kind of source shares -------------------------------------------------------------------------------------


def open_plan(corpus: Corpus, source: str, kind: str, place: Path) -> dict[str, Any]:
    """The plan of ``source``, empty if it is new; a name that stands for something else is an :class:`InputError`."""
    path = corpus.directory / "sources" / f"{source}.json"
    if not path.exists() and corpus.index_path(_shard(source, 0)).exists():
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
    waiting = [number for number in range(len(plan)) if not corpus.index_path(_shard(source, number)).exists()]
    total, todo = sum(map(count, plan)), sum(count(plan[number]) for number in waiting)
    with Progress(f"ingest {source}", total, "file", initial=total - todo) as progress:
        for number in waiting:
            _write_shard(corpus, _shard(source, number), source, licence, read(plan[number]), progress)
    return Ingested(todo, total)


def _shard(source: str, number: int) -> str:
    return f"{source}-{number:05d}"


def _write_shard(corpus: Corpus, shard: str, source: str, licence: str, items: Iterator[Item], progress: Progress) -> None:
    rows: list[dict[str, Any]] = []
    with atomic_path(corpus.pixels_path(shard)) as temporary, temporary.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for number, item in enumerate(items):
                row = _row(item, source, licence)
                if item.data is not None:
                    stem = f"{shard}/{number:06d}"
                    row["offset"] = _add(tar, stem + item.extension, item.data)
                    said = {"key": row["key"], **json.loads(row["captions"]), "source": source, "licence": row["licence"]}
                    if item.references:
                        said["references"] = list(item.references)
                    _add(tar, stem + ".json", json.dumps(said, ensure_ascii=False).encode("utf-8"))
                rows.append(row)
                progress.advance()
        file.flush()
        os.fsync(file.fileno())
    corpus.write_index(shard, rows)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Append a member whose bytes depend on nothing but its content; gives the offset of its data."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = 0o644
    tar.addfile(member, BytesIO(data))
    return tar.offset - -(-len(data) // _BLOCK) * _BLOCK


def _row(item: Item, source: str, licence: str) -> dict[str, Any]:
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
        except PictureError:
            pass  # the row keeps its bytes; the stages "header" and "pixels" state the reason
        else:
            row |= {"width": header.width, "height": header.height, "format": header.format, "orientation": header.orientation}
    return row
