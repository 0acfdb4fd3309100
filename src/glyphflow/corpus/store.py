"""Where a corpus lives: pixels written once, everything learned about them a column, a dataset a query.

::

    corpus.json                        what this directory is
    sources/<source>.json              which file goes into which shard, decided before the first is written
    pixels/<shard>.tar                 original bytes, uncompressed, any WebDataset reader opens it
    specs/<shard>.jsonl                or: one render specification a line, drawn when read
    index/<shard>.parquet              one row a picture; its existence commits the shard
    columns/<stage>.json               which fingerprint of a stage counts now, and what it was computed with
    columns/<stage>@<fp>/<shard>.parquet   row-aligned measurements; existence is the checkpoint
    views/<name>/<shard>.parquet       for every row: kept, or the first rule that refused it with the value; split, weight
    views/<name>/view.json             the recipe that decided, and its fingerprint
    forgotten.json                     rows that were taken out again (:mod:`glyphflow.corpus.forget`)

Nothing is rewritten in place, so a reader never needs a lock and a killed writer leaves only temporary files behind.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from glyphflow.core.errors import InputError, InUseError
from glyphflow.core.files import exclusive, read_json, write_json
from glyphflow.core.hashing import fingerprint
from glyphflow.corpus.tables import read_arrow, read_table, write_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from glyphflow.corpus.selection import Selection

FORMAT = 1
PLACES_KEPT = 1024  # shards whose offsets stay in memory: 16 bytes a row
_HEADER = 512  # bytes before those of a member of a tar
PHOTO = "photo"  # a row whose pixels are in pixels/<shard>.tar
METADATA = "metadata"  # the stage that holds values which came with pictures; a shard has those columns that it had values for
RENDER = "render"  # a row whose specification is in specs/<shard>.jsonl

FORGOTTEN = "forgotten"  # the error of a row that was taken out
BLANK = "forgotten-"  # how the name of a member in a tar begins whose bytes were taken out

INDEX_TYPES = {
    "id": "string",  # 32 hex characters, unique in the corpus, the same in every run
    "key": "string",  # path below the ingested folder, or the number of the specification
    "kind": "string",
    "offset": "int64",  # of the bytes in the tar or of the line in the jsonl; -1 when the file could not be read
    "size": "int64",
    "sha256": "string",
    "width": "int32",  # as stored, before the EXIF turn; 0 when the header could not be read
    "height": "int32",
    "format": "string",
    "orientation": "int8",  # EXIF value 1..8
    "source": "string",
    "licence": "string",
    "captions": "string",  # JSON {"en": ..., "zh": ...}: raw captions that came with the picture
    "references": "string",  # JSON list of ids, in order: the pictures that an edit starts from; null for other rows
    "error": "string",  # why there are no bytes, else null
}

VIEW_TYPES = {
    "id": "string",
    "kept": "bool",
    "stage": "string",  # of the first rule that refused the row
    "rule": "string",
    "value": "double",  # the measured value, where it is a number
    "detail": "string",  # the sentence a person reads; of a kept row that a patch brought back, why it did
    "split": "string",  # the part of the view that the row belongs to; null where the recipe splits nothing
    "weight": "float32",  # how often the row is drawn beside one of weight 1
    "refused_captions": "string",  # caption variants (raw, recaption, fused) that rules took from the row, joined by commas
    "recaption": "bool",  # to be captioned anew
}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def check_name(name: str, what: str) -> str:
    """``name`` if it can be part of a file name here, else an :class:`InputError`."""
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot name a {what}; use letters, digits, - and _ only.")
    return name


def _same_file(path: Path) -> tuple[int, int, int]:
    """Changes when ``path`` is replaced by another file."""
    told = path.stat()
    return told.st_ino, told.st_mtime_ns, told.st_size


def _refuse_blank(file: IO[bytes], data: bytes | memoryview, offset: int) -> None:
    """Raise :class:`InputError` where ``data`` was forgotten after the index was read that told where it is."""
    if not len(data) or any(data[:8]):
        return
    file.seek(offset - _HEADER)
    if f"/{BLANK}".encode() in file.read(100):  # the name that stands first in the header of a tar
        raise InputError("The picture was forgotten (glyphflow corpus forget) while it was read; read the corpus again.")


def record_id(source: str, key: str, sha256: str) -> str:
    """The 32 hexadecimal characters that name a row for ever: where it came from and what it holds."""
    return fingerprint([source, key, sha256]) + fingerprint([sha256, key, source])


class Corpus:
    """A corpus directory. Cheap to open; reading never locks, writing takes :meth:`writing`."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        self._marks: dict[str, tuple[object, str]] = {}
        self._places: dict[str, tuple[object, NDArray[np.int64], NDArray[np.int64]]] = {}

    @classmethod
    def create(cls, directory: Path | str) -> Corpus:
        """Make ``directory`` a corpus, or open it if it is one; a directory of anything else is refused."""
        directory = Path(directory)
        if not (directory / "corpus.json").exists():
            others = directory.exists() and any(
                not child.name.startswith((".lock", ".corpus.json")) for child in directory.iterdir()
            )
            if others and not (directory / "corpus.json").exists():  # asked again: another process may just have made it
                raise InputError(f"{directory} holds other files and is not a corpus; choose an empty or new directory.")
            try:
                write_json(directory / "corpus.json", {"glyphflow_corpus": FORMAT})
            except FileNotFoundError:  # the other process was first and has swept ours away as a leftover
                if not (directory / "corpus.json").exists():
                    raise
        return cls.open(directory)

    @classmethod
    def open(cls, directory: Path | str) -> Corpus:
        """Open an existing corpus."""
        directory = Path(directory)
        if not (directory / "corpus.json").exists():
            raise InputError(f"{directory} is not a corpus (it has no corpus.json); make one with: glyphflow corpus ingest.")
        found = read_json(directory / "corpus.json").get("glyphflow_corpus")
        if found != FORMAT:
            raise InputError(f"{directory} has corpus format {found}, this version reads {FORMAT}; use the matching version.")
        return cls(directory)

    @contextlib.contextmanager
    def writing(self, purpose: str) -> Iterator[None]:
        """One writer of rows at a time, and nobody measuring; what a killed one left half written is swept away first."""
        with exclusive(self.directory, purpose):
            for pattern in (".*.tmp", ".*.claim"):
                for leftover in self.directory.rglob(pattern):
                    leftover.unlink(missing_ok=True)
            from glyphflow.corpus.forget import complete, is_waiting

            if is_waiting(self):  # a forgetting that was killed
                complete(self)
            yield

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Any number of processes may measure at once: each new file is written by rename and equal whoever writes it.

        They keep out whoever changes rows (:meth:`writing`), so that nothing is measured of a picture while it is forgotten.
        """
        from glyphflow.corpus.forget import is_waiting

        if is_waiting(self):
            with self.writing("forgetting"):
                pass
        with exclusive(self.directory, "measuring", others=True):
            yield

    @contextlib.contextmanager
    def deciding(self, purpose: str) -> Iterator[None]:
        """One process at a time looks at all shards at once (a view, duplicates), beside any that measure; others wait."""
        with self.measuring(), contextlib.ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(exclusive(self.directory / "views", purpose))
                    break
                except InUseError:
                    time.sleep(0.2)
            yield

    # -- rows ---------------------------------------------------------------------------------------------------------

    def shards(self) -> list[str]:
        """The committed shards, in the order in which every table of the corpus lists them."""
        return sorted(path.stem for path in (self.directory / "index").glob("*.parquet") if not path.name.startswith("."))

    def index_path(self, shard: str) -> Path:
        return self.directory / "index" / f"{shard}.parquet"

    def pixels_path(self, shard: str) -> Path:
        return self.directory / "pixels" / f"{shard}.tar"

    def specs_path(self, shard: str) -> Path:
        return self.directory / "specs" / f"{shard}.jsonl"

    def index(self, shard: str, columns: Sequence[str] | None = None) -> dict[str, list[Any]]:
        """Columns of the index of one shard (see INDEX_TYPES)."""
        return read_table(self.index_path(shard), columns, optional=("references",))

    def arrow(self, shard: str, columns: Sequence[str], stage: str | None = None) -> Any:
        """Columns of the index, or of the current columns of ``stage``, of one shard as a pyarrow table."""
        if stage is None:
            return read_arrow(self.index_path(shard), columns, optional=("references",))
        return read_arrow(self.column_path(stage, self.stage_fingerprint(stage) or "", shard), columns)

    def write_index(self, shard: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Commit a shard whose payload is already on disk."""
        write_table(self.index_path(shard), {name: [row.get(name) for row in rows] for name in INDEX_TYPES}, INDEX_TYPES)

    def payload(self, shard: str, kind: str, offset: int, size: int) -> bytes:
        """The original bytes of a picture, or the line of a specification: one positioned read."""
        path = self.pixels_path(shard) if kind == PHOTO else self.specs_path(shard)
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(offset)
                data = file.read(size)
                if kind == PHOTO:
                    _refuse_blank(file, data, offset)
        except FileNotFoundError as error:
            raise InputError(f"{path} is gone while its index is still there; restore it or remove the index file.") from error
        if len(data) != size:
            raise InputError(f"{path} ends at byte {path.stat().st_size}, the index expects {offset + size}; restore the file.")
        return data

    def places(self, shard: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(rows,) offset and size of every payload of a shard, kept in memory for the shards that were asked for last.

        An index changes only when a row of it is forgotten; the file is then another one.
        """
        import numpy as np

        mark = _same_file(self.index_path(shard))
        kept = self._places.pop(shard, None)
        if kept is None or kept[0] != mark:
            table = self.arrow(shard, ("offset", "size"))
            offsets, sizes = (np.asarray(table.column(name).to_numpy(), np.int64) for name in ("offset", "size"))
            kept = mark, offsets, sizes
        self._places[shard] = kept
        if len(self._places) > PLACES_KEPT:
            self._places.pop(next(iter(self._places)), None)
        return kept[1], kept[2]

    def payloads(self, places: Sequence[tuple[str, int, int]]) -> list[memoryview]:
        """The original bytes of many pictures, (shard, offset, size) each, as views into one buffer; best sorted by shard."""
        import numpy as np

        # From 4 MiB on numpy asks for large pages, which are filled ten times faster; what is not filled costs nothing.
        buffer = np.empty(max(sum(size for _, _, size in places), 1 << 22), np.uint8).data
        found, start = [], 0
        for shard, group in itertools.groupby(places, key=lambda place: place[0]):
            path = self.pixels_path(shard)
            with path.open("rb", buffering=0) as file:
                for _, offset, size in group:
                    file.seek(offset)
                    if file.readinto(buffer[start : start + size]) != size:
                        raise InputError(f"{path} ends before byte {offset + size}, which the index expects; restore the file.")
                    _refuse_blank(file, buffer[start : start + size], offset)
                    found.append(buffer[start : start + size])
                    start += size
        return found

    def records(self, view: str | None = None) -> Selection:
        """The rows that ``view`` keeps (all rows that hold a picture when None), ready to be loaded by number."""
        from glyphflow.corpus.selection import select

        return select(self, view)

    def forgotten_hashes(self) -> frozenset[str]:
        """The sha256 of bytes that were taken out and may not come back."""
        path = self.directory / "forgotten.json"
        told = read_json(path).values() if path.exists() else ()
        return frozenset(place["sha256"] for place in told if place.get("sha256"))

    # -- columns ------------------------------------------------------------------------------------------------------

    def begin_stage(self, stage: str, operator: Mapping[str, Any]) -> str:
        """Declare what ``stage`` is computed with from now on; gives its fingerprint. Old columns stay on disk."""
        mark = fingerprint(dict(operator))
        path = self.directory / "columns" / f"{check_name(stage, 'stage')}.json"
        current = {"fingerprint": mark, "operator": dict(operator)}
        if not path.exists() or read_json(path) != current:
            write_json(path, current)
        return mark

    def stages(self) -> list[str]:
        """Names of the stages that have columns."""
        return sorted(path.stem for path in (self.directory / "columns").glob("*.json") if not path.name.startswith("."))

    def stage_fingerprint(self, stage: str) -> str | None:
        """The fingerprint that counts for ``stage`` now, None if it never ran.

        The file is read again when it is another one: it is only ever replaced.
        """
        path = self.directory / "columns" / f"{stage}.json"
        try:
            file = _same_file(path)
        except FileNotFoundError:
            return None
        kept = self._marks.get(stage)
        if kept is None or kept[0] != file:
            kept = self._marks[stage] = file, str(read_json(path)["fingerprint"])
        return kept[1]

    def column_path(self, stage: str, mark: str, shard: str) -> Path:
        return self.directory / "columns" / f"{stage}@{mark}" / f"{shard}.parquet"

    def missing(self, stage: str, mark: str) -> list[str]:
        """The shards for which ``stage`` has no columns yet: the work list."""
        there = {path.stem for path in self.column_path(stage, mark, "x").parent.glob("*.parquet")}
        return [shard for shard in self.shards() if shard not in there]

    def columns(self, stage: str, shard: str, names: Sequence[str] | None = None) -> dict[str, list[Any]] | None:
        """The current columns of ``stage`` for one shard, row-aligned with its index; None if not computed."""
        mark = self.stage_fingerprint(stage)
        if mark is None or not self.column_path(stage, mark, shard).exists():
            return None
        return read_table(self.column_path(stage, mark, shard), names)

    # -- views --------------------------------------------------------------------------------------------------------

    def views(self) -> list[str]:
        """Names of the views."""
        return sorted(path.parent.name for path in (self.directory / "views").glob("*/view.json"))

    def view_path(self, view: str, shard: str) -> Path:
        return self.directory / "views" / view / f"{shard}.parquet"

    def view_info(self, view: str) -> dict[str, Any]:
        """What ``view`` was decided with; an unknown name is an :class:`InputError` that lists the known ones."""
        path = self.directory / "views" / view / "view.json"
        if not path.exists():
            known = ", ".join(self.views()) or "none yet"
            raise InputError(
                f"The corpus {self.directory} has no view {view!r} (there are: {known}); run glyphflow corpus curate."
            )
        info: dict[str, Any] = read_json(path)
        return info

    def view(self, view: str, shard: str) -> dict[str, list[Any]]:
        """The decisions of ``view`` for one shard (see VIEW_TYPES), row-aligned with its index."""
        table = self.view_arrow(view, shard)
        return {name: table.column(name).to_pylist() for name in table.column_names}

    def view_arrow(self, view: str, shard: str, columns: Sequence[str] | None = None) -> Any:
        """The same, or some columns of it, as a pyarrow table."""
        if not (self.directory / "views" / view / "view.json").exists():  # it lists every shard: not read for each of them
            self.view_info(view)
        path = self.view_path(view, shard)
        if not path.exists():
            raise InputError(
                f"The view {view!r} was decided before the shard {shard!r} was added; run glyphflow corpus measure and "
                "glyphflow corpus curate again."
            )
        return read_arrow(path, columns, optional=("split", "weight", "refused_captions", "recaption"))
