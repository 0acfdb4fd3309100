"""A folder as ingest sees it: which files it holds, linked folders included, and which of them are pictures."""

from __future__ import annotations

import importlib.util
import os
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Protocol

from glyphflow.corpus.ingest.shards import extension_of, read_picture

EXTENSIONS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".avif", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".jp2",
    ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga",
))  # fmt: skip
HEIC = (".heic", ".heif")
# Files that are something else by their ending: nothing looks into them for a picture.
_OTHER = frozenset((
    ".txt", ".caption", ".tags", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".tar", ".tgz",
    ".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar", ".md", ".rst", ".html", ".htm", ".xhtml", ".xml", ".svg", ".pdf",
    ".yaml", ".yml", ".toml", ".py", ".ipynb", ".npz", ".npy", ".pt", ".pth", ".safetensors", ".bin", ".mp4", ".mov",
    ".mkv", ".webm", ".avi", ".mp3", ".wav", ".eps", ".ps", ".ai", ".exe", ".db", ".sqlite", ".log", ".lock",
))  # fmt: skip
_IGNORED = frozenset(("thumbs.db", "desktop.ini"))
_IGNORED_FOLDERS = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN"))
_MARKS = ((b"\xff\xd8\xff", ".jpg"), (b"\x89PNG\r\n\x1a\n", ".png"), (b"GIF8", ".gif"))


class Tree(Protocol):
    """Files by their paths below a place: a folder, or the members of an archive."""

    @property
    def names(self) -> Sequence[str]:
        """Every file, as a path with /, in order."""

    def read(self, name: str) -> tuple[bytes | None, str | None]:
        """The bytes of a file, or why there are none."""

    def head(self, name: str) -> bytes:
        """Its first bytes; none where it cannot be read."""

    @property
    def packed(self) -> Sequence[tuple[Path, str]]:
        """Archives that the tree was read from, with their names: they may not change once they were ingested."""

    def stat(self, name: str) -> tuple[int, int] | None:
        """Its size and when it last changed, in nanoseconds; None where nothing is known of that."""


class Folder:
    """The files below a folder. Hidden ones and those of file managers do not count; a link to a folder is followed once."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.loops: list[str] = []  # links that were not followed, for what they lead to is read already
        self.closed: list[str] = []  # folders that cannot be read, with the reason

    packed = ()

    @cached_property
    def names(self) -> list[str]:
        found: list[str] = []
        seen: set[tuple[int, int]] = set()
        waiting = [self.place]  # folders that are links wait until all others are read, so that a file keeps its own path
        for start in waiting:
            if not _first_time(start, seen):
                self.loops.append(start.relative_to(self.place).as_posix())
                continue
            for root, directories, names in os.walk(start, onerror=self._close):
                base = Path(root)
                if "corpus.json" in names and "index" in directories:  # a corpus, whose pictures came from elsewhere
                    directories.clear()
                    continue
                directories[:] = sorted(name for name in directories if name[0] != "." and name not in _IGNORED_FOLDERS)
                links = [name for name in directories if (base / name).is_symlink()]
                waiting += [base / name for name in links]
                directories[:] = [name for name in directories if name not in links]
                seen.update(_identity(base / name) for name in directories)
                below = base.relative_to(self.place).as_posix()
                found += [name if below == "." else f"{below}/{name}" for name in names if is_counted(name)]
        return sorted(found)

    def _close(self, error: OSError) -> None:
        self.closed.append(f"{error.filename}: {error.strerror}")

    def read(self, name: str) -> tuple[bytes | None, str | None]:
        return read_picture(self.place / name)

    def head(self, name: str) -> bytes:
        try:
            with (self.place / name).open("rb") as file:
                return file.read(16)
        except OSError:
            return b""

    def stat(self, name: str) -> tuple[int, int] | None:
        try:
            told = (self.place / name).stat()
        except OSError:
            return None
        return told.st_size, max(told.st_mtime_ns, told.st_ctime_ns)


def find_files(place: Path, endings: Sequence[str]) -> list[str]:
    """The files below a folder whose names end so, at any depth; the file itself where ``place`` is one."""
    if not place.is_dir():
        return [place.name] if place.exists() else []
    return [name for name in Folder(place).names if name.lower().endswith(tuple(endings))]


def _identity(folder: Path) -> tuple[int, int]:
    try:
        told = folder.stat()
    except OSError:
        return (-1, -1)
    return told.st_dev, told.st_ino


def _first_time(folder: Path, seen: set[tuple[int, int]]) -> bool:
    identity = _identity(folder)
    known = identity in seen
    seen.add(identity)
    return not known


def is_counted(name: str) -> bool:
    """Whether a file of this name is somebody's: no hidden file, none that a file manager leaves behind."""
    *folders, last = name.split("/")
    return not last.startswith(".") and last.lower() not in _IGNORED and _IGNORED_FOLDERS.isdisjoint(folders)


def picture_endings() -> frozenset[str]:
    """Endings of pictures that can be opened here: HEIC where its reader is installed."""
    return EXTENSIONS | frozenset(HEIC) if importlib.util.find_spec("pillow_heif") else EXTENSIONS


def pictures(tree: Tree) -> dict[str, str]:
    """The pictures of ``tree`` with their endings: told by their names, and where a name has no ending that is known by their
    first bytes (``photo.jpg_large``, ``9f86d081``)."""
    endings, found = picture_endings(), {}
    for name in tree.names:
        ending = extension_of(name)
        if ending in endings:
            found[name] = ending
        elif ending not in _OTHER and ending not in HEIC and (told := _ending_of(tree.head(name))):
            found[name] = told
    return found


def _ending_of(head: bytes) -> str | None:
    for mark, ending in _MARKS:
        if head.startswith(mark):
            return ending
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ".webp"
    return ".avif" if head[4:12] in (b"ftypavif", b"ftypavis") else None


def key_of(name: str) -> str:
    """``name`` as a table can hold it: bytes that are not UTF-8 are shown escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def same(name: str) -> str:
    """``name`` as names are compared that different systems wrote: composed, with / and without ./ in front."""
    plain = name if name.isascii() else unicodedata.normalize("NFC", name)
    plain = plain.strip().replace("\\", "/")
    return PurePosixPath(plain).as_posix() if "./" in plain or "//" in plain else plain


def loosely(name: str) -> str:
    """The same where capitals do not count, either."""
    return same(name).casefold()
