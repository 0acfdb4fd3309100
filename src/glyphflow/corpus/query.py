"""SQL over a corpus: the index, the current columns of every stage, and the views are tables of DuckDB."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import require
from glyphflow.corpus.store import Corpus

_FILE = "glyphflow_file"  # what the name of its file is called in a table, until it becomes the shard


def connect(corpus: Corpus) -> Any:
    """A DuckDB connection with the tables "index", one per stage, and view_NAME per view; each has the column ``shard``."""
    duckdb = require("duckdb", "corpus")
    connection = duckdb.connect()
    folders = {"index": corpus.directory / "index"}
    for stage in corpus.stages():
        folders[stage] = corpus.directory / "columns" / f"{stage}@{corpus.stage_fingerprint(stage)}"
    for view in corpus.views():
        folders[f"view_{view}"] = corpus.directory / "views" / view
    for name, folder in folders.items():
        files = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
        if files:
            # Files and no pattern; a "year=2024" in a path is no column, and a column "filename" is the table's own.
            connection.execute(
                f'create view "{name}" as select * exclude ("{_FILE}"), parse_filename("{_FILE}", true) as shard '
                f"from read_parquet([{', '.join(map(_quoted, files))}], filename = '{_FILE}', union_by_name = true, "
                "hive_partitioning = false)"
            )
    return connection


def _quoted(path: Path) -> str:
    """``path`` as a literal in which DuckDB finds neither a pattern nor an end."""
    return "'" + re.sub(r"[\[*?]", r"[\g<0>]", str(path)).replace("'", "''") + "'"


def query(corpus: Corpus, statement: str, pretty: bool = True) -> str:
    """The result of ``statement``: a table cut to the terminal, or every row with tabs between the values.

    Every row is one line: tabs and line breaks inside a value are written as \\t and \\n. A mistake in the statement is an
    :class:`InputError` with DuckDB's explanation.
    """
    duckdb = require("duckdb", "corpus")
    connection = None
    try:
        connection = connect(corpus)
        relation = connection.sql(statement)
        if relation is None:
            return ""
        if pretty:
            return str(relation).rstrip()
        rows = [relation.columns, *relation.fetchall()]
        return "\n".join("\t".join("" if value is None else _line(str(value)) for value in row) for row in rows)
    except (duckdb.Error, ValueError, OverflowError) as error:  # the others: characters and dates that Python cannot hold
        raise InputError(f"The query cannot be answered: {' '.join(str(error).split())}") from error
    finally:
        if connection is not None:
            connection.close()


def _line(value: str) -> str:
    return value.replace("\t", "\\t").replace("\r", "\\r").replace("\n", "\\n")
