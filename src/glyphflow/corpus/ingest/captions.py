"""Captions and licences that come with pictures: what cannot be understood there is no caption, never an error."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError

MAX_CAPTION_BYTES = 100_000  # a text above this is not a caption

_FILE = ("file", "file_name", "filename", "path", "image", "key")
_CAPTION = ("caption", "text", "prompt", "instruction")

Said = tuple[dict[str, str], str | None]  # captions by language, and the picture's own licence


def language_of(text: str) -> str:
    """ "zh" if at least a third of the letters are Chinese characters, else "en"."""
    chinese = sum("\u4e00" <= char <= "\u9fff" for char in text)
    return "zh" if chinese * 3 >= max(1, sum(char.isalpha() for char in text)) else "en"


def from_text(data: bytes) -> Said:
    """A caption as the whole content of a .txt; bytes that are not UTF-8 are replaced, a text over the limit is none."""
    text = data.decode("utf-8-sig", "replace").strip() if len(data) <= MAX_CAPTION_BYTES else ""
    return ({language_of(text): text} if text else {}), None


def from_json(data: bytes) -> Said:
    """Captions from a .json with {"en": ..., "zh": ...} or {"caption": ...}, and "licence" where it is said."""
    if len(data) > MAX_CAPTION_BYTES:
        return {}, None
    try:
        value = json.loads(data.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return {}, None
    return from_mapping(value) if isinstance(value, Mapping) else ({}, None)


def from_mapping(value: Mapping[str, Any]) -> Said:
    """Captions and licence from named values, as a JSON file, a CSV line or a table's row has them."""
    captions = {key: text for key in ("en", "zh") if (text := _text(value.get(key)))}
    for name in _CAPTION:
        if plain := _text(value.get(name)):
            captions.setdefault(language_of(plain), plain)
            break
    return captions, _text(value.get("licence")) or _text(value.get("license")) or None


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_CAPTION_BYTES:
        return ""
    return value.encode("utf-8", "replace").decode("utf-8").replace("\x00", "").strip()  # lone surrogates fit into no table


def beside(path: Path) -> Said:
    """What the .json or else the .txt of the same name beside a picture says."""
    for suffix, parse in ((".json", from_json), (".txt", from_text)):
        place = path.with_suffix(suffix)
        try:
            if not place.is_file() or place.stat().st_size > MAX_CAPTION_BYTES:
                continue
            said = parse(place.read_bytes())
        except OSError:
            continue
        if suffix == ".txt" or said != ({}, None):
            return said
    return {}, None


def from_csv(path: Path) -> dict[str, Said]:
    """Captions by file name from a CSV with a header.

    It has a column for the file (file, file_name, path, ...) and one for the caption (caption, text, ...) or for each language
    (en, zh); licence is optional.

    A line that lacks the file is left out; a table without such columns is an :class:`InputError`.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig", "replace").splitlines(keepends=True)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a CSV with the columns file and caption.") from error
    csv.field_size_limit(1 << 30)  # a giant field is no caption, but the lines after it are
    reader = csv.DictReader(line.replace("\x00", "") for line in lines)
    columns = {name.strip().lower(): name for name in reader.fieldnames or () if name}
    file = next((columns[name] for name in _FILE if name in columns), None)
    if file is None or not any(name in columns for name in (*_CAPTION, "en", "zh")):
        raise InputError(
            f"{path} has the columns {', '.join(columns) or 'none'}; it needs one for the file (file) and one for the caption "
            "(caption, or en and zh)."
        )
    return {
        row[file].strip(): from_mapping({name: row.get(column) for name, column in columns.items()})
        for row in reader
        if row[file]
    }
