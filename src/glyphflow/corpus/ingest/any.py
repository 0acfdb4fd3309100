"""One door for everything that can be ingested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from glyphflow.core.errors import InputError
from glyphflow.corpus.ingest.edits import ingest_edits
from glyphflow.corpus.ingest.files import has_pictures, ingest_parquet, ingest_tars
from glyphflow.corpus.ingest.pages import HTML, PDF, find_pages, ingest_pages
from glyphflow.corpus.ingest.pictures import ingest_folder
from glyphflow.corpus.ingest.shards import Ingested, extension_of
from glyphflow.corpus.ingest.tree import EXTENSIONS
from glyphflow.corpus.store import Corpus


def ingest(corpus: Corpus, place: Path | str, source: str, licence: str, captions: Path | str | None = None) -> Ingested:
    """Add what is at ``place``, told by its ending or what lies in the folder: tars, tables with pictures, pages, or pictures.

    A folder holds pages when there are PDF or HTML files in it, at any depth, and no pictures at its top: the pictures of web
    pages lie in folders of their own. ``captions`` is a CSV for a folder of pictures.
    """
    place = Path(place)
    run = _kind(place)
    if run is None:
        if place.is_file():
            raise InputError(f"{place} is none of .tar, .parquet, .jsonl, .pdf and .html; give such a file or a folder.")
        return ingest_folder(corpus, place, source, licence, captions=captions)
    if captions is not None:
        raise InputError(f"{captions} gives captions for a folder of pictures, but {place} brings its own; leave it out.")
    return run(corpus, place, source, licence)


def _kind(place: Path) -> Callable[[Corpus, Path, str, str], Ingested] | None:
    if place.is_dir():
        if any(place.glob("*.tar")):
            return ingest_tars
        # img2dataset puts a table beside pictures, too: it lists them and holds none
        if any(has_pictures(table) for table in sorted(place.glob("*.parquet"))[:1]):
            return ingest_parquet
        pictures = any(extension_of(child.name) in EXTENSIONS for child in place.iterdir())
        return None if pictures or not find_pages(place) else ingest_pages
    by_ending: dict[str, Callable[[Corpus, Path, str, str], Ingested]] = {
        ".tar": ingest_tars,
        ".parquet": ingest_parquet,
        ".jsonl": ingest_edits,
        **dict.fromkeys((*PDF, *HTML), ingest_pages),
    }
    return by_ending.get(place.suffix.lower())
