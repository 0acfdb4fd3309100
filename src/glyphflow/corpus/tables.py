"""Parquet in and out, atomically, without importing pyarrow before it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.files import atomic_path
from glyphflow.core.hardware import require


def write_table(path: Path, columns: Mapping[str, Sequence[Any]], types: Mapping[str, str]) -> None:
    """Write ``columns`` (of one length: lists, numpy or Arrow arrays) to ``path`` atomically, as these Arrow types."""
    arrow = require("pyarrow", "corpus")
    parquet = require("pyarrow.parquet", "corpus")
    table = arrow.table(
        {
            name: columns[name]
            if isinstance(columns[name], arrow.Array | arrow.ChunkedArray)
            else arrow.array(columns[name], type=arrow_type(kind))
            for name, kind in types.items()
        }
    )
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary, compression="lz4", use_dictionary=False)


def arrow_type(kind: str) -> Any:
    """An Arrow type by name: "float32", "string", …, "list<string>" (any length) or "float32[512]" (always 512)."""
    arrow = require("pyarrow", "corpus")
    if kind.startswith("list<"):
        return arrow.list_(arrow_type(kind[5:-1]))
    if kind.endswith("]"):
        of, _, length = kind[:-1].partition("[")
        return arrow.list_(arrow_type(of), int(length))
    return arrow.type_for_alias(kind)


def read_table(path: Path, columns: Sequence[str] | None = None, optional: Sequence[str] = ()) -> dict[str, list[Any]]:
    """The columns of one Parquet file as lists (see :func:`read_arrow`)."""
    table = read_arrow(path, columns, optional)
    return {name: table.column(name).to_pylist() for name in table.column_names}


def read_arrow(path: Path, columns: Sequence[str] | None = None, optional: Sequence[str] = ()) -> Any:
    """The columns of one Parquet file as a pyarrow table; a damaged file is an :class:`InputError` that names it.

    Of the ``optional`` columns those that the file lacks (an older version wrote it) are nulls.
    """
    arrow = require("pyarrow", "corpus")
    parquet = require("pyarrow.parquet", "corpus")
    try:
        # One thread, no memory map and no reading ahead: the files are small and are read from many threads.
        with arrow.OSFile(str(path)) as source, parquet.ParquetFile(source, pre_buffer=False) as file:
            there = file.schema_arrow.names
            lacking = [name for name in optional if name not in there and (columns is None or name in columns)]
            wanted = [name for name in columns if name not in lacking] if columns is not None else None
            table = file.read(wanted, use_threads=False)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; the step that writes it has not run on this corpus.") from error
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a table ({' '.join(str(error).split())}); delete it and run its step."
        ) from error
    if wanted is not None and table.num_columns != len(set(wanted)):
        raise InputError(f"{path} has no column {sorted(set(wanted) - set(there))[0]!r}, only {', '.join(there)}.")
    for name in lacking:
        table = table.append_column(name, arrow.nulls(table.num_rows, arrow.string()))
    return table
