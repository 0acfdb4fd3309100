"""What is decided about a row beside all others: patches for weak categories, the best of each, and weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from glyphflow.core.config import parse_yaml
from glyphflow.core.errors import ConfigError
from glyphflow.core.hardware import require
from glyphflow.core.text import read_text
from glyphflow.corpus.decide.scan import Failing, Scan
from glyphflow.corpus.recipe import Balance, Best, Patch, Resample
from glyphflow.corpus.store import PHOTO

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

BRANCH, NODE, SCORE, MENTIONS = "categories.branch", "categories.node", "categories.score", "categories.mentions"
LINES = "text.lines"
_HAN = ((0x3400, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))
_SPACES = np.array([0x09, 0x0A, 0x0D, 0x20, 0xA0, 0x3000], np.uint32)


# -- patches --------------------------------------------------------------------------------------------------------------


def apply_patch(scan: Scan, patch: Patch, stages: list[str], shares: Mapping[str, float]) -> None:
    """Bring back rows into weak branches (see :class:`Patch`). ``stages``: names of the stages; ``shares``: of the branches."""
    branches = _Codes(scan.gather(BRANCH))
    kept = scan.kept
    needs = needed_rows(branches.counts(kept), shares, patch)
    forgiven = sum(
        1 << number for number, slot in enumerate(scan.slots) if f"{stages[slot.stage]}/{slot.filter}" in patch.forgive
    )
    waiting = ~kept & ((scan.failed & ~np.uint64(forgiven)) == 0)
    if not needs or not waiting.any():
        return
    mentions, score = scan.gather(MENTIONS), _numbers(scan.gather(SCORE), -1.0)
    pc = require("pyarrow.compute", "corpus")
    lacking: dict[str, int] = {}
    for branch, need in needs.items():
        told = pc.match_substring(mentions, f" {branch} ").fill_null(False).to_numpy(zero_copy_only=False)
        found = np.flatnonzero(waiting & told)
        chosen = found[np.argsort(-score[found], kind="stable")][:need]
        for row in chosen.tolist():
            scan.notes[row] = f"brought back for {branch}: its caption speaks of it"
        waiting[chosen] = False
        _clear(scan, chosen, forgiven)
        if need > len(chosen):
            lacking[branch] = need - len(chosen)
    if lacking and waiting.any():
        best = {
            branch: rows[np.argsort(-score[rows], kind="stable")][: patch.exemplars]
            for branch in lacking
            if len(rows := np.flatnonzero(kept & branches.are(branch)))
        }
        _by_pictures(scan, patch, best, waiting, lacking, forgiven)


def needed_rows(counts: Mapping[str, int], shares: Mapping[str, float], patch: Patch) -> dict[str, int]:
    """How many rows each weak branch lacks; ``counts``: rows kept by branch."""
    total, scores = sum(counts.values()), _read_scores(patch.scores)
    unknown = sorted(set(scores) - set(shares))
    if unknown:
        raise ConfigError(f"{patch.scores} scores {unknown[0]!r}, but the taxonomy has only {', '.join(shares)}.")
    needs = {}
    for branch, share in shares.items():
        wanted = share / sum(shares.values()) * total
        lacking = patch.below * wanted - counts.get(branch, 0)
        if branch in scores and scores[branch] < patch.least_score:
            lacking = max(lacking, (patch.least_score - scores[branch]) * wanted)
        if lacking >= 1:
            needs[branch] = int(lacking)
    return needs


def _read_scores(path: Path | None) -> dict[str, float]:
    if path is None:
        return {}
    if not path.is_file():
        raise ConfigError(f"The file of scores {path} does not exist; check the path or leave patch.scores out.")
    found = parse_yaml(read_text(path), str(path))
    if not isinstance(found, dict) or not all(isinstance(value, int | float) and 0 <= value <= 1 for value in found.values()):
        raise ConfigError(f"{path} must map branches to scores from 0 to 1, such as nature/food: 0.4.")
    return {str(branch): float(value) for branch, value in found.items()}


def _by_pictures(
    scan: Scan,
    patch: Patch,
    exemplars: Mapping[str, NDArray[np.int64]],
    waiting: NDArray[np.bool_],
    lacking: Mapping[str, int],
    forgiven: int,
) -> None:
    """The ``waiting`` rows nearest to the ``exemplars`` of each branch come back, most similar first, each to one branch."""
    wanted = np.unique(np.concatenate([np.empty(0, np.int64), *exemplars.values()]))
    vectors = {
        row: vector
        for rows, block in _vectors(scan, patch.embedding, wanted)
        for row, vector in zip(rows.tolist(), block, strict=True)
    }
    known = {branch: np.stack(found) for branch, rows in exemplars.items() if (found := _of(vectors, rows))}
    order = list(known)
    blocks = [
        (rows, np.stack([(block @ known[branch].T).max(axis=1) for branch in order], axis=1))
        for rows, block in _vectors(scan, patch.embedding, np.flatnonzero(waiting))
        if order
    ]
    if not blocks:
        return
    rows = np.concatenate([rows for rows, _ in blocks]).tolist()
    nearest = np.concatenate([likeness for _, likeness in blocks])
    left = [lacking[branch] for branch in order]
    taken: set[int] = set()
    for place in np.argsort(-nearest, axis=None, kind="stable").tolist():
        at, number = divmod(place, len(order))
        if nearest[at, number] < patch.similarity or not any(left):
            break
        if left[number] and rows[at] not in taken:
            left[number] -= 1
            taken.add(rows[at])
            scan.notes[rows[at]] = f"brought back for {order[number]}: {nearest[at, number]:.2f} like its pictures"
    _clear(scan, np.array(sorted(taken), np.int64), forgiven)


def _of(vectors: Mapping[int, NDArray[np.float32]], rows: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    return [vectors[row] for row in rows.tolist() if row in vectors]


def _clear(scan: Scan, rows: NDArray[np.int64], bits: int) -> None:
    scan.failed[rows] &= ~np.uint64(bits)


def _vectors(scan: Scan, column: str, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Those of ``rows`` (sorted) that have one, with their unit vectors (rows, D), shard by shard; no other shard is read."""
    for shard, here in scan.each_shard():
        own = rows[np.searchsorted(rows, here.start) : np.searchsorted(rows, here.stop)]
        if not len(own):
            continue
        values = scan.read(shard, (column,))[column].take(require("pyarrow", "corpus").array(own - here.start))
        blobs = values.drop_null().to_pylist()
        if blobs:
            matrix = np.frombuffer(b"".join(blobs), "<f2").astype(np.float32).reshape(len(blobs), -1)
            yield own[values.is_valid().to_numpy(zero_copy_only=False)], matrix


# -- the best -------------------------------------------------------------------------------------------------------------


def apply_best(scan: Scan, best: Best, slot: int) -> None:
    """Refuse all but the best rows of every node (see :class:`Best`); rows without a node are one group."""
    asked = scan.kept & np.isin(scan.photo, [kind == PHOTO for kind in best.kinds])
    rows = np.flatnonzero(asked)
    if not len(rows):
        return
    nodes = _Codes(scan.gather(NODE)).codes[rows]
    standing = np.zeros(len(rows))
    for column, weight in best.scores.items():
        ranks = _ranks(_numbers(scan.gather(column), np.nan)[rows], nodes)
        standing += abs(weight) * (ranks if weight > 0 else 1 - ranks)
    standing /= sum(map(abs, best.scores.values()))
    order = np.lexsort((rows, -standing, nodes))  # of equal ones the first row stays
    sizes = np.bincount(nodes)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(rows)) - starts[nodes[order]]
    stay = np.minimum(sizes, np.maximum(best.least, np.ceil(best.share * sizes).astype(np.int64)))
    refused = place >= stay[nodes]
    scan.failed[rows[refused]] |= np.uint64(1 << slot)
    array = require("pyarrow", "corpus").array
    for shard, here in scan.each_shard():
        inside = refused & (rows >= here.start) & (rows < here.stop)
        if inside.any():
            scan.failing[shard].append(Failing.of(slot, best.reason, rows[inside] - here.start, array(standing[inside])))


def _ranks(values: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) rank of each value within its group, 0 lowest, 1 highest, equal values alike; 0.5 for NaN and for a group of one."""
    ranks = np.full(len(values), 0.5)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.lexsort((values[known], groups[known]))]
    if not len(order):
        return ranks
    group, value = groups[order], values[order]
    first_of_group = np.concatenate([[True], group[1:] != group[:-1]])
    first_of_value = first_of_group | np.concatenate([[True], value[1:] != value[:-1]])
    number = np.arange(len(order))
    start = np.maximum.accumulate(np.where(first_of_group, number, 0))
    low = np.maximum.accumulate(np.where(first_of_value, number, 0))
    last_of_value = np.concatenate([first_of_value[1:], [True]])
    high = np.minimum.accumulate(np.where(last_of_value, number, len(order))[::-1])[::-1]
    last = np.bincount(group, minlength=int(group.max()) + 1)[group] - 1
    ranks[order] = np.where(last > 0, ((low + high) / 2 - start) / np.maximum(1, last), 0.5)
    return ranks


# -- weights --------------------------------------------------------------------------------------------------------------


def balance_weights(scan: Scan, balance: Balance, shares: Mapping[str, float]) -> NDArray[np.float64]:
    """(N,) weights by branch (see :class:`Balance`); 1 for refused rows."""
    branches = _Codes(scan.gather(BRANCH))
    counts = {branch: count for branch, count in branches.counts(scan.kept).items() if branch in shares}
    total, share = sum(counts.values()), sum(shares[branch] for branch in counts)
    weight = np.ones(len(scan.failed))
    for branch, count in counts.items():
        wanted = (shares[branch] / share) / (count / total)
        weight[scan.kept & branches.are(branch)] = min(balance.high, max(balance.low, wanted))
    return weight


def text_weights(scan: Scan, resample: Resample) -> NDArray[np.float64]:
    """(N,) weights against character frequency (see :class:`Resample`); 1 for rows of other splits and without text.

    Texts with Chinese characters and others are weighted each among themselves: a letter is a thousand times as frequent as a
    rare character, and all English would go down with it.
    """
    weight = np.ones(len(scan.failed))
    splits = [scan.split_names.index(name) for name in resample.splits]
    rows = np.flatnonzero(scan.kept & np.isin(scan.split, splits))
    if not len(rows):
        return weight
    told = scan.gather(LINES).take(require("pyarrow", "corpus").array(rows)).fill_null("[]").to_pylist()
    texts = ["".join(line["text"] for line in json.loads(lines)) for lines in told]
    characters = np.frombuffer("".join(texts).encode("utf-32-le", "replace"), np.uint32)
    owner = np.repeat(np.arange(len(rows)), [len(text) for text in texts])
    visible = ~np.isin(characters, _SPACES)
    characters, owner = characters[visible], owner[visible]
    han = np.zeros(len(rows), np.bool_)
    for low, high in _HAN:
        han[owner[(characters >= low) & (characters <= high)]] = True
    for chinese in (True, False):
        own = han[owner] == chinese
        if own.any():
            found = _against_frequency(characters[own], owner[own], resample.power)
            members = np.unique(owner[own])
            weight[rows[members]] = np.clip(found[members] / found[members].mean(), resample.low, resample.high)
    return weight


def _against_frequency(characters: NDArray[np.uint32], owner: NDArray[np.int64], power: float) -> NDArray[np.float64]:
    """(owners,) the mean over each text's characters of (median count / count) ** power."""
    _, which, counts = np.unique(characters, return_inverse=True, return_counts=True)
    rarity = (np.median(counts) / counts) ** power
    sums, lengths = np.bincount(owner, rarity[which]), np.bincount(owner)
    mean: NDArray[np.float64] = sums / np.maximum(1, lengths)
    return mean


# -- columns --------------------------------------------------------------------------------------------------------------


class _Codes:
    """A column of names as numbers."""

    def __init__(self, values: Any) -> None:
        encoded = values.fill_null("").dictionary_encode()
        self.names: list[str] = encoded.dictionary.to_pylist()
        self.codes: NDArray[np.int64] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)

    def counts(self, among: NDArray[np.bool_]) -> dict[str, int]:
        """Rows of each name where ``among`` (N,) says so; those without a name are left out."""
        counted = np.bincount(self.codes[among], minlength=len(self.names)).tolist()
        return {name: count for name, count in zip(self.names, counted, strict=True) if name and count}

    def are(self, name: str) -> NDArray[np.bool_]:
        """(N,) which rows have this name."""
        number = self.names.index(name) if name in self.names else -1
        found: NDArray[np.bool_] = self.codes == number
        return found


def _numbers(values: Any, absent: float) -> NDArray[np.float64]:
    found = values.cast("float64").to_numpy(zero_copy_only=False)
    return np.where(np.isnan(found), absent, found)
