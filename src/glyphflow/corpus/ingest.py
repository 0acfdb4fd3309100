"""Pictures of a folder into shards: exactly once, whatever happens in between.

The plan (which file goes into which shard) is written before the first shard. A shard is its tar, renamed into place, then its
index, renamed into place; the index commits. A run that was killed continues the plan; files that appeared since are planned
into new shards, so no row ever moves.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.files import atomic_path, read_json, write_bytes
from glyphflow.core.hashing import sha256_bytes
from glyphflow.core.progress import Progress
from glyphflow.corpus.decode import PictureError, read_header
from glyphflow.corpus.store import PHOTO, Corpus, check_name, record_id

PICTURES_PER_SHARD = 1000
EXTENSIONS = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"))
MAX_CAPTION_BYTES = 100_000  # a sidecar above this is not a caption
MAX_FILE_BYTES = 1 << 30
_BLOCK = 512  # of a tar


@dataclass(frozen=True)
class Ingested:
    """What an ingest did: rows that this call added, and rows of the source in all."""

    added: int
    total: int


def ingest_folder(
    corpus: Corpus, folder: Path | str, source: str, licence: str, per_shard: int = PICTURES_PER_SHARD
) -> Ingested:
    """Add every picture below ``folder`` as rows of ``source``; captions come from a .txt or .json of the same name beside it.

    A .txt is one caption (its language told by its script); a .json holds {"en": ..., "zh": ...} or {"caption": ...} and may
    hold "licence". A picture that cannot be read becomes a row without bytes and with the reason. A source is tied to its
    folder: another folder under the same name is an :class:`InputError`.
    """
    check_name(source, "source")
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder that can be read; give the folder that holds the pictures.")
    with corpus.writing(f"ingesting {source!r}"):
        plan = _plan(corpus, folder, source, per_shard)
        waiting = [number for number in range(len(plan)) if not corpus.index_path(_shard(source, number)).exists()]
        total, added = sum(map(len, plan)), 0
        todo = sum(len(plan[number]) for number in waiting)
        with Progress(f"ingest {source}", total, "file", initial=total - todo) as progress:
            for number in waiting:
                _write_shard(corpus, folder, plan[number], _shard(source, number), source, licence, progress)
                added += len(plan[number])
    return Ingested(added, total)


def _shard(source: str, number: int) -> str:
    return f"{source}-{number:05d}"


def _plan(corpus: Corpus, folder: Path, source: str, per_shard: int) -> list[list[str]]:
    """The shards of ``source`` as lists of paths below ``folder``; extended by the files that are not in it yet."""
    path = corpus.directory / "sources" / f"{source}.json"
    if not path.exists() and corpus.index_path(_shard(source, 0)).exists():
        raise InputError(f"The corpus already has renders named {source!r}; give the pictures another --source name.")
    known: dict[str, Any] = read_json(path) if path.exists() else {"folder": str(folder.resolve()), "shards": []}
    if known["folder"] != str(folder.resolve()):
        raise InputError(
            f"The source {source!r} of this corpus was ingested from {known['folder']}, not from {folder.resolve()}; "
            "give the new folder another --source name."
        )
    shards: list[list[str]] = known["shards"]
    planned = {name for shard in shards for name in shard}
    fresh = sorted(name for name in _pictures(folder) if name not in planned)
    if fresh:
        shards += [list(fresh[start : start + per_shard]) for start in range(0, len(fresh), per_shard)]
        # ASCII JSON keeps file names that are not valid UTF-8 (Python's surrogate escapes).
        write_bytes(path, json.dumps({"folder": known["folder"], "shards": shards}).encode("ascii"))
    return shards


def _pictures(folder: Path) -> list[str]:
    found = []
    for root, directories, names in os.walk(folder):
        directories[:] = [name for name in directories if not name.startswith(".")]
        base = Path(root).relative_to(folder)
        found += [
            (base / name).as_posix()
            for name in names
            if os.path.splitext(name)[1].lower() in EXTENSIONS and not name.startswith(".")  # noqa: PTH122 - names may be any bytes
        ]
    return found


def _write_shard(
    corpus: Corpus, folder: Path, names: Sequence[str], shard: str, source: str, licence: str, progress: Progress
) -> None:
    rows: list[dict[str, Any]] = []
    with atomic_path(corpus.pixels_path(shard)) as temporary, temporary.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for number, name in enumerate(names):
                row, data = _read(folder, name, source, licence)
                if data is not None:
                    stem = f"{shard}/{number:06d}"
                    row["offset"] = _add(tar, stem + os.path.splitext(name)[1].lower(), data)  # noqa: PTH122
                    beside = {"key": row["key"], **json.loads(row["captions"]), "source": source, "licence": row["licence"]}
                    _add(tar, stem + ".json", json.dumps(beside, ensure_ascii=False).encode("utf-8"))
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


def _read(folder: Path, name: str, source: str, licence: str) -> tuple[dict[str, Any], bytes | None]:
    path = folder / name
    # A name that is not UTF-8 is shown with its bytes escaped; the table holds text only.
    key = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    data, error = _bytes(path)
    digest = sha256_bytes(data or b"")
    captions, own_licence = _captions(path)
    row: dict[str, Any] = {
        "id": record_id(source, key, digest),
        "key": key,
        "kind": PHOTO,
        "offset": -1,
        "size": len(data or b""),
        "sha256": digest,
        "width": 0,
        "height": 0,
        "format": "",
        "orientation": 1,
        "source": source,
        "licence": own_licence or licence,
        "captions": json.dumps(captions, ensure_ascii=False),
        "error": error,
    }
    if data is not None:
        try:
            header = read_header(data)
        except PictureError:
            pass  # the row keeps its bytes; the stages "header" and "pixels" state the reason
        else:
            row |= {"width": header.width, "height": header.height, "format": header.format, "orientation": header.orientation}
    return row, data


def _bytes(path: Path) -> tuple[bytes | None, str | None]:
    try:
        size = path.stat().st_size
        if size == 0:
            return None, "the file is empty"
        if size > MAX_FILE_BYTES:
            return None, f"the file has {size} bytes, over the guard of {MAX_FILE_BYTES}"
        return path.read_bytes(), None
    except OSError as error:
        return None, f"the file cannot be read: {error.strerror}"


def _captions(path: Path) -> tuple[dict[str, str], str | None]:
    """Captions and licence beside the picture; what cannot be understood there is no caption, never an error."""
    for suffix in (".json", ".txt"):
        beside = path.with_suffix(suffix)
        try:
            if not beside.is_file() or beside.stat().st_size > MAX_CAPTION_BYTES:
                continue
            text = beside.read_bytes().decode("utf-8-sig", "replace").strip()
        except OSError:
            continue
        if suffix == ".txt":
            return ({language_of(text): text} if text else {}), None
        try:
            value = json.loads(text)
        except ValueError:
            continue
        if isinstance(value, Mapping):
            return _from_json(value)
    return {}, None


def _from_json(value: Mapping[str, Any]) -> tuple[dict[str, str], str | None]:
    captions = {key: value[key].strip() for key in ("en", "zh") if isinstance(value.get(key), str) and value[key].strip()}
    plain = value.get("caption")
    if isinstance(plain, str) and plain.strip():
        captions.setdefault(language_of(plain), plain.strip())
    licence = value.get("licence")
    return captions, licence if isinstance(licence, str) and licence else None


def language_of(text: str) -> str:
    """ "zh" if at least a third of the letters are Chinese characters, else "en"."""
    chinese = sum("\u4e00" <= char <= "\u9fff" for char in text)
    return "zh" if chinese * 3 >= max(1, sum(char.isalpha() for char in text)) else "en"
