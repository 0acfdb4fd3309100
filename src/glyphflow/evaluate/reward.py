"""Reading as a reward: how much of the text that a picture should show is there, for reinforcement learning.

Every target is looked for where it fits best in what was read, and what one target has taken serves no other. A target's credit
is 1 - edits / length, never below 0, so half a word earns half; the reward is the mean over targets, less a penalty for what
was read and not asked for, in [0, 1]. Writing the word twice, or a page of other text around it, therefore does not pay.

A judge cannot reward what it cannot read: characters that it misreads even when they are perfectly typeset
(:func:`unreadable`) are taken out of the question. In their place anything or nothing may stand, at no cost and no credit. A
picture on which nothing is left to judge, or on which the judge failed, has no reward (None), leaves its group, and is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glyphflow.core.errors import InputError
from glyphflow.evaluate.case import Case, Judge, ask
from glyphflow.evaluate.metrics.normalise import NORMALISATION, letters

EXTRA = 0.5
"""Cost of as much unwanted text as was asked for."""

_MASK = "\0"


@dataclass(frozen=True)
class Rewards:
    """``values[i]`` in [0, 1], or None with the reason in ``reasons[i]``."""

    values: tuple[float | None, ...]
    reasons: tuple[str, ...]

    @property
    def failed(self) -> int:
        """How many pictures have no reward."""
        return sum(value is None for value in self.values)


class TextReward:
    """Rewards pictures for showing their texts, as ``judge`` (of kind "ocr") reads them; one call reads a whole batch.

    ``unreadable`` are characters that the judge cannot read. ``extra`` is the penalty for each unwanted character over the
    length of what was asked for. Texts are compared in one form
    (:mod:`glyphflow.evaluate.metrics.normalise`): case and width of letters do not count, spaces neither.
    """

    def __init__(self, judge: Judge, unreadable: Collection[str] = (), extra: float = EXTRA) -> None:
        if "ocr" not in judge.kinds:
            raise InputError(f"{judge.identity} does not read; a reward for text needs a judge of kind ocr.")
        self._judge, self._extra = judge, extra
        self._unreadable = frozenset(char for text in unreadable for char in letters(text))

    @property
    def identity(self) -> str:
        """Names the formula and the judge: equal ones give equal rewards."""
        masked = f"{len(self._unreadable)} characters masked"
        return f"text_reward/2 ({NORMALISATION}, extra {self._extra:g}, {masked}) by {self._judge.identity}"

    def __call__(self, pictures: Sequence[NDArray[np.uint8]], targets: Sequence[Sequence[str]]) -> Rewards:
        """The reward of each picture ((H, W, 3) uint8 RGB) for the texts that it should show."""
        if len(pictures) != len(targets):
            raise InputError(f"{len(pictures)} pictures and {len(targets)} lists of targets; each picture needs its own.")
        verdicts = ask(self._judge, [Case(str(place), "ocr", (picture,)) for place, picture in enumerate(pictures)])
        values: list[float | None] = []
        reasons = []
        for verdict, wanted in zip(verdicts, targets, strict=True):
            value = self.of_reading(wanted, [line["text"] for line in verdict.value]) if verdict.ok else None
            values.append(value)
            reasons.append("" if value is not None else verdict.reason or "nothing that the judge can read was asked for")
        return Rewards(tuple(values), tuple(reasons))

    def of_reading(self, targets: Sequence[str], reading: Sequence[str]) -> float | None:
        """The reward of a picture in which ``reading`` was read; None when no readable character was asked for."""
        wanted = ["".join(_MASK if char in self._unreadable else char for char in letters(target)) for target in targets]
        wanted = [target for target in wanted if _visible(target)]
        if not wanted:
            return None
        free = [letters("".join(reading))]  # pieces of the reading that no target has taken
        credits: list[float] = []
        for target in sorted(wanted, key=_visible, reverse=True):
            matches = [best_match(target, text) for text in free]
            piece = min(range(len(free)), key=lambda place: matches[place][0])
            edits, start, end = matches[piece]
            credits.append(max(0.0, 1 - edits / _visible(target)))
            if edits < _visible(target):
                free[piece : piece + 1] = [free[piece][:start], free[piece][end:]]
        left = sum(len(piece) for piece in free)
        penalty = self._extra * left / sum(len(target) for target in wanted)
        return max(0.0, sum(credits) / len(credits) - penalty)


def unreadable(
    judge: Judge, characters: Sequence[str], typesetters: Sequence[Callable[[str], NDArray[np.uint8]]], batch: int = 64
) -> frozenset[str]:
    """The ``characters`` that ``judge`` does not read as themselves in every one of ``typesetters``' perfect pictures.

    A failed judgement raises :class:`InputError`: it says nothing of the character.
    """
    found = set()
    for typeset in typesetters:
        for start in range(0, len(characters), batch):
            members = characters[start : start + batch]
            verdicts = ask(judge, [Case(char, "ocr", (typeset(char),)) for char in members])
            for char, verdict in zip(members, verdicts, strict=True):
                if not verdict.ok:
                    raise InputError(f"The judge gave no answer for {char!r}: {verdict.reason}")
                if letters("".join(line["text"] for line in verdict.value)) != letters(char):
                    found.add(char)
    return frozenset(found)


def best_match(target: str, text: str) -> tuple[int, int, int]:
    """Fewest edits that turn some piece ``text[start:end]`` into ``target``, and that piece: (edits, start, end).

    A masked character matches any one character, or none, for nothing. Of equal pieces the first and longest is taken.
    """
    row = [(0, place) for place in range(len(text) + 1)]  # cost of matching nothing up to here, and where the piece starts
    for char in target:
        free = char == _MASK
        before = row
        row = [(before[0][0] + (not free), before[0][1])]
        for place, other in enumerate(text, 1):
            row.append(
                min(
                    (before[place - 1][0] + (not free and char != other), before[place - 1][1]),
                    (before[place][0] + (not free), before[place][1]),
                    (row[-1][0] + 1, row[-1][1]),
                )
            )
    cost, start, end = min((cost, start, -place) for place, (cost, start) in enumerate(row))
    return cost, start, -end


def _visible(target: str) -> int:
    return len(target) - target.count(_MASK)
