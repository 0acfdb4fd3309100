"""Rare characters on a schedule: which characters the picture with a given number must show, so that all come often enough.

Frequent characters come by themselves with sampled text; of the 8,105 of the Table of General Standard Chinese Characters
most would hardly ever. A schedule is a function of its parts alone: workers need not talk to each other, and the n-th picture
shows the same characters wherever and whenever it is drawn.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from importlib import resources

from glyphflow.core.errors import InputError
from glyphflow.core.hashing import derive_seed
from glyphflow.render.spec import RenderSpec


@cache
def standard_characters() -> tuple[str, ...]:
    """The 8,105 characters of the table (State Council of China, 2013), most frequent tier first."""
    table = resources.files("glyphflow") / "render" / "data" / "gscc" / "characters.txt"
    return tuple(table.read_text(encoding="utf-8").split())


@dataclass(frozen=True)
class Schedule:
    """``per_picture`` of ``characters`` for every picture: all come once in a random order, then all again in another order.

    After n pictures each character has been asked for floor(n * per_picture / N) times or once more.
    """

    characters: tuple[str, ...] = field(default_factory=standard_characters)
    per_picture: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.characters or not 1 <= self.per_picture <= len(self.characters):
            raise InputError(
                f"A schedule shows 1 to {len(self.characters)} characters a picture, as many as it has, not {self.per_picture}."
            )

    def at(self, index: int) -> str:
        """The characters that picture number ``index`` >= 0 must show."""
        first = index * self.per_picture
        places = (divmod(place, len(self.characters)) for place in range(first, first + self.per_picture))
        return "".join(self.characters[_order(len(self.characters), self.seed, turn)[place]] for turn, place in places)

    def pictures(self, times: int) -> int:
        """The least number of pictures after which every character has been asked for ``times`` times."""
        return -(-times * len(self.characters) // self.per_picture)

    def apply(self, specs: Sequence[RenderSpec], start: int = 0) -> list[RenderSpec]:
        """``specs`` with what they must show as their parameter ``include``; the first is picture number ``start``."""
        return [
            replace(spec, params={**spec.params, "include": self.at(number)}) for number, spec in enumerate(specs, start=start)
        ]


@lru_cache(maxsize=4)
def _order(count: int, seed: int, turn: int) -> tuple[int, ...]:
    order = list(range(count))
    random.Random(derive_seed("schedule", seed, turn)).shuffle(order)
    return tuple(order)


@dataclass(frozen=True)
class Coverage:
    """How often each of ``characters`` occurs: ``counts`` in the same order."""

    characters: tuple[str, ...]
    counts: tuple[int, ...]

    def below(self, times: int) -> tuple[str, ...]:
        """The characters that occur less than ``times`` times."""
        return tuple(char for char, count in zip(self.characters, self.counts, strict=True) if count < times)

    def share(self, times: int = 1) -> float:
        """The share of the characters that occur at least ``times`` times, in [0, 1]."""
        return 1 - len(self.below(times)) / len(self.characters)


def coverage(texts: Iterable[str], characters: Sequence[str] | None = None) -> Coverage:
    """Count ``characters`` (default: the 8,105) in ``texts``, such as the lines of rendered pictures."""
    wanted = tuple(characters) if characters is not None else standard_characters()
    found: Counter[str] = Counter()
    for text in texts:
        found.update(text)
    return Coverage(wanted, tuple(found[char] for char in wanted))
