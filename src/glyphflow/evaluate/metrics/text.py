"""How well a reading matches the text that was asked for.

Two choices hold for every metric of :func:`score_text` and are part of their identities. Text is compared after the one
normalisation of :mod:`.normalise`, without upper and lower case. And a sample keeps *counts*, not a ratio, so that a whole
benchmark is their sum (micro average): a prompt with ten words weighs ten times one with a single word.

==================  =======================================================================================
word_accuracy       units of the target found in the reading, each at most as often as it was read (multiset),
                    over all units of the target. A unit is a word between spaces without the marks at its ends,
                    or one Han character. Words that the judge joined or split are found (:mod:`.joined`). Order
                    and extra text are not punished.
character_accuracy  longest common subsequence of target and reading, both without spaces, over the target's
                    length: order counts, extra text is not punished.
edit_similarity     1 - Levenshtein distance / longer length, both without spaces: order and extra text count.
                    Averaged with the longer length as weight. (Often published as "NED".)
exact               share of samples whose reading is the target and nothing else, spaces ignored.
==================  =======================================================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from glyphflow.evaluate.metrics.joined import words_found
from glyphflow.evaluate.metrics.normalise import NORMALISATION, letters, words
from glyphflow.evaluate.metrics.strings import common_length, levenshtein

_HOW = f"{NORMALISATION}, caseless"
IDENTITIES = {
    "word_accuracy": f"word_accuracy/2 (multiset recall of words, joined or split too, and Han characters; {_HOW}; micro)",
    "character_accuracy": f"character_accuracy/2 (LCS over target length; {_HOW}, no spaces; micro)",
    "edit_similarity": f"edit_similarity/2 (1 - Levenshtein / longer length; {_HOW}, no spaces; length-weighted)",
    "exact": f"exact/2 (reading equals target; {_HOW}, no spaces; share of samples)",
}


class Count(NamedTuple):
    """``hits`` out of ``total``; counts add up over samples."""

    hits: int
    total: int


@dataclass(frozen=True)
class TextScore:
    """The four metrics of one sample as counts (see the table above)."""

    word_accuracy: Count
    character_accuracy: Count
    edit_similarity: Count
    exact: Count


def score_text(targets: Sequence[str], reading: Sequence[str]) -> TextScore:
    """Compare the ``targets`` of a prompt with the lines that a judge read, each in reading order."""
    target, read = " ".join(targets), " ".join(reading)
    wanted = words(target)
    a, b = letters(target), letters(read)
    longer = max(len(a), len(b))
    return TextScore(
        word_accuracy=Count(words_found(wanted, words(read)).hits, len(wanted)),
        character_accuracy=Count(common_length(a, b), len(a)),
        edit_similarity=Count(longer - levenshtein(a, b), longer),
        exact=Count(int(a == b), 1),
    )


def aggregate(scores: Iterable[TextScore]) -> dict[str, float | None]:
    """Sum of hits over sum of totals, metric by metric; None where there is nothing to divide by."""
    rows = list(scores)
    result: dict[str, float | None] = {}
    for name in IDENTITIES:
        counts: list[Count] = [getattr(row, name) for row in rows]
        total = sum(count.total for count in counts)
        result[name] = sum(count.hits for count in counts) / total if total else None
    return result


def multiset_matches(wanted: Iterable[str], read: Iterable[str]) -> int:
    """How many of the ``wanted`` items were read, each reading serving one of them."""
    return sum((Counter(wanted) & Counter(read)).values())


def edit_similarity(a: str, b: str, epsilon: float = 0.0) -> float:
    """1 - Levenshtein distance / (longer length + ``epsilon``), in [0, 1]; 1 for two empty texts.

    Often published as "NED" although higher is better. ``epsilon`` is what some public code adds against a division by zero.
    """
    longer = max(len(a), len(b))
    return 1.0 if longer == 0 else 1.0 - levenshtein(a, b) / (longer + epsilon)


def clip_score(cosine: float) -> float:
    """CLIPScore of a picture and a text from the cosine of their embeddings: 2.5 max(cosine, 0)."""
    return 2.5 * max(cosine, 0.0)
