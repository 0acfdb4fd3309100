"""Prompts as they come: words of the command line, text files, files of JSON objects, standard input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import typer

from glyphflow.cli.options import names_a_file
from glyphflow.core.config import Config, load_config
from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.text import Decoded, TextError, argument_text, decode_text, read_decoded, split_lines
from glyphflow.generate.inputs import check_text

_OTHER_FORMS = (".csv", ".tsv", ".yaml", ".yml", ".parquet", ".xlsx", ".xls", ".docx", ".odt", ".pdf", ".html", ".md")


class Line(Config):
    """What a line of a .jsonl file may hold; what it leaves out is as on the command line. Files are relative to its folder."""

    prompt: str = ""
    negative: str | None = None
    seed: int | None = None
    count: int | None = None
    steps: int | None = None
    cfg: float | None = None
    size: str | None = None
    aspect: str | None = None
    strength: float | None = None
    image: str | list[str] | None = None
    mask: str | None = None
    control: str | list[str] | None = None


Numbered = list[tuple[str, Line]]  # each with its place, which begins a sentence about it


def read_lines(path: Path) -> Numbered:
    """The lines of a file of prompts; ``-`` is standard input. Mistakes raise :class:`InputError` with the line's place."""
    name = "standard input" if str(path) == "-" else str(path)
    ending = path.suffix.lower()
    if ending in _OTHER_FORMS:
        raise InputError(
            f"{path} is no list of prompts; write a .txt with one on each line, or a .jsonl with an object on each."
        )
    read = _standard_input() if str(path) == "-" else read_decoded(path)
    if read.guessed:
        typer.echo(f"{name} is not UTF-8 and was read as {read.encoding}; save it as UTF-8 if characters are wrong.", err=True)
    if ending == ".json":
        return _read_array(name, read.text, path.parent)
    # A mark may also stand inside, where files were joined.
    stripped = [line.strip().strip("\ufeff").strip() for line in split_lines(read.text)]
    numbered = [(f"{name}, line {n}: ", line) for n, line in enumerate(stripped, 1) if line]
    if not numbered:
        raise InputError(f"{name} holds no prompt; write one on each line.")
    if ending in (".jsonl", ".ndjson") or (str(path) == "-" and all(text.startswith("{") for _, text in numbered)):
        return [(where, _line(where, _parsed(where, text), path.parent)) for where, text in numbered]
    return [(where, Line(prompt=text)) for where, text in numbered]


def argument_line(text: str, n: int) -> Line:
    """The ``n``-th prompt of the command line; a word that names a file was meant otherwise, and is refused."""
    prompt = argument(text, f"Prompt {n}")
    if prompt == "-":
        raise InputError("The prompt is '-'; write --prompts - to read prompts from standard input, one on each line.")
    if names_a_file(text):
        how = "--prompts in front of a file of prompts, " if prompt.endswith((".txt", ".jsonl", ".json")) else ""
        raise InputError(
            f"The prompt {prompt!r} is a file's name; write {how}--image in front of a picture to start from, and -o in front "
            "of the file to write."
        )
    return Line(prompt=prompt)


def argument(text: str, name: str) -> str:
    """A word of the command line as its writer meant it, whatever the terminal's encoding."""
    try:
        read = argument_text(text)
    except TextError as error:
        raise InputError(f"{name} cannot be read as text: {error}.") from error
    check_text(read, name)
    return read


def check_no_dash(path: Path | None) -> None:
    """Refuse ``-`` as the file to write: a picture and the words about it cannot share standard output."""
    if path is not None and str(path) == "-":
        raise InputError("-o is '-'; pictures are not written to standard output: name a file (./- for one of that name).")


def _standard_input() -> Decoded:
    if sys.stdin is None:
        raise InputError("There is no standard input to read prompts from; name a file.")
    stream = getattr(sys.stdin, "buffer", None)
    try:
        return Decoded(sys.stdin.read(), "utf-8") if stream is None else decode_text(stream.read())
    except TextError as error:
        raise InputError(f"Standard input cannot be read as text: {error}.") from error


def _read_array(name: str, text: str, folder: Path) -> Numbered:
    """A .json file: a list of prompts, or of objects as in a .jsonl."""
    content = _parsed(f"{name}: ", text)
    rows = content if isinstance(content, list) else [content]
    if not rows:
        raise InputError(f"{name} holds no prompt; write a list of them.")
    places = [(f"{name}, entry {n}: ", row) for n, row in enumerate(rows, 1)]
    return [(where, Line(prompt=row) if isinstance(row, str) else _line(where, row, folder)) for where, row in places]


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and brackets of thousands of levels
        raise InputError(f"{where}this is no JSON ({error}).") from error


def _line(where: str, content: object, folder: Path) -> Line:
    if not isinstance(content, dict):
        raise InputError(f'{where}this is no JSON object; write one such as {{"prompt": "a sign", "seed": 3}}.')
    try:
        line = load_config(Line, content)
    except ConfigError as error:
        raise InputError(f"{where}{str(error).removeprefix('Line: ')}") from error
    inside = {name: [_place(folder, file) for file in files(line, name)] for name in ("image", "control") if files(line, name)}
    mask = {} if line.mask is None else {"mask": _place(folder, line.mask)}
    return line.model_copy(update={**inside, **mask})


def _place(folder: Path, file: str) -> str:
    return str(Path.home() / file[2:] if file.startswith("~/") else folder / file)  # no shell reads this file


def files(line: Line, option: str) -> list[str]:
    """The files that ``line`` gives as ``option``."""
    given: str | list[str] | None = getattr(line, option)
    return [] if given is None else [given] if isinstance(given, str) else given
