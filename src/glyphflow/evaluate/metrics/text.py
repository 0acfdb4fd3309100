"""How well a reading matches the text that was asked for.

Two choices hold for every metric of :func:`score_text` and are part of their identities. Text is compared after NFKC, without
upper and lower case, with runs of white space as one space. And a sample keeps *counts*, not a ratio, so that a whole
benchmark is their sum (micro average): a prompt with ten words weighs ten times one with a single word.

==================  =======================================================================================
word_accuracy       units of the target found in the reading, each at most as often as it was read (multiset),
                    over all units of the target. A unit is a word between spaces, or one Han character. Order
                    and extra text are not punished.
character_accuracy  longest common subsequence of target and reading, both without spaces, over the target's
                    length: order counts, extra text is not punished.
edit_similarity     1 - Levenshtein distance / longer length, both without spaces: order and extra text count.
                    Averaged with the longer length as weight. (Often published as "NED".)
exact               share of samples whose reading is the target and nothing else, spaces ignored.
==================  =======================================================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from glyphflow.perception import normalise_text

IDENTITIES = {
    "word_accuracy": "word_accuracy/1 (multiset recall of words and single Han characters; NFKC, caseless; micro)",
    "character_accuracy": "character_accuracy/1 (LCS over target length; NFKC, caseless, no spaces; micro)",
    "edit_similarity": "edit_similarity/1 (1 - Levenshtein / longer length; NFKC, caseless, no spaces; length-weighted)",
    "exact": "exact/1 (reading equals target; NFKC, caseless, no spaces; share of samples)",
}


class Count(NamedTuple):
    """``hits`` out of ``total``; counts add up over samples."""

    hits: int
    total: int


@dataclass(frozen=True)
class TextScore:
    """The four metrics of one sample as counts (see the table above)."""

    word_accuracy: Count
    character_accuracy: Count
    edit_similarity: Count
    exact: Count


def score_text(targets: Sequence[str], reading: Sequence[str]) -> TextScore:
    """Compare the ``targets`` of a prompt with the lines that a judge read, each in reading order."""
    target, read = normalise_text(" ".join(targets), casefold=True), normalise_text(" ".join(reading), casefold=True)
    wanted, got = Counter(units(target)), Counter(units(read))
    a, b = target.replace(" ", ""), read.replace(" ", "")
    longer = max(len(a), len(b))
    return TextScore(
        word_accuracy=Count(sum((wanted & got).values()), sum(wanted.values())),
        character_accuracy=Count(sum(matched_characters(a, b)), len(a)),
        edit_similarity=Count(longer - levenshtein(a, b), longer),
        exact=Count(int(a == b), 1),
    )


def aggregate(scores: Iterable[TextScore]) -> dict[str, float | None]:
    """Sum of hits over sum of totals, metric by metric; None where there is nothing to divide by."""
    rows = list(scores)
    result: dict[str, float | None] = {}
    for name in IDENTITIES:
        counts: list[Count] = [getattr(row, name) for row in rows]
        total = sum(count.total for count in counts)
        result[name] = sum(count.hits for count in counts) / total if total else None
    return result


def multiset_matches(wanted: Iterable[str], read: Iterable[str]) -> int:
    """How many of the ``wanted`` items were read, each reading serving one of them."""
    return sum((Counter(wanted) & Counter(read)).values())


def edit_similarity(a: str, b: str, epsilon: float = 0.0) -> float:
    """1 - Levenshtein distance / (longer length + ``epsilon``), in [0, 1]; 1 for two empty texts.

    Often published as "NED" although higher is better. ``epsilon`` is what some public code adds against a division by zero.
    """
    longer = max(len(a), len(b))
    return 1.0 if longer == 0 else 1.0 - levenshtein(a, b) / (longer + epsilon)


def clip_score(cosine: float) -> float:
    """CLIPScore of a picture and a text from the cosine of their embeddings: 2.5 max(cosine, 0)."""
    return 2.5 * max(cosine, 0.0)


def units(text: str) -> list[str]:
    """Words of normalised ``text``: Han characters stand alone, everything else is split at spaces."""
    spaced = "".join(f" {char} " if is_han(char) else char for char in text)
    return spaced.split()


def is_han(char: str) -> bool:
    """Whether ``char`` is a Chinese character (unified ideographs, extensions A to H, compatibility, and the zero 〇)."""
    code = ord(char)
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x323AF
        or code in (0x3007,)
        or (0xF900 <= code <= 0xFAFF)
    )


def levenshtein(a: str, b: str) -> int:
    """Fewest insertions, deletions and substitutions of one character that turn ``a`` into ``b``.

    A column of the table of distances is kept as two numbers whose bits say where it rises and falls by one, so that a column
    is a few operations on whole numbers (Myers 1999, Hyyrö 2003): a page of text takes a millisecond.
    """
    if len(a) < len(b):
        a, b = b, a
    if not b:
        return len(a)
    places: dict[str, int] = {}
    for i, char in enumerate(a):
        places[char] = places.get(char, 0) | 1 << i
    every, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    up, down, distance = every, 0, len(a)
    for char in b:
        here = places.get(char, 0)
        same = (((here & up) + up) ^ up) | here | down
        right_up, right_down = down | (~(same | up) & every), same & up
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = (right_up << 1 | 1) & every, right_down << 1 & every
        up, down = right_down | (~(same | right_up) & every), right_up & same
    return distance


def matched_characters(target: str, reading: str) -> list[bool]:
    """For each character of ``target``, whether it is part of one longest common subsequence with ``reading``."""
    n, m = len(target), len(reading)
    length = [[0] * (m + 1) for _ in range(n + 1)]  # length[i][j]: of target[i:] and reading[j:]
    for i in range(n - 1, -1, -1):
        for j in range(m - 1, -1, -1):
            same = target[i] == reading[j]
            length[i][j] = 1 + length[i + 1][j + 1] if same else max(length[i + 1][j], length[i][j + 1])
    matched = [False] * n
    i = j = 0
    while i < n and j < m:
        if target[i] == reading[j]:
            matched[i] = True
            i, j = i + 1, j + 1
        elif length[i + 1][j] >= length[i][j + 1]:
            i += 1
        else:
            j += 1
    return matched


def assign(costs: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """(row, column) pairs of the cheapest assignment, min(rows, columns) of them, each row and column once (Hungarian method).

    Potentials u, v keep every reduced cost at 0 or above; each row is added along a shortest augmenting path.
    """
    if not costs or not costs[0]:
        return []
    rows, columns = len(costs), len(costs[0])
    if rows > columns:
        return sorted((row, column) for column, row in assign([[costs[i][j] for i in range(rows)] for j in range(columns)]))
    u, v = [0.0] * (rows + 1), [0.0] * (columns + 1)
    owner = [0] * (columns + 1)  # the row (from 1) that holds each column; column 0 holds the row that is being added
    for row in range(1, rows + 1):
        owner[0], column = row, 0
        slack, via, used = [float("inf")] * (columns + 1), [0] * (columns + 1), [False] * (columns + 1)
        while owner[column]:
            used[column] = True
            best, step = 0, float("inf")
            for j in range(1, columns + 1):
                if used[j]:
                    continue
                reduced = costs[owner[column] - 1][j - 1] - u[owner[column]] - v[j]
                if reduced < slack[j]:
                    slack[j], via[j] = reduced, column
                if slack[j] < step:
                    best, step = j, slack[j]
            for j in range(columns + 1):
                if used[j]:
                    u[owner[j]] += step
                    v[j] -= step
                else:
                    slack[j] -= step
            column = best
        while column:
            owner[column] = owner[via[column]]
            column = via[column]
    return sorted((owner[j] - 1, j - 1) for j in range(1, columns + 1) if owner[j])
