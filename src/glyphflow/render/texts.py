"""Words, phrases and sentences to set: frequent words of both languages in sentence patterns of our own.

A word belongs to the split "heldout" when its hash says so (one in ten), unless a pattern contains it: so the split "train"
never draws a held-out word. A held-out *Chinese* word may still occur inside a longer one, and its characters do occur: what is
held out is the combination.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from glyphflow.core.hardware import require
from glyphflow.core.hashing import derive_seed
from glyphflow.render.params import Language, Level, Split
from glyphflow.render.sentences import (
    EN_INCLUDE,
    EN_PATTERNS,
    EN_PHRASES,
    EN_SLOTS,
    ZH_INCLUDE,
    ZH_PATTERNS,
    ZH_PHRASES,
    ZH_SLOTS,
)

# Two-letter abbreviations are frequent in web text and make poor words.
_SHORT = re.compile("go|no|up|hi|ok|we|me|us|it|is|in|on|at|by|my|he|do|so|an|as|be|or|to|of|if|am")
# Words that nobody wants on a sample page: rude, violent, or names of today's politics.
_BLOCKED = re.compile(
    r"sex\w*|porn\w*|nude|naked|fuck\w*|shit|ass|bitch\w*|damn|hell|nazis?|raped?|kill\w*|dead|death|die[ds]?|murder\w*|suicide|"
    r"dick|cock|pussy|tits|boobs|slut|whore|bastard|crap|piss\w*|cum|anal|terror\w*|hitler|trump|obama|putin|biden|clinton|bush|"
    r"hillary|https?|www|html|jpg|pdf|com|gop"
)
_BLOCKED_ZH = re.compile(
    "死|杀|性|毒|尸|奸|妓|淫|恐怖|习近平|毛泽东|特朗普|希特勒|普京|拜登|奥巴马|台独|法轮|党|主席|总统|母狗|杂种|混蛋|裸|奴"
)


@cache
def is_heldout(word: str) -> bool:
    """Whether a word (English in any case, or Chinese) or a number is kept for evaluation: one in ten, by its hash."""
    english, chinese = _fixed_text()
    return derive_seed(word.lower()) % 10 == 0 and word.lower() not in english and word not in chinese


@cache
def _fixed_text() -> tuple[frozenset[str], str]:
    """What the patterns say whatever fills them: the English words, and the Chinese text."""
    english = [*EN_PATTERNS, *EN_PHRASES, *(word for words in EN_SLOTS.values() for word in words)]
    chinese = [*ZH_PATTERNS, *ZH_PHRASES, *(word for words in ZH_SLOTS.values() for word in words)]
    words = re.findall(r"[a-z']+", re.sub(r"\{\w+\}", " ", " ".join(english)).lower())
    return frozenset(words), re.sub(r"\{\w+\}", "|", "|".join(chinese))


@cache
def english_words(split: Split = "train") -> tuple[str, ...]:
    """Lower-case English words of 2 to 9 letters among the 5,000 most frequent, most frequent first."""
    wordfreq: Any = require("wordfreq", "corpus")
    words = [
        word
        for word in wordfreq.top_n_list("en", 5000, wordlist="small")
        if re.fullmatch("[a-z]{2,9}", word)
        and not _BLOCKED.fullmatch(word)
        and (len(word) > 2 or _SHORT.fullmatch(word))
        and re.search("[aeiouy]", word)
    ]
    return _of_split(words, split)


@cache
def frequent_characters() -> tuple[str, ...]:
    """The 1,000 most frequent simplified Chinese characters, counted over the frequent words, most frequent first."""
    wordfreq: Any = require("wordfreq", "corpus")
    # The table itself: word_frequency() would start a tokeniser for every word.
    frequency = wordfreq.get_frequency_dict("zh", wordlist="small")
    counts: dict[str, float] = {}
    for word in _chinese_list():
        for char in word:
            counts[char] = counts.get(char, 0.0) + frequency[word]
    return tuple(sorted(counts, key=lambda char: (-counts[char], char))[:1000])


@cache
def chinese_words(split: Split = "train") -> tuple[str, ...]:
    """Chinese words of 2 to 4 characters, all among :func:`frequent_characters`, most frequent first."""
    common = set(frequent_characters())
    return _of_split([word for word in _chinese_list() if 2 <= len(word) <= 4 and common.issuperset(word)], split)


@cache
def chinese_characters(split: Split = "train") -> tuple[str, ...]:
    """The frequent characters as texts of one character."""
    return _of_split([char for char in frequent_characters() if not _BLOCKED_ZH.search(char)], split)


@cache
def _chinese_list() -> tuple[str, ...]:
    wordfreq: Any = require("wordfreq", "corpus")
    words = wordfreq.top_n_list("zh", 12000, wordlist="small")
    return tuple(word for word in words if re.fullmatch("[\u4e00-\u9fff]{1,4}", word) and not _BLOCKED_ZH.search(word))


def _of_split(words: list[str], split: Split) -> tuple[str, ...]:
    return tuple(word for word in words if is_heldout(word) == (split == "heldout"))


def sample_text(rng: random.Random, language: Language, level: Level, split: Split = "train") -> str:
    """One text without line breaks.

    ``level``: "char" (a letter, a digit or a Chinese character), "balanced" (characters that make no word, each as often as any
    other, for what frequent words leave rare), "word", "phrase" (two words or so), "line" (a sentence) or "paragraph" (four to
    eight sentences). "mixed" gives an English and a Chinese text side by side. The words are of ``split``
    ("demo" has the words of "train"); frequent words come more often, rare ones often enough to be learnt.
    """
    if language == "mixed":
        halves = [sample_text(rng, "en", level, split), sample_text(rng, "zh", level, split)]
        rng.shuffle(halves)
        return " ".join(halves)
    if level == "paragraph":
        sentences = [sample_text(rng, language, "line", split) for _ in range(rng.randint(4, 8))]
        return (" " if language == "en" else "").join(sentences)
    return _english(rng, level, split) if language == "en" else _chinese(rng, level, split)


def weave(rng: random.Random, characters: str, language: Language) -> list[str]:
    """Sentences that contain each of ``characters``, one to four of them to a sentence; none for no characters."""
    patterns = EN_INCLUDE if language == "en" else ZH_INCLUDE
    sentences = []
    while characters:
        count = rng.randint(1, 4)
        piece, characters = characters[:count], characters[count:]
        listed = ("、" if language != "en" else ", ").join(piece)
        sentences.append(rng.choice(patterns).replace("{chars}", listed))
    return sentences


def _english(rng: random.Random, level: Level, split: Split) -> str:
    words = english_words(split)
    if level == "balanced":
        return _balanced(rng, "abcdefghijklmnopqrstuvwxyz", rng.randint(3, 9), split, cased=True)
    if level == "char":
        return rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
    if level == "word":
        return _number(rng, split) if rng.random() < 0.08 else _cased(rng, _pick(rng, words))
    if level == "phrase":
        text = _filled(rng, EN_PHRASES, EN_SLOTS, words) if rng.random() < 0.5 else f"{_pick(rng, words)} {_pick(rng, words)}"
        return _cased(rng, text)
    text = _filled(rng, EN_PATTERNS, EN_SLOTS, words)
    return text[0].upper() + text[1:]


def _chinese(rng: random.Random, level: Level, split: Split) -> str:
    words = chinese_words(split)
    if level == "balanced":
        return _balanced(rng, chinese_characters("train") + chinese_characters("heldout"), rng.randint(1, 4), split)
    if level == "char":
        return _pick(rng, chinese_characters(split))
    if level == "word":
        # Single characters among the words: one in four, so that each is seen alone and large.
        return _pick(rng, chinese_characters(split)) if rng.random() < 0.25 else _pick(rng, words)
    if level == "phrase":
        return _filled(rng, ZH_PHRASES, ZH_SLOTS, words) if rng.random() < 0.5 else _pick(rng, words) + _pick(rng, words)
    return _filled(rng, ZH_PATTERNS, ZH_SLOTS, words)


def _balanced(rng: random.Random, characters: Sequence[str], count: int, split: Split, cased: bool = False) -> str:
    """``count`` of ``characters``, all alike likely, as a text of the split: what is held out is the combination."""
    while True:
        text = "".join(rng.choices(characters, k=count))
        if is_heldout(text) == (split == "heldout") and not _BLOCKED.fullmatch(text) and not _BLOCKED_ZH.search(text):
            return _cased(rng, text) if cased else text


def _pick(rng: random.Random, words: tuple[str, ...]) -> str:
    """Half of the time uniform, half of the time leaning to the frequent end of the list."""
    return words[int(len(words) * rng.random() ** (1.0 if rng.random() < 0.5 else 2.5))]


def _filled(rng: random.Random, patterns: tuple[str, ...], slots: dict[str, tuple[str, ...]], words: tuple[str, ...]) -> str:
    def fill(match: re.Match[str]) -> str:
        name = match.group(1)
        if name == "word":
            return _pick(rng, words)
        return rng.choice(_pattern_numbers() if name == "n" else slots[name])

    return re.sub(r"\{(\w+)\}", fill, rng.choice(patterns))


@cache
def _pattern_numbers() -> tuple[str, ...]:
    return tuple(str(n) for n in range(2, 100) if not is_heldout(str(n)))


def _cased(rng: random.Random, text: str) -> str:
    style = rng.random()
    return text.upper() if style < 0.5 else text.title() if style < 0.75 else text


def _number(rng: random.Random, split: Split) -> str:
    """A year, a percentage, a price, a time or a plain number of the split."""
    while True:
        kind = rng.randrange(5)
        number = (
            str(rng.randint(1900, 2049)),
            f"{rng.randint(1, 99)}%",
            f"${rng.randint(1, 199)}",
            f"{rng.randint(0, 23)}:{rng.randint(0, 59):02d}",
            str(rng.randint(0, 999)),
        )[kind]
        if is_heldout(number) == (split == "heldout"):
            return number
