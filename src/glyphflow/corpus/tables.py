"""Parquet in and out, atomically, without importing pyarrow before it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.files import atomic_path
from glyphflow.core.hardware import require


def write_table(path: Path, columns: Mapping[str, Sequence[Any]], types: Mapping[str, str]) -> None:
    """Write ``columns`` (all of one length) to ``path`` atomically; ``types`` gives each column's Arrow type by name."""
    arrow = require("pyarrow", "corpus")
    parquet = require("pyarrow.parquet", "corpus")
    table = arrow.table({name: arrow.array(columns[name], type=arrow.type_for_alias(kind)) for name, kind in types.items()})
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd")


def read_table(path: Path, columns: Sequence[str] | None = None, optional: Sequence[str] = ()) -> dict[str, list[Any]]:
    """The columns of one Parquet file as lists; a damaged file is an :class:`InputError` that names it.

    Of the ``optional`` columns those that the file lacks (an older version wrote it) are nulls.
    """
    arrow = require("pyarrow", "corpus")
    parquet = require("pyarrow.parquet", "corpus")
    try:
        # One thread and no memory map: the files are small and are read from many threads.
        with parquet.ParquetFile(path) as file:
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
    found = {name: table.column(name).to_pylist() for name in table.column_names}
    if wanted is not None and len(found) != len(set(wanted)):
        raise InputError(f"{path} has no column {sorted(set(wanted) - set(found))[0]!r}, only {', '.join(there)}.")
    return {**found, **{name: [None] * table.num_rows for name in lacking}}
