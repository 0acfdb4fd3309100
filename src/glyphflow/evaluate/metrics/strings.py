"""Distances and alignments of strings, exact and fast: a page of three thousand characters takes milliseconds.

Columns of the tables of dynamic programming are kept as whole numbers whose bits say where a column rises by one.
"""

from __future__ import annotations

from collections.abc import Sequence


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


def common_length(a: str, b: str) -> int:
    """Length of the longest common subsequence of ``a`` and ``b``."""
    return _suffix_rows(a, b)[0].bit_count()


def matched_characters(target: str, reading: str) -> list[bool]:
    """For each character of ``target``, whether it is part of one longest common subsequence with ``reading``."""
    rows = _suffix_rows(target, reading)
    matched = [False] * len(target)
    i = j = 0
    while i < len(target) and j < len(reading):
        if target[i] == reading[j]:
            matched[i] = True
            i, j = i + 1, j + 1
        elif _length(rows[i + 1], len(reading) - j) >= _length(rows[i], len(reading) - j - 1):
            i += 1
        else:
            j += 1
    return matched


def _suffix_rows(a: str, b: str) -> list[int]:
    """For each suffix of ``a`` (the whole first, nothing last) the bits of its row: bit k is 1 where the k-th character from
    the end of ``b`` makes the longest common subsequence longer by one (Hyyrö 2004)."""
    every = (1 << len(b)) - 1
    places: dict[str, int] = {}
    for place, char in enumerate(reversed(b)):
        places[char] = places.get(char, 0) | 1 << place
    flat, rows = every, [0]
    for char in reversed(a):
        here = places.get(char, 0) & flat
        flat = ((flat + here) | (flat - here)) & every
        rows.append(~flat & every)
    return rows[::-1]


def _length(row: int, count: int) -> int:
    """The longest common subsequence of a suffix, by its ``row``, with the last ``count`` characters of the other text."""
    return (row & ((1 << count) - 1)).bit_count()


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
