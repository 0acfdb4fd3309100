"""Judges look at pictures and give verdicts. A judge that fails says so; a failure is never a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from glyphflow.core.errors import MissingError
from glyphflow.core.hashing import fingerprint, sha256_bytes
from glyphflow.evaluate.metrics import score_text
from glyphflow.perception import OCR


@dataclass(frozen=True)
class Case:
    """One picture ((H, W, 3) uint8 RGB) to judge against its prompt and the texts that it must show."""

    id: str
    image: NDArray[np.uint8]
    prompt: str
    targets: tuple[str, ...]

    @cached_property
    def picture_sha256(self) -> str:
        """Hash of the pixels (and their shape), so that metadata of the file does not matter."""
        return sha256_bytes(f"{self.image.shape}".encode() + np.ascontiguousarray(self.image).tobytes())

    def key(self, judge: str) -> str:
        """Names this question to that ``judge`` (its identity): equal keys may share a verdict."""
        return fingerprint([self.picture_sha256, self.prompt, list(self.targets), judge])


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one case.

    ``value`` is a number only when ``status`` is "ok"; ``raw`` is what the judge saw or, after a failure, {"reason": sentence};
    ``identity`` is the judge's.
    """

    status: Literal["ok", "failed"]
    value: float | None
    raw: dict[str, Any]
    identity: str


class Judge(Protocol):
    """Anything that judges a batch of cases, one verdict for each in the same order."""

    @property
    def identity(self) -> str:
        """Names everything that can change a verdict."""
        ...

    def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
        """Judge ``cases``."""
        ...


class OCRJudge:
    """Reads the picture. ``value`` is the edit similarity of reading and targets, in [0, 1]; ``raw`` holds the lines."""

    def __init__(self, ocr: OCR) -> None:
        self._ocr = ocr

    @property
    def identity(self) -> str:
        return f"ocr/1 {self._ocr.identity}"

    def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
        verdicts = []
        for case, lines in zip(cases, self._ocr.read([case.image for case in cases]), strict=True):
            texts = [line.text for line in lines]
            hits, total = score_text(case.targets, texts).edit_similarity
            seen = [asdict(line) | {"confidence": round(line.confidence, 4)} for line in lines]
            verdicts.append(Verdict("ok", hits / total, {"lines": seen}, self.identity))
        return verdicts


def ask(judge: Judge, cases: Sequence[Case]) -> list[Verdict]:
    """One verdict per case, whatever the judge does.

    When the judge raises on a batch, its cases are asked one by one, so that one bad picture costs one verdict; an exception on
    a single case, or a wrong number of verdicts, is a failure with its reason. Ctrl-C and a missing package are passed on.
    """
    try:
        verdicts = judge(cases)
        if len(verdicts) != len(cases):
            raise ValueError(f"{len(verdicts)} verdicts for {len(cases)} pictures")
        return list(verdicts)
    except MissingError:
        raise
    except Exception as error:  # a judge is foreign code: whatever it raises is a failed judgement
        if len(cases) > 1:
            return [verdict for case in cases for verdict in ask(judge, [case])]
        return [failed(judge.identity, f"{type(error).__name__}: {error}")]


def failed(identity: str, reason: str) -> Verdict:
    """A failure and its reason."""
    return Verdict("failed", None, {"reason": reason}, identity)
