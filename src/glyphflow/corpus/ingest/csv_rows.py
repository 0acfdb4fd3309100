"""The rows of a CSV file that people wrote: a quote too many, a byte of another encoding, costs the row where it stands."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from glyphflow.core.text import TextError, decode_text

_LINES = 200  # that one quoted field may hold
_DELIMITERS = ",\t;|"

csv.field_size_limit(1 << 30)  # a giant field is no caption, but the rows after it are


def decode_damaged(data: bytes) -> tuple[str, str]:
    """The text in ``data`` with its encoding; where that cannot be told, line by line.

    Bytes that no encoding explains become surrogates (as Python's surrogateescape writes them), so that their row is known.
    """
    try:
        return decode_text(data)
    except TextError:
        lines = []
        for line in data.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True):  # of bytes: at \n, \r and \r\n
            try:
                lines.append(decode_text(line).text)
            except TextError:
                lines.append(line.decode("utf-8", "surrogateescape"))
        return "".join(lines), "utf-8"


def rows_of(text: str) -> tuple[list[str], Iterator[dict[str, str]]]:
    """The names in the header of a CSV (or TSV), and its rows by these names."""
    lines = _lines(text.replace("\x00", ""))
    start = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    if start == len(lines):
        return [], iter(())
    delimiter = max(_DELIMITERS, key=lines[start].count)
    records = _records(lines[start:], delimiter)
    header = next(records)
    return header, (_named(header, record, delimiter) for record in records)


def _named(header: list[str], record: list[str], delimiter: str) -> dict[str, str]:
    """A row by its names; a last text that has commas and no quotes is put together again."""
    last = len(header) - 1
    if len(record) > len(header):
        record = [*record[:last], delimiter.join(record[last:]).rstrip(delimiter)]
    return dict(zip(header, record, strict=False))


def _lines(text: str) -> list[str]:
    """Lines with their ends, cut at line feeds and carriage returns only."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _records(lines: list[str], delimiter: str) -> Iterator[list[str]]:
    width, at = 0, 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        record, at = _record(lines, at, delimiter, width)
        width = width or len(record)
        yield record


def _record(lines: list[str], at: int, delimiter: str, width: int) -> tuple[list[str], int]:
    """The record that begins at the line ``at``, and where the next one begins.

    A quote that closes on a later line belongs to a record of several lines if that has the width of the others. Else the
    quote is one too many, and the record is its line.
    """
    quotes = 0
    for end in range(at, min(len(lines), at + _LINES)):
        quotes += lines[end].count('"')
        if quotes % 2:
            continue
        try:
            records = list(csv.reader(lines[at : end + 1], delimiter=delimiter, strict=True))
        except csv.Error:
            break
        if len(records) == 1 and (end == at or not width or len(records[0]) == width):
            return records[0], end + 1
        break
    line = lines[at].rstrip("\n")
    try:
        lenient = next(csv.reader([line], delimiter=delimiter)) if line.count('"') % 2 == 0 else []
    except csv.Error:
        lenient = []
    return lenient or next(csv.reader([line], delimiter=delimiter, quoting=csv.QUOTE_NONE)), at + 1
