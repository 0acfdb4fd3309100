"""One normalisation for scores: what is the same ink in another encoding is no mistake, and what is not stays one."""

import random
import time
import unicodedata

import pytest

from glyphflow.evaluate.figures import coloured
from glyphflow.evaluate.metrics import IDENTITIES, NORMALISATION, comparable, matched_characters, score_text, words_found
from glyphflow.evaluate.metrics.normalise import letters, pieces, words
from glyphflow.evaluate.metrics.strings import common_length

SAME = [
    ("Don’t", "don't"), ("rock ʼn` roll", "Rock 'n' roll"), ("5′ 6″", "5' 6\""),
    ("“Hi” „du“ «oui» 「好」『好』", '"Hi" "du" "oui" "好""好"'),
    ("''quoted''", '"quoted"'), ("a – b — c ‐ d − e", "a - b - c - d - e"), ("等等……", "等等…"),
    ("wait...", "wait…"), ("她——走了", "她-走了"),
    ("ＯＰＥＮ　２４Ｈ", "OPEN 24H"), ("你好，世界。", "你好,世界."),
    ("甲、乙；丙：丁！", "甲,乙;丙:丁!"), ("（一）【二】", "(一)[二]"),
    ("10\u202f000\u00a0€", "10 000 €"), ("ze\u200bro\u00ad wi\u2060dth\ufeff", "zero width"), ("❤\ufe0f", "❤"), ("ﬁle", "file"),
    ("cafe\u0301", "café"), ("A · B • C ・ D", "A · B · C · D"), ("12：30", "12:30"), (" a \t\n b ", "a b"),
    ("STRASSE", "straße"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_ink_has_one_form(one: str, other: str) -> None:
    assert letters(one) == letters(other)
    assert all(hits == total > 0 for hits, total in vars(score_text([one], [other])).values())


@pytest.mark.parametrize(
    ("one", "other"), [("café", "cafe"), ("50%", "50"), ("3×4", "3x4"), ("A&B", "AB"), ("你", "您"), ("can't", "cant")]
)
def test_what_is_another_letter_or_sign_stays_a_mistake(one: str, other: str) -> None:
    assert comparable(one) != comparable(other)
    assert score_text([one], [other]).word_accuracy.hits == 0


def test_case_is_kept_where_it_is_asked_for() -> None:
    assert comparable("“Ａb”", casefold=False) == '"Ab"' and comparable("“Ａb”") == '"ab"'


@pytest.mark.parametrize("text", [one for pair in SAME for one in pair])
def test_pieces_have_the_letters_of_the_whole(text: str) -> None:
    assert "".join(pieces(text)) == text and "".join(map(letters, pieces(text))) == letters(text)
    assert comparable(comparable(text)) == comparable(text)


def test_marks_at_the_ends_are_no_part_of_a_word_and_no_word() -> None:
    assert words("Hello, “World”! – 你好，世界。") == ["hello", "world", "你", "好", "世", "界"]
    assert words("don't x-ray 50% C++ #1 @home &") == ["don't", "x-ray", "50%", "c++", "#1", "@home", "&"]
    assert words("?!") == ["?!"]  # a text of marks alone keeps them: it could not be missed otherwise
    missing = score_text(["Fresh bread."], ["Fresh bread"])
    assert missing.word_accuracy == (2, 2) and missing.edit_similarity == (10, 11) and missing.exact == (0, 1)


@pytest.mark.parametrize(
    ("wanted", "read", "found"),
    [
        ("Grand Opening Sale", "GrandOpening Sale", 3),
        ("Total operating costs and expenses", "Totaloperatingcosts andexpenses", 5),
        ("Total operating costs and expenses", "Totaloperatlngcosts andexpenses", 4),  # the word with the mistake alone is lost
        ("OPERATING", "OPERA TING", 1),
        ("Grand Opening Sale", "Grand Ope ningSale", 3),
        ("Hello, World", "Hello,World", 2),
        ("the cat the dog", "thecat the dog", 4),
        ("second first", "first second", 2),
        ("blue sky red car", "redcar bluesky", 4),  # of two columns, read in the other order
        ("in", "painting", 0),  # stands inside of another word
        ("in out", "painting without", 0),
        ("car garage", "cargo", 0),
        ("paint in", "painting", 1),
        ("the the", "the", 1),
        ("no where", "nowhere nowhere", 2),
        ("don't panic", "dontpanic", 1),
        ("", "word", 0),
        ("word", "", 0),
    ],
)
def test_words_that_a_judge_joins_or_splits(wanted: str, read: str, found: int) -> None:
    assert words_found(words(wanted), words(read)).hits == found


def test_what_was_read_beside_the_words_is_left() -> None:
    assert words_found(["grand", "sale"], ["big", "grandsale", "now"]) == (2, ["big", "now"])


def test_other_spaces_never_cost_a_word() -> None:
    """However the same letters are cut, every word is found (of Latin letters: a cut between Chinese ones is no cut)."""
    chance = random.Random(5)
    for _ in range(200):
        wanted = ["".join(chance.choices("abcdefgh", k=chance.randint(2, 7))) for _ in range(chance.randint(1, 6))]
        spaces = [" " if chance.random() < 0.6 else "" for _ in wanted]
        read = "".join(map("".join, zip(wanted, spaces, strict=True)))
        assert words_found(wanted, read.split()).hits == len(wanted), (wanted, read)


def test_the_rule_stands_in_every_identity() -> None:
    assert all(NORMALISATION in text for text in IDENTITIES.values())


def test_colours_follow_the_same_rule() -> None:
    assert "miss" not in coloured("Don’t — “go”…", 'don\'t - "go"...', "miss")
    assert "miss" not in coloured(unicodedata.normalize("NFD", "café"), "CAFÉ", "miss")
    assert coloured("a b", "a", "miss") == '<span class="hit">a</span> <span class="miss">b</span>'


def _plain_flags(target: str, reading: str) -> list[bool]:
    n, m = len(target), len(reading)
    length = [[0] * (m + 1) for _ in range(n + 1)]
    for i in range(n - 1, -1, -1):
        for j in range(m - 1, -1, -1):
            same = target[i] == reading[j]
            length[i][j] = 1 + length[i + 1][j + 1] if same else max(length[i + 1][j], length[i][j + 1])
    matched, i, j = [False] * n, 0, 0
    while i < n and j < m:
        if target[i] == reading[j]:
            matched[i], i, j = True, i + 1, j + 1
        elif length[i + 1][j] >= length[i][j + 1]:
            i += 1
        else:
            j += 1
    return matched


def test_common_subsequences_are_those_of_the_plain_table() -> None:
    chance = random.Random(3)
    for _ in range(300):
        a, b = ("".join(chance.choices("abc", k=chance.randint(0, 14))) for _ in range(2))
        assert matched_characters(a, b) == _plain_flags(a, b)
        assert common_length(a, b) == sum(_plain_flags(a, b))


def test_a_page_of_text_takes_no_seconds() -> None:
    chance = random.Random(1)
    page = " ".join("".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(600))
    other = page.replace(" ", "", 300).replace("e", "c")
    start = time.process_time()
    score_text([page], [other])
    coloured(page, other, "miss")
    assert time.process_time() - start < 3
