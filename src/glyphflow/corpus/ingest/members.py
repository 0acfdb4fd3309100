"""The members of a tar, whatever happened to it: compressed, joined, damaged, with links, and with names in any encoding."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import re
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from glyphflow.core.files import storage_errors
from glyphflow.core.hardware import require
from glyphflow.core.text import TextError, decode_text

ENDINGS = (".tar", ".tar.zst", ".tzst")  # tars that are packed in other ways are read as the folders that they hold
_BLOCK = 512
_READ = 1 << 20
_GUESSED_FROM = 1 << 16  # bytes of names from which their encoding is told
_CHECKSUM = re.compile(rb"[ 0]*[0-7]+[\0 ]*")
_MOST_LINKS = 16  # one behind the other


@dataclass(frozen=True)
class Member:
    """A file in the archive, or a link whose target is one; ``error`` says why its bytes cannot be had."""

    name: str
    size: int = 0
    offset: int = 0
    error: str | None = None


@dataclass(frozen=True)
class Damage:
    """A place where no member can be told."""

    told: str


@dataclass(frozen=True)
class NewArchive:
    """Here another archive was joined."""


def _zstd(path: Path) -> Any:
    arrow = require("pyarrow", "corpus")
    return arrow.CompressedInputStream(arrow.OSFile(str(path)), "zstd")


_PACKED: tuple[tuple[bytes, Callable[[Path], Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\0", lzma.open),
    (b"\x28\xb5\x2f\xfd", _zstd),
)


def unpacked(path: Path, room: Path) -> tuple[IO[bytes], str | None]:
    """The tar in ``path``, opened, and what is wrong with its compression; one that is packed is unpacked into ``room``.

    Its first bytes tell how it is packed, not its name. A file that cannot be opened is an empty one with the reason.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
        opener = next((each for mark, each in _PACKED if head.startswith(mark)), None)
        if opener is None:
            return path.open("rb"), None
    except OSError as error:
        return tempfile.TemporaryFile(), f"the file cannot be read: {error.strerror}"
    with storage_errors(room):
        plain = tempfile.TemporaryFile(dir=room)  # noqa: SIM115 - closed by whoever reads it
        told = None
        with storage_errors(room):
            for data in _chunks(path, opener):
                if isinstance(data, str):
                    told = data
                else:
                    plain.write(data)
        return plain, told


def _chunks(path: Path, opener: Callable[[Path], Any]) -> Iterator[bytes | str]:
    """What can be unpacked, and then the reason where that is not all."""
    try:
        with opener(path) as file:
            while data := file.read(_READ):
                yield data
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:  # Arrow's errors are two of these
        yield f"its compression is damaged: {' '.join(str(error).split())[:200]}"


def members(file: IO[bytes]) -> list[Member | Damage | NewArchive]:
    """Everything in the tar in the order in which it lies there, from the headers alone."""
    found = list(_headers(file))
    named = _decoded([name for each in found if isinstance(each, tarfile.TarInfo) for name in (each.name, each.linkname)])
    files: dict[str, Member] = {}  # by their paths, the last of a name
    links: dict[str, tuple[str, bool]] = {}  # what they lead to, and whether by symbol
    told: list[Member | Damage | NewArchive] = []
    waiting: list[int] = []  # links, which may lead to what comes later
    for each in found:
        if not isinstance(each, tarfile.TarInfo):
            told.append(each)
            continue
        name = _path(named.get(each.name, each.name))
        if each.isreg():
            sparse = "the member is stored with holes; pack it without --sparse" if each.sparse is not None else None
            files[name] = Member(name, each.size, each.offset_data, sparse)
            told.append(files[name])
        elif each.islnk() or each.issym():
            links[name] = named.get(each.linkname, each.linkname), each.issym()
            waiting.append(len(told))
            told.append(_followed(name, links, files) if each.islnk() else Member(name))
    for number in waiting:
        link = told[number]
        if isinstance(link, Member) and (link.error or not link.offset):
            told[number] = _followed(link.name, links, files)
    return told


def _followed(name: str, links: dict[str, tuple[str, bool]], files: dict[str, Member]) -> Member:
    """The file that the link ``name`` leads to, under the name of the link."""
    place = name
    for _ in range(_MOST_LINKS):
        if place not in links:
            break
        target, symbolic = links[place]
        beside = str(PurePosixPath(place).parent / target) if symbolic else target
        place = _path(beside)
        if place in files and place not in links:
            there = files[place]
            return Member(name, there.size, there.offset, there.error)
    if place in links:
        return Member(name, error="the member is a link that leads in a circle")
    return Member(name, error=f"the member is a link to {links[name][0][:200]}, which is not in the archive")


def _path(name: str) -> str:
    """``name`` without ./, // and .. in it."""
    parts: list[str] = []
    for part in name.replace("\\", "/").split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", ".."):
            parts.append(part)
    return "/".join(parts)


def _headers(file: IO[bytes]) -> Iterator[tarfile.TarInfo | Damage | NewArchive]:
    position: int | None = 0
    while position is not None:
        end, told = position, None
        file.seek(position)
        try:
            with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
                try:
                    yield from tar
                finally:
                    end = tar.offset
        except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
            told = " ".join(str(error).split()) or "it ends too early"
        following, bad = _next(file, end, passed=told is not None and end == position)
        if told is not None or bad is not None:
            yield Damage(told if told is not None else f"no member begins at byte {bad}")
        elif following is not None:
            yield NewArchive()
        position = following


def _next(file: IO[bytes], start: int, passed: bool) -> tuple[int | None, int | None]:
    """Where the next good header begins, from ``start`` on (after it if that was ``passed``), and the first bad block."""
    bad = start if passed else None
    position = start + _BLOCK if passed else start
    file.seek(position)
    while data := file.read(_READ):
        for at in range(0, len(data), _BLOCK):
            block = data[at : at + _BLOCK]
            if not block.strip(b"\0"):
                continue
            if len(block) == _BLOCK and _CHECKSUM.fullmatch(block[148:156]):
                try:
                    tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                    return position + at, bad
                except tarfile.HeaderError:
                    pass
            bad = position + at if bad is None else bad
        position += len(data)
    return None, bad


def _decoded(names: Sequence[str]) -> dict[str, str]:
    """Names that are not UTF-8 (as surrogate escapes), in the encoding that all of them together are told to be in.

    Where most are not, those that could be UTF-8 by chance are in that encoding, too.
    """
    beyond = {name: name.encode("utf-8", "surrogateescape") for name in names if not name.isascii()}
    raw = {name: data for name, data in beyond.items() if any("\ud800" <= character <= "\udfff" for character in name)}
    encoding = None
    with contextlib.suppress(TextError):
        told = decode_text(b"\n".join(_some(list(raw.values()))))
        encoding = told.encoding if told.guessed else None  # UTF-16 is no encoding of names
    found = {}
    for name, data in (beyond if encoding and len(raw) * 2 > len(beyond) else raw).items():
        try:
            found[name] = data.decode(encoding or "utf-8")
        except UnicodeDecodeError:
            found[name] = data.decode("utf-8", "backslashreplace")
    return found


def _some(names: Sequence[bytes]) -> Iterator[bytes]:
    """The first names, as many as an encoding is told from."""
    size = 0
    for name in names:
        if size > _GUESSED_FROM:
            return
        size += len(name)
        yield name.rpartition(b"/")[2].partition(b".")[0]  # endings look like words of a language with few accents
