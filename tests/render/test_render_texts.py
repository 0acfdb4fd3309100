"""Texts: splits that do not overlap, sentences that are whole, names without false colours."""

from __future__ import annotations

import collections
import random
import re

import pytest

from glyphflow.render import DEMO_EMOJI, emoji_catalogue, is_heldout, sample_text
from glyphflow.render.texts import chinese_characters, chinese_words, english_words, frequent_characters


def test_splits_are_disjoint_and_about_one_in_ten() -> None:
    for words in (english_words, chinese_words, chinese_characters):
        train, held = words("train"), words("heldout")
        assert not set(train) & set(held)
        assert 0.05 < len(held) / (len(train) + len(held)) < 0.15
        assert all(is_heldout(word) for word in held) and not any(is_heldout(word) for word in train)
    train_emoji, held_emoji, demo = (
        {one.codepoints for one in emoji_catalogue(split)} for split in ("train", "heldout", "demo")
    )
    assert not train_emoji & held_emoji and not train_emoji & demo and not held_emoji & demo
    assert len(train_emoji) >= 900 and demo == set(DEMO_EMOJI)


def test_training_text_never_contains_a_held_out_word() -> None:
    rng = random.Random(5)
    held = set(english_words("heldout"))
    for level in ("balanced", "word", "phrase", "line", "paragraph"):
        for _ in range(300):
            text = sample_text(rng, "en", level, "train")
            assert not held & set(re.findall("[a-z]+", text.lower())), text


@pytest.mark.parametrize("level", ["char", "balanced", "word", "phrase", "line", "paragraph"])
def test_levels_give_what_they_say(level: str) -> None:
    rng = random.Random(1)
    for _ in range(100):
        english, chinese, mixed = (sample_text(rng, language, level, "train") for language in ("en", "zh", "mixed"))  # type: ignore[arg-type]
        assert english and chinese and "\n" not in english + chinese
        assert not re.search("[\u4e00-\u9fff]", english) and not re.search("[a-zA-Z{}]", chinese)
        assert re.search("[\u4e00-\u9fff]", mixed) and re.search("[A-Za-z0-9]", mixed)
        if level == "char":
            assert len(english) == len(chinese) == 1
        if level in ("line", "paragraph"):
            assert english[-1] in ".?" and chinese[-1] in "。？" and english[0] == english[0].upper()
        assert "{" not in english


def test_balanced_texts_show_every_character_alike() -> None:
    """12,000 characters of 990, 9,000 letters of 26: rare ones are within five deviations of the mean."""
    rng = random.Random(3)
    chinese = [sample_text(rng, "zh", "balanced", "train") for _ in range(4800)]
    seen = collections.Counter("".join(chinese))
    mean = sum(seen.values()) / len(chinese_characters("train") + chinese_characters("heldout"))
    assert not set(chinese_characters("heldout")) & set(chinese) and not any(is_heldout(text) for text in chinese)
    low = [char for char in chinese_characters("train") if seen[char] < mean - 5 * mean**0.5]
    assert not low and len(set(seen)) >= 980 and {len(text) for text in chinese} == {1, 2, 3, 4}
    letters = collections.Counter("".join(sample_text(rng, "en", "balanced", "train") for _ in range(1500)).lower())
    assert len(letters) == 26 and max(letters.values()) < 1.5 * min(letters.values())


def test_the_same_stream_gives_the_same_text() -> None:
    one, two = random.Random(9), random.Random(9)
    assert [sample_text(one, "mixed", "phrase") for _ in range(20)] == [sample_text(two, "mixed", "phrase") for _ in range(20)]


def test_words_are_short_frequent_and_simplified() -> None:
    assert all(re.fullmatch("[a-z]{2,9}", word) for word in english_words())
    assert "the" in english_words() and "fuck" not in english_words()
    assert len(frequent_characters()) == 1000 and "國" not in frequent_characters()
    assert all(2 <= len(word) <= 4 for word in chinese_words())


def test_emoji_names_claim_no_colour_and_are_unique() -> None:
    every = [one for split in ("train", "heldout", "demo") for one in emoji_catalogue(split)]
    names = [one.name_en for one in every]
    assert len(set(names)) == len(names)
    assert not any(re.match("(red|green|blue|yellow|black|white) ", name) for name in names)
    assert all(re.fullmatch("[\u4e00-\u9fff]+", one.name_zh) for one in every)
