"""Encoding: the frozen VAE and condition encoder turn a corpus view into a latent cache, once, resumable at any point."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from glyphflow.core.config import to_dict
from glyphflow.core.errors import ConfigError, GlyphFlowError, InputError
from glyphflow.core.files import atomic_path, exclusive, read_json, write_json
from glyphflow.core.hashing import fingerprint, sha256_file
from glyphflow.core.progress import Progress
from glyphflow.feed.buckets import Size, bucket_of, bucket_sizes, fit
from glyphflow.feed.cache import EMPTY, MANIFEST, SHARD_RECORDS, EncodedSample, shard_path, shard_records, write_shard
from glyphflow.feed.pixels import Picture, Record, Selection, to_tensor
from glyphflow.feed.prefetch import Prefetch
from glyphflow.models import VAE, VAEConfig, weights_hash
from glyphflow.models.condition import TEMPLATES, ConditionEncoder
from glyphflow.models.weights import read_config

PREPROCESSING = 1
"""Raise it when the same weights, picture and caption would give other samples."""

_REMEMBERED_CAPTIONS = 4096
_PIXELS_AT_ONCE = 64 * 128 * 128


def encoder_fingerprint(root: Path) -> str:
    """Identity of what the encoders of a pipeline directory make: their files, latent statistics, templates, preprocessing."""
    tokenizer = sorted(path for path in (root / "tokenizer").rglob("*") if path.is_file())
    return fingerprint(
        {
            "vae": weights_hash(root / "vae"),
            "vae_config": to_dict(read_config(root / "vae", VAEConfig)),
            "condition": weights_hash(root / "text_encoder"),
            "tokenizer": [[path.name, sha256_file(path)] for path in tokenizer],
            "templates": TEMPLATES,
            "preprocessing": PREPROCESSING,
        }
    )


class Encoders:
    """The two frozen encoders of a pipeline directory.

    Pictures are encoded to the mode (mean) of the posterior, standardised; the released model's posterior is so narrow that a
    sample adds nothing. ``compute_dtype`` is that of the VAE's arithmetic on top of float32 weights.
    """

    def __init__(self, root: Path, device: torch.device, compute_dtype: torch.dtype) -> None:
        self.fingerprint = encoder_fingerprint(root)
        self._device = device
        self._compute = compute_dtype
        self._vae = VAE.from_pretrained(root / "vae", torch.float32, device)
        self._condition = ConditionEncoder.from_pretrained(root, torch.float32, device)
        self._captions: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def pictures(self, pictures: Sequence[Picture]) -> list[torch.Tensor]:
        """Equal-sized (H, W, 3) pictures -> standardised latents (C, h, w), bfloat16 on the CPU."""
        at_once = max(1, _PIXELS_AT_ONCE // (pictures[0].shape[0] * pictures[0].shape[1]))
        found: list[torch.Tensor] = []
        for start in range(0, len(pictures), at_once):
            pixels = to_tensor(np.stack(pictures[start : start + at_once])).to(self._device)
            with torch.autocast(self._device.type, self._compute, enabled=self._compute != torch.float32):
                mode = self._vae.encode(pixels).mode()
            latents = self._vae.standardise(mode.float()).to(torch.bfloat16).cpu()
            found += [latent.clone() for latent in latents]
        return found

    def captions(self, captions: Sequence[str], max_sequence_length: int = 1024) -> list[torch.Tensor]:
        """Embeddings (L, D) without padding, bfloat16 on the CPU; equal captions give the same tensor object."""
        fresh = [caption for caption in dict.fromkeys(captions) if caption not in self._captions]
        if len(self._captions) + len(fresh) > _REMEMBERED_CAPTIONS:
            self._captions = {c: self._captions[c] for c in dict.fromkeys(captions) if c in self._captions}
        embeds = self._condition.encode(fresh, max_sequence_length)
        self._captions |= {c: e.to(torch.bfloat16).cpu() for c, e in zip(fresh, embeds, strict=True)}
        return [self._captions[caption] for caption in captions]


def encode_selection(selection: Selection, encoders: Encoders, cache: Path, area: int) -> int:
    """Encode all records of ``selection`` into the directory ``cache``; returns how many it holds.

    Pictures are brought to the nearest of the nine buckets of ``area`` pixels. Finished shards are kept when the same call
    is made again; a cache of other encoders, another area or other records is refused with a :class:`ConfigError`. A record
    whose picture cannot be read is left out; its shard says why.
    """
    cache = Path(cache)
    identity: dict[str, str | int] = {
        "fingerprint": encoders.fingerprint,
        "area": area,
        "records": fingerprint(list(selection.ids)),
    }
    with exclusive(cache, "encoding"):
        _check_same(cache, identity)
        shards = -(-len(selection) // SHARD_RECORDS)
        write_json(cache / MANIFEST, {**identity, "shards": shards, "complete": False})
        with atomic_path(cache / EMPTY) as temporary:
            save_file({"text": encoders.captions([""])[0]}, temporary)
        kept = _encode_shards(selection, encoders, cache, bucket_sizes(area), shards)
        write_json(cache / MANIFEST, {**identity, "shards": shards, "complete": True, "kept": kept})
    return kept


def _encode_shards(selection: Selection, encoders: Encoders, cache: Path, buckets: tuple[Size, ...], shards: int) -> int:
    missing = [number for number in range(shards) if not _is_done(shard_path(cache, number), _ids(selection, number))]
    done = len(selection) - sum(len(_ids(selection, number)) for number in missing)

    def load(turn: int) -> list[Record | str]:
        first = missing[turn] * SHARD_RECORDS if turn < len(missing) else len(selection)
        return [_load(selection, index) for index in range(first, min(first + SHARD_RECORDS, len(selection)))]

    with Progress("encode", len(selection), "img", initial=done) as progress, Prefetch(load, 0, depth=1) as loaded:
        for number in missing:
            records, _ = loaded.next()
            good = [record for record in records if not isinstance(record, str)]
            skipped = {i: r for i, r in zip(_ids(selection, number), records, strict=True) if isinstance(r, str)}
            write_shard(shard_path(cache, number), _encode_records(good, encoders, buckets), skipped)
            progress.advance(len(records))
    return sum(len(shard_records(shard_path(cache, number))["ids"]) for number in range(shards))


def _encode_records(records: Sequence[Record], encoders: Encoders, buckets: tuple[Size, ...]) -> list[EncodedSample]:
    by_bucket: dict[Size, list[int]] = {}
    for index, record in enumerate(records):
        height, width = record.image.shape[:2]
        by_bucket.setdefault(bucket_of((width, height), buckets), []).append(index)
    latents: dict[int, torch.Tensor] = {}
    for size, members in by_bucket.items():
        encoded = encoders.pictures([fit(records[index].image, size) for index in members])
        latents |= dict(zip(members, encoded, strict=True))
    texts = encoders.captions([caption for record in records for caption in record.captions.values()])
    embeds = iter(texts)
    return [
        EncodedSample(r.id, latents[i], {variant: next(embeds) for variant in r.captions}, encoders.fingerprint)
        for i, r in enumerate(records)
    ]


def _load(selection: Selection, index: int) -> Record | str:
    try:
        return selection.load(index)
    except GlyphFlowError as error:
        return str(error)


def _ids(selection: Selection, shard: int) -> list[str]:
    return list(selection.ids[shard * SHARD_RECORDS : (shard + 1) * SHARD_RECORDS])


def _is_done(path: Path, wanted: list[str]) -> bool:
    if not path.exists():
        return False
    with contextlib.suppress(InputError):  # a damaged shard is made again
        records = shard_records(path)
        return sorted([*records["ids"], *records["skipped"]]) == sorted(wanted)
    return False


def _check_same(cache: Path, identity: dict[str, str | int]) -> None:
    if not (cache / MANIFEST).exists():
        return
    found = read_json(cache / MANIFEST)
    names = {"fingerprint": "encoders", "area": "area", "records": "records"}
    for key, name in names.items():
        if found[key] != identity[key]:
            raise ConfigError(
                f"The cache {cache} was made with other {name} ({found[key]}) than those asked for now "
                f"({identity[key]}); remove it, or choose another cache directory."
            )
