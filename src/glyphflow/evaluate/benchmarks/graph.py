"""Questions that depend on each other: "is the cat black?" counts only when "is there a cat?" was answered yes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from glyphflow.core.errors import InputError

Parents = Mapping[int, Sequence[int]]
"""Question number to the numbers it depends on; 0 stands for none."""


def with_parents(answers: Mapping[int, bool], parents: Parents, *, inherited: bool) -> dict[int, bool]:
    """The answers after questions with a parent answered "no" are set to "no".

    ``inherited``: a parent that was itself set to "no" counts as answered "no", in the order of ``parents``, as DPG has it;
    otherwise only what the judge itself answered counts, as OneIG has it. A parent that is not among the questions raises
    :class:`KeyError`: the official DPG run loses such a prompt.
    """
    result = dict(answers)
    looked_at = result if inherited else dict(answers)
    for number, above in parents.items():
        if any(parent != 0 and not looked_at[parent] for parent in above):
            result[number] = False
    return result


def top_down(parents: Parents, origin: str) -> dict[int, tuple[int, ...]]:
    """``parents`` with every question after those it depends on; a circle or an unknown number is an :class:`InputError`."""
    ordered: dict[int, tuple[int, ...]] = {}
    waiting = {number: tuple(parent for parent in above if parent != 0) for number, above in parents.items()}
    while waiting:
        free = [number for number, above in waiting.items() if all(parent in ordered for parent in above)]
        if not free:
            number, above = next(iter(waiting.items()))
            raise InputError(
                f"{origin}: question {number} depends on {list(above)}, which are not there or depend on it in turn."
            )
        for number in free:
            ordered[number] = waiting.pop(number)
    return ordered
