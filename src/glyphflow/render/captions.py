"""Captions with slots, in two languages. They say what the picture shows and quote its text letter by letter.

The same fact comes in several phrasings, chosen by the seed, so that a model learns the facts and not one wording.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

# Most prompts that people write use straight double quotes; the others must work as well.
_QUOTES_EN = (('"', '"'),) * 7 + (("'", "'"),) * 2 + (("“", "”"),)
_QUOTES_ZH = (('"', '"'),) * 5 + (("“", "”"),) * 4 + (("「", "」"),)


def quote(rng: random.Random, texts: Sequence[str], language: str) -> list[str]:
    """Each text in the same kind of quotation marks, one that none of them contains."""
    used = set().union(*texts)
    marks = [pair for pair in (_QUOTES_EN if language == "en" else _QUOTES_ZH) if used.isdisjoint(pair)]
    left, right = rng.choice(marks) if marks else ("«", "»")
    return [f"{left}{text}{right}" for text in texts]


def article(noun: str) -> str:
    """``noun`` with "a" or "an" before it, by its first letter's usual sound."""
    first = noun.lower()
    vowel = first[0] in "aeiou" and not first.startswith(("uni", "use", "euro", "one", "uku"))
    return f"{'an' if vowel or first.startswith(('hour', 'x-')) else 'a'} {noun}"


WORD_EN: tuple[tuple[float, str], ...] = (
    (4, "{fg} text {q} on {a_bg} background"),
    (2, "the text {q} in {fg} on {a_bg} background"),
    (1, "{fg} letters {q} on {bg}"),
    (1, "{a_bg} sign with the text {q} in {fg}"),
    (1, "{a_bg} poster with {q} in {fg}"),
    (1, "{a_bg} poster that says {q}"),
    (1, "a poster that says {q}"),
    (1, "the word {q}"),
    (0.5, "a sign that says {q}"),
    (0.5, "{q} written in {fg}"),
    (0.5, "{q} in {fg} on {bg}"),
    (0.5, "{q}"),
)
WORD_ZH: tuple[tuple[float, str], ...] = (
    (4, "{bg}背景上的{fg}文字{q}"),
    (2, "{bg}背景上写着{fg}文字{q}"),
    (1, "{bg}背景，{fg}字{q}"),
    (1, "写着{fg}文字{q}的{bg}海报"),
    (1, "写着{q}的{bg}海报"),
    (1, "一张写着{q}的海报"),
    (1, "文字{q}"),
    (0.5, "一块写着{q}的牌子"),
    (0.5, "用{fg}写的{q}"),
    (0.5, "{bg}底{fg}字{q}"),
    (0.5, "{q}，{bg}背景，{fg}字"),
    (0.5, "{q}"),
)
LINES: dict[str, tuple[tuple[float, str], ...]] = {
    "en": (
        (4, "{fg} text {q} above {q2} on {a_bg} background"),
        (2, "two lines of {fg} text on {a_bg} background: {q} and {q2}"),
        (1, "{a_bg} sign with the text {q} and below it {q2} in {fg}"),
        (1, "{a_bg} poster that says {q} and {q2}"),
        (1, "a poster that says {q} and below it {q2}"),
    ),
    "zh": (
        (4, "{bg}背景上的两行{fg}文字{q}和{q2}"),
        (2, "{bg}背景上写着两行{fg}文字，上面是{q}，下面是{q2}"),
        (1, "写着两行{fg}文字{q}和{q2}的{bg}海报"),
        (1, "写着{q}和{q2}的{bg}海报"),
        (1, "一张海报，上面写着{q}，下面写着{q2}"),
    ),
}
STYLED_EN: tuple[tuple[float, str], ...] = (
    (2, "{fg} {style} text {q} on {a_bg} background"),
    (1, "{q} in {fg} {style} letters on {a_bg} background"),
)
STYLED_ZH: tuple[tuple[float, str], ...] = (
    (2, "{bg}背景上的{fg}{style}文字{q}"),
    (1, "用{fg}{style}写的{q}，{bg}背景"),
)
STYLES: dict[str, tuple[str, str]] = {
    "serif": ("serif", "衬线字体"),
    "slab": ("slab serif", "粗衬线字体"),
    "script": ("handwritten", "手写体"),
    "mono": ("monospaced", "等宽字体"),
    "sans": ("sans serif", "无衬线字体"),
}
EMOJI_EN: tuple[tuple[float, str], ...] = (
    (4, "{a_fg} {name} emoji on {a_bg} background"),
    (2, "{a_fg} {name} icon on {a_bg} background"),
    (1, "an icon of {a_name} in {fg} on {bg}"),
    (1, "{a_fg} {name} on {a_bg} background"),
    (1, "{a_name} emoji"),
)
EMOJI_ZH: tuple[tuple[float, str], ...] = (
    (4, "{bg}背景上的{fg}{name}图标"),
    (2, "{bg}背景上的{fg}{name}表情符号"),
    (1, "一个{fg}的{name}图标，{bg}背景"),
    (1, "{bg}背景上的{fg}{name}"),
    (1, "{name}图标"),
)
COLOUR_EMOJI_EN: tuple[tuple[float, str], ...] = (
    (3, "{a_name} emoji on {a_bg} background"),
    (1, "{a_name} on {a_bg} background"),
    (1, "{a_name} emoji"),
)
COLOUR_EMOJI_ZH: tuple[tuple[float, str], ...] = (
    (3, "{bg}背景上的{name}表情符号"),
    (1, "{bg}背景上的{name}"),
    (1, "{name}表情符号"),
)


PARAGRAPH_EN: dict[str, tuple[tuple[float, str], ...]] = {
    "printed": (
        (3, "{a_bg} page with {fg} text that reads {q}"),
        (1, "{fg} paragraph on {a_bg} background: {q}"),
        (1, "a page of text that reads {q}"),
    ),
    "handwritten": (
        (3, "{a_bg} page with handwritten {fg} text that reads {q}"),
        (1, "a handwritten note that reads {q}"),
    ),
    "vertical": (
        (3, "{a_bg} page with {fg} Chinese text in vertical columns that reads {q}"),
        (1, "vertical {fg} text on {a_bg} background: {q}"),
    ),
}
PARAGRAPH_ZH: dict[str, tuple[tuple[float, str], ...]] = {
    "printed": (
        (3, "{bg}页面上的{fg}文字，内容是{q}"),
        (1, "{bg}背景上的一段{fg}文字：{q}"),
        (1, "一页文字，写着{q}"),
    ),
    "handwritten": (
        (3, "{bg}页面上的{fg}手写文字，内容是{q}"),
        (1, "一张手写便条，写着{q}"),
    ),
    "vertical": (
        (3, "{bg}页面上竖排的{fg}文字，内容是{q}"),
        (1, "{bg}背景上竖排的一段{fg}文字：{q}"),
    ),
}
PHOTO_EN: tuple[tuple[float, str], ...] = (
    (2, "{a_medium} with the {fg} text {q} in front of {place}"),
    (2, "a photo of {place} with {a_medium} that says {q}"),
    (1, "{a_medium} that reads {q}, in the background {place}"),
)
PHOTO_ZH: tuple[tuple[float, str], ...] = (
    (2, "一{unit}{medium}，上面写着{fg}文字{q}，背景是{place}"),
    (2, "照片里有{place}和一{unit}写着{q}的{medium}"),
    (1, "写着{q}的{medium}，背景是{place}"),
)
SURFACE: dict[str, tuple[tuple[float, str], ...]] = {
    "en": (
        (2, "the {fg} text {q} {manner} on {a_medium}"),
        (1, "{a_medium} with the words {q} {manner} in {fg}"),
        (1, "{a_medium} that says {q}"),
    ),
    "zh": (
        (2, "{medium}上{manner}着{fg}文字{q}"),
        (1, "一{unit}{manner}着{fg}文字{q}的{medium}"),
        (1, "一{unit}写有{q}的{medium}"),
    ),
}
PLACED: dict[str, tuple[tuple[float, str], ...]] = {
    "en": (
        (2, "{a_medium} against {place}, with the {fg} text {q} {manner} on it"),
        (1, "{a_medium} that reads {q}, {manner} in {fg}, against {place}"),
    ),
    "zh": (
        (2, "{place}前的一{unit}{medium}，上面{manner}着{fg}文字{q}"),
        (1, "背景是{place}，一{unit}{manner}着{q}的{medium}"),
    ),
}


def phrase(rng: random.Random, patterns: Sequence[tuple[float, str]], **slots: str) -> str:
    """One of the weighted ``patterns`` with its slots filled; a slot ``a_x`` is ``x`` with its English article."""
    weights, texts = zip(*patterns, strict=True)
    pattern = rng.choices(texts, weights)[0]
    if "{a_" in pattern:
        slots |= {f"a_{name}": article(value) for name, value in slots.items() if value}
    return str(pattern.format_map(slots))
