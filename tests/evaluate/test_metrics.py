"""Metrics against values worked out by hand, and the properties that every text metric must have."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glyphflow.evaluate.metrics import Count, aggregate, levenshtein, matched_characters, score_text, units


def values(targets: list[str], reading: list[str]) -> tuple[Count, Count, Count, Count]:
    score = score_text(targets, reading)
    return score.word_accuracy, score.character_accuracy, score.edit_similarity, score.exact


@pytest.mark.parametrize(
    ("targets", "reading", "word", "character", "edit", "exact"),
    [
        (["HELLO"], ["hello"], (1, 1), (5, 5), (5, 5), (1, 1)),
        (["HELLO"], ["HELO"], (0, 1), (4, 4 + 1), (4, 5), (0, 1)),
        # kitten -> sitting: three edits of seven; the common subsequence is "ittn"
        (["kitten"], ["sitting"], (0, 1), (4, 6), (4, 7), (0, 1)),
        (["HELLO 你好"], ["你好 HELLO"], (3, 3), (5, 7), (3, 7), (0, 1)),  # order: words forgive it, characters do not
        (["HELLO", "你好"], ["HELLO你好"], (3, 3), (7, 7), (7, 7), (1, 1)),  # a missing space is no mistake
        (["你好"], ["您好"], (1, 2), (1, 2), (1, 2), (0, 1)),
        (["the the"], ["the"], (1, 2), (3, 6), (3, 6), (0, 1)),  # one reading serves one target
        (["the"], ["the the"], (1, 1), (3, 3), (3, 6), (0, 1)),  # extra text: only edit similarity and exact see it
        (["WORD"], [], (0, 1), (0, 4), (0, 4), (0, 1)),
        (["ＡＢＣ，"], ["abc,"], (1, 1), (4, 4), (4, 4), (1, 1)),  # full-width forms
        (["two words"], ["two", "words"], (2, 2), (8, 8), (8, 8), (1, 1)),  # lines are joined by spaces
    ],
)
def test_hand_worked(targets, reading, word, character, edit, exact) -> None:
    assert values(targets, reading) == (word, character, edit, exact)


def test_micro_average_weighs_by_length() -> None:
    rows = [score_text(["a b c"], ["a b c"]), score_text(["d"], ["x"])]
    result = aggregate(rows)
    assert result["word_accuracy"] == 3 / 4
    assert result["character_accuracy"] == 3 / 4
    assert result["edit_similarity"] == 3 / 4
    assert result["exact"] == 1 / 2


def test_nothing_has_no_average() -> None:
    assert set(aggregate([]).values()) == {None}


def test_units_split_han_characters_and_keep_words() -> None:
    assert units("hello 你好world 2024年") == ["hello", "你", "好", "world", "2024", "年"]
    assert units("𠮷〇か") == ["𠮷", "〇", "か"]


@pytest.mark.parametrize(("a", "b", "distance"), [("", "", 0), ("", "abc", 3), ("flaw", "lawn", 2), ("你好", "你们好", 1)])
def test_levenshtein(a: str, b: str, distance: int) -> None:
    assert levenshtein(a, b) == levenshtein(b, a) == distance


def test_matched_characters_marks_the_target() -> None:
    assert matched_characters("HEATED", "HATE") == [True, False, True, True, True, False]
    assert matched_characters("ab", "") == [False, False]


texts = st.text(alphabet="abcXYZ 你好世界,", min_size=1, max_size=24).filter(lambda text: bool(text.strip()))


@given(texts)
@settings(max_examples=60, deadline=None)
def test_identity_is_one(text: str) -> None:
    assert all(hits == total for hits, total in values([text], [text]))


@given(texts)
@settings(max_examples=60, deadline=None)
def test_disjoint_is_zero(text: str) -> None:
    assert all(hits == 0 for hits, _ in values([text], ["0123456789"[: len(text)]]))


@given(texts, texts)
@settings(max_examples=60, deadline=None)
def test_bounds_and_reference(target: str, reading: str) -> None:
    """Every metric lies in [0, 1]; the alignment metrics agree with a plain recursive definition."""
    word, character, edit, exact = values([target], [reading])
    assert all(0 <= hits <= total for hits, total in (word, character, edit, exact))
    a, b = ("".join(text.casefold().split()) for text in (target, reading))
    assert edit.hits == max(len(a), len(b)) - _distance(a, b)
    assert character.hits == _common(a, b)


@given(texts, st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_corruption_never_helps(text: str, seed: int) -> None:
    """Replacing one character after another by a foreign one lowers or keeps every metric."""
    rng = random.Random(seed)
    places = [i for i, char in enumerate(text) if char != " "]
    rng.shuffle(places)
    corrupted, previous = list(text), values([text], [text])
    for place in places:
        corrupted[place] = "#"
        current = values([text], ["".join(corrupted)])
        assert all(new.hits / new.total <= old.hits / old.total for new, old in zip(current, previous, strict=True))
        previous = current


def _distance(a: str, b: str) -> int:
    import functools

    @functools.cache
    def go(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(go(i - 1, j) + 1, go(i, j - 1) + 1, go(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return go(len(a), len(b))


def _common(a: str, b: str) -> int:
    import functools

    @functools.cache
    def go(i: int, j: int) -> int:
        if not i or not j:
            return 0
        return go(i - 1, j - 1) + 1 if a[i - 1] == b[j - 1] else max(go(i - 1, j), go(i, j - 1))

    return go(len(a), len(b))
