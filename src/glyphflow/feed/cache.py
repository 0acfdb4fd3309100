"""The latent cache: pictures and texts of records as the frozen encoders see them, on disk, append-only.

    <cache>/cache.json                     version and encoder fingerprint
            empty.safetensors              "text" (L, D): the embedding of the empty prompt
            area-65536/complete.json       which records it holds, once they are all there
            area-65536/<name>.safetensors  a shard; its name is a hash of what it holds, so that writers never collide:
                "latents"  (values,)       standardised latents of all pictures, flattened, bfloat16
                "pictures" (records,)      how many pictures each record has: the target, then its references in order
                "sizes"    (pictures, 2)   latent height and width
                "text"     (tokens, D)     embeddings of all texts one behind the other, unpadded, bfloat16
                "spans"    (records, texts, 2)  begin and end of each text in "text"; equal where there is none
                "said"     (records, texts)     CRC-32 of the caption that was encoded, to notice when it changes
                "crc"      (records,)      CRC-32 over a record's latents and texts, checked whenever it is read
                metadata: records = CRC-32 of the rest and of the small tables, {ids, texts, skipped, generation} in JSON

Text is stored as long as it is: at 7 kB a token of the released encoder, padding would be most of the disk. bfloat16 keeps 8
bits of a latent of unit variance; the noise that training adds is far coarser. Files appear whole (renamed into place) and
are never changed, so readers need no lock.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import atomic_path, read_json, write_json
from glyphflow.core.hashing import fingerprint

VERSION = 2
INFO = "cache.json"
EMPTY = "empty.safetensors"
COMPLETE = "complete.json"
DAMAGED = ".damaged"
_TABLES = ("pictures", "sizes", "spans", "said", "crc")


@dataclass(frozen=True)
class EncodedSample:
    """One record as training sees it."""

    id: str
    latents: tuple[torch.Tensor, ...]
    """Target and references, (C, h, w) each, standardised, bfloat16."""
    texts: Mapping[str, torch.Tensor]
    """Name (see :func:`glyphflow.feed.texts.text_name`) -> (L, D), unpadded, bfloat16."""
    said: Mapping[str, int]
    """Name -> CRC-32 of the caption behind it."""


class Unreadable(InputError):
    """The picture of a record, or one that it starts from, cannot be read: another record takes its place."""


def area_directory(cache: Path, area: int) -> Path:
    """Where the shards of one resolution are."""
    return cache / f"area-{area}"


def caption_mark(caption: str) -> int:
    """CRC-32 of a caption."""
    return zlib.crc32(caption.encode("utf-8"))


def write_shard(directory: Path, samples: Sequence[EncodedSample], skipped: Mapping[str, str], generation: int = 0) -> Path:
    """Write ``samples`` atomically; ``skipped`` are records that cannot be read, with the reason.

    A record of a higher ``generation`` replaces one that another shard has. Texts that are the same tensor object are stored
    once.
    """
    names = sorted({name for sample in samples for name in sample.texts})
    spans = torch.zeros(len(samples), len(names), 2, dtype=torch.int64)
    said = torch.zeros(len(samples), len(names), dtype=torch.int64)
    pieces: list[torch.Tensor] = []
    begins: dict[int, int] = {}
    length = 0
    for row, sample in enumerate(samples):
        for name, text in sample.texts.items():
            if id(text) not in begins:
                begins[id(text)] = length
                pieces.append(text)
                length += len(text)
            begin = begins[id(text)]
            column = names.index(name)
            spans[row, column] = torch.tensor([begin, begin + len(text)])
            said[row, column] = sample.said.get(name, 0)
    tensors = {
        "latents": _joined([picture.flatten() for sample in samples for picture in sample.latents]),
        "pictures": torch.tensor([len(sample.latents) for sample in samples], dtype=torch.int64),
        "sizes": torch.tensor([p.shape[1:] for s in samples for p in s.latents], dtype=torch.int64).reshape(-1, 2),
        "text": _joined(pieces),
        "spans": spans,
        "said": said,
        "crc": torch.tensor([_checksum(s.latents, [s.texts[n] for n in names if n in s.texts]) for s in samples]).long(),
    }
    told = {"ids": [s.id for s in samples], "texts": names, "skipped": dict(skipped), "generation": generation}
    records = json.dumps(told, ensure_ascii=False)
    path = directory / f"{fingerprint([records, tensors['crc'].tolist()])}.safetensors"
    with atomic_path(path) as temporary:
        # One entry: safetensors writes several in no fixed order, and equal shards should be equal files.
        save_file(tensors, temporary, {"records": f"{_check(records, tensors)} {records}"})
    return path


class Shard:
    """One shard, opened for reading: the small tables are read and checked, tensors stay on disk until they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, "pt") as file:
                check, _, head = file.metadata()["records"].partition(" ")
                tables = {name: file.get_tensor(name) for name in _TABLES}
            records: dict[str, Any] = json.loads(head)
            intact = int(check) == _check(head, tables)
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise damaged(path, str(error)) from error
        if not intact:
            raise damaged(path, "its tables do not match their checksum")
        self.ids: list[str] = records["ids"]
        self.texts: list[str] = records["texts"]
        self.skipped: dict[str, str] = records["skipped"]
        self.generation: int = records["generation"]
        self.spans = tables["spans"].numpy()
        self.said = tables["said"].numpy()
        self.sizes = [(int(height), int(width)) for height, width in tables["sizes"]]
        self.first = np.concatenate([[0], np.cumsum(tables["pictures"].numpy())])
        self._areas = np.asarray([height * width for height, width in self.sizes], dtype=np.int64)
        self._crc = tables["crc"].tolist()
        self._tensors: dict[str, torch.Tensor] | None = None
        self._checked: set[int] = set()

    def pictures(self, row: int) -> list[tuple[int, int]]:
        """Latent (height, width) of a record's target and references."""
        return self.sizes[self.first[row] : self.first[row + 1]]

    def latents(self, row: int) -> tuple[torch.Tensor, ...]:
        """(C, h, w) of a record's target and references (views of the file)."""
        self.check(row)
        return self._latents(row)

    def text(self, row: int, name: str) -> torch.Tensor:
        """(L, D) of one text of a record (a view of the file)."""
        self.check(row)
        begin, end = self.spans[row, self.texts.index(name)]
        return self._open()["text"][int(begin) : int(end)]

    def names(self, row: int) -> list[str]:
        """The texts that a record has."""
        return [name for name, (begin, end) in zip(self.texts, self.spans[row], strict=True) if end > begin]

    def check(self, row: int) -> None:
        """Compare a record with its checksum, once; InputError names the shard when it does not match."""
        if row in self._checked:
            return
        text = self._open()["text"]
        texts = [text[int(begin) : int(end)] for begin, end in self.spans[row] if end > begin]
        if _checksum(self._latents(row), texts) != self._crc[row]:
            raise damaged(self.path, f"record {self.ids[row]} does not match its checksum")
        self._checked.add(row)

    def _latents(self, row: int) -> tuple[torch.Tensor, ...]:
        values = self._open()["latents"]
        channels = len(values) // max(1, int(self._areas.sum()))
        start = int(self._areas[: self.first[row]].sum()) * channels
        found = []
        for height, width in self.pictures(row):
            found.append(values[start : start + channels * height * width].view(channels, height, width))
            start += channels * height * width
        return tuple(found)

    def _open(self) -> dict[str, torch.Tensor]:
        if self._tensors is None:
            try:
                self._tensors = load_file(self.path)
            except (SafetensorError, OSError) as error:
                raise damaged(self.path, str(error)) from error
        return self._tensors


class LatentCache:
    """The shards of one area of a cache, as far as they are written; :meth:`refresh` finds those that came since."""

    def __init__(self, cache: Path, area: int) -> None:
        self.directory = Path(cache)
        self.area = area
        self.fingerprint = read_fingerprint(self.directory)
        self.empty: torch.Tensor = load_file(self.directory / EMPTY)["text"]
        self.skipped: dict[str, str] = {}
        self.places: dict[str, tuple[Shard, int]] = {}
        self.shards = 0
        """How many shards were read so far."""
        self._known: set[str] = set()
        self.refresh()

    def refresh(self) -> None:
        """Read the tables of new shards; a record that was encoded again is read from the latest."""
        for path in sorted(area_directory(self.directory, self.area).glob("*.safetensors")):
            if path.name in self._known or path.name.startswith("."):
                continue
            shard = Shard(path)
            self._known.add(path.name)
            self.shards += 1
            self.skipped |= shard.skipped
            for row, record in enumerate(shard.ids):
                before = self.places.get(record)
                if before is None or shard.generation > before[0].generation:
                    self.places[record] = (shard, row)

    def sample(self, record: str) -> EncodedSample:
        """Everything about one record."""
        shard, row = self.places[record]
        names = shard.names(row)
        said = {name: int(shard.said[row, shard.texts.index(name)]) for name in names}
        return EncodedSample(record, shard.latents(row), {name: shard.text(row, name) for name in names}, said)

    @property
    def complete(self) -> list[str]:
        """Ids of all its records, once ``glyphflow encode`` has seen to the last of them; InputError before."""
        path = area_directory(self.directory, self.area) / COMPLETE
        ids = sorted(self.places)
        if not path.exists() or read_json(path)["records"] != fingerprint(ids):
            raise InputError(
                f"The cache {self.directory} is not complete for an area of {self.area} pixels; run glyphflow encode again, it "
                "continues where it stopped."
            )
        return ids

    def mark_complete(self) -> None:
        """Say that every record that was asked for is there or skipped."""
        path = area_directory(self.directory, self.area) / COMPLETE
        write_json(path, {"records": fingerprint(sorted(self.places)), "count": len(self.places)})


def open_cache(cache: Path, fingerprint_: str, empty: torch.Tensor) -> None:
    """Make ``cache`` a cache of the encoders ``fingerprint_``; one of other encoders or another version is a ConfigError."""
    if (cache / INFO).exists():
        found = read_fingerprint(cache)
        if found != fingerprint_:
            raise ConfigError(
                f"The cache {cache} was made with other encoders ({found}) than those asked for now ({fingerprint_}); remove "
                "it, or choose another cache directory."
            )
        return
    if (cache / "manifest.json").exists():
        raise ConfigError(f"The cache {cache} was written by an earlier version of GlyphFlow; remove it and encode again.")
    with atomic_path(cache / EMPTY) as temporary:
        save_file({"text": empty}, temporary)
    write_json(cache / INFO, {"version": VERSION, "fingerprint": fingerprint_})


def read_fingerprint(cache: Path) -> str:
    """Identity of the encoders of a cache; InputError when it is none, or of another version."""
    if not (cache / INFO).exists():
        raise InputError(f"{cache} holds no latent cache of this version; run glyphflow encode with the recipe.")
    info = read_json(cache / INFO)
    if info.get("version") != VERSION:
        raise InputError(
            f"The cache {cache} has version {info.get('version')} and this GlyphFlow reads {VERSION}; remove it and encode "
            "again."
        )
    return str(info["fingerprint"])


def set_aside(path: Path) -> None:
    """Rename a damaged shard, so that its records count as missing and are encoded again."""
    with contextlib.suppress(FileNotFoundError):  # another process was first
        path.replace(path.with_name(path.name + DAMAGED))


def damaged(path: Path, why: str) -> InputError:
    """The sentence for a shard that cannot be trusted."""
    return DamagedShard(
        path, f"The shard {path} is damaged ({why}); run glyphflow encode again, which makes its records anew, and then go on."
    )


class DamagedShard(InputError):
    """A shard does not hold what its checksums say."""

    def __init__(self, path: Path, sentence: str) -> None:
        super().__init__(sentence)
        self.path = path


def _check(records: str, tables: Mapping[str, torch.Tensor]) -> int:
    found = zlib.crc32(records.encode("utf-8"))
    for name in _TABLES:
        found = zlib.crc32(tables[name].numpy().tobytes(), found)
    return found


def _checksum(latents: Sequence[torch.Tensor], texts: Sequence[torch.Tensor]) -> int:
    found = 0
    for tensor in (*latents, *texts):
        found = zlib.crc32(tensor.contiguous().view(torch.uint8).numpy().data, found)
    return found


def _joined(pieces: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.bfloat16)
