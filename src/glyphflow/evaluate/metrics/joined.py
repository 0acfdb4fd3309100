"""Words that a judge joined or split: every letter is right, and only the spaces are elsewhere.

OCR engines drop narrow spaces between words of Latin letters ("Grand Opening" is read as "GrandOpening") and see wide ones
inside of a word. That is the judge's habit and no spelling mistake of the picture, so such a word is found. What does not count
is a word that happens to stand inside of another one ("in" in "painting"): both ends of what was read must be ends of words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from glyphflow.evaluate.metrics.normalise import MARKS, is_han
from glyphflow.evaluate.metrics.strings import levenshtein

MOST = 6  # pieces that one word, or one joined word, was split into


class Found(NamedTuple):
    """How many of the wanted words were read, and what was read beside them, in order."""

    hits: int
    rest: list[str]


def words_found(wanted: Sequence[str], read: Sequence[str]) -> Found:
    """Which of the ``wanted`` words were read: as words, each reading serving one of them, or joined or split.

    Words without marks at their ends, in order (:func:`glyphflow.evaluate.metrics.normalise.words`).
    """
    left, spare = Counter(wanted) - Counter(read), Counter(read) - Counter(wanted)
    if left and spare:
        _look_closer(wanted, read, left, spare)
    rest = []
    for token in read:
        if spare[token] > 0:
            spare[token] -= 1
            rest.append(token)
    return Found(len(wanted) - left.total(), rest)


def _look_closer(wanted: Sequence[str], read: Sequence[str], left: Counter[str], spare: Counter[str]) -> None:
    """Take from ``left`` what the ``spare`` words hold, joined or split, and from ``spare`` those that are explained."""
    for count in range(1, MOST + 1):  # pieces of the reading that are put together
        for start in range(len(read) - count + 1):
            _settle(wanted, read[start : start + count], left, spare)
    for token in [token for token, times in spare.items() for _ in range(times)]:
        _take(_nearly(wanted, token, left), left)


def _settle(wanted: Sequence[str], tokens: Sequence[str], left: Counter[str], spare: Counter[str]) -> None:
    """Give ``tokens``, put together, to the words that they are made of, where that helps."""
    need = Counter(tokens)
    if any(spare[token] < times for token, times in need.items()) or any(is_han(token[0]) for token in tokens):
        return
    joined = "".join(tokens)
    for start in range(len(wanted)):
        count, end = _from_start(joined, wanted, start)
        if end == len(joined) and (count > 1 or len(tokens) > 1):
            members = wanted[start : start + count]
            if any(left[word] > 0 for word in members):
                _take(members, left)
                spare.subtract(need)
                return


def _nearly(wanted: Sequence[str], token: str, left: Counter[str]) -> Sequence[str]:
    """The intact words at both ends of a joined word with a mistake in it ("totaloperatlngcosts"): the most that there are."""
    best: Sequence[str] = ()
    slack = len(token) // 4
    for start in range(len(wanted)):
        first = _from_start(token, wanted, start)[0]
        length = 0
        for end in range(start, len(wanted)):
            length += len(wanted[end])
            if length > len(token) + slack:
                break
            if end == start or length < len(token) - slack:
                continue
            kept = min(first, end - start)  # at least one of them holds the mistake
            last = min(_from_end(token, wanted, end), end - start - kept)
            members = [*wanted[start : start + kept], *wanted[end + 1 - last : end + 1]]
            gain = sum((left & Counter(members)).values())
            if gain > len(best) and levenshtein("".join(wanted[start : end + 1]), token) <= slack:
                best = [word for word in members if left[word] > 0]
    return best


def _take(members: Sequence[str], left: Counter[str]) -> None:
    for word in members:
        if left[word] > 0:
            left[word] -= 1


def _from_start(joined: str, wanted: Sequence[str], start: int) -> tuple[int, int]:
    """How many words from ``start`` on stand at the beginning of ``joined``, marks between them or not, and where they end."""
    count = at = 0
    while start + count < len(wanted) and at < len(joined) and joined.startswith(wanted[start + count], at):
        at += len(wanted[start + count])
        count += 1
        while at < len(joined) and joined[at] in MARKS:
            at += 1
    return count, at


def _from_end(joined: str, wanted: Sequence[str], end: int) -> int:
    """How many words, the last of which is ``end``, stand at the end of ``joined``."""
    count, at = 0, len(joined)
    while end - count >= 0 and at > 0 and joined.endswith(wanted[end - count], 0, at):
        at -= len(wanted[end - count])
        count += 1
        while at > 0 and joined[at - 1] in MARKS:
            at -= 1
    return count
