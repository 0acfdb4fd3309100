"""What a judge is asked, and what it answers. A judge that fails says so; a failure is never a number.

======== =========================================== ==========================================================
kind     request (a JSON object)                     value of a verdict that is "ok" (JSON, as it is kept on disk)
======== =========================================== ==========================================================
ocr      {}                                          list of :class:`Line`, in reading order; [] when nothing is
                                                     written
chat     prompt; optionally system, schema (a JSON   the reply as text, or with a schema the one JSON value in the
         schema), images ("before" the prompt, the   reply, checked against it
         default, or "after"), max_tokens, pairwise
objects  classes (all when absent), threshold,       list of :class:`Detection`, the surest first
         colours, coloured (classes whose colour is
         wanted)
similarity  text (none: between the two images)      cosine, in [-1, 1]
subject  emoji (code points to choose from),         the one that the picture shows: emoji, name, cosine
         foreground, background (names of colours)
pixels   whatever the function that judges takes     what it gives: numbers by name
======== =========================================== ==========================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NotRequired, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from glyphflow.core.errors import ConfigError, MissingError
from glyphflow.core.hashing import fingerprint, sha256_bytes

Kind = Literal["ocr", "chat", "objects", "similarity", "subject", "pixels"]
Status = Literal["ok", "refused", "parse_error", "timeout", "missing_image", "error"]


class Line(TypedDict):
    """One line of text: ``box`` holds four (x, y) corners in pixels, clockwise from the text's top left."""

    text: str
    box: list[list[float]]
    confidence: float
    whole: bool
    """The picture was read as one line, without detection."""


class Detection(TypedDict):
    """One object: ``box`` is (left, top, right, bottom) in pixels, ``score`` in [0, 1]."""

    label: str
    box: list[float]
    score: float
    colours: NotRequired[dict[str, float]]
    """Probability of every colour asked for; they add up to 1."""


@dataclass(frozen=True)
class Case:
    """One question: pictures ((H, W, 3) uint8 RGB each) and what is asked of them (see the table above)."""

    id: str
    kind: Kind
    images: tuple[NDArray[np.uint8], ...]
    request: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def pictures_sha256(self) -> tuple[str, ...]:
        """Hashes of the pixels (and their shape), so that metadata of the files does not matter."""
        return tuple(sha256_bytes(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()) for image in self.images)

    def key(self, judge: str) -> str:
        """Names this question to that ``judge`` (its identity): equal keys may share a verdict, whatever their ids."""
        request = {name: value for name, value in self.request.items() if name != "files"}  # their hashes stand beside them
        return fingerprint([self.kind, self.pictures_sha256, request, judge])


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one case.

    ``value`` is None unless ``status`` is "ok"; ``raw`` holds what the judge said word for word and, after a failure, "reason";
    ``identity`` is the judge's.
    """

    status: Status
    value: Any
    raw: dict[str, Any]
    identity: str

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.status == "ok"

    @property
    def reason(self) -> str:
        """Why there is none; empty when there is."""
        return str(self.raw.get("reason", ""))


class Judge(Protocol):
    """Anything that judges a batch of cases, one verdict for each in the same order.

    It may also say how it likes to be asked: ``batch`` cases in a call (8 where it does not), ``workers`` calls at a time (1).
    """

    @property
    def identity(self) -> str:
        """Names everything that can change a verdict, and no secret."""
        ...

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of case that it takes."""
        ...

    def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
        """Judge ``cases``."""
        ...


def failed(identity: str, status: Status, reason: str, **raw: Any) -> Verdict:
    """A failure, its reason, and what is known of it."""
    return Verdict(status, None, {"reason": reason, **raw}, identity)


def _sound(case: Case, verdict: Verdict) -> Verdict:
    """``verdict``; a failure where it is no answer to ``case``, or holds a number that is not finite and spoils an average."""
    if verdict.ok and not fits(case.kind, verdict.value):
        reason = f"the judge's answer is none to a question of kind {case.kind}, or not finite: {str(verdict.value)[:120]}"
        return failed(verdict.identity, "error", reason)
    return verdict


def fits(kind: str, value: Any) -> bool:
    """Whether ``value`` has the form of an answer to a question of this kind (see the table above), all numbers finite."""
    if not _is_finite(value):
        return False
    if kind in ("ocr", "objects"):
        text = "text" if kind == "ocr" else "label"
        return isinstance(value, list) and all(
            isinstance(found, Mapping) and isinstance(found.get(text), str) and isinstance(found.get("box", []), list | tuple)
            for found in value
        )
    if kind == "similarity":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, Mapping) if kind in ("subject", "pixels") else True


def _is_finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def ask(judge: Judge, cases: Sequence[Case]) -> list[Verdict]:
    """One verdict per case, whatever the judge does.

    When the judge raises on a batch, its cases are asked one by one, so that one bad picture costs one verdict; an exception on
    a single case, or a wrong number of verdicts, is a failure with its reason. Ctrl-C, a missing package
    and a wrong key or address are passed on.
    """
    try:
        verdicts = judge(cases)
        if len(verdicts) != len(cases):
            raise ValueError(f"{len(verdicts)} verdicts for {len(cases)} pictures")
        return [_sound(case, verdict) for case, verdict in zip(cases, verdicts, strict=True)]
    except (ConfigError, MissingError):
        raise
    except Exception as error:  # a judge is foreign code: whatever it raises is a failed judgement
        if len(cases) > 1:
            return [verdict for case in cases for verdict in ask(judge, [case])]
        status: Status = "timeout" if isinstance(error, TimeoutError) else "error"
        return [failed(judge.identity, status, f"{type(error).__name__}: {error}")]
