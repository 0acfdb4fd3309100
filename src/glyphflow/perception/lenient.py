"""JSON as models write it: what every reader understands and a strict parser refuses.

Understood are quotation marks and line breaks inside strings, curly and single quotation marks around them, trailing and
missing commas, comments, Python's constants and names without quotation marks. A quotation mark ends a string where the object
or list goes on behind it as one does. A value without an end is no value: its reply was cut off.
"""

from __future__ import annotations

import json
import re
from typing import Any

_DEPTH = 50
_CLOSING = {'"': '"', "'": "'", "\u201c": "\u201d", "\uff02": "\uff02"}
_SPACE = re.compile(r"(?:\s|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_NAME = re.compile(r"[^\W\d][\w \-]*")
_COMMA = re.compile(r"[,\uff0c]")
_COLON = re.compile(r"[:\uff1a]")
_AFTER_NAME = re.compile(r"\s*[:\uff1a]")
_BEGIN = r"[\"'\u201c\uff02{\[\d-]"  # of a value, beside words
_NEXT_NAME = (
    r"[\"'\u201c\uff02]?[^\W\d][^\"'\u201c\u201d\uff02:\uff1a{}\[\],\n]{0,60}[\"'\u201d\uff02]?"
    rf"\s*[:\uff1a]\s*(?:{_BEGIN}|[tTfFnN])"
)
_AFTER_VALUE = re.compile(rf"\s*(?:[,\uff0c]?\s*\}}|[,\uff0c]\s*{_NEXT_NAME}|\s*\n\s*{_NEXT_NAME})")
_AFTER_ITEM = re.compile(r"\s*(?:[,\uff0c]?\s*\]|[,\uff0c]\s*[\"'\u201c\uff02{\[\d]|\n\s*[\"'\u201c\uff02{\[\d])")
_WORD = re.compile(r"[^\s,\uff0c:\uff1a{}\[\]\"]+")
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_ESCAPE = re.compile(r"\\u[0-9a-fA-F]{4}|\\.", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def lenient_value(text: str, start: int) -> tuple[Any, int]:
    """The object or list that begins at ``start``, and where it ends; ValueError quotes the place that cannot be read."""
    return _value(text, start, _AFTER_VALUE, 0)


def _value(text: str, at: int, after: re.Pattern[str], depth: int) -> tuple[Any, int]:
    at = _skip(text, at)
    first = text[at : at + 1]
    if depth > _DEPTH or not first:
        raise _error(text, at)
    if first == "{":
        return _object(text, at + 1, depth)
    if first == "[":
        return _list(text, at + 1, depth)
    if first in _CLOSING:
        return _string(text, at, after)
    word = _WORD.match(text, at)
    if word is None:
        raise _error(text, at)
    if word[0].casefold() in _WORDS:
        return _WORDS[word[0].casefold()], word.end()
    try:
        return json.loads(word[0]), word.end()
    except ValueError:
        raise _error(text, at) from None


def _object(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    while True:
        at = _skip(text, at, _COMMA)
        if text[at : at + 1] == "}":
            return found, at + 1
        if text[at : at + 1] in _CLOSING:
            name, at = _string(text, at, _AFTER_NAME)
        else:
            bare = _NAME.match(text, at)
            if bare is None:
                raise _error(text, at)
            name, at = bare[0].strip(), bare.end()
        at = _skip(text, at)
        if not _COLON.match(text, at):
            raise _error(text, at)
        found[name], at = _value(text, at + 1, _AFTER_VALUE, depth + 1)


def _list(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    while True:
        at = _skip(text, at, _COMMA)
        if text[at : at + 1] == "]":
            return found, at + 1
        value, at = _value(text, at, _AFTER_ITEM, depth + 1)
        found.append(value)


def _string(text: str, at: int, after: re.Pattern[str]) -> tuple[str, int]:
    """The string whose quotation mark is at ``at``: up to the first that ``after`` follows."""
    closing, end = _CLOSING[text[at]], at + 1
    while (end := text.find(closing, end)) >= 0:
        slashes = len(text[at:end]) - len(text[at:end].rstrip("\\"))
        if slashes % 2 == 0 and after.match(text, end + 1):
            return _ESCAPE.sub(_unescaped, text[at + 1 : end]), end + 1
        end += 1
    raise _error(text, at)


def _unescaped(match: re.Match[str]) -> str:
    said = match[0]
    return chr(int(said[2:], 16)) if len(said) == 6 else _ESCAPES.get(said[1], said[1])


def _skip(text: str, at: int, more: re.Pattern[str] | None = None) -> int:
    """Past white space and comments, and past what ``more`` matches between them."""
    while True:
        match = _SPACE.match(text, at)
        at = match.end() if match else at
        if more is None or not more.match(text, at):
            return at
        at += 1


def _error(text: str, at: int) -> ValueError:
    return ValueError(f"the JSON cannot be read at {text[at : at + 30]!r}" if at < len(text) else "the JSON is not complete")
