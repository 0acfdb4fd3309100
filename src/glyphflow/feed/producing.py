"""Filling a cache: the records of a run in the order in which it needs them, resumable, by any number of processes at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glyphflow.core.progress import Progress
from glyphflow.feed.cache import (
    DamagedShard,
    EncodedSample,
    LatentCache,
    Shard,
    Unreadable,
    area_directory,
    caption_mark,
    open_cache,
    set_aside,
    write_shard,
)
from glyphflow.feed.content import PRODUCERS, cache_path
from glyphflow.feed.encode import LONG_CAPTION, Encoders, Loaded, encode_loaded, load_pictures
from glyphflow.feed.locks import patient
from glyphflow.feed.order import Part
from glyphflow.feed.prefetch import Prefetch
from glyphflow.feed.records import Records, Selection, selection_records
from glyphflow.feed.staged import StagedFeed
from glyphflow.feed.texts import COPY

SHARD_RECORDS = 128
_TOGETHER = 64
"""Records that are encoded at a time, so that pictures of one size come together: 340 MB of pixels at 1328 px."""


_NAMED = 5


@dataclass(frozen=True)
class Block:
    """Records that one shard shall hold."""

    cache: Path
    area: int
    records: Records
    members: Sequence[int]
    """Places in ``records``."""
    copies: bool
    """Whether the texts of reconstruction are wanted."""


def encode_selection(
    selection: Selection, encoders: Encoders, cache: Path, area: int, *, copies: bool = False, part: Part | None = None
) -> int:
    """Encode all records of ``selection`` into ``cache`` at ``area`` pixels, in their order; returns how many it holds.

    Pictures are brought to the nearest of the nine buckets. What is there already is kept; a cache of other encoders is
    refused with a ConfigError. A record whose picture cannot be read is left out; its shard says why. With ``copies`` the
    texts of reconstruction are encoded, too. ``part`` takes every ``world``-th shard.
    """
    records = selection_records(Path(cache).name, selection)
    starts = range(0, len(records.ids), SHARD_RECORDS)
    blocks = [
        Block(Path(cache), area, records, range(start, min(start + SHARD_RECORDS, len(records.ids))), copies)
        for start in starts
    ]
    return encode_blocks(blocks, encoders, part or Part())[Path(cache)]


def encode_feed(
    feed: StagedFeed,
    encoders: Encoders,
    heldout: int = 0,
    part: Part | None = None,
    *,
    check: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[Path, int]:
    """Encode what ``feed`` needs into the caches of its sources, first ``heldout`` held-out samples, then step by step.

    Records that the feed's steps never reach come last. Returns how many records each cache holds, over all its areas.
    ``check`` reads every record that is there and compares it with its checksum. ``say`` is told what was left out.
    """
    return encode_blocks(feed_blocks(feed, heldout), encoders, part or Part(), check=check, say=say)


def feed_blocks(feed: StagedFeed, heldout: int) -> list[Block]:
    """The records of a feed in blocks, by the step that needs the first of each."""
    blocks: list[Block] = []
    growing: dict[tuple[Path, int, bool], tuple[Block, list[int]]] = {}
    for source, records, area, index, copies in feed.needs(heldout):
        key = (cache_path(source), area, copies)
        block, members = growing.get(key, (None, []))
        if block is None or block.records is not records or len(members) == SHARD_RECORDS:
            members = []
            blocks.append(Block(*key[:2], records, members, copies))
            growing[key] = blocks[-1], members
        members.append(index)
    return blocks


def encode_blocks(
    blocks: Sequence[Block],
    encoders: Encoders,
    part: Part,
    *,
    check: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[Path, int]:
    """Write the shards of every ``part.world``-th block, as far as their records are missing.

    Each process that fills caches holds a lock of its own in all of them to its end, by which those who wait for records know
    that they come. A damaged shard is put aside and its records are encoded again.
    """
    caches = {(block.cache, block.area): block for block in blocks}
    opened: dict[tuple[Path, int], LatentCache] = {}
    for cache, area in caches:
        with patient(cache / PRODUCERS, "opening the cache"):
            open_cache(cache, encoders.fingerprint, encoders.text(""))
        _put_damaged_aside(area_directory(cache, area), check)
        opened[cache, area] = LatentCache(cache, area)
    mine = [block for number, block in enumerate(blocks) if number % part.world == part.rank]
    work = [(block, _missing(block, opened[block.cache, block.area], again=True)) for block in mine]
    total = sum(len(block.members) for block in mine)
    done = total - sum(len(missing) for _, missing in work)
    with contextlib.ExitStack() as stack:
        for cache in sorted({block.cache for block in blocks}):
            name, purpose = f"{part.rank + 1}-of-{part.world}", f"encoding part {part.rank + 1}"
            stack.enter_context(patient(cache / PRODUCERS / name, purpose, seconds=2))
        progress = stack.enter_context(Progress("encode", total, "img", initial=done))
        _write([(block, missing) for block, missing in work if missing], opened, encoders, progress)
    found: dict[Path, int] = {}
    for (cache, area), reader in opened.items():
        reader.refresh()
        if not any(_missing(block, reader) for block in blocks if (block.cache, block.area) == (cache, area)):
            reader.mark_complete()
        found[cache] = found.get(cache, 0) + len(reader.places)
    for line in _left_out(blocks, opened):
        say(line)
    return found


def _left_out(blocks: Sequence[Block], opened: Mapping[tuple[Path, int], LatentCache]) -> Iterator[str]:
    """A line for each cache that lacks records, with the first few of them and why."""
    lost: dict[Path, dict[str, str]] = {}
    for block in blocks:
        reader = opened[block.cache, block.area]
        for index in block.members:
            record = block.records.ids[index]
            if record in reader.skipped and not _current(block, reader, index):
                lost.setdefault(block.cache, {})[block.records.name(index)] = reader.skipped[record].rstrip(".")
    for cache, reasons in lost.items():
        named = "; ".join(f"{name}: {why}" for name, why in list(reasons.items())[:_NAMED])
        more = f"; and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
        yield f"{len(reasons)} records are left out of {cache}: {named}{more}."


def _write(
    work: Sequence[tuple[Block, list[int]]],
    opened: Mapping[tuple[Path, int], LatentCache],
    encoders: Encoders,
    progress: Progress,
) -> None:
    """Encode and write shard by shard, while a thread decodes (or draws) the pictures that come next."""
    turns = [(block, index) for block, missing in work for index in missing]

    def load(turn: int) -> Loaded | str | None:
        if turn >= len(turns):
            return None
        block, index = turns[turn]
        selection = block.records.selection
        assert selection is not None
        try:
            return Loaded(block.records.ids[index], *load_pictures(selection, index, block.area))
        except Unreadable as error:
            return str(error)

    with Prefetch(load, 0, depth=8) as loaded:
        for block, missing in work:
            samples: list[EncodedSample] = []
            skipped: dict[str, str] = {}
            for start in range(0, len(missing), _TOGETHER):
                some = missing[start : start + _TOGETHER]
                found = [loaded.next()[0] for _ in some]
                skipped |= {block.records.ids[i]: one for i, one in zip(some, found, strict=True) if isinstance(one, str)}
                good = [one for one in found if isinstance(one, Loaded)]
                encoded = encode_loaded(good, encoders, copies=block.copies)
                samples += [one for one in encoded if isinstance(one, EncodedSample)]
                refused = zip(good, encoded, strict=True)
                skipped |= {loaded.id: str(one) for loaded, one in refused if isinstance(one, Unreadable)}
                progress.advance(len(some))
            places = opened[block.cache, block.area].places
            known = [places[s.id][0].generation for s in samples if s.id in places]
            write_shard(area_directory(block.cache, block.area), samples, skipped, max(known, default=-1) + 1)


def _missing(block: Block, cache: LatentCache, *, again: bool = False) -> list[int]:
    """The members of ``block`` that the cache lacks, or has with other texts than they have now.

    Those that were left out are not missing; ``again`` takes them once more where it was for their caption.
    """
    found = []
    for index in block.members:
        record = block.records.ids[index]
        if _current(block, cache, index):
            continue
        if record in cache.skipped and not (again and (record in cache.places or _refused_caption(cache, record))):
            continue
        found.append(index)
    return found


def _refused_caption(cache: LatentCache, record: str) -> bool:
    return cache.skipped[record].startswith(LONG_CAPTION)


def _current(block: Block, cache: LatentCache, index: int) -> bool:
    """Whether the cache has a member of ``block`` with the texts that it has now."""
    record = block.records.ids[index]
    if record not in cache.places:
        return False
    shard, row = cache.places[record]
    names = shard.names(row)
    said = {name: int(shard.said[row, shard.texts.index(name)]) for name in names}
    captions = block.records.captions[index] or {}
    if any(said.get(name) != caption_mark(caption) for name, caption in captions.items()):
        return False
    return COPY in names or not block.copies


def _put_damaged_aside(directory: Path, check: bool) -> None:
    for path in sorted(directory.glob("*.safetensors")):
        try:
            shard = Shard(path)
            for row in range(len(shard.ids) if check else 0):
                shard.check(row)
        except DamagedShard:
            set_aside(path)
