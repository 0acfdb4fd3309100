"""One door for everything that can be ingested."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.core.files import read_json
from glyphflow.core.hardware import require
from glyphflow.corpus.ingest.archives import ENDINGS as ARCHIVES
from glyphflow.corpus.ingest.archives import ingest_archives
from glyphflow.corpus.ingest.edits import ingest_edits
from glyphflow.corpus.ingest.files import has_pictures, ingest_parquet, ingest_tars
from glyphflow.corpus.ingest.listing import ENDINGS as LISTS
from glyphflow.corpus.ingest.listing import NoList, read_list
from glyphflow.corpus.ingest.pages import HTML, PDF, ingest_pages
from glyphflow.corpus.ingest.pictures import ingest_folder, nothing_taken
from glyphflow.corpus.ingest.returned import relink
from glyphflow.corpus.ingest.shards import Ingested, extension_of
from glyphflow.corpus.ingest.tally import Kinds
from glyphflow.corpus.ingest.tars import ENDINGS as TARS
from glyphflow.corpus.ingest.tree import EXTENSIONS, Folder, key_of, pictures
from glyphflow.corpus.store import Corpus

Door = Callable[[Corpus, Path, str, str], Ingested]

_DOORS: Mapping[str, Door] = {
    "tar": ingest_tars,
    "parquet": ingest_parquet,
    "archive": ingest_archives,
    "pages": ingest_pages,
    "edits": ingest_edits,
    "folder": ingest_folder,
}
_TAKEN: Mapping[str, tuple[str, ...]] = {
    "tar": TARS,
    "parquet": (".parquet",),
    "archive": ARCHIVES,
    "pages": (*PDF, *HTML),
}
# Beside pages lie the files that they are made of.
_OF_PAGES = (
    *EXTENSIONS,
    ".css",
    ".js",
    ".mjs",
    ".map",
    ".woff",
    ".woff2",
    ".ttf",
    ".otf",
    ".svg",
    ".ico",
    ".json",
    ".xml",
    ".txt",
)
_TABLES_ASKED = 50  # that are opened to learn whether they hold pictures


def ingest(corpus: Corpus, place: Path | str, source: str, licence: str, captions: Path | str | None = None) -> Ingested:
    """Add what is at ``place``, told by its ending or by what lies in the folder.

    Tars, or tables with pictures, at the top of a folder decide; then pictures at its top. Below the top, packed files decide
    where they weigh more than the pictures and pages there, then PDF and HTML files (the pictures of web pages lie in folders
    of their own), then pictures. A source goes through the door that it came through first. What a folder holds beside is
    counted by ending; a place of which nothing can be taken is an :class:`InputError`. ``captions`` is a list (CSV, JSON, ...)
    for a folder of pictures.
    """
    place = Path(place)
    if not place.exists():
        raise InputError(f"{place} does not exist; give a folder of pictures, or a file to ingest.")
    tree = Folder(place) if place.is_dir() else None
    kind = _known_kind(corpus, place, source) or (_kind_of_folder(tree) if tree is not None else _kind_of_file(place))
    if kind == "folder":
        done = ingest_folder(corpus, place, source, licence, captions=captions)
        with corpus.writing(f"ingesting {source!r}"):
            done.tally.sentences += relink(corpus, source)
        return done
    if captions is not None:
        raise InputError(f"{captions} gives captions for a folder of pictures, but {place} brings its own; leave it out.")
    done = _DOORS[kind](corpus, place, source, licence)
    with corpus.writing(f"ingesting {source!r}"):
        done.tally.sentences += relink(corpus, source)
    if done.total == 0:
        raise nothing_taken(place, tree) if tree is not None else InputError(f"{place} holds no picture.")
    if tree is not None and not len(done.tally.left_out):
        done.tally.left_out = _left_out(tree.names, kind)
    return done


def _known_kind(corpus: Corpus, place: Path, source: str) -> str | None:
    """The door that ``source`` came through from this place."""
    path = corpus.directory / "sources" / f"{source}.json"
    plan = read_json(path) if path.exists() else {}
    kind = plan.get("kind", "folder")
    return kind if plan.get("shards") and plan.get("folder") == str(place.resolve()) and kind in _DOORS else None


def _kind_of_file(place: Path) -> str:
    name, ending = place.name.lower(), extension_of(place.name)
    for kind, endings in _TAKEN.items():
        if name.endswith(endings):
            return kind
    if ending in LISTS:
        if _is_list(place):
            raise InputError(
                f"{place} is a list of captions and holds no pictures; give the folder of the pictures, and the list with "
                f"--captions {place}."
            )
        if ending == ".jsonl":
            return "edits"
    if ending in EXTENSIONS:
        raise InputError(f"{place} is one picture; give the folder that it lies in.")
    raise InputError(
        f"{place} is none of .tar, .parquet, .jsonl, .pdf, .html and {', '.join(ARCHIVES)}; give such a file or a folder."
    )


def _is_list(place: Path) -> bool:
    try:
        rows = read_list(place.name, place.read_bytes())
    except (NoList, OSError):
        return False
    return not any("target" in said.metadata or "references" in said.metadata for _, said in rows)


def _kind_of_folder(tree: Folder) -> str:
    names = tree.names
    found = {kind: [name for name in names if name.lower().endswith(endings)] for kind, endings in _TAKEN.items()}
    seen = pictures(tree)
    found["parquet"] = _tables(tree.place, found["parquet"], bool(seen))
    for kind in ("tar", "parquet"):
        if any("/" not in name for name in found[kind]):
            return kind
    if any("/" not in name for name in seen):
        return "folder"
    weights = {kind: _weight(tree, found[kind]) for kind in ("tar", "parquet", "archive") if found[kind]}
    if weights:
        heaviest = max(weights, key=lambda kind: weights[kind])
        if weights[heaviest] >= _weight(tree, [*seen, *found["pages"]]):
            return heaviest
    return "pages" if found["pages"] else "folder"


def _weight(tree: Folder, names: Sequence[str]) -> int:
    return sum(told[0] for name in names if (told := tree.stat(name)))


def _tables(folder: Path, names: Sequence[str], beside_pictures: bool) -> list[str]:
    """The tables that hold pictures: all of them where one of the first does. One of names alone is a list of the pictures."""
    asked = [folder / name for name in names[:_TABLES_ASKED]]
    if not any(has_pictures(table) and not (beside_pictures and _names_only(table)) for table in asked):
        return []
    return list(names)


def _names_only(table: Path) -> bool:
    arrow, parquet = require("pyarrow", "corpus"), require("pyarrow.parquet", "corpus")
    is_type = arrow.types

    def holds_bytes(kind: Any) -> bool:
        if is_type.is_struct(kind):
            return any(holds_bytes(kind.field(number).type) for number in range(kind.num_fields))
        return bool(is_type.is_binary(kind) or is_type.is_large_binary(kind) or is_type.is_fixed_size_binary(kind))

    return not any(holds_bytes(each.type) for each in parquet.read_schema(table))


def _left_out(names: Sequence[str], kind: str) -> Kinds:
    """The files of a folder that a door passes by."""
    kinds = Kinds()
    beside = _OF_PAGES if kind == "pages" else ()
    for name in names:
        if not name.lower().endswith((*_TAKEN.get(kind, ()), *beside)):
            kinds.add(extension_of(name) or "without ending", key_of(name))
    return kinds
