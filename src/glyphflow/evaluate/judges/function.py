"""Any Python function as a judge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from glyphflow.evaluate.case import Case, Verdict


class FunctionJudge:
    """Answers every case with ``function(case)``, a JSON value of the case's kind.

    What it raises is a failure, of its own case only (:func:`glyphflow.evaluate.case.ask` sees to that). ``identity`` must
    change when the function does: verdicts are kept under it.
    """

    batch = 1

    def __init__(self, function: Callable[[Case], Any], identity: str, kinds: Iterable[str]) -> None:
        self._function, self.identity, self.kinds = function, identity, frozenset(kinds)

    def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
        return [Verdict("ok", self._function(case), {}, self.identity) for case in cases]
