"""Where the tensors of a sample come from: a cache on disk, or the frozen encoders in this process. Both give the same bits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.feed.cache import DamagedShard, LatentCache, Shard, Unreadable, caption_mark, set_aside
from glyphflow.feed.encode import Encoders, load_pictures, too_long
from glyphflow.feed.locks import is_locked
from glyphflow.feed.records import Picture, Records
from glyphflow.feed.settings import Source, Task
from glyphflow.feed.texts import COPY, choose, copy_instruction, text_name
from glyphflow.models.condition import TooLong

PRODUCERS = "producers"
"""Directory in a cache where every process that fills it holds a lock of its own."""
_POLL_SECONDS = 0.2
_SPECIAL = ":"
"""Names of texts that are no caption variants contain it."""


class Wish(NamedTuple):
    """One sample of a batch."""

    place: int
    """Of the record in its :class:`Records`."""
    task: Task
    captions: Mapping[str, float]
    draw: float
    """Which caption it shows, in [0, 1)."""
    dropped: bool
    """Whether it gets the empty prompt."""


class Sample(NamedTuple):
    """What the model learns from: standardised latents (C, h, w) of target and references, and the text (L, D)."""

    latents: tuple[torch.Tensor, ...]
    text: torch.Tensor


class Content(Protocol):
    """Samples of one source at one area."""

    @property
    def fingerprint(self) -> str: ...
    def samples(self, wishes: Sequence[Wish]) -> list[Sample | Unreadable]:
        """A sample for each wish, or why its pictures cannot be read."""
        ...


class LiveContent:
    """Encode what is asked for, and no more."""

    def __init__(self, records: Records, area: int, encoders: Encoders) -> None:
        self.fingerprint = encoders.fingerprint
        self._records, self._area, self._encoders = records, area, encoders

    def samples(self, wishes: Sequence[Wish]) -> list[Sample | Unreadable]:
        """See :class:`Content`."""
        asked = [self._load(wish) for wish in wishes]
        pictures = [picture for one in asked if not isinstance(one, Unreadable) for picture in one[0]]
        latents = iter(self._encoders.pictures(pictures))
        found: list[Sample | Unreadable] = []
        for wish, one in zip(wishes, asked, strict=True):
            if isinstance(one, Unreadable):
                found.append(one)
                continue
            encoded = tuple(next(latents) for _ in one[0])
            try:
                text = self._encoders.text(one[1], one[2])
            except TooLong as error:
                found.append(too_long(error))
                continue
            found.append(Sample(encoded * 2 if wish.task == "i2i" else encoded, text))
        return found

    def _load(self, wish: Wish) -> tuple[list[Picture], str, list[Picture]] | Unreadable:
        """The pictures to encode, the caption, and the pictures that it is about."""
        selection = self._records.selection
        if selection is None:
            raise ConfigError(
                f"The source {self._records.title!r} names no corpus, so nothing can be encoded for it; add corpus:, or take "
                "the transport files."
            )
        try:
            pictures, captions = load_pictures(selection, wish.place, self._area)
        except Unreadable as error:
            return error
        shown = pictures[:1] if wish.task == "i2i" else pictures[1:]
        variant = None if wish.dropped else _variant(wish, list(captions))
        name = text_name(wish.task, variant)
        caption = copy_instruction(self._records.ids[wish.place]) if name == COPY else captions[variant] if variant else ""
        return pictures[:1] if wish.task == "i2i" else pictures, caption, shown


class CacheContent:
    """Read from shards; a record that is not there yet is waited for while a process fills the cache."""

    def __init__(self, records: Records, cache: LatentCache, stopped: Callable[[], bool] = lambda: False) -> None:
        self.fingerprint = cache.fingerprint
        self._records, self._cache, self._stopped = records, cache, stopped

    def samples(self, wishes: Sequence[Wish]) -> list[Sample | Unreadable]:
        """See :class:`Content`."""
        return [self._sample(wish) for wish in wishes]

    def _sample(self, wish: Wish) -> Sample | Unreadable:
        try:
            return self._read(wish)
        except Unreadable as error:
            return error
        except DamagedShard as error:
            set_aside(error.path)  # its records count as missing from now on
            raise

    def _read(self, wish: Wish) -> Sample:
        record = self._records.ids[wish.place]
        shard, row = self._place(record, wish)
        latents = shard.latents(row)
        if wish.task == "i2i":
            latents = (latents[0], latents[0])
        name = text_name(wish.task, self._shown(wish, shard, row))
        return Sample(latents, self._cache.empty if name is None else shard.text(row, name))

    def _place(self, record: str, wish: Wish) -> tuple[Shard, int]:
        """Where the record is, with the text that is wished for; waits as long as somebody writes."""
        cache = self._cache
        while True:
            if record in cache.places:
                shard, row = cache.places[record]
                if not (lacking := self._lacking(wish, shard, row)):
                    return shard, row
            else:
                lacking = f"record {record}"
            if record in cache.skipped:  # and not there, or there with another caption than now
                raise Unreadable(cache.skipped[record])
            alive = is_filled(cache.directory)  # asked before looking again: what it wrote last must not be missed
            before = cache.shards
            cache.refresh()
            if cache.shards != before:
                continue
            if not alive or self._stopped():
                raise InputError(
                    f"The cache {cache.directory} lacks {lacking} at {cache.area} pixels and no process fills it; run "
                    "glyphflow encode with the same recipe, now or beside the training."
                )
            time.sleep(_POLL_SECONDS)

    def _shown(self, wish: Wish, shard: Shard, row: int) -> str | None:
        """The caption variant of a sample; None when it is dropped, or when there is none of those with a weight."""
        if wish.dropped:
            return None
        return _variant(wish, [name for name in shard.names(row) if _SPECIAL not in name])

    def _lacking(self, wish: Wish, shard: Shard, row: int) -> str:
        """What a row does not have, in words; "" when it has all."""
        name = text_name(wish.task, self._shown(wish, shard, row))
        record = shard.ids[row]
        names = shard.names(row)
        if name is not None and name not in names:
            return f"the text {name!r} of record {record}"
        captions = self._records.captions[wish.place]
        for variant, caption in (captions or {}).items():
            if variant not in names or shard.said[row, shard.texts.index(variant)] != caption_mark(caption):
                return f"the caption {variant!r}, as it is now, of record {record}"
        return ""


def cache_path(source: Source) -> Path:
    """The cache directory of ``source``; ConfigError when it names none."""
    if source.cache is None:
        raise ConfigError(
            f"The source {source.title!r} names no cache; add cache: with the directory that glyphflow encode shall fill."
        )
    return source.cache


def is_filled(cache: Path) -> bool:
    """Whether a living process encodes into ``cache``."""
    return any(is_locked(path) for path in (cache / PRODUCERS).glob("*") if path.is_dir())


def _variant(wish: Wish, present: list[str]) -> str | None:
    if wish.task == "i2i":
        return COPY
    return choose(present, wish.captions, wish.draw)
