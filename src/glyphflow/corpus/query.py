"""SQL over a corpus: the index, the current columns of every stage, and the views are tables of DuckDB."""

from __future__ import annotations

from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import require
from glyphflow.corpus.store import Corpus


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
        if any(folder.glob("*.parquet")):
            files = str(folder / "*.parquet").replace("'", "''")
            connection.execute(
                f'create view "{name}" as select * exclude (filename), parse_filename(filename, true) as shard '
                f"from read_parquet('{files}', filename = true, union_by_name = true)"
            )
    return connection


def query(corpus: Corpus, statement: str, pretty: bool = True) -> str:
    """The result of ``statement``: a table cut to the terminal, or every row with tabs between the values.

    A mistake in the statement is an :class:`InputError` with DuckDB's explanation.
    """
    duckdb = require("duckdb", "corpus")
    connection = connect(corpus)
    try:
        relation = connection.sql(statement)
        if relation is None:
            return ""
        if pretty:
            return str(relation).rstrip()
        rows = [relation.columns, *relation.fetchall()]
        return "\n".join("\t".join("" if value is None else str(value) for value in row) for row in rows)
    except duckdb.Error as error:
        raise InputError(f"The query cannot be answered: {' '.join(str(error).split())}") from error
    finally:
        connection.close()
