"""Which language a text is in: its script first, a classifier only where one script serves many languages.

Captions and the lines that OCR reads are short, where statistics guess and scripts do not: Chinese, Japanese, Korean, Greek,
Thai and a dozen more are decided by their characters alone. Latin, Arabic and Devanagari texts go to the packaged naive
Bayes model of py3langid, restricted to the languages of that script.
"""

from __future__ import annotations

import functools
import re
import threading
import unicodedata
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from glyphflow.core.hardware import require
from glyphflow.core.hashing import sha256_file

Split = Literal["english", "chinese", "other", "non-text"]

SURE = 0.5  # probability from which plain Latin letters are believed to be another language than English
KANA_SHARE = 0.1  # of kana among the characters of a text with Han: less is an ornament in Chinese (の)

# Scripts (first word of the characters' Unicode names) that stand for one language, as ISO 639-1.
_ONE_LANGUAGE = {
    "HANGUL": "ko", "GREEK": "el", "THAI": "th", "HEBREW": "he", "GEORGIAN": "ka", "ARMENIAN": "hy", "BENGALI": "bn",
    "TAMIL": "ta", "TELUGU": "te", "KANNADA": "kn", "MALAYALAM": "ml", "GUJARATI": "gu", "GURMUKHI": "pa", "SINHALA": "si",
    "KHMER": "km", "LAO": "lo", "MYANMAR": "my", "ETHIOPIC": "am", "TIBETAN": "bo", "MONGOLIAN": "mn", "BOPOMOFO": "zh",
}  # fmt: skip
_CYRILLIC = (("uk", "іїєґ"), ("sr", "љњћђџј"))  # and "ru" without any of these; the classifier errs on short texts here
_LETTERS = {  # of one language among those of a script; the last without any
    "ARABIC": (("ur", "\u0679\u0688\u0691\u06ba\u06d2"), ("fa", "\u067e\u0686\u0698\u06af\u06cc\u06a9"), ("ar", "")),
    "DEVANAGARI": (("mr", "\u0933"), ("hi", "")),
}
_QUOTED = re.compile(r"\u201c[^\u201c\u201d]*\u201d|\"[^\"]*\"|\u300c[^\u300c\u300d]*\u300d|\u300e[^\u300e\u300f]*\u300f")
_MANY_LANGUAGES = {
    "LATIN": ("en", "de", "fr", "es", "it", "pt", "nl", "sv", "da", "no", "fi", "pl", "cs", "sk", "hu", "ro", "tr", "vi", "id",
              "ca", "hr", "sl", "et", "lv", "lt"),
    "ARABIC": ("ar", "fa", "ur"),
    "DEVANAGARI": ("hi", "mr", "ne"),
}  # fmt: skip


def language(text: str) -> str:
    """ISO 639-1 code of the language of ``text``; "" when it has no letters, "und" for a script that is not known here.

    Chinese needs a third of the letters only, because one character is a word (a Chinese sentence about a "Windows 95 CD").
    """
    scripts = _scripts(text)
    letters = sum(scripts.values())
    if not letters:
        return ""
    kana, han = scripts["HIRAGANA"] + scripts["KATAKANA"], scripts["CJK"]
    if 3 * (kana + han) >= letters:
        return "ja" if kana > KANA_SHARE * (kana + han) else "zh"
    script = scripts.most_common(1)[0][0]
    if script in _ONE_LANGUAGE:
        return _ONE_LANGUAGE[script]
    if script == "CYRILLIC":
        return next((code for code, own in _CYRILLIC if set(own) & set(text.lower())), "ru")
    return _classified(text, script) if script in _MANY_LANGUAGES else "und"


def _scripts(text: str) -> Counter[str]:
    """How many letters ``text`` has of each script."""
    return Counter(script for char in text if char.isalpha() and (script := _script(char)))


def language_by_script(text: str) -> str:
    """As :func:`language`, from the characters alone: no model, so it is the same on every machine.

    Latin letters are "en", Arabic and Devanagari ones by the letters that only one of their languages has. What is quoted in a
    text says nothing about its language, unless nothing else is there. "" and digits are "en", too.
    """
    own = _QUOTED.sub(" ", text)
    scripts = _scripts(own if sum(map(str.isalpha, own)) > 1 else text)
    letters = sum(scripts.values())
    kana, han = scripts["HIRAGANA"] + scripts["KATAKANA"], scripts["CJK"]
    if letters and 3 * (kana + han) >= letters:
        # Korean with hanja, or a name in them: the script of the sentence is the one of its endings.
        if scripts["HANGUL"] > han:
            return "ko"
        return "ja" if kana > KANA_SHARE * (kana + han) else "zh"
    script = scripts.most_common(1)[0][0] if letters else "LATIN"
    if script == "LATIN":
        return "en"
    if script == "CYRILLIC":
        return next((code for code, letters in _CYRILLIC if set(letters) & set(text.lower())), "ru")
    if script in _LETTERS:
        return next((code for code, letters in _LETTERS[script] if not letters or set(letters) & set(text)), "und")
    return _ONE_LANGUAGE.get(script, "und")


def split_of(text: str) -> Split:
    """The stage-4 split that ``text`` (all lines read in a picture) belongs to."""
    code = language(text)
    if not code:
        return "non-text"
    return "english" if code == "en" else "chinese" if code == "zh" else "other"


def identity() -> str:
    """Names the rules' version and the classifier's package and model: equal identities decide equally."""
    package = require("py3langid", "corpus")
    model = Path(str(package.__file__)).parent / "data" / "model.npz.xz"
    return f"script2+py3langid-{metadata.version('py3langid')}-{sha256_file(model)[:8]}"


def _classified(text: str, script: str) -> str:
    identifier = _identifier(script)
    code, probability = identifier.classify(text)
    plain = script == "LATIN" and all(char < "\x80" or not char.isalpha() for char in text)
    # One word of plain letters says nothing about its language; "en" is what such words in pictures mostly are.
    return "en" if plain and probability < SURE else str(code)


_loading = threading.Lock()


def _identifier(script: str) -> Any:
    with _loading:  # two threads would otherwise read the model twice
        return _load_identifier(script)


@functools.cache
def _load_identifier(script: str) -> Any:
    langid = require("py3langid.langid", "corpus")
    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    identifier.set_languages(_MANY_LANGUAGES[script])
    return identifier


@functools.lru_cache(maxsize=65_536)
def _script(char: str) -> str:
    name = unicodedata.name(char, "")
    word = name.split(" ", 1)[0].split("-", 1)[0]
    if word in ("FULLWIDTH", "HALFWIDTH", "MODIFIER", "FEMININE", "MASCULINE"):
        return "KATAKANA" if "KATAKANA" in name else "HANGUL" if "HANGUL" in name else "LATIN"
    return word
