"""The latent cache: pictures and captions of a corpus view as the frozen encoders see them, on disk.

    <cache>/manifest.json                encoder fingerprint, area, which records, whether it is complete
            empty.safetensors            "text" (L, D): the embedding of the empty prompt
            shard-00000.safetensors      256 records each:
                "latents" (values,)      standardised latents of all records, flattened, bfloat16
                "sizes"   (records, 2)   latent height and width
                "text"    (tokens, D)    embeddings of all captions one behind the other, unpadded, bfloat16
                "spans"   (records, variants, 2)  begin and end of each caption in "text"; equal where there is none
                metadata: records = {ids, variants, skipped} (JSON)

Text is stored as long as it is: at 7 kB a token of the released encoder, padding would be most of the disk. bfloat16 keeps 8
bits of a latent of unit variance; the noise that training adds is far coarser.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from glyphflow.core.errors import InputError
from glyphflow.core.files import atomic_path, read_json

MANIFEST = "manifest.json"
EMPTY = "empty.safetensors"
SHARD_RECORDS = 256


@dataclass(frozen=True)
class EncodedSample:
    """One record as training sees it."""

    id: str
    latents: torch.Tensor
    """(C, h, w) standardised, bfloat16."""
    embeds: dict[str, torch.Tensor]
    """Caption variant -> (L, D), unpadded, bfloat16."""
    fingerprint: str
    """Identity of the encoders that made it."""


def shard_path(cache: Path, number: int) -> Path:
    """File of shard ``number``."""
    return cache / f"shard-{number:05d}.safetensors"


def write_shard(path: Path, samples: Sequence[EncodedSample], skipped: Mapping[str, str]) -> None:
    """Write ``samples`` atomically; ``skipped`` are records that could not be read, with the reason.

    Captions whose embeddings are the same tensor object are stored once.
    """
    variants = sorted({variant for sample in samples for variant in sample.embeds})
    pieces: list[torch.Tensor] = []
    begins: dict[int, int] = {}
    length = 0
    spans = torch.zeros(len(samples), len(variants), 2, dtype=torch.int64)
    for row, sample in enumerate(samples):
        for variant, embed in sample.embeds.items():
            if id(embed) not in begins:
                begins[id(embed)] = length
                pieces.append(embed)
                length += len(embed)
            begin = begins[id(embed)]
            spans[row, variants.index(variant)] = torch.tensor([begin, begin + len(embed)])
    tensors = {
        "latents": _joined([sample.latents.flatten() for sample in samples]),
        "sizes": torch.tensor([sample.latents.shape[1:] for sample in samples], dtype=torch.int64).reshape(-1, 2),
        "text": _joined(pieces),
        "spans": spans,
    }
    metadata = {"ids": [s.id for s in samples], "variants": variants, "skipped": dict(skipped)}
    with atomic_path(path) as temporary:
        # One entry: safetensors writes several in no fixed order, and equal shards should be equal files.
        save_file(tensors, temporary, {"records": json.dumps(metadata, ensure_ascii=False)})


def shard_records(path: Path) -> dict[str, Any]:
    """What a shard holds: ``ids``, ``variants`` and ``skipped`` (id -> reason); InputError when the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            found: dict[str, Any] = json.loads(file.metadata()["records"])
    except (SafetensorError, OSError) as error:
        raise InputError(f"The shard {path} is damaged ({error}); remove it and run glyphflow encode again.") from error
    return found


class LatentCache:
    """A complete cache, opened for reading; tensors are memory-mapped, so opening costs no memory."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        manifest = read_json(self.directory / MANIFEST)
        if not manifest["complete"]:
            raise InputError(
                f"The cache {directory} is not complete; run glyphflow encode again, it continues where it stopped."
            )
        self.fingerprint: str = manifest["fingerprint"]
        shards = [_Shard(shard_path(self.directory, number)) for number in range(manifest["shards"])]
        self.ids: list[str] = [record for shard in shards for record in shard.ids]
        self.variants = sorted({variant for shard in shards for variant in shard.variants})
        self.empty: torch.Tensor = load_file(self.directory / EMPTY)["text"]
        self._shards = shards
        self._place = [(number, row) for number, shard in enumerate(shards) for row in range(len(shard.ids))]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every record's latents."""
        return [size for shard in self._shards for size in shard.sizes]

    def lengths(self) -> npt.NDArray[np.int64]:
        """(records, variants) tokens of each caption, 0 where there is none; columns as in ``variants``."""
        found = np.zeros((len(self.ids), len(self.variants)), dtype=np.int64)
        start = 0
        for shard in self._shards:
            columns = [self.variants.index(variant) for variant in shard.variants]
            found[start : start + len(shard.ids), columns] = shard.spans[:, :, 1] - shard.spans[:, :, 0]
            start += len(shard.ids)
        return found

    def latents(self, index: int) -> torch.Tensor:
        """(C, h, w) of record ``index``."""
        number, row = self._place[index]
        return self._shards[number].latents(row)

    def embed(self, index: int, variant: str) -> torch.Tensor:
        """(L, D) of one caption of record ``index``."""
        number, row = self._place[index]
        return self._shards[number].embed(row, variant)

    def sample(self, index: int) -> EncodedSample:
        """Everything about record ``index``."""
        present = [v for v, length in zip(self.variants, self.lengths()[index], strict=True) if length]
        return EncodedSample(self.ids[index], self.latents(index), {v: self.embed(index, v) for v in present}, self.fingerprint)


class _Shard:
    def __init__(self, path: Path) -> None:
        records = shard_records(path)
        self.ids: list[str] = records["ids"]
        self.variants: list[str] = records["variants"]
        tensors = load_file(path)
        self._latents, self._text = tensors["latents"], tensors["text"]
        self.spans: npt.NDArray[np.int64] = tensors["spans"].numpy()
        self.sizes = [(int(height), int(width)) for height, width in tensors["sizes"]]
        areas = np.asarray([height * width for height, width in self.sizes], dtype=np.int64)
        channels = len(self._latents) // max(1, int(areas.sum()))
        self._ends = np.cumsum(areas) * channels

    def latents(self, row: int) -> torch.Tensor:
        begin = int(self._ends[row - 1]) if row else 0
        found: torch.Tensor = self._latents[begin : int(self._ends[row])].view(-1, *self.sizes[row])
        return found

    def embed(self, row: int, variant: str) -> torch.Tensor:
        begin, end = self.spans[row, self.variants.index(variant)]
        found: torch.Tensor = self._text[int(begin) : int(end)]
        return found


def _joined(pieces: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.bfloat16)
