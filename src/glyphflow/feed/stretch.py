"""Steps between two changes of what is drawn: streams, their order, and the samples of each batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.feed.batches import EncodedBatch
from glyphflow.feed.cache import Unreadable
from glyphflow.feed.content import Content, Sample, Wish
from glyphflow.feed.order import Interleave, Keys, Numbers, Part, Pick, Serving, uniform
from glyphflow.feed.records import Records
from glyphflow.feed.settings import FeedSettings, Source
from glyphflow.feed.streams import Stream, build_streams
from glyphflow.feed.texts import choose, estimated_tokens, matches
from glyphflow.models import pack_latents
from glyphflow.models.condition import ConditionEncoder


class Opener(Protocol):
    """Opens what a feed reads: records of a source under a view, and their tensors."""

    def records(self, source: Source, view: str | None, area: int) -> Records: ...
    def content(self, source: Source, records: Records, area: int) -> Content: ...
    def stop(self) -> None: ...


Ledger = Mapping[str, tuple[Keys, Numbers]]
"""Stream name -> keys of its records (sorted), and for each the pass after the one it was served in last."""


class Stretch:
    """Steps between two changes of what is drawn."""

    def __init__(self, start: int, settings: FeedSettings, seed: int, sources: Opener, ledger: Ledger) -> None:
        self._start, self._settings, self._seed, self._sources, self._ledger = start, settings, seed, sources, ledger
        self._contents: dict[tuple[int, int], Content] = {}
        self.streams = build_streams(settings, self._records)
        self._check_captions()
        self._turns = Interleave([stream.share for stream in self.streams])
        self._servings: dict[int, Serving] = {}

    @property
    def crop_limit(self) -> float:
        """Share of a picture that may be cut away."""
        return self._settings.crop_limit

    def picks(self, step: int) -> tuple[Stream, list[Pick]]:
        number, turn = self._turns.at(step - self._start)
        return self.streams[number], self._serving(number).picks(turn)

    def batch(self, step: int, part: Part) -> EncodedBatch:
        stream, picks = self.picks(step)
        first, end = part.bounds(len(picks))
        wishes = [self._wish(stream, pick) for pick in picks]
        found = self._content(stream).samples(wishes[first:end])
        ids, samples = [], []
        for row, sample in enumerate(found, first):
            place, readable = self._readable(stream, wishes, row) if isinstance(sample, Unreadable) else (row, sample)
            ids.append(self.records(stream).ids[wishes[place].place])
            samples.append(readable)
        return collate(step, tuple(ids), samples, stream, self._content(stream).fingerprint, first, len(picks))

    def records(self, stream: Stream) -> Records:
        return self._records(stream.source, stream.resolution.area)

    def source(self, stream: Stream) -> Source:
        return self._settings.sources[stream.source]

    def heldout_streams(self) -> list[Stream]:
        return build_streams(self._settings, self._records, heldout=True)

    def heldout(self, stream: Stream, members: Sequence[int]) -> list[EncodedBatch]:
        records, content = self.records(stream), self._content(stream)
        found = []
        size = stream.resolution.batch_size
        for start in range(0, len(members), size):
            some = members[start : start + size]
            samples = content.samples([Wish(index, stream.task, self._likeliest, 0.0, False) for index in some])
            rows = [(records.ids[i], s) for i, s in zip(some, samples, strict=True) if not isinstance(s, Unreadable)]
            if rows:
                ids = tuple(record for record, _ in rows)
                found.append(collate(0, ids, [s for _, s in rows], stream, content.fingerprint, 0, len(rows)))
        return found

    def ledger_at(self, step: int) -> Ledger:
        """What has been served of every stream name before ``step``."""
        found = dict(self._ledger)
        for number, turns in enumerate(self._turns.served(step - self._start)):
            if turns:
                stream = self.streams[number]
                keys = self.records(stream).keys[stream.members]
                found[stream.name] = _merged(found.get(stream.name), keys, self._serving(number).after(int(turns)))
        return found

    def _wish(self, stream: Stream, pick: Pick) -> Wish:
        records = self.records(stream)
        index = int(stream.members[pick.member])
        key = records.keys[index : index + 1]
        draw = float(uniform(key, self._seed, "caption", pick.epoch)[0])
        dropped = bool(uniform(key, self._seed, "drop", pick.epoch)[0] < self._settings.drop_condition)
        return Wish(index, stream.task, self._settings.captions, draw, dropped)

    def _readable(self, stream: Stream, wishes: Sequence[Wish], row: int) -> tuple[int, Sample]:
        """For a row whose picture cannot be read: the next row of the global batch that can, and its sample."""
        reason = None
        for distance in range(len(wishes)):
            place = (row + distance) % len(wishes)
            (sample,) = self._content(stream).samples(wishes[place : place + 1])
            if not isinstance(sample, Unreadable):
                return place, sample
            reason = reason or sample
        raise InputError(f"No picture of a whole batch can be read; the first: {reason}") from reason

    @property
    def _likeliest(self) -> Mapping[str, float]:
        """Weights that leave one variant: the first of the heaviest."""
        weights = self._settings.captions
        return {max(weights, key=lambda name: weights[name]): 1.0} if weights else {}

    def _serving(self, number: int) -> Serving:
        if number not in self._servings:
            stream = self.streams[number]
            records = self.records(stream)
            keys = records.keys[stream.members]
            self._servings[number] = Serving(
                keys,
                stream.resolution.batch_size,
                self._seed,
                stream.name,
                last=_looked_up(self._ledger.get(stream.name), keys),
                weights=records.weights[stream.members],
                lengths=_Lengths(stream, records, self._settings, self._seed),
            )
        return self._servings[number]

    def _records(self, number: int, area: int) -> Records:
        return self._sources.records(self._settings.sources[number], self._settings.view, area)

    def _content(self, stream: Stream) -> Content:
        key = (stream.source, stream.resolution.area)
        if key not in self._contents:
            source = self._settings.sources[stream.source]
            content = self._sources.content(source, self.records(stream), stream.resolution.area)
            wanted = self._settings.fingerprint or next((c.fingerprint for c in self._contents.values()), content.fingerprint)
            if content.fingerprint != wanted:
                raise ConfigError(
                    f"The samples of {source.title!r} are made by the encoders {content.fingerprint}, and this run is for "
                    f"{wanted}; encode again with the run's encoders."
                )
            self._contents[key] = content
        return self._contents[key]

    def _check_captions(self) -> None:
        variants: set[str] = set()
        for stream in self.streams:
            known = self.records(stream).variants
            if known is None:
                return
            variants |= known
        for name in self._settings.captions:
            if not any(matches(name, variant) for variant in variants):
                raise ConfigError(
                    f"feed.captions names {name!r}, and the sources have the captions {', '.join(sorted(variants)) or 'none'}; "
                    "use those names."
                )


class _Lengths:
    """How long the texts of a stream are, for sorting: of the caption that each record shows in an epoch."""

    def __init__(self, stream: Stream, records: Records, settings: FeedSettings, seed: int) -> None:
        self._stream, self._records, self._settings, self._seed = stream, records, settings, seed

    def __call__(self, members: Numbers, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        places = self._stream.members[members]
        keys = self._records.keys[places]
        draws = uniform(keys, self._seed, "caption", epoch)
        dropped = uniform(keys, self._seed, "drop", epoch) < self._settings.drop_condition
        found = [0.0 if out else self._length(int(i), draw) for i, draw, out in zip(places, draws, dropped, strict=True)]
        return np.asarray(found, dtype=np.float64)

    def _length(self, index: int, draw: float) -> float:
        if self._stream.task == "i2i":
            return 0.0
        if self._records.lengths is not None:
            tokens = {name: int(column[index]) for name, column in self._records.lengths.items() if column[index]}
            shown = choose(list(tokens), self._settings.captions, draw)
            return float(tokens[shown]) if shown else 0.0
        captions = self._records.captions[index] or {}
        shown = choose(list(captions), self._settings.captions, draw)
        return estimated_tokens(captions[shown]) if shown else 0.0


def collate(
    step: int, ids: tuple[str, ...], samples: Sequence[Sample], stream: Stream, fingerprint: str, first: int, total: int
) -> EncodedBatch:
    """One batch of samples of the same compound shape."""
    pictures = [torch.stack([sample.latents[n] for sample in samples]) for n in range(len(stream.sizes))]
    packed = [pack_latents(latents) for latents in pictures]
    embeds, mask = ConditionEncoder.pad([sample.text for sample in samples])
    shapes = [(1, latents.shape[2] // 2, latents.shape[3] // 2) for latents in pictures]
    references = torch.cat(packed[1:], dim=1) if len(packed) > 1 else None
    tasks = (stream.task,) * len(ids)
    return EncodedBatch(step, ids, packed[0], embeds, mask, [shapes] * len(ids), fingerprint, references, tasks, first, total)


def _looked_up(entry: tuple[Keys, Numbers] | None, keys: Keys) -> Numbers:
    if entry is None:
        return np.zeros(len(keys), dtype=np.int64)
    known, last = entry
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[places] == keys, last[places], 0)


def _merged(entry: tuple[Keys, Numbers] | None, keys: Keys, last: Numbers) -> tuple[Keys, Numbers]:
    """The entry with newer values for ``keys``."""
    if entry is not None:
        others = ~np.isin(entry[0], keys)
        keys, last = np.concatenate([keys, entry[0][others]]), np.concatenate([last, entry[1][others]])
    order = np.argsort(keys)
    return keys[order], last[order]
