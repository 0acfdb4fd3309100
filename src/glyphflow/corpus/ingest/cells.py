"""The values of a Parquet table, one by one: what is damaged costs its own row or column and no other."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np

from glyphflow.core.hardware import require
from glyphflow.core.text import TextError, decode_text
from glyphflow.corpus.ingest.captions import CAPTION_NAMES, MAX_CAPTION_BYTES

_SAID = (*CAPTION_NAMES, "txt", "json", "en", "zh")
_AT_ONCE = 32  # rows
_SHORTEST = 40  # characters of a picture in base64
_MARKS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\0")  # of pictures' first bytes


@dataclass(frozen=True)
class Damaged:
    """A value that cannot be read from the file."""

    told: str


def rows_of(table: Any, first: int, count: int, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows [first, first + count) of an opened table with their numbers, from the row groups that hold them."""
    start = 0
    for group in range(table.metadata.num_row_groups):
        end = start + table.metadata.row_group(group).num_rows
        if end > first and start < first + count:
            lower, upper = max(first, start), min(first + count, end)
            yield from _group_rows(table, group, columns, start, lower, upper)
        start = end


def _group_rows(
    table: Any, group: int, columns: Sequence[str], start: int, lower: int, upper: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows [lower, upper) of the row group that begins with row ``start``; after an error column by column, row by row."""
    number = lower
    try:
        for at, row in _batches(table, group, columns, start, lower, upper, _AT_ONCE):
            yield at, row
            number = at + 1
    except _broken():
        cells = {name: _column(table, group, name, start, number, upper) for name in columns}
        for at in range(number, upper):
            yield at, {name: next(values) for name, values in cells.items()}


def _batches(
    table: Any, group: int, columns: Sequence[str], start: int, lower: int, upper: int, size: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    number = start
    for batch in table.iter_batches(batch_size=size, row_groups=[group], columns=list(columns), use_threads=False):
        if number + len(batch) > lower:
            names = {
                name: place for place, name in reversed(list(enumerate(batch.schema.names)))
            }  # of two of one name the first
            for at in range(max(number, lower), min(number + len(batch), upper)):
                yield at, {name: _value(batch.column(place)[at - number]) for name, place in names.items()}
        number += len(batch)
        if number >= upper:
            return


def _column(table: Any, group: int, name: str, start: int, lower: int, upper: int) -> Iterator[Any]:
    """The values of one column, and from the first on that cannot be read :class:`Damaged`."""
    told = "the row group ends too early"
    try:
        for _, row in _batches(table, group, [name], start, lower, upper, 1):
            yield row.get(name)
    except _broken() as error:
        told = " ".join(str(error).split())[:200]
    while True:
        yield Damaged(told)


def _broken() -> tuple[type[Exception], ...]:
    return OSError, ValueError, KeyError, require("pyarrow", "corpus").ArrowException


def _value(cell: Any) -> Any:
    """A cell as Python has it; lists of small numbers as bytes, texts that are not UTF-8 in the encoding that they are in."""
    types = require("pyarrow", "corpus").types
    kind = cell.type
    try:
        if (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)) and types.is_integer(
            kind.value_type
        ):
            return _octets(cell)
        return cell.as_py()
    except (ValueError, OverflowError, TypeError, KeyError, require("pyarrow", "corpus").ArrowException):
        return _salvaged(cell)


def _octets(cell: Any) -> Any:
    values = cell.values
    if values is None:
        return None
    if values.null_count:
        return cell.as_py()
    numbers = values.to_numpy(zero_copy_only=False)
    if len(numbers) > _SHORTEST and numbers.min() >= -128 and numbers.max() <= 255:
        return numbers.astype(np.int64).astype(np.uint8).tobytes()
    return numbers.tolist()


def _salvaged(cell: Any) -> Any:
    """What can be had of a value that Python does not take: a text in another encoding, a struct or list of one."""
    types = require("pyarrow", "corpus").types
    kind = cell.type
    if not cell.is_valid:
        return None
    if types.is_string(kind) or types.is_large_string(kind):
        return decoded(cell.as_buffer().to_pybytes())
    if types.is_struct(kind):
        return {kind.field(number).name: _value(cell[number]) for number in range(kind.num_fields)}
    if types.is_list(kind) or types.is_large_list(kind):
        return [_value(each) for each in cell.values]
    if types.is_dictionary(kind):
        return _value(cell.value)
    return None  # a date that no calendar has


def decoded(data: bytes) -> str:
    """The text in ``data``; bytes that no encoding explains stay as surrogate escapes, which are no caption."""
    try:
        return decode_text(data).text
    except TextError:
        return data.decode("utf-8", "surrogateescape")


def bytes_of(value: Any) -> tuple[bytes | None, str | None]:
    """The bytes of a picture in ``value``, or the path of its file; neither where it holds none."""
    if isinstance(value, Mapping):  # a Hugging Face image
        data, path = value.get("bytes"), value.get("path")
        if isinstance(data, list):
            data = _from_numbers(data)
        found = bytes_of(data)[0] if data else None
        return found if found is not None or data is None else b"", path if isinstance(path, str) else None
    if isinstance(value, str):
        unpacked = _unpacked(value)
        return (unpacked, None) if unpacked is not None else (None, value if len(value) <= 4096 else None)
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        if len(data) >= _SHORTEST and not data.startswith(_MARKS) and data.isascii():  # base64 in a column of bytes
            return _unpacked(data.decode("ascii")) or data, None
        return data, None
    return (_from_numbers(value), None) if isinstance(value, list | tuple) else (None, None)


def _from_numbers(value: Sequence[Any]) -> bytes | None:
    if len(value) > _SHORTEST and all(isinstance(each, int) and -128 <= each <= 255 for each in value):
        return bytes(each & 255 for each in value)
    return None


def _unpacked(text: str) -> bytes | None:
    """The picture in a ``data:`` URI or in base64 (also of the kind for addresses, with line breaks, without its end marks)."""
    text = text.strip()
    if text[:5].lower() == "data:":
        head, comma, body = text.partition(",")
        if not comma:
            return None
        if not head.lower().endswith(";base64"):
            return unquote_to_bytes(body)
        text = body
    elif len(text) < _SHORTEST:
        return None
    try:
        plain = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
        data = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if data.startswith(_MARKS) else None


def named_texts(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its captions in the forms that :func:`~glyphflow.corpus.ingest.captions.from_mapping` reads.

    Captions may be bytes, lists (the first counts, all stay as ``captions``), {"en": ..., "zh": ...}, or any of these in JSON.
    ``txt`` and ``json`` are what tables have that were made from WebDataset tars.
    """
    named: dict[str, Any] = {}
    for name, value in row.items():
        small = name.strip().lower()
        if isinstance(value, bytes):
            value = decoded(value) if len(value) <= MAX_CAPTION_BYTES else None
            if small not in _SAID and (value is None or not value.isprintable()):
                continue  # bytes that are no text
        if small in _SAID:
            named |= _caption("caption" if small == "txt" else small, name, value)
        else:
            named[name] = value
    return named


def _caption(small: str, name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            parsed = value
        value = parsed if isinstance(parsed, Mapping | list) else value
    if isinstance(value, Mapping):
        return {str(key): _text(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        first = next((text for each in value if isinstance(text := _text(each), str) and text.strip()), None)
        return {small: first, "captions": value} if first is not None else {name: value}
    return {small if small == "caption" else name: value}


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return decoded(value)
    if isinstance(value, Mapping):
        return next((value[name] for name in ("raw", *CAPTION_NAMES) if isinstance(value.get(name), str)), value)
    return value
