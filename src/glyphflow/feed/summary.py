"""What a run will learn from, told before its first step: pictures, captions, buckets; what is enlarged, cut or left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from glyphflow.core.errors import MissingError
from glyphflow.core.hashing import fingerprint
from glyphflow.corpus.annotate.prompts import quotations
from glyphflow.feed.buckets import Size, bucket_of, bucket_sizes, cut_share, scale_of
from glyphflow.feed.order import is_heldout
from glyphflow.feed.records import Records
from glyphflow.feed.staged import StagedFeed
from glyphflow.feed.streams import Stream, cropped_away
from glyphflow.feed.stretch import Stretch
from glyphflow.perception.language import language

ENLARGED = 1.5
"""Times from which on a picture counts as enlarged: what it then teaches is blur."""
_CUT = 0.02  # share from which on a picture counts as cropped; less is the rounding of sides to 16
_QUOTED_CUT = 0.1  # share from which on quoted words may be lost with what is cut
_LANGUAGES_OF = 2000  # captions whose language is looked at
_NAMED = 3


@dataclass
class Group:
    """The records of one source at one area."""

    title: str
    area: int
    limit: float
    records: Records
    members: set[int] = field(default_factory=set)
    """Places of the records that are trained on."""
    samples: float = 0.0
    """How often the whole run draws one of them."""

    @property
    def passes(self) -> float:
        """How often the run draws each of them, on average."""
        return self.samples / max(1, len(self.members))


def groups_of(feed: StagedFeed) -> list[Group]:
    """Sources and areas of ``feed`` with what its steps draw from each; opens the corpora, and no picture."""
    found: dict[tuple[str, int], Group] = {}
    for steps, stretch in feed.stretches():
        for stream in stretch.streams:
            group = _group(found, stretch, stream)
            group.members |= set(stream.members.tolist())
            group.samples += steps * stream.share * stream.resolution.batch_size
    return list(found.values())


def _group(found: dict[tuple[str, int], Group], stretch: Stretch, stream: Stream) -> Group:
    title, area = stretch.source(stream).title, stream.resolution.area
    if (title, area) not in found:
        found[title, area] = Group(title, area, stretch.crop_limit, stretch.records(stream))
    return found[title, area]


def summary(feed: StagedFeed, heldout_share: float) -> list[str]:
    """The table and the sentences under it."""
    groups = groups_of(feed)
    rows: list[tuple[str, ...]] = [
        ("source", "px", "pictures", "held out", "passes", *_KINDS, "enlarged", "cropped", "left out")
    ]
    sentences: list[str] = []
    for group in groups:
        row, words = _row(group, heldout_share)
        rows.append(row)
        sentences += words
    return ["What the run learns from:", *_table(rows), *sentences]


_KINDS = ("no caption", "English", "Chinese", "other")


def _row(group: Group, heldout_share: float) -> tuple[tuple[str, ...], list[str]]:
    records, buckets = group.records, bucket_sizes(group.area)
    members = sorted(group.members)
    held = sum(is_heldout(one, heldout_share) for one in records.ids)
    lost = np.flatnonzero(cropped_away(records, buckets, group.limit)).tolist()
    kinds, known, seen = _kinds(records, members)
    enlarged = [(scale_of(size, bucket), place) for place, size, bucket in _fitted(records, members, buckets)]
    enlarged = sorted((one for one in enlarged if one[0] > ENLARGED), reverse=True)
    cropped = [(cut_share(size, bucket), place) for place, size, bucket in _fitted(records, members, buckets)]
    cropped = sorted((one for one in cropped if one[0] > _CUT), reverse=True)
    told = [str(kinds[kind]) if known else "?" for kind in _KINDS]
    numbers = (
        str(len(members)),
        str(held),
        f"{group.passes:.3g}",
        *told,
        str(len(enlarged)),
        str(len(cropped)),
        str(len(lost)),
    )
    row = (group.title, str(round(group.area**0.5)), *numbers)
    return row, list(_sentences(group, members, held, kinds if known else Counter(), seen, enlarged, cropped, lost))


def _sentences(
    group: Group,
    members: Sequence[int],
    held: int,
    kinds: Counter[str],
    seen: int,
    enlarged: Sequence[tuple[float, int]],
    cropped: Sequence[tuple[float, int]],
    lost: Sequence[int],
) -> Iterator[str]:
    records, buckets = group.records, bucket_sizes(group.area)
    counts = Counter(bucket for _, _, bucket in _fitted(records, members, buckets))
    sizes = ", ".join(f"{wide}x{high} {count}" for (wide, high), count in counts.most_common())
    yield f"{group.title}: buckets {sizes}."
    if kinds["no caption"]:
        yield (
            f"{group.title}: {kinds['no caption']} of {len(members)} pictures have no caption and are trained with the empty "
            "prompt; write captions beside the pictures and ingest again, or run glyphflow corpus annotate."
        )
    if seen < len(members) and kinds:
        yield f"{group.title}: the languages are those of {seen} captions, the others are taken to be alike."
    if enlarged:
        scale, place = enlarged[0]
        yield (
            f"{group.title}: {len(enlarged)} pictures are enlarged more than {ENLARGED:g} times, {records.name(place)} "
            f"{scale:.1f} times; what they teach is blur, so choose a smaller area or leave them out by a view."
        )
    if cropped:
        share, place = cropped[0]
        yield f"{group.title}: {len(cropped)} pictures are cropped, most of all {records.name(place)}: {share:.0%} is cut away."
    if words := [(share, place) for share, place in cropped if share > _QUOTED_CUT and _quoted(records, place)]:
        named = ", ".join(f"{records.name(place)} {_quoted(records, place)}" for _, place in words[:_NAMED])
        yield f"{group.title}: the crop may cut off words that the captions quote, in {len(words)} pictures: {named}."
    if lost:
        named = ", ".join(f"{records.name(place)} {_cut(records, place, buckets):.0%}" for place in lost[:_NAMED])
        yield (
            f"{group.title}: {len(lost)} pictures are left out, as the crop would cut away more than feed.crop_limit = "
            f"{group.limit:g} of each: {named}; cut them into pieces of at most 3:1, or raise feed.crop_limit."
        )
    if not held:
        yield f"{group.title}: nothing is held out, so there is no held-out loss of it."


def _fitted(records: Records, members: Sequence[int], buckets: tuple[Size, ...]) -> Iterator[tuple[int, Size, Size]]:
    """(place, size, bucket) of each target."""
    for place in members:
        size = records.pictures[place][0]
        yield place, size, bucket_of(size, buckets)


def _cut(records: Records, place: int, buckets: tuple[Size, ...]) -> float:
    return max(cut_share(size, bucket_of(size, buckets)) for size in records.pictures[place])


def _quoted(records: Records, place: int) -> str:
    words = [word for caption in (records.captions[place] or {}).values() for word in quotations(caption)]
    return ", ".join(f'"{word}"' for word in dict.fromkeys(words))


def _kinds(records: Records, members: Sequence[int]) -> tuple[Counter[str], bool, int]:
    """How many records have captions of which kind, whether that is known at all, and how many captions were looked at.

    A record with captions in two languages counts twice. Captions of renders are known once they are drawn.
    """
    found: Counter[str] = Counter()
    open_places = [place for place in members if records.captions[place] is not None]
    if len(open_places) < len(members):
        return found, False, 0
    with_captions = []
    for place in open_places:
        captions = [caption for caption in (records.captions[place] or {}).values() if caption.strip()]
        if captions:
            with_captions.append(captions)
        else:
            found["no caption"] += 1
    looked = with_captions[:: max(1, -(-len(with_captions) // _LANGUAGES_OF))]
    weight = len(with_captions) / max(1, len(looked))
    spoken = Counter(kind for captions in looked for kind in {_kind(caption) for caption in captions})
    found.update({kind: round(weight * count) for kind, count in spoken.items()})
    return found, True, len(looked) + found["no caption"]


def _kind(caption: str) -> str:
    try:
        return {"en": "English", "zh": "Chinese"}.get(language(caption), "other")
    except MissingError:  # the classifier of Latin, Arabic and Devanagari texts
        return "English" if sum(char < "\u0250" for char in caption) * 2 > len(caption) else "other"


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        yield "  ".join(f"{cell:<{width}}" if n < 1 else f"{cell:>{width}}" for n, (cell, width) in cells).rstrip()


def contents(feed: StagedFeed) -> dict[str, dict[str, str | int]]:
    """Identity of what each source of ``feed`` holds now: how many records, which, and what their captions say."""
    found: dict[str, dict[str, str | int]] = {}
    for group in groups_of(feed):
        ids, captions = list(group.records.ids), [dict(one) if one else None for one in group.records.captions]
        found[group.title] = {"records": len(ids), "ids": fingerprint(ids), "captions": fingerprint(captions)}
    return found


def decided_by_limit(feed: StagedFeed, one: float, other: float) -> int:
    """How many pictures of ``feed`` one crop_limit takes and the other leaves out."""
    counted = 0
    for group in groups_of(feed):
        first, second = (cropped_away(group.records, bucket_sizes(group.area), limit) for limit in (one, other))
        counted += int((first != second).sum())
    return counted


def changes(before: dict[str, dict[str, str | int]], now: dict[str, dict[str, str | int]]) -> list[str]:
    """What is no longer as it was, a sentence for each source."""
    found = []
    for title in sorted(before.keys() & now.keys()):
        old, new = before[title], now[title]
        if old["ids"] != new["ids"]:
            found.append(f"{title} held {old['records']} records and holds {new['records']} now, not the same ones")
        elif old["captions"] != new["captions"]:
            found.append(f"captions of {title} have changed")
    return found
