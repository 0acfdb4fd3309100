"""What measures a picture: an operator, and the row that it is given.

An operator is a function from rows to columns with a name and a fingerprint. It says nothing about machines: the runner
(:mod:`glyphflow.corpus.runner`) gives it the rows of one shard, in order, wherever the shard is worked on.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from glyphflow.core.errors import InputError
from glyphflow.corpus.decode import decode_rgb
from glyphflow.corpus.specs import Renderer
from glyphflow.corpus.store import INDEX_TYPES, PHOTO, Corpus

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from glyphflow.render import Rendered


@dataclass(frozen=True)
class Operator:
    """How the columns of a stage are computed.

    ``identity`` is what the numbers depend on (version, parameters, hash of the model); its fingerprint names the columns.
    ``types`` are the columns and their Arrow types ("float32", "string", "list<string>", "float32[512]"). ``id``, ``measured``
    and ``error`` are added by the runner.

    ``compute`` gives one mapping for each row; a column that it leaves out is null. It gets up to ``batch`` rows of one shard,
    and what a row gives must not depend on the others. A :class:`PictureError` that a row raises becomes its ``error``; with
    ``prepare`` given, that runs first, for each row in a decoding thread, its result is the row's ``prepared``, and rows that
    it refuses do not reach ``compute``.

    ``parallel`` says how several calls of ``compute`` may run: in threads (it releases the interpreter lock), in processes (it
    holds it; every process builds the operator anew), or one after the other (it takes all cores, or the card, by itself).
    ``inputs`` are stages whose columns it reads (``row["pixels.saturation"]``); they are measured before, and their
    fingerprints are part of its own. ``stop`` is called when a run ends, so that nothing waits for a busy server any longer.
    """

    stage: str
    identity: Mapping[str, Any]
    types: Mapping[str, str]
    compute: Callable[[Sequence[Row]], Sequence[Mapping[str, Any]]]
    batch: int = 1
    prepare: Callable[[Row], Any] | None = None
    parallel: Literal["threads", "processes", "one"] = "threads"
    inputs: tuple[str, ...] = ()
    stop: Callable[[], None] | None = None


class Shard:
    """One shard, open for reading from any number of threads; columns are read when they are first asked for."""

    def __init__(self, corpus: Corpus, name: str, renderer: Renderer | None = None) -> None:
        self.corpus = corpus
        self.name = name
        self.renderer = renderer or Renderer()
        self._columns: dict[str, list[Any]] = {}
        self._lock = threading.Lock()
        self._file: int | None = None
        self._map: mmap.mmap | None = None

    def __enter__(self) -> Shard:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None  # the map goes with the last array that looks into it

    def values(self, name: str) -> list[Any]:
        """A column of the index ("width"), or of what a stage measured ("pixels.luma"), of every row of the shard."""
        found = self._columns.get(name)
        if found is None:
            with self._lock:
                found = self._columns.get(name)
                if found is None:
                    self._read(name)
                    found = self._columns[name]
        return found

    def _read(self, name: str) -> None:
        stage, _, column = name.rpartition(".")
        if not stage:
            lacking = [each for each in INDEX_TYPES if each not in self._columns] if name in _RARE else _COMMON
            self._columns.update(self.corpus.index(self.name, lacking))
            return
        found = self.corpus.columns(stage, self.name, (column,))
        if found is None:
            raise InputError(
                f"{name} is not measured for the shard {self.name}; run glyphflow corpus measure --stages {stage} first."
            )
        self._columns[name] = found[column]

    def data(self, number: int) -> bytes:
        """The payload of a row: the original bytes of a photograph, or the line of a specification."""
        kind, offset, size = (self.values(name)[number] for name in ("kind", "offset", "size"))
        if kind == PHOTO and hasattr(os, "pread"):
            file = self._open()
            data = os.pread(file, size, offset) if file is not None else b""
            if len(data) == size:
                return data
        return self.corpus.payload(self.name, kind, offset, size)

    def heads(self, numbers: Sequence[int], size: int) -> list[bytes]:
        """The first ``size`` bytes of each of these photographs (less at the end of the tar), without reading the rest."""
        offsets, file = self.values("offset"), self._open()
        if file is None or not hasattr(os, "pread"):
            return [self.data(number)[:size] for number in numbers]
        return [os.pread(file, size, offsets[number]) for number in numbers]

    def _open(self) -> int | None:
        with self._lock:
            if self._file is None and self.corpus.pixels_path(self.name).exists():
                self._file = os.open(self.corpus.pixels_path(self.name), os.O_RDONLY)
        return self._file

    def pixels(self) -> NDArray[np.uint8]:
        """The whole tar, mapped, not read. Empty when the shard holds no photographs."""
        path = self.corpus.pixels_path(self.name)
        if not path.exists() or not path.stat().st_size:
            return np.empty(0, np.uint8)
        if self._map is None:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.frombuffer(self._map, np.uint8)


# Nearly every operator reads the first; the strings cost several times more and are read together when one is asked for.
_COMMON = ("kind", "offset", "size", "width", "height", "orientation", "error")
_RARE = tuple(name for name in INDEX_TYPES if name not in _COMMON)


class Row:
    """One row of a shard. Nothing is read before it is asked for, and a picture is decoded once."""

    __slots__ = ("_image", "number", "prepared", "shard")

    def __init__(self, shard: Shard, number: int) -> None:
        self.shard = shard
        self.number = number
        self.prepared: Any = None  # what the operator's ``prepare`` gave
        self._image: NDArray[np.uint8] | None = None

    def __getitem__(self, name: str) -> Any:
        """A field of the index (``row["captions"]``) or a measured value (``row["pixels.saturation"]``)."""
        return self.shard.values(name)[self.number]

    @property
    def is_photo(self) -> bool:
        """Whether the row holds a picture's bytes; else it is a render, drawn when it is looked at."""
        return bool(self["kind"] == PHOTO)

    @property
    def data(self) -> bytes:
        """The original bytes of the picture, or the line of the specification."""
        return self.shard.data(self.number)

    @property
    def rendered(self) -> Rendered | None:
        """What a render is: its picture and the exact text in it; None for a photograph."""
        return None if self.is_photo else self.shard.renderer.draw(self.data)

    @property
    def image(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, upright, kept until the row is done; a damaged picture raises :class:`PictureError`."""
        if self._image is None:
            self._image = self.scaled(0)
        return self._image

    def release(self) -> None:
        """Let go of the picture; the next look decodes it again."""
        self._image = self.prepared = None

    def scaled(self, short_side: int) -> NDArray[np.uint8]:
        """As :attr:`image`, but a JPEG comes 1/2, 1/4 or 1/8 as large while both sides stay at or above ``short_side`` px.

        Up to three times cheaper, and not kept. A render comes as it is.
        """
        rendered = self.rendered
        return decode_rgb(self.data, short_side=short_side) if rendered is None else rendered.image
