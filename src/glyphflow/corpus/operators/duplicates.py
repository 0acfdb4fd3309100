"""Which pictures are the same picture: equal bytes, perceptual hashes a few bits apart, or one a part of the other.

Hashes find the pairs; whether two are one picture is for a look at them to say (:mod:`glyphflow.corpus.operators.alike`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from glyphflow.corpus.operators.metrics import CROPS

if TYPE_CHECKING:
    from numpy.typing import NDArray

DUPLICATE_TYPES = {
    "first_of_group": "string",  # id of the row that stays, itself for a picture without duplicates
    "duplicate_of": "string",  # the same, but null for the row that stays
    "distance": "int8",  # bits between the two hashes, or between a cut copy's and the nearest window's; 0 for equal bytes
    "group_size": "int32",
}


@dataclass(frozen=True)
class Candidate:
    """One picture as the grouping sees it. ``phash`` None: comparable by its bytes only. ``crops``: (CROPS,) window hashes.

    ``apart``: SHA-256 of pictures that this one was made from (an edit's references), and so is no duplicate of.
    """

    id: str
    sha256: str
    phash: int | None
    area: int
    size: int
    key: str
    crops: NDArray[np.uint64] | None = None
    apart: frozenset[str] = frozenset()


Look = Callable[[Candidate, Candidate], bool]
LOOKS = 64  # at a picture: one that is none of so many others of its hash is its own; a popular ground has thousands


def group_duplicates(
    candidates: Sequence[Candidate], distance: int, crop_distance: int, look: Look | None = None
) -> dict[str, dict[str, Any]]:
    """Columns (see DUPLICATE_TYPES) for the ids that have duplicates.

    Two pictures are duplicates when their bytes are equal, their hashes at most ``distance`` bits apart, or the hash of one at
    most ``crop_distance`` bits from that of a window of the other; where bytes differ, ``look`` has to agree. A picture and one
    that it was made from are no duplicates. Of a group the picture with the largest area stays, then the
    larger file, then the first key, so the choice does not depend on the order of the rows. Each of a group is a duplicate of
    the one that stays: chains, in which every picture resembles only the next (numbered icons do), are cut where that ends.
    """
    from glyphflow.corpus.operators.kernels import components

    pairs = [_equal([candidate.sha256 for candidate in candidates])]
    hashed = np.array([number for number, candidate in enumerate(candidates) if candidate.phash is not None], dtype=np.int64)
    if len(hashed):
        hashes = np.array([candidates[number].phash for number in hashed], dtype=np.uint64)
        pairs.append(hashed[linked_pairs(hashes, distance)])
        cut = np.array([number for number in hashed if candidates[number].crops is not None], dtype=np.int64)
        if len(cut):
            windows = np.stack([candidates[number].crops for number in cut])
            found = crop_pairs(hashes, windows, crop_distance)
            pairs.append(np.stack([hashed[found[:, 0]], cut[found[:, 1]]], axis=1))
    groups: dict[int, list[Candidate]] = defaultdict(list)
    for candidate, group in zip(candidates, components(len(candidates), np.concatenate(pairs)).tolist(), strict=True):
        groups[group].append(candidate)
    chains = (sorted(chain, key=_standing) for chain in groups.values() if len(chain) > 1)
    stars = (star for chain in chains for star in _stars(chain, distance, crop_distance, look) if len(star) > 1)
    return {row: columns for star in stars for row, columns in _columns(star)}


def near_pairs(hashes: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
    """All pairs (M, 2) of positions i < j whose 64-bit hashes differ in at most ``distance`` bits, each once."""
    from glyphflow.corpus.operators.kernels import pairs_within

    hashes = np.ascontiguousarray(hashes, np.uint64)
    pairs: NDArray[np.int64] = pairs_within(hashes, hashes, distance, True)
    return pairs


def linked_pairs(hashes: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
    """Pairs that connect what :func:`near_pairs` connects, but one for each repeated hash (flat pictures share one)."""
    distinct, first, of_row = np.unique(hashes, return_index=True, return_inverse=True)
    repeated = np.flatnonzero(first[of_row] != np.arange(len(hashes)))
    same = np.stack([first[of_row[repeated]], repeated], axis=1)
    linked: NDArray[np.int64] = np.concatenate([same, first[near_pairs(distinct, distance)]])
    return linked


def crop_pairs(hashes: NDArray[np.uint64], windows: NDArray[np.uint64], distance: int) -> NDArray[np.int64]:
    """Pairs (i, j), some more than once: picture i (``hashes`` (N,)) looks like a window of j (``windows`` (M, CROPS))."""
    from glyphflow.corpus.operators.kernels import pairs_within

    if not len(hashes):
        return np.empty((0, 2), np.int64)
    distinct, of_row = np.unique(hashes, return_inverse=True)
    found = pairs_within(distinct, np.ascontiguousarray(windows).reshape(-1), distance, False)
    holders = np.argsort(of_row, kind="stable")
    starts = np.searchsorted(of_row[holders], found[:, 0])  # one row for each hash: its equals are linked to it already
    return np.stack([holders[starts], found[:, 1] // CROPS], axis=1)


def _equal(values: Sequence[str]) -> NDArray[np.int64]:
    first: dict[str, int] = {}
    pairs = [(first.setdefault(value, number), number) for number, value in enumerate(values)]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], dtype=np.int64).reshape(-1, 2)


def _standing(each: Candidate) -> tuple[int, int, str, str]:
    """What stays of a group comes first."""
    return -each.area, -each.size, each.key, each.id


def _stars(chain: list[Candidate], distance: int, crop_distance: int, look: Look | None = None) -> Iterator[list[Candidate]]:
    """``chain`` in groups: the first with all that are its duplicates, then the same with those that are left."""
    looks: dict[str, int] = defaultdict(int)
    while chain:
        first, near = chain[0], [chain[0]]
        far: list[Candidate] = []
        for each in chain[1:]:
            (near if _same(first, each, distance, crop_distance, look, looks) else far).append(each)
        yield near
        chain = far


def _same(
    first: Candidate, each: Candidate, distance: int, crop_distance: int, look: Look | None, looks: dict[str, int]
) -> bool:
    if first.sha256 in each.apart or each.sha256 in first.apart:
        return False
    if first.sha256 == each.sha256:
        return True
    whole, part = _distances(first, each)
    if whole > distance and part > crop_distance:
        return False
    if look is None:
        return True
    looks[each.id] += 1
    return looks[each.id] <= LOOKS and look(first, each)


def _columns(group: list[Candidate]) -> list[tuple[str, dict[str, Any]]]:
    first = group[0]
    common = {"first_of_group": first.id, "group_size": len(group)}
    rows: list[tuple[str, dict[str, Any]]] = [(first.id, common | {"duplicate_of": None, "distance": None})]
    rows += [(each.id, common | {"duplicate_of": first.id, "distance": min(_distances(first, each))}) for each in group[1:]]
    return rows


def _distances(one: Candidate, other: Candidate) -> tuple[int, int]:
    """Bits between the two hashes, and the fewest between one's and those of the other's windows; 0 for equal bytes."""
    if one.sha256 == other.sha256:
        return 0, 0
    if one.phash is None or other.phash is None:
        return 64, 64
    parts = [
        int(np.bitwise_count(whole.crops ^ np.uint64(part.phash or 0)).min())
        for whole, part in ((one, other), (other, one))
        if whole.crops is not None
    ]
    return (one.phash ^ other.phash).bit_count(), min(parts, default=64)
