"""The one normalisation of texts before they are compared, for every score that is not a published protocol's own.

A word processor writes ’ and “ ”, a Chinese keyboard ， and 。, a judge reads ' " , and . in the same ink: no mistakes.
:func:`comparable` gives one form of each text; :func:`words` splits that into the units of a word metric. Official numbers of
published benchmarks keep their authors' rules and do not come here.

characters   NFKC (full-width, ligatures, no-break and narrow spaces), then one form of each of: apostrophes and single quotes,
             double quotes and corner brackets, dashes, ellipses, full stops, commas, middle dots. A run of dashes is one, a run
             of dots is one ellipsis. Characters without ink (zero-width spaces, joiners, variation selectors) are none.
spaces       a run of white space is one space, none at the ends
case         no difference, where ``casefold``
words        a Han character is one, everything else is split at spaces; marks at the ends of a word are no part of it, and a
             mark alone is no word
"""

from __future__ import annotations

import re
import unicodedata

NORMALISATION = "text/2"
"""Stands in the identity of every metric that compares texts in this way; another number as soon as a rule is another."""

MARKS = ".,:;!?¡¿\"'()[]{}<>-·~…《》"
"""What may be missing or stand too much at the ends of a word, in the form of :func:`comparable`."""

_FORMS = {
    "'": "‘’‚‛′‵ʹʼʻ`´＇‹›",
    '"': "“”„‟″‶〝〞〟＂«»「」『』﹁﹂﹃﹄",
    "-": "‐‑‒–—―⁃−─﹘﹣－⸺⸻",
    "…": "⋯︙",
    ".": "。｡．﹒",
    ",": "、､，﹐﹑،",
    "·": "•‧∙⋅・･●",
    ":": "∶",
    "/": "⁄∕",
    "~": "〜∼",
    "[": "【〔〖",
    "]": "】〕〗",
    "<": "〈⟨",
    ">": "〉⟩",
}
_ONE_FORM = str.maketrans({form: one for one, forms in _FORMS.items() for form in forms})
_RUNS = ((re.compile(r"''"), '"'), (re.compile(r"-{2,}"), "-"), (re.compile(r"[.…]{2,}"), "…"))
_SELECTORS = re.compile("[\ufe00-\ufe0f\u180b-\u180d\U000e0100-\U000e01ef]")
# What becomes one character, or several, as a whole: a run, or a letter with the marks that are set upon it.
_DOTS, _DASHES, _QUOTES = (re.escape(one + _FORMS[one]) for one in (".", "-", "'"))
_PIECE = re.compile(rf"[{_DOTS}…⋯︙]{{2,}}|[{_DASHES}]{{2,}}|[{_QUOTES}]{{2}}|.", re.DOTALL)


def comparable(text: str, *, casefold: bool = True) -> str:
    """``text`` in the form in which texts are compared (see the module)."""
    plain = unicodedata.normalize("NFKC", text.translate(_ONE_FORM))  # before NFKC, which makes a space and an accent of ´
    if casefold:
        plain = unicodedata.normalize("NFKC", plain.casefold())
    plain = _SELECTORS.sub("", plain.translate(_ONE_FORM))
    plain = "".join(char for char in plain if unicodedata.category(char) != "Cf")
    for run, one in _RUNS:
        plain = run.sub(one, plain)
    return " ".join(plain.split())


def letters(text: str, *, casefold: bool = True) -> str:
    """:func:`comparable` without spaces, for metrics by characters."""
    return comparable(text, casefold=casefold).replace(" ", "")


def words(text: str) -> list[str]:
    """The units of a word metric in ``text`` (see the module); where it holds marks alone, these are its words."""
    plain = units(comparable(text))
    return [word for word in (bare(unit) for unit in plain) if word] or plain


def bare(word: str) -> str:
    """A :func:`comparable` word without the marks at its ends."""
    return word.strip(MARKS)


def pieces(text: str) -> list[str]:
    """``text`` cut so that the :func:`letters` of its pieces, one after the other, are those of the whole."""
    found: list[str] = []
    for match in _PIECE.finditer(text):
        if found and unicodedata.combining(match[0][0]):
            found[-1] += match[0]
        else:
            found.append(match[0])
    return found


def units(text: str) -> list[str]:
    """Words of normalised ``text``: Han characters stand alone, everything else is split at spaces."""
    spaced = "".join(f" {char} " if is_han(char) else char for char in text)
    return spaced.split()


def is_han(char: str) -> bool:
    """Whether ``char`` is a Chinese character (unified ideographs, extensions A to H, compatibility, and the zero 〇)."""
    code = ord(char)
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x323AF
        or code in (0x3007,)
        or (0xF900 <= code <= 0xFAFF)
    )
