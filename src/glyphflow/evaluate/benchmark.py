"""What a benchmark is: samples to make pictures of, questions about the pictures, and formulas over the answers.

    samples() ─► pictures ─► cases(sample, pictures) ─► a judge's verdicts ─► score(sample, verdicts) ─► aggregate(rows)

Everything after the verdicts is arithmetic without input or output, so that every formula can be checked by hand, and a
resampled list of rows gives a bootstrap for nothing. A judgement that failed is a row with a status; it is counted and is in no
average. Where the public code of a benchmark computes something that it should not, the number that it prints is the
``official`` metric and the right one is ``corrected``: two identities, never one number with two meanings.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.hashing import derive_seed, fingerprint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from glyphflow.evaluate.case import Verdict
    from glyphflow.evaluate.question import Question

Variant = Literal["official", "corrected"]
Task = Literal["generate", "edit", "reconstruct"]

_WORST: Mapping[str, Any] = {"ocr": (), "objects": (), "similarity": -1.0, "subject": {"emoji": ""}}

_VAGUE = ("score", "overall", "average", "accuracy")


@dataclass(frozen=True)
class Sample:
    """One thing to make pictures of.

    ``id`` names the picture's file. ``targets`` are the texts that must appear, in reading order. ``tags`` hold what the
    formulas need (language, group, questions, …; JSON values). ``references`` are pictures that the model is given, in order.
    """

    id: str
    prompt: str
    targets: tuple[str, ...] = ()
    tags: Mapping[str, Any] = field(default_factory=dict)
    references: tuple[Path, ...] = ()

    def seed(self, repeat: int = 0) -> int:
        """The seed of picture ``repeat``: the sample's own where its file gives one, else derived from its id and prompt."""
        own = self.tags.get("seed")
        if own is not None and repeat == 0:
            return int(own)
        return derive_seed(self.id, self.prompt, repeat)


@dataclass(frozen=True)
class SampleScore:
    """One row of a result: what the verdicts say of one picture (or of one question set) of a sample.

    ``status`` is "ok" or the verdict's failure; ``values`` are the JSON numbers that :meth:`Benchmark.aggregate` needs
    (counts as [hits, total]) and are empty after a failure. ``part`` tells rows of one picture apart that different judges
    gave (reading, alignment, …). ``category`` groups pictures in reports; ``quality`` in [0, 1] orders them there from worst
    to best, and is 1 when nothing is wrong.
    """

    sample: str
    repeat: int
    status: str
    part: str = ""
    category: str = ""
    quality: float | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether the row may enter an average."""
        return self.status == "ok"

    def to_json(self) -> dict[str, Any]:
        """The row as it is written."""
        return {**asdict(self), "values": dict(self.values)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> SampleScore:
        """The row that :meth:`to_json` gave."""
        return cls(**row)


@dataclass(frozen=True)
class MetricIdentity:
    """What a number is: its name, how it was averaged, which formula, and of which part.

    Two numbers may be compared only when their identities are equal. ``dimensions`` are (key, value) pairs such as
    ("regions", "2"). A name that says nothing of what is measured ("score", "overall") needs the dimension "of".
    """

    name: str
    aggregation: str
    variant: Variant = "official"
    dimensions: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.name or not self.aggregation:
            raise ConfigError(f"A metric needs a name and an aggregation, but has {self.name!r} and {self.aggregation!r}.")
        if self.name.casefold() in _VAGUE and "of" not in dict(self.dimensions):
            raise ConfigError(f"A metric named {self.name!r} does not say of what; name it fully or give the dimension 'of'.")

    def __str__(self) -> str:
        part = ", ".join(f"{key} {value}" for key, value in self.dimensions)
        return f"{self.name}{f' [{part}]' if part else ''} ({self.variant}; {self.aggregation})"

    def to_json(self) -> dict[str, Any]:
        """The identity as it is written beside its value."""
        return {**asdict(self), "dimensions": dict(self.dimensions)}


@dataclass(frozen=True)
class Metric:
    """A number with its identity. ``value`` is None when no row may enter; ``n`` rows did, ``n_failed`` could not."""

    identity: MetricIdentity
    value: float | None
    n: int
    n_failed: int
    higher_is_better: bool = True

    def to_json(self) -> dict[str, Any]:
        """The metric as it is written."""
        return {
            "identity": self.identity.to_json(),
            "value": self.value,
            "n": self.n,
            "n_failed": self.n_failed,
            "higher_is_better": self.higher_is_better,
        }


class Benchmark(ABC):
    """Samples, questions and formulas under one name. Subclasses say where the samples come from and how answers add up.

    ``version`` changes whenever a formula, a question or a sample does; ``licence`` is that of the data; ``repeats`` is the
    number of pictures a sample asks for; ``task`` is what makes a picture (``edit`` and ``reconstruct`` get the sample's
    references); ``kinds`` are the kinds of question that :meth:`cases` asks, of all samples together. There is a judge's
    ceiling where ``typeset`` says that a sample's targets can be set by a typesetter, or ``drawn`` that the benchmark makes a
    perfect picture of every sample itself.
    """

    name: str
    version: str
    licence: str
    repeats: int = 1
    task: Task = "generate"
    typeset: bool = False
    drawn: bool = False
    kinds: frozenset[str]

    @abstractmethod
    def samples(self) -> tuple[Sample, ...]:
        """Every sample, in a fixed order, ids unique on disks that ignore case."""

    @abstractmethod
    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        """The questions about ``pictures`` (one path per repeat, in order; a path need not exist: then a question's
        ``load`` gives the verdict "missing_image" in place of a case)."""

    @abstractmethod
    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        """Rows for ``sample`` from the verdicts on :meth:`cases`, in the same order. Pure arithmetic."""

    @abstractmethod
    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        """The benchmark's metrics over ``rows``; most important first. Pure arithmetic."""

    def worst(self, sample: Sample, question: Question) -> Any:
        """The worst answer that ``question`` can get, which stands in for a failed judgement in the worst case; None where
        there is no worst (a distance has no bound). What the worst reply in words is, the benchmark says."""
        return _WORST.get(question.kind)

    def perfect(self, sample: Sample, width: int, height: int) -> NDArray[np.uint8]:
        """A picture of ``sample`` in which nothing is wrong, (height, width, 3) uint8 RGB; of benchmarks that are ``drawn``."""
        raise NotImplementedError

    @property
    def data_sha256(self) -> str:
        """Fingerprint of the samples (not of file formatting or paths): equal ones ask for the same pictures."""
        return fingerprint(
            [[s.id, s.prompt, list(s.targets), dict(s.tags), [path.name for path in s.references]] for s in self.samples()]
        )

    @property
    def identity(self) -> dict[str, str]:
        """What a manifest records of the benchmark."""
        return {"name": self.name, "version": self.version, "licence": self.licence, "data_sha256": self.data_sha256}


class Excerpt(Benchmark):
    """``limit`` samples of another benchmark for a quick look: one at random from each of as many equal stretches of it, the
    same ones every time. Its pictures are the whole's, its data_sha256 is its own, so that the two are never mixed up.
    """

    def __init__(self, whole: Benchmark, limit: int) -> None:
        every = whole.samples()
        if not 1 <= limit <= len(every):
            raise InputError(f"{whole.name} has {len(every)} samples and cannot be limited to {limit}; give 1 to {len(every)}.")
        self.name, self.version, self.licence = whole.name, whole.version, whole.licence
        self.repeats, self.task, self.typeset, self.drawn = whole.repeats, whole.task, whole.typeset, whole.drawn
        self.kinds = whole.kinds
        chance = random.Random(derive_seed("excerpt", whole.name, limit))
        bounds = [place * len(every) // limit for place in range(limit + 1)]
        self._samples = tuple(every[chance.randrange(start, end)] for start, end in pairwise(bounds))
        self._whole = whole

    def samples(self) -> tuple[Sample, ...]:
        return self._samples

    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        return self._whole.cases(sample, pictures)

    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        return self._whole.score(sample, verdicts)

    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        return self._whole.aggregate(rows)

    def worst(self, sample: Sample, question: Question) -> Any:
        return self._whole.worst(sample, question)

    def perfect(self, sample: Sample, width: int, height: int) -> NDArray[np.uint8]:
        return self._whole.perfect(sample, width, height)

    @property
    def identity(self) -> dict[str, str]:
        """The whole's with the limit, and with the fingerprint of these samples."""
        return {**super().identity, "limit": str(len(self._samples))}


def picture_name(sample: str, repeat: int, repeats: int) -> str:
    """File name of a picture: ``<sample>.png``, with ``_<repeat>`` (from 0) where a sample has several."""
    return f"{sample}.png" if repeats == 1 else f"{sample}_{repeat}.png"


def readable(ceiling: Sequence[SampleScore]) -> frozenset[str]:
    """The samples in whose perfect picture the judge saw no mistake, from the rows of those pictures."""
    return frozenset(row.sample for row in ceiling) - {row.sample for row in ceiling if not row.ok or row.quality != 1.0}


def subset_hash(samples: Iterable[str]) -> str:
    """Names a set of samples, so that a number over a subset says which."""
    return fingerprint(sorted(samples))


def failures(rows: Sequence[SampleScore]) -> int:
    """How many of ``rows`` have no answer."""
    return sum(not row.ok for row in rows)


def mean(values: Iterable[float | None]) -> float | None:
    """Arithmetic mean; None when there is nothing, or when a value is missing (a part that is not known is not left out)."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known and len(known) == len(found) else None


def ratio(counts: Iterable[Sequence[float]]) -> float | None:
    """Sum of hits over sum of totals (micro average) of [hits, total] pairs; None when nothing was counted."""
    pairs = list(counts)
    total = sum(pair[1] for pair in pairs)
    return sum(pair[0] for pair in pairs) / total if total else None
