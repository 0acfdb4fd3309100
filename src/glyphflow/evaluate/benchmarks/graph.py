"""Questions that depend on each other: "is the cat black?" counts only when "is there a cat?" was answered yes.

The published tables hold a few questions that depend on themselves and one circle, so that no order has every parent first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Answers = Mapping[int, bool]
Parents = Mapping[int, Sequence[int]]
"""Question number to the numbers it depends on; 0 stands for none."""


def all_above(answers: Answers, parents: Parents) -> dict[int, bool]:
    """A question counts when it and everything above it, however far, was answered yes. Unknown parents are none."""
    result = dict(answers)
    changed = True
    while changed:
        fallen = [n for n, yes in result.items() if yes and not all(result.get(parent, True) for parent in parents.get(n, ()))]
        result.update(dict.fromkeys(fallen, False))
        changed = bool(fallen)
    return result


def one_step(answers: Answers, parents: Parents) -> dict[int, bool]:
    """OneIG: a question falls with a parent that the judge itself denied, not with one that fell. Unknown ones are none."""
    return {n: yes and all(answers.get(parent, True) for parent in parents.get(n, ())) for n, yes in answers.items()}


def in_order(answers: Answers, parents: Parents) -> dict[int, bool]:
    """DPG: questions fall one after the other in the table's order, so that a parent that falls later is still a yes.

    A parent that is not among the questions raises :class:`KeyError`: there the public run loses the prompt.
    """
    result = dict(answers)
    for number, above in parents.items():
        if any(parent != 0 and not result[parent] for parent in above):
            result[number] = False
    return result
