"""Handing a view to other tools: WebDataset tars, Parquet, folders, and readers for Hugging Face datasets and Ray Data.

Photographs leave with their original bytes, renders as PNG. Every file is written whole or not at all and an export that was
stopped goes on where it was; a folder that holds another export is refused.
"""

from __future__ import annotations

import functools
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.files import atomic_path, read_json, write_bytes, write_json
from glyphflow.core.hardware import require
from glyphflow.core.hashing import fingerprint
from glyphflow.core.progress import Progress
from glyphflow.corpus.copies import remember
from glyphflow.corpus.store import PHOTO
from glyphflow.corpus.variants import best_caption, languages

if TYPE_CHECKING:
    from glyphflow.corpus.selection import Row, Selection

SAMPLES_PER_FILE = 1000
_ENDINGS = {"jpeg": ".jpg", "mpo": ".jpg", "tiff": ".tif"}  # the others are called as their formats are

# What tells the Hugging Face reader that a column is a picture.
_FEATURES = {
    "id": {"dtype": "string", "_type": "Value"},
    "image": {"_type": "Image"},
    "caption_en": {"dtype": "string", "_type": "Value"},
    "caption_zh": {"dtype": "string", "_type": "Value"},
    "captions": {"dtype": "string", "_type": "Value"},  # JSON, of every language
    "licence": {"dtype": "string", "_type": "Value"},
    "width": {"dtype": "int32", "_type": "Value"},
    "height": {"dtype": "int32", "_type": "Value"},
    "source": {"dtype": "string", "_type": "Value"},
    "references": {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"},
}


def export_webdataset(selection: Selection, folder: Path | str, per_file: int = SAMPLES_PER_FILE) -> int:
    """Write 00000.tar, … with <id>.jpg (or .png, …), <id>.txt (caption) and <id>.json of every record; gives their number."""

    def write(path: Path, rows: Sequence[Row]) -> None:
        with atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
            for row in rows:
                data, ending, row = sample(selection, row)
                caption = _caption(row)
                for name, content in ((ending, data), (".txt", caption.encode()), (".json", _said(row))):
                    member = tarfile.TarInfo(row.id + name)
                    member.size, member.mode = len(content), 0o644
                    tar.addfile(member, io.BytesIO(content))

    return _export(selection, Path(folder), "webdataset", ".tar", per_file, write)


def export_parquet(selection: Selection, folder: Path | str, per_file: int = SAMPLES_PER_FILE) -> int:
    """Write 00000.parquet, … as Hugging Face datasets reads pictures: columns id, image {bytes, path}, captions and sizes."""
    parquet = require("pyarrow.parquet", "corpus")

    def write(path: Path, rows: Sequence[Row]) -> None:
        with atomic_path(path) as temporary, parquet.ParquetWriter(temporary, _schema(), compression="none") as writer:
            for batch in _batches(selection, rows, 100):
                writer.write_batch(batch)

    return _export(selection, Path(folder), "parquet", ".parquet", per_file, write)


def export_folder(selection: Selection, folder: Path | str) -> int:
    """Write <id>.jpg (or .png, …), <id>.txt and <id>.json of every record, as glyphflow corpus ingest reads a folder."""
    folder = Path(folder)

    def write(path: Path, rows: Sequence[Row]) -> None:
        for row in rows:
            data, ending, row = sample(selection, row)
            write_bytes(folder / (row.id + ending), data)
            write_bytes(folder / f"{row.id}.txt", (_caption(row)).encode())
            write_bytes(folder / f"{row.id}.json", _said(row))
        write_bytes(path, "".join(f"{row.id}\n" for row in rows).encode())

    return _export(selection, folder, "folder", ".list", SAMPLES_PER_FILE, write)


def arrow_batches(selection: Selection, size: int = 100) -> Iterator[Any]:
    """The records as pyarrow record batches of up to ``size`` rows (columns of :func:`export_parquet`), one after another."""
    return _batches(selection, selection.rows, size)


def to_ray(selection: Selection, size: int = 100) -> Any:
    """A ray.data.Dataset over the records (columns of :func:`export_parquet`); its workers read the corpus by itself.

    They must see the corpus directory under the same path. Blocks come in the order in which they are ready, unless Ray is told
    to keep it (``ray.data.DataContext.get_current().execution_options.preserve_order``).
    """
    data = require("ray.data", "ray")
    directory, view = str(selection.corpus.directory.resolve()), selection.view

    def load(block: dict[str, Any]) -> list[dict[str, Any]]:
        chosen = _opened(directory, view)
        return list(_batch(chosen, chosen.rows[block["first"] : block["first"] + size]).to_pylist())

    return data.from_items([{"first": start} for start in range(0, len(selection), size)]).flat_map(load)


@functools.lru_cache(maxsize=2)
def _opened(directory: str, view: str | None) -> Selection:
    """In a worker of Ray, which reads many blocks of one selection."""
    from glyphflow.corpus.store import Corpus

    return Corpus.open(directory).records(view)


def to_hugging_face(selection: Selection) -> Any:
    """A datasets.IterableDataset over the records; its column ``image`` decodes to PIL pictures."""
    try:
        import datasets  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise MissingError("The reader for Hugging Face needs its package datasets; run: pip install datasets") from error

    def rows() -> Iterator[dict[str, Any]]:
        for batch in arrow_batches(selection):
            yield from batch.to_pylist()

    return datasets.IterableDataset.from_generator(rows, features=datasets.Features.from_dict(_FEATURES))


def sample(selection: Selection, row: Row) -> tuple[bytes, str, Row]:
    """A record's picture, the ending of its file, and ``row`` with all its captions: a photograph as it came, a render as PNG.

    The captions of a render are known when it is drawn.
    """
    data = selection.corpus.payload(row.shard, row.kind, row.offset, row.size)
    if row.kind == PHOTO:
        return data, _ENDINGS.get(row.format, f".{row.format or 'bin'}"), row
    from PIL import Image

    buffer, drawn = io.BytesIO(), selection.draw(data)
    Image.fromarray(drawn.image).save(buffer, "PNG")
    return buffer.getvalue(), ".png", replace(row, captions={**drawn.captions, **row.captions})


def _caption(row: Row) -> str:
    told = _plain(row)
    return told.get("en") or told.get("zh") or next(iter(told.values()), "")


def _plain(row: Row) -> dict[str, str]:
    """What says most in each language."""
    return {language: told for language in languages(row.captions) if (told := best_caption(row.captions, language))}


def _said(row: Row) -> bytes:
    plain = _plain(row)
    usual: dict[str, str] = {language: plain[language] for language in ("en", "zh") if language in plain}
    said: dict[str, Any] = {
        "id": row.id,
        **row.captions,
        **usual,
        "width": row.width,
        "height": row.height,
        "source": row.source,
    }
    if len(plain) > len(usual):
        said["captions"] = plain  # another name of two letters could be anything
    said |= {"licence": row.licence} | ({"references": list(row.references)} if row.references else {})
    return json.dumps(said, ensure_ascii=False).encode()


def _schema() -> Any:
    arrow = require("pyarrow", "corpus")
    types = {
        "image": arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())]),
        "width": arrow.int32(),
        "height": arrow.int32(),
        "references": arrow.list_(arrow.string()),
    }
    fields = [(name, types.get(name, arrow.string())) for name in _FEATURES]
    return arrow.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})})


def _batches(selection: Selection, rows: Sequence[Row], size: int) -> Iterator[Any]:
    for start in range(0, len(rows), size):
        yield _batch(selection, rows[start : start + size])


def _batch(selection: Selection, rows: Sequence[Row]) -> Any:
    arrow = require("pyarrow", "corpus")
    values = []
    for row in rows:
        data, ending, row = sample(selection, row)
        values.append(
            {
                "id": row.id,
                "image": {"bytes": data, "path": row.id + ending},
                "caption_en": best_caption(row.captions, "en"),
                "caption_zh": best_caption(row.captions, "zh"),
                "captions": json.dumps(_plain(row), ensure_ascii=False),
                "licence": row.licence,
                "width": row.width,
                "height": row.height,
                "source": row.source,
                "references": list(row.references),
            }
        )
    return arrow.RecordBatch.from_pylist(values, schema=_schema())


def _export(
    selection: Selection, folder: Path, kind: str, ending: str, per_file: int, write: Callable[[Path, Sequence[Row]], None]
) -> int:
    """Write the files of an export that are not there yet."""
    mark = {"kind": kind, "per_file": per_file, "rows": len(selection), "of": fingerprint(selection.ids)}
    told = folder / "export.json"
    if told.exists() and read_json(told) != mark:
        raise InputError(f"{folder} holds another export; choose an empty or new directory.")
    if not told.exists():
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"{folder} holds other files; choose an empty or new directory.")
        write_json(told, mark)
    remember(selection.corpus, "export", folder)
    with Progress(f"export {kind}", len(selection), "record") as progress:
        for number, start in enumerate(range(0, len(selection), per_file)):
            rows = selection.rows[start : start + per_file]
            path = folder / f"{number:05d}{ending}"
            if not path.exists():
                write(path, rows)
            progress.advance(len(rows))
    return len(selection)
