"""Pictures in archives: .zip, and tars that are compressed. An archive is read as the folder that it was packed from."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from glyphflow.core.errors import InputError
from glyphflow.core.files import storage_errors
from glyphflow.core.text import TextError, decode_text
from glyphflow.corpus.ingest.pictures import ingest_tree
from glyphflow.corpus.ingest.shards import MAX_FILE_BYTES, PICTURES_PER_SHARD, Ingested
from glyphflow.corpus.ingest.tree import find_files, is_counted
from glyphflow.corpus.store import Corpus

_PACKED: Mapping[str, Any] = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
ENDINGS = (".zip", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
# What the readers raise on damaged, encrypted or unknown content.
_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, NotImplementedError,
    KeyError, ValueError,
)  # fmt: skip


def ingest_archives(
    corpus: Corpus, place: Path | str, source: str, licence: str, per_shard: int = PICTURES_PER_SHARD
) -> Ingested:
    """Add the pictures in a .zip or a compressed tar, or in every one below a folder, as rows of ``source``.

    Captions are found as in a folder. Archives may come later; one that was ingested may not change. A compressed tar is
    unpacked into an unnamed file of the corpus directory's disk while it is read.
    """
    place = Path(place)
    names = find_files(place, ENDINGS)
    if not names:
        raise InputError(f"{place} holds none of {', '.join(ENDINGS)}; give such a file or a folder with some.")
    tree = Archives(place if place.is_dir() else place.parent, names, corpus.directory)
    try:
        if not tree.names and tree.damaged:
            name, reason = next(iter(tree.damaged.items()))
            raise InputError(f"{place} holds no picture that can be read: {name}: {reason}.")
        done = ingest_tree(corpus, tree, place, source, licence, per_shard, kind="archive")
    finally:
        tree.close()
    done.tally.sentences += [f"{name} is damaged: {reason}." for name, reason in tree.damaged.items()]
    return done


class Archives:
    """The members of archives as a tree; the name of a member begins with that of its archive."""

    def __init__(self, folder: Path, archives: Sequence[str], room: Path) -> None:
        self._folder, self._archives, self._room = folder, archives, room
        self._open: tuple[str, _Zip | _Tar] | None = None
        self.damaged: dict[str, str] = {}

    @cached_property
    def names(self) -> list[str]:
        found = []
        for name in self._archives:
            archive = self._archive(name)
            if archive is not None:
                found += [f"{name}/{member}" for member in archive.members if is_counted(member)]
        return sorted(found)

    @property
    def packed(self) -> list[tuple[Path, str]]:
        return [(self._folder / name, name) for name in self._archives]

    def read(self, name: str) -> tuple[bytes | None, str | None]:
        data, error = self._bytes(name, MAX_FILE_BYTES)
        if data is not None and not data:
            return None, "the file is empty"
        return data, error

    def head(self, name: str) -> bytes:
        return self._bytes(name, 0)[0] or b""

    def stat(self, name: str) -> None:
        return None

    def close(self) -> None:
        """Let go of the archive that is open."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _bytes(self, name: str, limit: int) -> tuple[bytes | None, str | None]:
        """All bytes of a file of up to ``limit``; the first ones with a limit of 0."""
        place = next(each for each in self._archives if name.startswith(f"{each}/"))
        archive = self._archive(place)
        if archive is None:
            return None, self.damaged[place]
        member = archive.members[name[len(place) + 1 :]]
        if limit and archive.size(member) > limit:
            return None, f"the file has {archive.size(member)} bytes, over the guard of {limit}"
        try:
            with archive.open(member) as file:
                return file.read(limit or 16), None
        except _BROKEN as error:
            return None, f"the archive is damaged here: {_told(error)}"

    def _archive(self, name: str) -> _Zip | _Tar | None:
        if self._open is not None and self._open[0] == name:
            return self._open[1]
        self.close()
        path = self._folder / name
        try:
            opened = _Zip(path) if name.lower().endswith(".zip") else _Tar(path, self._room)
        except _BROKEN as error:
            self.damaged[name] = _told(error)
            return None
        if opened.damaged:
            self.damaged[name] = opened.damaged
        self._open = name, opened
        return opened


def _told(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


class _Zip:
    def __init__(self, path: Path) -> None:
        self.damaged: str | None = None
        self._zip = zipfile.ZipFile(path)
        files = [each for each in self._zip.infolist() if not each.is_dir() and not stat.S_ISLNK(each.external_attr >> 16)]
        self.members: dict[str, Any] = dict(zip(_zip_names(files), files, strict=True))

    def open(self, member: zipfile.ZipInfo) -> IO[bytes]:
        return self._zip.open(member)

    def size(self, member: zipfile.ZipInfo) -> int:
        return member.file_size

    def close(self) -> None:
        self._zip.close()


def _zip_names(files: Sequence[zipfile.ZipInfo]) -> list[str]:
    """The names as they were meant: those that do not say that they are UTF-8 are of the code page of who packed them."""
    plain = [each for each in files if not each.flag_bits & 0x800]
    meant: dict[str, str] = {}
    with_bytes = {each.filename: each.filename.encode("cp437", "replace") for each in plain}
    try:
        encoding = decode_text(b"\n".join(with_bytes.values())).encoding if with_bytes else "utf-8"
        meant = {name: data.decode(encoding) for name, data in with_bytes.items()}
    except (TextError, UnicodeDecodeError):
        pass  # they stay as code page 437 has them
    return [meant.get(each.filename, each.filename).replace("\\", "/").lstrip("/") for each in files]


class _Tar:
    def __init__(self, path: Path, room: Path) -> None:
        self.damaged: str | None = None
        with storage_errors(room):
            self._file = tempfile.TemporaryFile(dir=room)  # noqa: SIM115 - lives as long as the archive is read
        try:
            with _PACKED[path.suffix.lower()](path, "rb") as packed:
                shutil.copyfileobj(_Damageable(packed, self), self._file, 1 << 20)
        except OSError as error:
            self._file.close()
            with storage_errors(room):
                raise error
        self._file.seek(0)
        self.members: dict[str, Any] = {}
        try:
            self._tar = tarfile.open(fileobj=self._file, mode="r:", errors="surrogateescape", encoding="utf-8")  # noqa: SIM115
        except tarfile.TarError:
            self._file.close()
            raise
        try:
            for member in self._tar:
                if member.isfile() or member.issym() or member.islnk():
                    self.members[_meant(member.name)] = member
        except _BROKEN as error:
            self.damaged = self.damaged or _told(error)

    def open(self, member: tarfile.TarInfo) -> IO[bytes]:
        file = self._tar.extractfile(member)  # of a link: what it leads to; KeyError where that is not in the archive
        if file is None:
            raise KeyError("it leads to no file of the archive")
        return file

    def size(self, member: tarfile.TarInfo) -> int:
        return member.size if member.isfile() else 1 << 20  # a link has none of its own

    def close(self) -> None:
        self._tar.close()
        self._file.close()


def _meant(name: str) -> str:
    name = name.removeprefix("./").lstrip("/")
    if not any("\udc80" <= char <= "\udcff" for char in name):
        return name
    try:
        return decode_text(name.encode("utf-8", "surrogateescape")).text
    except TextError:
        return name


class _Damageable:
    """A compressed file that ends where its damage begins, which the archive is told."""

    def __init__(self, file: Any, archive: _Tar) -> None:
        self._file, self._archive = file, archive

    def read(self, size: int = -1, /) -> bytes:
        try:
            data: bytes = self._file.read1(size)  # what can still be unpacked, where read would lose it all
            return data
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, OSError) as error:
            self._archive.damaged = _told(error)
            return b""
