"""Lists that give pictures their captions: metadata.jsonl and metadata.csv of Hugging Face, COCO, LLaVA, and tables of people.

A list is a CSV with a header, JSON lines, a JSON file (a list of objects; an object of names and captions; COCO's "images" and
"annotations"), or a Parquet file. A row names its picture in one of the columns of ``FILES`` and says the rest as
:func:`~glyphflow.corpus.ingest.captions.from_mapping` understands it. LLaVA's conversations give their first answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import require
from glyphflow.core.text import TextError, decode_text, split_lines
from glyphflow.corpus.ingest.captions import CAPTION_NAMES, Said, encoding_notes, from_mapping
from glyphflow.corpus.ingest.csv_rows import decode_damaged, rows_of
from glyphflow.corpus.ingest.shards import extension_of
from glyphflow.corpus.ingest.tree import loosely, same

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")
MAX_LIST_BYTES = 512 << 20  # a larger one takes more memory than its reader has a right to

FILES = (
    "file", "file_name", "filename", "path", "image", "images", "image_path", "image_file", "image_name", "img_path",
    "img", "file_path", "filepath", "file_names", "image_file_name", "images_file_names", "key",
)  # fmt: skip

Row = tuple[tuple[str, ...], Said]  # the names of its pictures, and what it says of them


class ByName(list[Row]):
    """Rows of an object of names and captions. Any JSON file is such an object, so it counts if half of them are pictures."""


class NoList(Exception):
    """A file that is no list of pictures; the text says why."""


@dataclass
class Listing:
    """What lists say, by the picture."""

    said: dict[str, Said] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)  # names of the lists
    strangers: list[tuple[str, int, str]] = field(default_factory=list)  # list, rows that name no picture here, the first

    def add(self, name: str, rows: Sequence[Row], names: Names) -> None:
        """Take the rows of the list ``name``; a list none of whose rows names a picture of ours is none."""
        taken, unknown, first = 0, 0, ""
        found: dict[str, Said] = {}
        for files, said in rows:
            places = [place for file in files if (place := names.find(file, name)) is not None]
            if not places:
                unknown, first = unknown + 1, first or "".join(files[:1])
                continue
            taken += 1
            if len(files) > 1:
                said = said._replace(
                    captions={}, notes=(*said.notes, "a caption in a list speaks of several pictures and is none")
                )
            for place in places:
                known = found.get(place) or self.said.get(place)
                found[place] = _further(known, said) if known else said
        if taken and not (isinstance(rows, ByName) and taken < unknown):
            self.said |= found
            self.used.add(name)
            if unknown:
                self.strangers.append((name, unknown, first))


def _further(first: Said, said: Said) -> Said:
    """One more row about a picture that has one: its captions are kept beside the first."""
    others = [*first.metadata.get("other_captions", ()), *said.captions.values()]
    both = first.over(said)
    return both._replace(metadata={**both.metadata, **({"other_captions": others} if others else {})})


class Names:
    """Finds the picture that a list means: beside the list, below the folder, by the end of its path, or without its ending."""

    def __init__(self, names: Sequence[str], root: Path | None = None) -> None:
        self._root = root.resolve() if root is not None else None
        self._exact = {same(name): name for name in names}
        self._loose: dict[str, list[str]] = {}
        for name in names:
            key = loosely(name)
            last = key.rsplit("/", 1)[-1]
            for each in {key, last, last.rsplit(".", 1)[0], key.rsplit(".", 1)[0]}:
                self._loose.setdefault(each, []).append(name)

    def find(self, file: str, listing: str = "") -> str | None:
        """The name of the picture ``file`` of the list ``listing``; None where there is none, or more than one."""
        wanted = same(file)
        if self._root is not None and PurePosixPath(wanted).is_absolute() and Path(wanted).is_relative_to(self._root):
            wanted = Path(wanted).relative_to(self._root).as_posix()
        base = PurePosixPath(same(listing)).parent
        for each in (_joined(base, wanted), wanted):
            if each in self._exact:
                return self._exact[each]
        key = wanted.casefold().lstrip("/")
        for each in (_joined(base, key).casefold(), key):
            if len(found := self._loose.get(each, [])) == 1:
                return found[0]
        found = self._loose.get(key.rsplit("/", 1)[-1], [])
        ends = [name for name in found if _agree(loosely(name), key)]
        if len(ends) > 1:  # COCO's captions_train2017.json speaks of train2017/
            ends = [name for name in ends if PurePosixPath(loosely(name)).parent.name in PurePosixPath(loosely(listing)).stem]
        return ends[0] if len(ends) == 1 else None


def _joined(base: PurePosixPath, name: str) -> str:
    parts: list[str] = []
    for part in (base / name).parts:
        if part == ".." and parts:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _agree(name: str, wanted: str) -> bool:
    """Whether one path is the end of the other."""
    ours, theirs = name.split("/"), wanted.split("/")
    size = min(len(ours), len(theirs))
    return ours[-size:] == theirs[-size:] or (ours[-1].rsplit(".", 1)[0] == theirs[-1] and size == 1)


def read_list(name: str, data: bytes) -> list[Row]:
    """The rows of a list; :class:`NoList` for a file that is none."""
    ending = extension_of(name)
    if ending == ".parquet":
        return _from_rows(_parquet_rows(data))
    if ending in (".csv", ".tsv"):
        return _from_csv(data)
    if ending in (".jsonl", ".ndjson"):
        text, encoding = decode_damaged(data)
        return _noted(_from_rows(_json_lines(text)), encoding)
    try:
        text, encoding = decode_text(data)
        value = json.loads(text)
    except TextError as error:
        raise NoList(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise NoList("it is no JSON") from error
    return _noted(_from_json(value), encoding)


def _noted(rows: list[Row], encoding: str) -> list[Row]:
    """``rows`` with a note in the first where the encoding of their list was guessed."""
    if rows and (notes := encoding_notes(encoding)):
        files, said = rows[0]
        rows[0] = files, said._replace(notes=said.notes + notes)
    return rows


def read_captions(path: Path) -> list[Row]:
    """The rows of the list that a user gave; one that is none is an :class:`InputError` that says what is lacking."""
    if extension_of(path.name) not in ENDINGS:
        raise InputError(f"{path} is none of {', '.join(ENDINGS)}; give the captions as such a list.")
    try:
        return read_list(path.name, path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a CSV with the columns file and caption.") from error
    except NoList as error:
        raise InputError(f"{path} {error}.") from error


# -- forms ----------------------------------------------------------------------------------------------------------------


def _file_column(names: Sequence[str]) -> str | None:
    small = {name.strip().lower(): name for name in reversed(names)}
    return next((small[name] for name in FILES if name in small), None)


def _needs(names: Sequence[str]) -> NoList:
    return NoList(
        f"has the columns {', '.join(names) or 'none'}; it needs one for the file (file) and one for the caption "
        "(caption, or en and zh)"
    )


def _from_csv(data: bytes) -> list[Row]:
    text, encoding = decode_damaged(data)
    header, rows = rows_of(text)
    names = [name.strip().lower() for name in header if name.strip()]
    column = _file_column(header)
    if column is None or not any(name in names for name in (*CAPTION_NAMES, "en", "zh")):
        raise _needs(names)
    found = []
    for row in rows:
        if files := _files(row.get(column)):
            said = from_mapping({name: value for name, value in row.items() if name.strip()}, (column,))
            values = {name: _number(value) for name, value in said.metadata.items()}
            found.append((files, said._replace(metadata=values)))
    return _noted(found, encoding)


def _number(value: str) -> str | int | float:
    """A value of a CSV as the number that it writes, else as it is; 007 is no number."""
    if re.fullmatch(r"-?(0|[1-9]\d{0,17})", value):
        return int(value)
    return float(value) if re.fullmatch(r"-?(0|[1-9]\d{0,17})\.\d+(e-?\d{1,2})?", value, re.IGNORECASE) else value


def _json_lines(text: str) -> Iterator[Any]:
    for line in split_lines(text):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield None


def _parquet_rows(data: bytes) -> list[Any]:
    arrow, parquet = require("pyarrow", "corpus"), require("pyarrow.parquet", "corpus")
    try:
        with parquet.ParquetFile(arrow.BufferReader(data)) as file:
            names = [each.name for each in file.schema_arrow if not arrow.types.is_binary(each.type)]
            rows: list[Any] = file.read(names, use_threads=False).to_pylist()
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise NoList(f"cannot be read as a table: {' '.join(str(error).split())[:200]}") from error
    return rows


def _from_json(value: Any) -> list[Row]:
    if isinstance(value, list):
        return _from_rows(value)
    if not isinstance(value, Mapping):
        raise NoList("holds no list of pictures")
    if isinstance(value.get("images"), list) and isinstance(value.get("annotations", []), list):
        return _from_coco(value)
    for name in ("data", "annotations", "samples", "items"):
        if isinstance(value.get(name), list):
            return _from_rows(value[name])
    rows = ByName()  # names and captions, or names and objects as kohya's trainers write them
    for name, told in value.items():
        if isinstance(told, str):
            rows.append(((name,), from_mapping({"caption": told})))
        elif isinstance(told, Mapping):
            said = from_mapping(told)
            tags = told.get("tags")
            if not said.captions and isinstance(tags, str):
                said = from_mapping({**told, "caption": tags})
            rows.append(((name,), said))
    if not rows:
        raise NoList("holds no list of pictures")
    return rows


def _from_rows(rows: Any) -> list[Row]:
    found: list[Row] = []
    names: set[str] = set()
    for row in rows:
        if not isinstance(row, Mapping):
            continue
        names.update(map(str, row))
        column = _file_column([str(name) for name in row])
        if column is None or not (files := _files(row[column])):
            continue
        said = from_mapping(row, (column,))
        if not said.captions and (answer := _answer(row)):
            said = said._replace(captions=from_mapping({"caption": answer}).captions)
        found.append((files, said))
    if not found:
        raise _needs(sorted(names)[:20])
    return found


def _files(value: Any) -> tuple[str, ...]:
    if isinstance(value, Mapping):  # a Hugging Face image
        value = value.get("path") or value.get("file_name")
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return tuple(dict.fromkeys(each for one in value for each in _files(one)))
    return ()


def _answer(row: Mapping[str, Any]) -> str | None:
    """The first thing that the model says in a conversation, as LLaVA ({from, value}) or chats ({role, content}) write them."""
    turns = row.get("conversations") or row.get("messages") or ()
    for turn in turns if isinstance(turns, Sequence) else ():
        if not isinstance(turn, Mapping):
            continue
        said = turn.get("value", turn.get("content"))
        if turn.get("from", turn.get("role")) in ("gpt", "assistant", "model") and isinstance(said, str):
            return said.replace("<image>", "").strip()
    return None


def _from_coco(value: Mapping[str, Any]) -> list[Row]:
    categories = {each.get("id"): each.get("name") for each in _mappings(value.get("categories"))}
    captions: dict[Any, list[str]] = {}
    things: dict[Any, list[Any]] = {}
    for each in _mappings(value.get("annotations")):
        if isinstance(each.get("caption"), str):
            captions.setdefault(each.get("image_id"), []).append(each["caption"])
        if "category_id" in each:
            things.setdefault(each.get("image_id"), []).append(categories.get(each["category_id"], each["category_id"]))
    licences = {each.get("id"): each.get("name") or each.get("url") for each in _mappings(value.get("licenses"))}
    rows = []
    for image in _mappings(value.get("images")):
        files = _files(image.get("file_name"))
        if not files:
            continue
        first, *others = captions.get(image.get("id")) or [""]
        said: dict[str, Any] = {**image, **({"caption": first} if first else {}), "license": licences.get(image.get("license"))}
        said |= {"other_captions": others} if others else {}
        said |= {"categories": things[image["id"]]} if image.get("id") in things else {}
        rows.append((files, from_mapping(said, ("file_name",))))
    if not rows:
        raise NoList('its "images" name no file')
    return rows


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []
