"""From settings to streams: which records may share a batch, and which share of the steps each group gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from glyphflow.core.errors import ConfigError
from glyphflow.feed.buckets import Size, bucket_of, bucket_sizes, cut_share
from glyphflow.feed.order import Numbers, is_heldout
from glyphflow.feed.records import Records
from glyphflow.feed.settings import TEXT_LEVELS, FeedSettings, Resolution, Task

Compound = tuple[Size, ...]
"""(width, height) in pixels of the target's bucket and of each reference's, in order."""


@dataclass(frozen=True)
class Stream:
    """Records that may share a batch: one source, task, resolution, label combination and compound shape."""

    source: int
    """Number of the source in the settings."""
    task: Task
    resolution: Resolution
    sizes: Compound
    members: Numbers
    """Places of the records in the source's :class:`Records`."""
    share: float
    """Share of the steps."""
    name: str
    """What its passes are kept under: source, area and task, but no label, so that relabelled records are not repeated."""
    domain: str = ""
    split: str = ""


def build_streams(settings: FeedSettings, records: Callable[[int, int], Records], *, heldout: bool = False) -> list[Stream]:
    """The streams of ``settings``; ``records(source number, area)`` opens them. ``heldout`` takes the other records.

    Raises ConfigError when a weight names something that no record has, or when nothing is left.
    """
    found: list[Stream] = []
    total = sum(each.share for each in settings.resolutions)
    names = _Names(settings)
    for resolution in settings.resolutions:
        groups = []
        for number, source in enumerate(settings.sources):
            if source.side is not None and source.side**2 != resolution.area:
                continue
            groups += _source_streams(settings, number, records(number, resolution.area), resolution, names, heldout)
        found += _shared(settings, groups, resolution.share / total)
    if not heldout:
        names.check(found)
    return found


def _source_streams(
    settings: FeedSettings, number: int, records: Records, resolution: Resolution, names: _Names, heldout: bool
) -> list[Stream]:
    """The streams of one source; ``share`` is still the sum of the records' weights."""
    source = settings.sources[number]
    keep = np.asarray([is_heldout(one, settings.heldout_share) == heldout for one in records.ids], dtype=bool)
    if settings.text not in (None, TEXT_LEVELS[-1]):
        allowed = {"", *TEXT_LEVELS[: TEXT_LEVELS.index(settings.text) + 1]}
        keep &= np.asarray([label in allowed for label in records.labels("text")], dtype=bool)
    weights = records.weights
    keep &= weights > 0
    edits = np.asarray([len(sizes) > 1 for sizes in records.pictures], dtype=bool)
    labels = names.labels(source.title, records)
    buckets = bucket_sizes(resolution.area)
    place = {size: bucket_of(size, buckets) for sizes in records.pictures for size in sizes}
    places = [tuple(place[size] for size in sizes) for sizes in records.pictures]
    keep &= ~cropped_away(records, buckets, settings.crop_limit)
    by_stream: dict[tuple[Task, str, str, Compound], list[int]] = {}
    for index in np.flatnonzero(keep).tolist():
        for task in settings.tasks:
            if task == "i2i" or edits[index] == (task == "ti2i"):
                domain, split = ("", "") if task == "ti2i" else labels[index]
                sizes = (places[index][0],) * 2 if task == "i2i" else places[index]
                by_stream.setdefault((task, domain, split, sizes), []).append(index)  # type: ignore[arg-type]
    found = []
    for (task, domain, split, sizes), members in sorted(by_stream.items()):
        array = np.asarray(members, dtype=np.int64)
        name = f"{source.title}|{resolution.area}|{task}"
        found.append(Stream(number, task, resolution, sizes, array, float(weights[array].sum()), name, domain, split))
    return found


def cropped_away(records: Records, buckets: tuple[Size, ...], limit: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which records have a picture that would lose more than the share ``limit``."""
    sizes = {size for pictures in records.pictures for size in pictures}
    lost = {size: cut_share(size, bucket_of(size, buckets)) > limit for size in sizes}
    return np.asarray([any(lost[size] for size in pictures) for pictures in records.pictures], dtype=np.bool_)


Level = tuple[Callable[[Stream], str], Mapping[str, float]]
"""What streams are grouped by, and the weight of each group; a group that is not named weighs nothing."""


def _shared(settings: FeedSettings, streams: Sequence[Stream], share: float) -> list[Stream]:
    """The streams of one resolution with their shares of the steps; those of weight zero are left out."""
    levels: list[Level] = [(lambda s: s.task, settings.tasks)]
    if settings.mixture:  # edits have no domain and no split here: they are one group, whatever the weights say
        levels.append((lambda s: s.domain, {"": 1.0} | settings.mixture))
    levels.append((lambda s: str(s.source), {str(number): source.weight for number, source in enumerate(settings.sources)}))
    if settings.splits:
        levels.append((lambda s: s.split, {"": 1.0} | settings.splits))
    alive = [s for s in streams if all(weights.get(label(s), 0.0) > 0 for label, weights in levels)]
    return _divided(alive, share, levels)


def _divided(streams: Sequence[Stream], share: float, levels: Sequence[Level]) -> list[Stream]:
    """``share`` handed down level by level; at the bottom by the records' weights."""
    if not levels:
        total = sum(stream.share for stream in streams)
        return [replace(stream, share=share * stream.share / total) for stream in streams]
    label, weights = levels[0]
    groups: dict[str, list[Stream]] = {}
    for stream in streams:
        groups.setdefault(label(stream), []).append(stream)
    total = sum(weights[key] for key in groups)
    return [one for key, group in groups.items() for one in _divided(group, share * weights[key] / total, levels[1:])]


class _Names:
    """The labels that settings weigh, and whether each name they use was met."""

    def __init__(self, settings: FeedSettings) -> None:
        self._settings = settings
        self._met: dict[str, set[str]] = {"mixture": set(), "splits": set()}

    def labels(self, title: str, records: Records) -> list[tuple[str, str]]:
        """(domain or source name, split) of each record; "" where the settings do not weigh it."""
        domains, splits = [""] * len(records.ids), [""] * len(records.ids)
        if title in self._settings.mixture:
            domains = [title] * len(records.ids)
        elif self._settings.mixture:
            domains = [one or "unlabelled" for one in records.labels("domain")]
        if self._settings.splits:
            splits = [one or "unlabelled" for one in records.labels("split")]
        self._met["mixture"] |= set(domains)
        self._met["splits"] |= set(splits)
        return list(zip(domains, splits, strict=True))

    def check(self, streams: Sequence[Stream]) -> None:
        """Refuse names that no record has, and settings that leave nothing."""
        for key, weights in (("mixture", self._settings.mixture), ("splits", self._settings.splits)):
            for name, weight in weights.items():
                if weight > 0 and name not in self._met[key]:
                    there = ", ".join(sorted(self._met[key])) or "none"
                    raise ConfigError(f"feed.{key} names {name!r}, and no record of the sources has it (there are: {there}).")
        tasks = {stream.task for stream in streams}
        for task, weight in self._settings.tasks.items():
            if weight > 0 and task not in tasks:
                kind = "edits (rows with references)" if task == "ti2i" else "records to train on"
                raise ConfigError(
                    f"feed.tasks asks for {task}, and the sources hold no {kind} after mixture, splits, text and crop_limit "
                    f"({self._settings.crop_limit:g} of a picture may be cut away)."
                )
