"""What the tests of packed sources share: small pictures, tars written by hand, and the rows of a corpus."""

from __future__ import annotations

import functools
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from corpus_pictures import encoded, photo

from glyphflow.corpus import Corpus


@functools.cache
def small(seed: int, kind: str = "JPEG") -> bytes:
    """The bytes of a picture of 48 x 32 pixels, another one for every seed."""
    return encoded(photo(seed, 48, 32), kind)


def write_tar(path: Path, members: Iterable[tuple[str, bytes | tarfile.TarInfo]], **options: Any) -> Path:
    """A tar of members in this order; a TarInfo stands for a link."""
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            member = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.name = name
            if isinstance(data, bytes):
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data if isinstance(data, bytes) else b""))
    return path


def link(target: str, symbolic: bool = False) -> tarfile.TarInfo:
    """A member that is a link to ``target``."""
    member = tarfile.TarInfo()
    member.type, member.linkname = (tarfile.SYMTYPE if symbolic else tarfile.LNKTYPE), target
    return member


def rows_of(corpus: Corpus) -> dict[str, dict[str, Any]]:
    """Every row of a corpus by its key, with its bytes and its captions."""
    found: dict[str, dict[str, Any]] = {}
    for shard in corpus.shards():
        index = corpus.index(shard)
        for number, key in enumerate(index["key"]):
            row = {name: values[number] for name, values in index.items()}
            row["captions"] = json.loads(row["captions"])
            row["data"] = corpus.payload(shard, "photo", row["offset"], row["size"]) if row["size"] else None
            assert key not in found
            found[key] = row
    return found
