"""Pages of PDF documents as pictures with their text, drawn by pdfium in a process of its own.

A document is a program from somebody else: it may be damaged so that the reader dies, or take for ever, or ask for more memory
than there is. The process that draws has a limit of memory, a page has a limit of time, and what goes wrong costs that page.

Run as a module this is that process: a line of JSON in (``path``, and ``page`` from 0 with ``dpi``, or none of them to count
pages), a line of JSON out (``pages``, or ``text`` and the ``bytes`` of the PNG that follow it, or ``error``).
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from glyphflow.core.hardware import require
from glyphflow.core.text import split_lines
from glyphflow.corpus.decode import MAX_PIXELS, MAX_SIDE

PAGE_SECONDS = 60.0
MEMORY = 4 << 30  # bytes of address space of the drawing process
MAX_PAGES = 20_000  # of one document
MAX_FIELDS = 500  # of one page, whose values stand in its text
_SECRET = 1 << 13  # the flag of a field that shows dots instead of its text
_PASSWORD = 4  # pdfium's number for a document that wants one


class PDFReader:
    """Draws pages, one at a time; the process behind it is started when it is needed and again when it died."""

    def __init__(self, dpi: int, seconds: float = PAGE_SECONDS) -> None:
        require("pypdfium2", "curate")  # the sentence for the user comes from here, not from the child
        self._dpi, self._seconds = dpi, seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PDFReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def pages(self, path: Path) -> int:
        """How many pages a document has; 1 for one that cannot be opened, whose only row then says why."""
        found, _ = self._ask({"path": str(path)})
        return int(found.get("pages", 0)) if 0 < found.get("pages", 0) <= MAX_PAGES else 1

    def page(self, path: Path, number: int) -> tuple[bytes | None, str, str | None]:
        """The PNG of page ``number`` (from 0), its text, and why there is no picture."""
        found, data = self._ask({"path": str(path), "page": number, "dpi": self._dpi})
        return data or None, str(found.get("text", "")), found.get("error")

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        if self._process is None or self._process.poll() is not None:
            self._end()
            command = [sys.executable, "-m", "glyphflow.corpus.ingest.pdf"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self._process.stdin and self._process.stdout
        end = time.monotonic() + self._seconds
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            head, rest = _until_line(self._process.stdout, end)
            found: dict[str, Any] = json.loads(head)
            data = rest + _exactly(self._process.stdout, int(found.get("bytes", 0)) - len(rest), end)
        except TimeoutError:
            self._end()
            return {"error": f"the page took over {self._seconds:g} s"}, b""
        except (OSError, EOFError, ValueError):
            self._end()
            return {"error": f"the page ended the reader (a crash, or over {MEMORY >> 30} GiB)"}, b""
        return found, data

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
        self._process = None


def _until_line(pipe: IO[bytes], end: float) -> tuple[bytes, bytes]:
    data = b""
    while b"\n" not in data:
        data += _some(pipe, end)
    head, _, rest = data.partition(b"\n")
    return head, rest


def _exactly(pipe: IO[bytes], size: int, end: float) -> bytes:
    parts = []
    while size > 0:
        parts.append(_some(pipe, end))
        size -= len(parts[-1])
    return b"".join(parts)


def _some(pipe: IO[bytes], end: float) -> bytes:
    ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
    if not ready:
        raise TimeoutError
    data = os.read(pipe.fileno(), 1 << 20)
    if not data:
        raise EOFError
    return data


# -- the drawing process --------------------------------------------------------------------------------------------------


def _serve() -> None:
    """Answer requests until the parent closes its end."""
    _limit_memory()
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no answer
    opened: tuple[str, Any] = ("", None)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        data = b""
        try:
            if opened[0] != request["path"]:
                if opened[1] is not None:
                    opened[1].close()
                opened = ("", None)
                opened = (request["path"], _open(request["path"]))
            document = opened[1]
            if "page" in request:
                answer, data = _draw(document, request["page"], request["dpi"])
            else:
                answer = {"pages": len(document)}
        except Exception as error:  # a row's reason, whatever a damaged document raises
            answer = {"error": _reason(error)}
        out.write(json.dumps(answer | {"bytes": len(data)}).encode() + b"\n" + data)
        out.flush()


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _open(path: str) -> Any:
    document = require("pypdfium2", "curate").PdfDocument(path)
    with contextlib.suppress(Exception):  # a damaged form costs the form, not the page
        document.init_forms()  # before the first page is opened: from now on fields are drawn with their values
    if len(document) > MAX_PAGES:
        raise ValueError(f"the document has {len(document)} pages, over the guard of {MAX_PAGES}")
    if not len(document):
        raise ValueError("the document has no pages")
    return document


def _draw(document: Any, number: int, dpi: int) -> tuple[dict[str, Any], bytes]:
    page = document[number]
    width, height = (math.ceil(side * dpi / 72) for side in page.get_size())
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ValueError(
            f"the page has {width}x{height} pixels at {dpi} dpi, over the guard ({MAX_SIDE} a side, {MAX_PIXELS // 1_000_000} "
            "million in all)"
        )
    picture = page.render(scale=dpi / 72).to_pil().convert("RGB")
    red, green, blue = picture.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():  # most pages: half the time and size as PNG
        picture = red
    file = io.BytesIO()
    picture.save(file, "PNG")
    return {"text": _text(document, page)}, file.getvalue()


def _text(document: Any, page: Any) -> str:
    """The lines of a page, with the values of form fields below what is written beside or above them."""
    read = page.get_textpage()
    try:
        lines = _lines(read.get_text_bounded())
        fields = _fields(document, page) if document.formenv is not None else []
        above = [(len(_lines(read.get_text_bounded(bottom=bottom))), value) for bottom, value in fields[:MAX_FIELDS]]
    finally:
        read.close()
    for number, (line, value) in enumerate(sorted(above, key=lambda each: each[0])):
        lines.insert(line + number, value)
    return "\n".join(lines).strip()


def _lines(text: str) -> list[str]:
    # pdfium marks a hyphen at a line's end as U+FFFE or U+0002; what a font cannot map to characters is U+FFFD or 0.
    text = text.replace("\ufffe", "-").replace("\x02", "-").replace("\x00", "")
    return [line.rstrip() for line in split_lines(text)]


def _fields(document: Any, page: Any) -> list[tuple[float, str]]:
    """(lower edge, value) of the fields of ``page`` that show a text, from the top down."""
    raw = require("pypdfium2.raw", "curate")
    found = []
    for number in range(raw.FPDFPage_GetAnnotCount(page.raw)):
        field = raw.FPDFPage_GetAnnot(page.raw, number)
        try:
            hidden = raw.FPDFAnnot_GetFlags(field) & (raw.FPDF_ANNOT_FLAG_HIDDEN | raw.FPDF_ANNOT_FLAG_NOVIEW)
            kind = raw.FPDFAnnot_GetFormFieldType(document.formenv.raw, field)
            shown = kind in (raw.FPDF_FORMFIELD_TEXTFIELD, raw.FPDF_FORMFIELD_COMBOBOX, raw.FPDF_FORMFIELD_LISTBOX)
            secret = kind == raw.FPDF_FORMFIELD_TEXTFIELD and (
                raw.FPDFAnnot_GetFormFieldFlags(document.formenv.raw, field) & _SECRET
            )
            place = raw.FS_RECTF()
            if shown and not hidden and not secret and raw.FPDFAnnot_GetRect(field, place):
                size = raw.FPDFAnnot_GetFormFieldValue(document.formenv.raw, field, None, 0)
                buffer = (raw.FPDF_WCHAR * (size // 2 + 1))()
                raw.FPDFAnnot_GetFormFieldValue(document.formenv.raw, field, buffer, size)
                value = bytes(buffer).decode("utf-16-le", "replace").partition("\0")[0]
                found += [(place.bottom, " ".join(value.split()))] if value.strip() else []
        finally:
            raw.FPDFPage_CloseAnnot(field)
    return sorted(found, key=lambda each: -each[0])


def _reason(error: Exception) -> str:
    if getattr(error, "err_code", None) == _PASSWORD or "password" in str(error).lower():
        return "the document is encrypted"
    if isinstance(error, MemoryError):
        return f"the page needs more than {MEMORY >> 30} GiB"
    told = " ".join(str(error).split())[:200]
    return told if isinstance(error, ValueError) and told.startswith("the ") else f"the document cannot be read: {told}"


if __name__ == "__main__":
    _serve()
