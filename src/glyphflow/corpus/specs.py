"""Rows without pixels: render specifications, drawn when they are read."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glyphflow.core.errors import InputError
from glyphflow.core.files import write_bytes
from glyphflow.core.hashing import sha256_bytes
from glyphflow.core.progress import Progress
from glyphflow.corpus.store import RENDER, Corpus, check_name, record_id

if TYPE_CHECKING:
    from glyphflow.render import FontLibrary, Rendered, RenderSpec

SPECS_PER_SHARD = 500
LICENCE = "generated"


class Renderer:
    """Draws specifications; keeps one font library for each set of fonts that specifications name."""

    def __init__(self) -> None:
        self._libraries: dict[tuple[str, ...], FontLibrary] = {}
        self._lock = threading.Lock()

    def draw(self, line: bytes) -> Rendered:
        """Draw the specification in ``line`` (as :func:`spec_line` writes it)."""
        from glyphflow.render import RenderSpec, render

        spec = RenderSpec.from_json(line.decode("utf-8"))
        return render(spec, self._library(spec.params))

    def _library(self, params: dict[str, Any]) -> FontLibrary:
        from glyphflow.render import SYSTEM_EMOJI, FontLibrary

        names = tuple(params.get("fonts") or ())
        with self._lock:  # the first thread builds it, the others wait instead of building their own
            if names not in self._libraries:
                self._libraries[names] = FontLibrary.from_manifest(list(names) or None, system=SYSTEM_EMOJI in names)
            return self._libraries[names]


def spec_line(spec: RenderSpec) -> bytes:
    """One line of a specs file; equal specifications give equal bytes."""
    return spec.to_json().encode("utf-8") + b"\n"


def add_specs(corpus: Corpus, name: str, specs: Sequence[RenderSpec], per_shard: int = SPECS_PER_SHARD) -> int:
    """Add ``specs`` as rows of source ``name``, ``per_shard`` to a shard; gives the number of rows that were new.

    Calling it again with the same specifications does nothing; with others under the same name it is an
    :class:`InputError`, because shards are never rewritten.
    """
    check_name(name, "set of renders")
    added = 0
    with corpus.writing(f"adding the renders {name!r}"), Progress(f"specs {name}", len(specs), "spec") as progress:
        for start in range(0, len(specs), per_shard):
            shard = f"{name}-{start // per_shard:05d}"
            chunk = specs[start : start + per_shard]
            added += _write_shard(corpus, shard, name, start, chunk)
            progress.advance(len(chunk))
    return added


def _write_shard(corpus: Corpus, shard: str, name: str, start: int, specs: Sequence[RenderSpec]) -> int:
    lines = [spec_line(spec) for spec in specs]
    content = b"".join(lines)
    if corpus.index_path(shard).exists():
        path = corpus.specs_path(shard)
        if not path.exists() or path.read_bytes() != content:
            raise InputError(
                f"The corpus already holds other rows as {name!r} (shard {shard}, {corpus.directory}); give these renders "
                "another name, or make a new corpus."
            )
        return 0
    write_bytes(corpus.specs_path(shard), content)
    from glyphflow.render import EDITS

    rows: list[dict[str, Any]] = []
    offset = 0
    for number, (spec, line) in enumerate(zip(specs, lines, strict=True), start):
        digest = sha256_bytes(line)
        target = spec.template in EDITS and spec.params.get("side") != "source"
        if target and not (rows and specs[number - start - 1] == replace(spec, params={**spec.params, "side": "source"})):
            raise InputError(f"Row {number} of {name!r} is the target of an edit; the row before it must be its source.")
        rows.append(
            {
                "id": record_id(name, str(number), digest),
                "key": str(number),
                "kind": RENDER,
                "offset": offset,
                "size": len(line),
                "sha256": digest,
                "width": spec.width,
                "height": spec.height,
                "format": "spec",
                "orientation": 1,
                "source": name,
                "licence": LICENCE,
                "captions": "{}",
                "error": None,
                "references": json.dumps([rows[-1]["id"]]) if target else None,
            }
        )
        offset += len(line)
    corpus.write_index(shard, rows)
    return len(rows)
