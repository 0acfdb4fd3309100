"""Parquet tables: in which column a picture is, in which form, and what is said of it.

A picture is bytes, a list of bytes, base64 (also as a ``data:`` URI), a Hugging Face image ({bytes, path}), a list of those, or
a path below the table. The columns are tried in the order below, then those whose type or whose Hugging Face feature says that
they hold pictures; the first that has a picture in this row counts, and pictures in others are told.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import require
from glyphflow.corpus.ingest.below import read_below
from glyphflow.corpus.ingest.captions import Said, from_mapping
from glyphflow.corpus.ingest.cells import Damaged, bytes_of, named_texts, rows_of
from glyphflow.corpus.ingest.shards import MAX_FILE_BYTES, Item, extension_of
from glyphflow.corpus.ingest.tally import Kinds

_BYTES = ("image", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "data")
_MORE_BYTES = ("images", "img", "picture", "photo", "jpg_bytes", "image_base64", "base64", "image_data", "binary", "content")
_PATHS = ("path", "file", "file_name", "filename", "image_path", "filepath", "file_path")
_KEYS = ("key", "id", "uid", "__key__")
_IMAGE = ("Image", "ImageFolder")  # features of Hugging Face datasets


@dataclass(frozen=True)
class _Columns:
    """What the columns of a table are for."""

    pictures: tuple[str, ...]  # in the order in which they are tried
    key: str | None
    others: tuple[str, ...]

    @property
    def wanted(self) -> list[str]:
        return list(dict.fromkeys((*self.pictures, *((self.key,) if self.key else ()), *self.others)))


class Tables:
    """Reads the tables of a source: ``alone`` where one file was named, which then must hold pictures."""

    def __init__(self, files: Sequence[Path], alone: bool) -> None:
        self.left_out = Kinds()
        self._alone = alone
        self._any = any(has_pictures(path) for path in files)

    def count(self, path: Path) -> int:
        table = opened(path)
        if isinstance(table, str):
            return 1
        if not columns_of(table).pictures:
            names = ", ".join(dict.fromkeys(table.schema_arrow.names)) or "none"
            if self._alone or not self._any:
                address = next((name for name in table.schema_arrow.names if name.lower() in ("url", "image_url")), None)
                advice = (
                    f"download the pictures of {address} first, for example with img2dataset"
                    if address
                    else "name the one with the pictures image, or the one with their paths file_name"
                )
                raise InputError(f"{path} has the columns {names}, and none of them holds pictures; {advice}.")
            self.left_out.add("tables without pictures", path.name)
            return 0
        return int(table.metadata.num_rows)

    def read(self, path: Path, name: str, first: int, count: int) -> Iterator[Item]:
        table = opened(path)
        if isinstance(table, str):
            yield Item(name, None, table)
            return
        columns = columns_of(table)
        for number, row in rows_of(table, first, count, columns.wanted):
            told = row.get(columns.key) if columns.key else None
            key = f"{name}/{number}" + (f"/{_key(told)}" if isinstance(told, str | int | bytes) else "")
            yield from _items(path, key, row, columns)


def opened(path: Path) -> Any:
    """The opened Parquet file, or why it cannot be opened."""
    parquet, arrow = require("pyarrow.parquet", "corpus"), require("pyarrow", "corpus")
    try:
        table = parquet.ParquetFile(path)
        _ = table.schema_arrow
        return table
    except (arrow.ArrowException, OSError, ValueError, KeyError) as error:
        return f"the table cannot be read: {' '.join(str(error).split())[:200]}"


def has_pictures(path: Path) -> bool:
    """Whether a Parquet file has a column that can be a picture; False for one that cannot be read."""
    table = opened(path)
    return not isinstance(table, str) and bool(columns_of(table).pictures)


def columns_of(table: Any) -> _Columns:
    """What the columns of an opened table are for; names count in small and in capital letters."""
    schema = table.schema_arrow
    names = {name.lower(): name for name in reversed(schema.names)}
    typed = [name for name in dict.fromkeys(schema.names) if _is_image(schema, name)]
    named = [names[name] for name in (*_BYTES, *_MORE_BYTES) if name in names]
    paths = [names[name] for name in _PATHS if name in names]
    # "data" and "content" are everyday names: they count where nothing else does, or their type says it.
    pictures = tuple(dict.fromkeys((*named, *typed, *paths)))
    key = next((names[name] for name in _KEYS if name in names), None)
    others = [field.name for field in schema if field.name not in pictures and _is_small(field.type)]
    return _Columns(pictures, key, tuple(dict.fromkeys(others)))


def _is_image(schema: Any, name: str) -> bool:
    """Whether the type of a column, or its Hugging Face feature, says that it holds pictures."""
    types = require("pyarrow", "corpus").types
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"][name]
        inner = told.get("feature", told) if isinstance(told, dict) else told[0]
        if inner.get("_type") in _IMAGE:
            return True
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        pass
    kind = schema.field(schema.names.index(name)).type
    if types.is_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
    return types.is_struct(kind) and {"bytes", "path"} <= {kind.field(number).name for number in range(kind.num_fields)}


def _is_small(kind: Any) -> bool:
    """Whether a column can be metadata or a caption (which some writers store as bytes): anything but vectors."""
    types = require("pyarrow", "corpus").types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return not (types.is_floating(kind.value_type) or types.is_nested(kind.value_type)) or types.is_struct(kind.value_type)
    return True


def _key(told: Any) -> str:
    text = told.decode("utf-8", "backslashreplace") if isinstance(told, bytes) else str(told)
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")[:500]


def _items(table: Path, key: str, row: Mapping[str, Any], columns: _Columns) -> Iterator[Item]:
    """The rows of one row: one for each of its pictures, or one with the reason why there is none."""
    lost = [name for name, value in row.items() if isinstance(value, Damaged) and name not in columns.pictures]
    said = _said({name: row.get(name) for name in columns.others if not isinstance(row.get(name), Damaged)})
    if lost:
        said = said._replace(notes=(*said.notes, f"the column {lost[0]!r} is damaged, its values are left out"))
    reasons: list[str] = []
    for place, name in enumerate(columns.pictures):
        found, why = _pictures(table.parent, name, row.get(name))
        if why and not found:
            reasons.append(why)
        if not found:
            continue
        others = [each for each in columns.pictures[place + 1 :] if bytes_of(row.get(each))[0]]
        notes = (f"a row has pictures in other columns, too, which are not taken ({', '.join(others)})",) if others else ()
        paths = {each: row.get(each) for each in columns.pictures if each != name and isinstance(row.get(each), str)}
        for number, (data, error, path) in enumerate(found):
            one = f"{key}#{number}" if number else key
            own = said._replace(metadata={**paths, **said.metadata}, notes=(*said.notes, *(() if number else notes)))
            yield Item(one, data, error, *own, extension=extension_of(str(path or "")) or ".jpg")
        return
    told = row.get("error_message")
    reason = str(told) if told else next(iter(reasons), "the row holds no picture")
    yield Item(key, None, reason[:1000], *said)


def _pictures(folder: Path, name: str, value: Any) -> tuple[list[tuple[bytes | None, str | None, str | None]], str | None]:
    """(bytes, reason, path) of every picture in a value; without one, why there is none (nothing for an empty value)."""
    if isinstance(value, Damaged):
        return [], f"the column {name!r} is damaged here: {value.told}"
    if isinstance(value, list | tuple) and not all(isinstance(each, int | float) for each in value):
        parts = [_pictures(folder, name, each) for each in value]
        return [each for found, _ in parts for each in found], next((why for _, why in parts if why), None)
    data, path = bytes_of(value)
    if data is not None:
        error = "the file is empty" if not data else f"the file has {len(data)} bytes" if len(data) > MAX_FILE_BYTES else None
        return [(None if error else data, error, path)] if data else [], error
    if path:
        data, error = read_below(folder, path)
        return ([(data, None, path)], None) if data is not None else ([], error)
    if value is None or value == "" or (isinstance(value, Mapping) and not any(value.values())):
        return [], None
    return [], f"the column {name!r} holds no picture but {_what(value)}"


def _what(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "numbers without a file's format" if value else "an empty list"
    if isinstance(value, str):
        return f"a text of {len(value)} characters that is none"
    return f"{value!r}"[:60] if isinstance(value, int | float | bool) else f"a value of another kind ({type(value).__name__})"


def _said(row: Mapping[str, Any]) -> Said:
    return from_mapping(named_texts(row))
