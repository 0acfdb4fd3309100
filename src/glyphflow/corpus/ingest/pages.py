"""Pages as pictures: PDF documents page by page, HTML pages by the top of their window, with the text that stands on them.

The text of a page is its raw caption: exact, in the page's own language, and often far longer than a caption; a page without
text, such as a scan, has none.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.corpus.ingest.captions import from_text
from glyphflow.corpus.ingest.html import Browser, find_browser
from glyphflow.corpus.ingest.pdf import PDFReader
from glyphflow.corpus.ingest.shards import Ingested, Item, extension_of, is_planned, open_plan, save_plan, write_shards
from glyphflow.corpus.store import Corpus, check_name

PAGES_PER_SHARD = 500  # a page of text has some 300 kB as PNG
DPI = 144  # an A4 page of 1190 x 1684 pixels, whose 10 point text is 20 pixels high
WINDOW = (1280, 800)
PDF = (".pdf",)
HTML = (".html", ".htm", ".xhtml")

Part = list[list[Any]]  # [file, first page, how many], … : what goes into one shard


def ingest_pages(
    corpus: Corpus,
    place: Path | str,
    source: str,
    licence: str,
    per_shard: int = PAGES_PER_SHARD,
    *,
    dpi: int = DPI,
    window: tuple[int, int] = WINDOW,
    workers: int | None = None,
) -> Ingested:
    """Add the pages of a .pdf or .html file, or of every one below a folder, as rows of ``source``.

    Pages of documents are drawn at ``dpi``, HTML pages in a ``window`` of (width, height) pixels; neither may change later.
    HTML needs Chromium on the PATH (:class:`MissingError`) and reaches files below ``place`` only. A document that is damaged
    or encrypted is one row with the reason, a page that cannot be drawn, or is too large, one of its own. New files become new
    rows; one that was ingested may not change.
    """
    check_name(source, "source")
    place = Path(place)
    folder = place if place.is_dir() else place.parent
    names = find_pages(place)
    if not names:
        raise InputError(f"{place} holds no .pdf or .html files; give such a file or a folder with some.")
    if any(extension_of(name) in HTML for name in names):
        find_browser()  # it is said before the first document is drawn
    drawn = {"dpi": dpi, "window": list(window)}
    with corpus.writing(f"ingesting {source!r}"), _Drawers(folder, dpi, window, workers or os.cpu_count() or 1) as drawers:
        plan = open_plan(corpus, source, "pages", place)
        if plan.setdefault("drawn", drawn) != drawn:
            raise InputError(
                f"The source {source!r} was drawn with {plan['drawn']}, now it would be {drawn}; keep to the first."
            )
        _extend(plan, folder, names, per_shard, drawers)
        save_plan(corpus, source, plan)
        return write_shards(corpus, source, licence, plan["shards"], _count, drawers.items)


def find_pages(place: Path) -> list[str]:
    """The .pdf and .html files below a folder, or the file itself, as sorted paths."""
    if not place.is_dir():
        return [place.name] if place.is_file() and extension_of(place.name) in (*PDF, *HTML) else []
    found = []
    for root, directories, names in os.walk(place):
        directories[:] = [name for name in directories if not name.startswith(".")]
        base = Path(root).relative_to(place)
        found += [(base / name).as_posix() for name in names if extension_of(name) in (*PDF, *HTML) and name[0] != "."]
    return sorted(found)


def _extend(plan: dict[str, Any], folder: Path, names: Sequence[str], per_shard: int, drawers: _Drawers) -> None:
    """Plan the files that are not planned yet; refuse those that were and have changed."""
    part: Part = []
    for name in names:
        if is_planned(plan, folder / name, name):
            continue
        first, count = 0, drawers.pages(name)
        while count:
            taken = min(count, per_shard - _count(part))
            part.append([name, first, taken])
            first, count = first + taken, count - taken
            if _count(part) == per_shard:
                plan["shards"].append(part)
                part = []
    if part:
        plan["shards"].append(part)


def _count(part: Part) -> int:
    return sum(count for _, _, count in part)


class _Drawers:
    """Threads that draw pages, each with a reader and a browser of its own, which start when they are first needed."""

    def __init__(self, folder: Path, dpi: int, window: tuple[int, int], workers: int) -> None:
        self._folder, self._dpi, self._window, self._workers = folder, dpi, window, workers
        self._pool = ThreadPoolExecutor(workers, "draw")
        self._own = threading.local()
        self._close = contextlib.ExitStack()
        self._lock = threading.Lock()

    def __enter__(self) -> _Drawers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._close.close()

    def pages(self, name: str) -> int:
        """How many rows a file becomes."""
        if extension_of(name) in HTML:
            return 1
        return self._pool.submit(lambda: int(self._reader(PDFReader, self._dpi).pages(self._folder / name))).result()

    def items(self, part: Part) -> Iterator[Item]:
        """The rows of a shard, in order; a few pages are drawn ahead."""
        pages = [(name, number) for name, first, count in part for number in range(first, first + count)]
        waiting: deque[Future[Item]] = deque()
        for page in pages:
            waiting.append(self._pool.submit(self._draw, *page))
            if len(waiting) > 2 * self._workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _draw(self, name: str, number: int) -> Item:
        key = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        path = self._folder / name
        data: bytes | None = None
        text, error = "", _unreadable(path)
        if extension_of(name) in HTML:
            if error is None:
                data, text, error = self._reader(Browser, *self._window).page(self._folder, name)
        else:
            key = f"{key}/{number + 1:05d}"
            if error is None:
                data, text, error = self._reader(PDFReader, self._dpi).page(path, number)
        captions = from_text(text.encode("utf-8", "replace")).captions
        return Item(key, data, error, captions, extension=".png")

    def _reader(self, kind: Callable[..., Any], *options: Any) -> Any:
        """This thread's own reader of a kind."""
        name = kind.__name__
        if not hasattr(self._own, name):
            made = kind(*options)
            setattr(self._own, name, made)
            with self._lock:
                self._close.enter_context(made)
        return getattr(self._own, name)


def _unreadable(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return None if file.read(1) else "the file is empty"
    except OSError as error:
        return f"the file cannot be read: {error.strerror}"
