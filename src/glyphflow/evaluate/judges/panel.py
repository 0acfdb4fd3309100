"""Several opinions as one verdict: several judges, repeated questions, both orders of a pair."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean, median
from typing import Any, Literal

from glyphflow.core.errors import ConfigError
from glyphflow.evaluate.case import Case, Judge, Verdict, ask, failed


class Panel:
    """Asks every one of ``judges`` ``repeats`` times and combines the answers; fewer than ``quorum`` answers are a failure.

    Numbers are combined by ``numbers`` (mean or median), words by majority, lists and objects part by part. Without a majority
    there is no verdict. With ``swap``, a case whose request has ``pairwise`` (two replies: the one that names the first
    picture, the one that names the second) is asked in both orders, and a judge that only prefers a place cancels itself out:
    such a tie is the request's ``tie`` where it has one, else a failure.
    """

    def __init__(
        self,
        judges: Sequence[Judge],
        *,
        repeats: int = 1,
        quorum: int | None = None,
        swap: bool = False,
        numbers: Literal["mean", "median"] = "mean",
    ) -> None:
        asked = len(judges) * repeats
        self._quorum = asked // 2 + 1 if quorum is None else quorum
        if not judges or repeats < 1 or not 1 <= self._quorum <= asked:
            raise ConfigError(
                f"A panel of {len(judges)} judges asked {repeats} times cannot reach a quorum of {self._quorum}; "
                f"give a quorum from 1 to {max(1, asked)}."
            )
        self.batch = min(getattr(judge, "batch", 8) for judge in judges)
        self.workers = max(getattr(judge, "workers", 1) for judge in judges)
        self._judges, self._repeats, self._swap, self._numbers = tuple(judges), repeats, swap, numbers

    @property
    def identity(self) -> str:
        how = f"repeats {self._repeats}, quorum {self._quorum}, swap {self._swap}, {self._numbers}"
        return f"panel/1 ({how}) of [{'; '.join(judge.identity for judge in self._judges)}]"

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset.intersection(*(frozenset(judge.kinds) for judge in self._judges))

    def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
        opinions: list[list[Verdict]] = [[] for _ in cases]
        for judge in self._judges:
            for repeat in range(self._repeats):
                asked = [_with(case, repeat=repeat) if repeat else case for case in cases]
                for found, verdict in zip(opinions, self._both_orders(judge, asked), strict=True):
                    found.append(verdict)
        return [self._combine(case, found) for case, found in zip(cases, opinions, strict=True)]

    def _both_orders(self, judge: Judge, cases: Sequence[Case]) -> list[Verdict]:
        verdicts = ask(judge, cases)
        pairs = [index for index, case in enumerate(cases) if self._swap and "pairwise" in case.request]
        if pairs:
            turned = ask(judge, [replace(cases[index], images=cases[index].images[::-1]) for index in pairs])
            for index, other in zip(pairs, turned, strict=True):
                verdicts[index] = _agree(cases[index], verdicts[index], other)
        return verdicts

    def _combine(self, case: Case, opinions: Sequence[Verdict]) -> Verdict:
        raw = {"opinions": [{"status": v.status, "value": v.value, "raw": v.raw, "identity": v.identity} for v in opinions]}
        good = [verdict.value for verdict in opinions if verdict.ok]
        if len(good) < self._quorum:
            bad = [verdict for verdict in opinions if not verdict.ok]
            status = Counter(verdict.status for verdict in bad).most_common(1)[0][0]
            reason = f"{len(good)} of {len(opinions)} opinions, {self._quorum} are needed; {bad[0].reason}"
            return failed(self.identity, status, reason, **raw)
        try:
            return Verdict("ok", combine(good, self._numbers), raw, self.identity)
        except ValueError as error:
            return failed(self.identity, "error", str(error), **raw)


def combine(values: Sequence[Any], numbers: Literal["mean", "median"] = "mean") -> Any:
    """One value for several of the same form; ValueError when they agree on none."""
    first = values[0]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return values[0] if len(values) == 1 else mean(values) if numbers == "mean" else median(values)
    if all(isinstance(value, dict) and value.keys() == first.keys() for value in values):
        return {name: combine([value[name] for value in values], numbers) for name in first}
    if all(isinstance(value, list) and len(value) == len(first) for value in values):
        return [combine([value[index] for value in values], numbers) for index in range(len(first))]
    counts = Counter(json.dumps(value, sort_keys=True, ensure_ascii=False) for value in values).most_common()
    if len(counts) > 1 and counts[0][1] == counts[1][1]:
        raise ValueError(f"no majority: {counts[0][0]} and {counts[1][0]} were said {counts[0][1]} times each")
    return json.loads(counts[0][0])


def _with(case: Case, **request: Any) -> Case:
    return replace(case, request={**case.request, **request})


def _agree(case: Case, straight: Verdict, turned: Verdict) -> Verdict:
    """The verdict of both orders of a pair: what both say of the pictures, else a tie."""
    if not straight.ok or not turned.ok:
        return straight if not straight.ok else turned
    first, second = case.request["pairwise"]
    back = {first: second, second: first}.get(turned.value, turned.value)
    raw = {"orders": [straight.raw, turned.raw]}
    if straight.value == back:
        return Verdict("ok", straight.value, raw, straight.identity)
    if "tie" in case.request:
        return Verdict("ok", case.request["tie"], raw, straight.identity)
    return failed(straight.identity, "error", f"says {straight.value} in one order and {back} in the other", **raw)
