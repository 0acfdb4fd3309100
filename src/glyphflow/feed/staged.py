"""The feed of a whole run: segments one after the other, changed by amendments, and the batch of every step.

The batch of a step is a pure function of (segments, amendments, seed, step). What a segment inherits from those before it is
which records were served in the pass that is going on: that is computed again from their settings, so a restart at any step
needs nothing but the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from glyphflow.core.config import Config
from glyphflow.core.errors import ConfigError
from glyphflow.feed.amendments import Amendment, amended
from glyphflow.feed.batches import EncodedBatch
from glyphflow.feed.cache import LatentCache
from glyphflow.feed.content import CacheContent, Content, LiveContent, cache_path
from glyphflow.feed.encode import Encoders
from glyphflow.feed.order import Part, Pick
from glyphflow.feed.records import Records, cache_records, open_selection, selection_records
from glyphflow.feed.settings import FeedSettings, Positive, Source
from glyphflow.feed.streams import Stream
from glyphflow.feed.stretch import Opener, Stretch


class Segment(Config):
    """``steps`` feed steps from ``start`` on with the same settings; a curriculum's stages are segments without gaps."""

    name: str
    start: int
    steps: Positive
    settings: FeedSettings


class Sources:
    """Corpora and caches as recipes name them, each opened once. With ``encoders`` samples are made, else read from caches."""

    def __init__(self, encoders: Callable[[], Encoders] | None = None) -> None:
        self._make = encoders
        self._encoders: Encoders | None = None
        self._stopped = False
        self._records: dict[tuple[str, str | None, int], Records] = {}
        self._caches: dict[tuple[str, int], LatentCache] = {}

    def records(self, source: Source, view: str | None, area: int) -> Records:
        """The records of ``source``: of its corpus, or of its complete cache where there is no corpus."""
        seen = view or source.view
        key = (source.title, seen, 0 if source.corpus else area)
        if key not in self._records:
            if source.corpus:
                self._records[key] = selection_records(source.title, open_selection(source, view))
            else:
                self._records[key] = cache_records(source.title, self._cache(source, area))
        return self._records[key]

    def content(self, source: Source, records: Records, area: int) -> Content:
        """Where the tensors of these records come from."""
        if self._make is None:
            return CacheContent(records, self._cache(source, area), lambda: self._stopped)
        if self._encoders is None:
            self._encoders = self._make()
        return LiveContent(records, area, self._encoders)

    def stop(self) -> None:
        """Wait no longer for records that a cache does not have yet."""
        self._stopped = True

    def _cache(self, source: Source, area: int) -> LatentCache:
        key = (str(cache_path(source)), area)
        if key not in self._caches:
            self._caches[key] = LatentCache(cache_path(source), area)
        return self._caches[key]


Need = tuple[Source, Records, int, int, bool]
"""(source, its records, area, place of the record in them, whether its reconstruction is wanted, too)."""


class StagedFeed:
    """Batches of a run of ``segments``; see the module. ``sources`` opens what they name (default: caches).

    ``amendments`` hold from their step to the end of that step's segment. Raises ConfigError where settings ask for what the
    sources do not have.
    """

    def __init__(
        self, segments: Sequence[Segment], seed: int, amendments: Sequence[Amendment] = (), sources: Opener | None = None
    ) -> None:
        self.segments = tuple(segments)
        self.seed = seed
        self._sources = sources or Sources()
        end = 0
        for segment in self.segments:
            if segment.start != end:
                raise ConfigError(
                    f"The segment {segment.name!r} starts at step {segment.start}, and the one before ends at {end}."
                )
            end += segment.steps
        self.amendments: tuple[Amendment, ...] = ()
        self._spans: list[tuple[int, FeedSettings]] = []
        self._stretches: list[Stretch] = []
        self.amend(amendments)

    def amend(self, amendments: Sequence[Amendment]) -> None:
        """Take ``amendments`` as the whole log; what they do not change stays as it is, bit for bit."""
        amendments = tuple(amendments)
        if self._spans and amendments == self.amendments:
            return
        self.amendments = amendments
        spans: list[tuple[int, FeedSettings]] = []
        for segment in self.segments:
            inside = [a for a in amendments if self.segment_at(a.from_step) is segment]
            for start in sorted({segment.start, *(a.from_step for a in inside)}):
                settings = amended(segment.settings, [a for a in inside if a.from_step <= start])
                if not spans or settings.content != spans[-1][1].content:
                    spans.append((start, settings))
        same = next((n for n, (a, b) in enumerate(zip(spans, self._spans, strict=False)) if a != b), len(self._spans))
        self._spans = spans
        self._stretches = self._stretches[:same]

    def segment_at(self, step: int) -> Segment:
        """The segment of ``step``; the last one goes on for ever."""
        return next((s for s in self.segments if step < s.start + s.steps), self.segments[-1])

    def settings_at(self, step: int) -> FeedSettings:
        """The settings of ``step``, amendments applied."""
        segment = self.segment_at(step)
        inside = [a for a in self.amendments if a.from_step <= step and self.segment_at(a.from_step) is segment]
        return amended(segment.settings, inside)

    def batch(self, step: int, part: Part | None = None) -> EncodedBatch:
        """The samples of ``step`` >= 0 that belong to ``part`` (default: all)."""
        return self._stretch(step).batch(step, part or Part())

    def picks(self, step: int) -> tuple[Stream, list[Pick]]:
        """What the batch of ``step`` is made of, without opening anything."""
        return self._stretch(step).picks(step)

    def side(self, step: int) -> int:
        """Side in pixels of a square of the area that the pictures of ``step`` have."""
        return math.isqrt(self.picks(step)[0].resolution.area)

    def record_ids(self, step: int) -> list[str]:
        """Ids of the records of ``step``, in order."""
        stream, picks = self.picks(step)
        ids = self._stretch(step).records(stream).ids
        return [ids[int(stream.members[pick.member])] for pick in picks]

    def needs(self, heldout: int) -> Iterator[Need]:
        """Every record of every source and area once.

        First the records of ``heldout`` held-out samples, then those of step after step, then what no step reaches. The
        reconstruction is wanted of those records only that a step of the task i2i reaches.
        """
        copied = self._copied(heldout)
        met: dict[tuple[str, int], set[str]] = {}

        def fresh(stretch: Stretch, stream: Stream, members: Iterable[int]) -> Iterator[tuple[Source, Records, int, int, bool]]:
            source, records, area = stretch.source(stream), stretch.records(stream), stream.resolution.area
            known = met.setdefault((source.title, area), set())
            for index in members:
                if records.ids[index] not in known:
                    known.add(records.ids[index])
                    yield source, records, area, index, (source.title, area, records.ids[index]) in copied

        for stretch, stream, members in self._shown(heldout):
            yield from fresh(stretch, stream, members)
        for start, _ in self._spans:
            stretch = self._stretch(start)
            for stream in [*stretch.streams, *stretch.heldout_streams()]:
                yield from fresh(stretch, stream, stream.members.tolist())

    def stretches(self) -> Iterator[tuple[int, Stretch]]:
        """Between two changes of what is drawn: how many steps, and what they draw from."""
        ends = [start for start, _ in self._spans[1:]] + [self.segments[-1].start + self.segments[-1].steps]
        for (start, _), end in zip(self._spans, ends, strict=True):
            yield max(0, end - start), self._stretch(start)

    def _copied(self, heldout: int) -> set[tuple[str, int, str]]:
        """(source, area, id) of the records that a step or a held-out sample shows as their own reconstruction: their texts
        see the picture, which costs as much as all else of a record, so nobody else's are made."""
        if not any(settings.tasks.get("i2i", 0) > 0 for _, settings in self._spans):
            return set()
        return {
            (stretch.source(stream).title, stream.resolution.area, stretch.records(stream).ids[index])
            for stretch, stream, members in self._shown(heldout)
            if stream.task == "i2i"
            for index in members
        }

    def _shown(self, heldout: int) -> Iterator[tuple[Stretch, Stream, list[int]]]:
        """The places of the records of ``heldout`` held-out samples, then of step after step."""
        yield from self._heldout(heldout)
        for step in range(sum(segment.steps for segment in self.segments)):
            stretch = self._stretch(step)
            stream, picks = stretch.picks(step)
            yield stretch, stream, [int(stream.members[pick.member]) for pick in picks]

    def stop(self) -> None:
        """Wait no longer for records that a cache does not have yet: whoever waits gets an error."""
        self._sources.stop()

    def heldout(self, count: int) -> list[EncodedBatch]:
        """About ``count`` held-out samples, evenly from all segments, in batches of one shape; always the same ones.

        Each shows the caption that its settings make likeliest; no condition is dropped.
        """
        return [batch for stretch, stream, members in self._heldout(count) for batch in stretch.heldout(stream, members)]

    def _heldout(self, count: int) -> list[tuple[Stretch, Stream, list[int]]]:
        """Held-out streams of all segments, amendments aside, with the members that are taken."""
        streams: dict[tuple[str, object], tuple[Stretch, Stream]] = {}
        for segment in self.segments:
            stretch = Stretch(segment.start, segment.settings, self.seed, self._sources, {})
            for stream in stretch.heldout_streams():
                streams.setdefault((stream.name, stream.sizes), (stretch, stream))
        total = sum(len(stream.members) for _, stream in streams.values())
        stride = max(1, total // max(1, count))
        found, passed = [], 0
        for stretch, stream in streams.values() if count else ():
            if members := stream.members[-passed % stride :: stride].tolist():
                found.append((stretch, stream, members))
            passed += len(stream.members)
        return found

    def _stretch(self, step: int) -> Stretch:
        number = max(n for n, (start, _) in enumerate(self._spans) if start <= step)
        while len(self._stretches) <= number:
            start, settings = self._spans[len(self._stretches)]
            before = self._stretches[-1].ledger_at(start) if self._stretches else {}
            self._stretches.append(Stretch(start, settings, self.seed, self._sources, before))
        return self._stretches[number]
