"""What comes with pictures: captions, licences and other values. What cannot be understood is no caption, and is told."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from glyphflow.core.text import TextError, decode_text
from glyphflow.perception.language import language_by_script

MAX_CAPTION_BYTES = 100_000  # a text above this is not a caption

CAPTION_NAMES = ("caption", "text", "prompt", "instruction")
_SEVERAL = ("captions", "texts", "sentences")  # lists of captions: the first counts
_LANGUAGES = (
    "en", "zh", "ja", "ko", "ru", "ar", "de", "fr", "es", "it", "pt", "nl", "pl", "tr", "vi", "th", "hi", "uk", "cs", "el",
    "he", "sv", "fi", "da", "hu", "ro", "fa", "bn", "ur", "ta", "te", "ms", "sk", "bg", "hr", "sr", "ca",
)  # fmt: skip
_NAMED = re.compile(rf"(?:caption|text|prompt|instruction)_({'|'.join(_LANGUAGES)})")
_LICENCE = ("licence", "license")


class Said(NamedTuple):
    """What came with one picture."""

    captions: Mapping[str, str] = {}  # by language
    licence: str | None = None  # its own
    metadata: Mapping[str, Any] = {}  # its other values by name
    notes: tuple[str, ...] = ()  # what the closing count tells of it; equal notes of many pictures are counted

    def over(self, other: Said) -> Said:
        """Both together; where they disagree, this one."""
        return Said(
            {**other.captions, **self.captions},
            self.licence or other.licence,
            {**other.metadata, **self.metadata},
            other.notes + tuple(note for note in self.notes if note not in other.notes),
        )


NOTHING = Said()


def language_of(text: str) -> str:
    """The language that a caption is stored under: "en", "zh", or the ISO 639-1 code of another, told by its script.

    Latin letters are "en" here; the stage captions has a classifier for them.
    """
    return language_by_script(text)


def from_text(data: bytes) -> Said:
    """A caption as the whole content of a .txt, in any encoding that can be told; a text over the limit is none."""
    if len(data) > MAX_CAPTION_BYTES:
        return Said(notes=(f"a caption of over {MAX_CAPTION_BYTES // 1000} kB is none",))
    try:
        text, encoding = decode_text(data)
    except TextError as error:
        return Said(notes=(f"a caption file is none: {error}",))
    text = _text(text)
    return Said({language_of(text): text} if text else {}, notes=encoding_notes(encoding))


def encoding_notes(encoding: str) -> tuple[str, ...]:
    """What is told of a text that was read in ``encoding``: nothing where it says so itself."""
    return () if encoding.startswith("utf") else (f"a text that is not UTF-8 was read as {encoding}",)


def from_json(data: bytes) -> Said:
    """Captions from a .json with {"en": ..., "zh": ...} or {"caption": ...}, "licence" where it is said, and the rest."""
    if len(data) > MAX_CAPTION_BYTES:
        return Said(notes=(f"a .json of over {MAX_CAPTION_BYTES // 1000} kB beside a picture was not read",))
    try:
        text, encoding = decode_text(data)
        value = json.loads(text)
    except TextError as error:
        return Said(notes=(f"a .json is none: {error}",))
    except (ValueError, RecursionError):
        return Said(notes=("a .json beside a picture is no JSON",))
    if isinstance(value, str):  # "a cat"
        value = {"caption": value}
    if not isinstance(value, Mapping):
        return Said(notes=("a .json beside a picture holds no names and values",))
    said = from_mapping(value)
    return said._replace(notes=said.notes + encoding_notes(encoding))


def from_mapping(value: Mapping[str, Any], without: Sequence[str] = ()) -> Said:
    """Captions, licence and other values, as a JSON file, a line of a CSV or a row of a table has them by name.

    Names are understood in small and in capital letters. Those in ``without`` (where the picture lies) are left out.
    """
    names = {str(name).strip().lower(): name for name in reversed(list(value))}  # of two that differ in case the first counts
    used = {names.get(name.lower(), name) for name in without}
    captions = {}
    for language in ("en", "zh"):
        if text := _text(value.get(names.get(language, ""))):
            captions[language] = text
            used.add(names[language])
    for name, own in names.items():
        if (named := _NAMED.fullmatch(name)) and (text := _text(value.get(own))):  # caption_ja
            captions.setdefault(named[1], text)
            used.add(own)
    for code, words in _by_language(value.get(names.get("captions", ""))).items():
        captions.setdefault(code, words)
        used.add(names["captions"])
    for name in (*CAPTION_NAMES, *_SEVERAL):
        told = value.get(names.get(name, ""))
        if name in _SEVERAL and isinstance(told, Sequence) and not isinstance(told, str):
            told = next((each for each in told if _text(each)), None)  # the others stay among the other values
        elif name in _SEVERAL:
            told = None
        if plain := _text(told):
            captions.setdefault(language_of(plain), plain)
            if name not in _SEVERAL:
                used.add(names[name])
            break
    licence = next((text for name in _LICENCE if (text := _text(value.get(names.get(name, ""))))), None)
    used |= {names[name] for name in _LICENCE if name in names}
    rest = {str(name): each for name, each in value.items() if name not in used and name is not None and not _empty(each)}
    damaged = any(_damaged(value.get(names.get(name, ""))) for name in (*CAPTION_NAMES, "en", "zh"))
    return Said(captions, licence, rest, ("a caption in a list is in no encoding that can be told",) if damaged else ())


def _by_language(value: Any) -> dict[str, str]:
    """The captions of {"en": ..., "ja": ...}, which may be written as JSON; nothing of anything else."""
    if isinstance(value, str) and value.lstrip()[:1] == "{":
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    if not isinstance(value, Mapping):
        return {}
    return {name: text for name, told in value.items() if name in _LANGUAGES and (text := _text(told))}


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | bytes | Sequence | Mapping) and not len(value))


def _damaged(text: Any) -> bool:
    """Whether ``text`` holds bytes that no encoding explains (as surrogates, by Python's surrogateescape)."""
    return isinstance(text, str) and any("\udc80" <= char <= "\udcff" for char in text)


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_CAPTION_BYTES or _damaged(value):
        return ""
    return value.encode("utf-8", "replace").decode("utf-8").replace("\x00", "").strip()  # lone surrogates fit into no table
