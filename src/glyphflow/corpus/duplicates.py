"""Which pictures are the same picture: equal bytes, or perceptual hashes a few bits apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DUPLICATE_TYPES = {
    "first_of_group": "string",  # id of the row that stays, itself for a picture without duplicates
    "duplicate_of": "string",  # the same, but null for the row that stays
    "distance": "int8",  # bits between the two hashes; 0 for equal bytes; null for the row that stays
    "group_size": "int32",
}
BANDS = 4  # of 16 bits: two hashes at most 3 bits apart agree in at least one of 4 bands
_BLOCK = 2048  # rows of a band's bucket compared at once, bounds the memory to 32 MiB


@dataclass(frozen=True)
class Candidate:
    """One picture as the grouping sees it. ``phash`` None: comparable by its bytes only."""

    id: str
    sha256: str
    phash: int | None
    area: int
    size: int
    key: str


def group_duplicates(candidates: Sequence[Candidate], distance: int) -> dict[str, dict[str, Any]]:
    """Columns (see DUPLICATE_TYPES) for the ids that have duplicates.

    Of a group the picture with the largest area stays, then the larger file, then the first key, so the choice does not depend
    on the order of the rows. Groups are connected components, so a row may be further than ``distance`` from the one that
    stays.
    """
    if distance >= BANDS:
        raise ValueError(f"distance {distance} needs more than {BANDS} bands")
    parent = list(range(len(candidates)))
    by_bytes: dict[str, int] = {}
    for number, candidate in enumerate(candidates):
        _join(parent, number, by_bytes.setdefault(candidate.sha256, number))
    hashed = [number for number, candidate in enumerate(candidates) if candidate.phash is not None]
    hashes = np.array([candidates[number].phash for number in hashed], dtype=np.uint64)
    for first, second in near_pairs(hashes, distance):
        _join(parent, hashed[first], hashed[second])
    groups: dict[int, list[Candidate]] = defaultdict(list)
    for number, candidate in enumerate(candidates):
        groups[_root(parent, number)].append(candidate)
    return {row: columns for group in groups.values() if len(group) > 1 for row, columns in _columns(group)}


def near_pairs(hashes: NDArray[np.uint64], distance: int) -> list[tuple[int, int]]:
    """Pairs of positions whose 64-bit hashes differ in at most ``distance`` (< 4) bits; a pair may be listed more than once."""
    pairs: list[tuple[int, int]] = []
    for band in range(BANDS):
        values = (hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(values, kind="stable")
        starts = np.flatnonzero(np.diff(values[order], prepend=np.uint64(1 << 20)))
        for bucket in np.split(order, starts[1:]) if len(order) else []:
            for start in range(0, len(bucket) if len(bucket) > 1 else 0, _BLOCK):
                rows = bucket[start : start + _BLOCK]
                bits = np.bitwise_count(hashes[rows][:, None] ^ hashes[bucket][None, :])
                first, second = np.nonzero(bits <= distance)
                pairs += [(int(rows[a]), int(bucket[b])) for a, b in zip(first, second, strict=True) if a + start < b]
    return pairs


def _columns(group: list[Candidate]) -> list[tuple[str, dict[str, Any]]]:
    group = sorted(group, key=lambda each: (-each.area, -each.size, each.key, each.id))
    first = group[0]
    common = {"first_of_group": first.id, "group_size": len(group)}
    rows: list[tuple[str, dict[str, Any]]] = [(first.id, common | {"duplicate_of": None, "distance": None})]
    for each in group[1:]:
        known = each.phash is not None and first.phash is not None and each.sha256 != first.sha256
        bits = (each.phash ^ first.phash).bit_count() if known else 0  # type: ignore[operator]
        rows.append((each.id, common | {"duplicate_of": first.id, "distance": bits}))
    return rows


def _root(parent: list[int], number: int) -> int:
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = parent[number]
    return number


def _join(parent: list[int], first: int, second: int) -> None:
    low, high = sorted((_root(parent, first), _root(parent, second)))
    parent[high] = low
