"""Whether the files of a checkpoint are what was written: sizes and CRC-32 of each, in a file beside them.

A power failure or a network disk that ran full leaves files of the right name that are short, empty or zero inside. The sums
cost one read of what was just written, about 1 GB/s on a core, in the thread that writes.
"""

from __future__ import annotations

import functools
import re
import zlib
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.filesystem import FileSystemReader

from glyphflow.core.errors import GlyphFlowError
from glyphflow.core.files import read_json_object

SUMS = "checksums.json"
_OF_RANK = re.compile(r"^__(\d+)_")  # files of torch.distributed.checkpoint begin with the process that wrote them
_CHUNK = 1 << 22

Sums = dict[str, list[int]]
"""File name -> [size, CRC-32]."""


def sums_of(directory: Path, rank: int) -> Sums:
    """The sums of the files in ``directory`` that process ``rank`` wrote; those without a number are the first one's."""
    sums: Sums = {}
    for path in sorted(directory.iterdir()):
        found = _OF_RANK.match(path.name)
        if path.is_file() and path.name != SUMS and (int(found[1]) if found else 0) == rank:
            sums[path.name] = [path.stat().st_size, _crc(path)]
    return sums


def damage(directory: Path, rank: int = 0, ranks: int = 1) -> str | None:
    """What is wrong with the checkpoint in ``directory``, in words, by the files that are ``rank``'s share; None: nothing.

    A checkpoint of an earlier version has no sums; of that the sizes are looked at, which its index says.
    """
    try:
        if (directory / SUMS).exists():
            wanted: dict[str, Any] = read_json_object(directory / SUMS)
        else:
            wanted = _sizes(directory)
        for name, (size, crc) in sorted(wanted.items())[rank::ranks]:
            if reason := _wrong(directory / name, size, crc):
                return reason
    except (GlyphFlowError, OSError) as error:
        return str(error)
    except Exception as error:  # an index that is no index
        return f"{directory.name} cannot be read ({type(error).__name__}: {error})"
    return None


def _wrong(path: Path, size: int, crc: int | None) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    found = path.stat().st_size
    if found < size or (crc is not None and found != size):
        return f"{path.name} has {found} bytes and should have {size}"
    if crc is not None and _crc(path) != crc:
        return f"{path.name} has other content than was written"
    return None


def _sizes(directory: Path) -> dict[str, tuple[int, None]]:
    """The least size of each file that the index of ``directory`` speaks of."""
    sizes: dict[str, int] = {}
    for entry in (FileSystemReader(directory).read_metadata().storage_data or {}).values():
        sizes[entry.relative_path] = max(sizes.get(entry.relative_path, 0), entry.offset + entry.length)
    return {name: (size, None) for name, size in sizes.items()}


def _crc(path: Path) -> int:
    found = path.stat()
    return _crc_of(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _crc_of(path: Path, size: int, modified: int) -> int:
    """The CRC-32 of ``path`` as it is now; a run asks twice on resuming, and a checkpoint may be 240 GB."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value
