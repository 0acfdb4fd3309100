"""Pages as people save them: without the charset of their header, forwarding to their site; forms that were filled in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from corpus_pictures import encoded, photo

from glyphflow.corpus.decode import decode_rgb
from glyphflow.corpus.ingest.html import BROWSERS, Browser, content_type

pytest.importorskip("pypdfium2")
chromium = pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="needs a Chromium")


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.html", "<h1>欢迎 café</h1>".encode(), "text/html; charset=utf-8"),
        ("a.HTM", "<h1>欢迎光临本店，今天天气很好</h1>".encode("gbk"), "text/html; charset=gb18030"),
        ("a.html", "<h1>café</h1>".encode("utf-16"), "text/html; charset=utf-16-le"),
        ("a.html", '<meta charset="gbk"><h1>欢迎</h1>'.encode("gbk"), "text/html"),  # the page says it
        ("a.html", b"\x81\x00\xff\xfe\x90", "text/html"),
        ("a.css", 'p::after {content: "é"}'.encode(), "text/css; charset=utf-8"),
        ("a.xhtml", "<html>é</html>".encode(), "application/xhtml+xml"),
        ("a.png", encoded(photo(1, 8, 8), "PNG"), "image/png"),
    ],
)
def test_a_file_is_served_with_the_charset_that_its_bytes_have(name: str, data: bytes, kind: str) -> None:
    assert content_type(Path(name), data) == kind


@chromium
def test_a_page_that_leaves_is_drawn_as_it_was(tmp_path: Path) -> None:
    pages = {
        "location.html": "<h1>The article</h1><script>location = 'http://example.com/'</script><p>its end",
        "refresh.html": "<meta http-equiv=refresh content='0;url=http://example.com/'><body><h1>The article</h1><p>its end",
        "later.html": "<body onload=\"location = 'other.html'\"><h1>The article</h1><p>its end",
        "other.html": "<h1>another page</h1>",
        "blank.html": "<h1>The article</h1><script>location = 'about:blank'</script>",
        "broken.xhtml": "<html xmlns='http://www.w3.org/1999/xhtml'><body><h1>The article<br></h1><p>its end</body></html>",
        "frame.html": "<h1>The article</h1><p>its end<iframe src='http://example.com/'></iframe>",
    }
    for name, text in pages.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    with Browser(400, 300, seconds=20) as browser:
        drawn = {name: browser.page(tmp_path, name) for name in pages}
    for name in ("location.html", "refresh.html", "later.html", "broken.xhtml", "frame.html"):
        assert drawn[name][1:] == ("The article\nits end", None), name
    assert drawn["other.html"][1] == "another page"
    assert drawn["blank.html"] == (None, "", "the page left for about:blank")


def _stream(data: bytes, more: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(data), more, data)


def _form(flags: int, value: bytes) -> bytes:
    """A page of 300 x 200 points with "Name:", a text field below it with ``value``, and "Date:" under both."""
    field = (
        b"<< /Type /Annot /Subtype /Widget /FT /Tx /T (name) /V (%s) /Rect [20 80 280 120] /F %d /DA (/F1 18 Tf 0 g) "
        b"/AP << /N 7 0 R >> >>" % (value, flags)
    )
    look = _stream(
        b"/Tx BMC q BT /F1 18 Tf 0 g 2 12 Td (%s) Tj ET Q EMC" % value,
        b"/Type /XObject /Subtype /Form /BBox [0 0 260 40] /Resources << /Font << /F1 5 0 R >> >>",
    )
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [6 0 R] /DA (/F1 18 Tf 0 g) "
        b"/DR << /Font << /F1 5 0 R >> >> >> >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> "
        b"/Annots [6 0 R] >>",
        _stream(b"BT /F1 18 Tf 20 150 Td (Name:) Tj 0 -120 Td (Date:) Tj ET"),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        field,
        look,
    ]
    body, places = b"%PDF-1.7\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, each)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(body))
    return body + b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table + end


@pytest.fixture
def drawn(tmp_path: Path) -> Callable[[bytes], tuple[np.ndarray, str]]:
    """Draw a document as the reader's process does, in this one: its picture at 72 dpi and its text."""
    from glyphflow.corpus.ingest import pdf

    def draw(data: bytes) -> tuple[np.ndarray, str]:
        (tmp_path / "form.pdf").write_bytes(data)
        answer, png = pdf._draw(pdf._open(str(tmp_path / "form.pdf")), 0, 72)
        return decode_rgb(png), str(answer["text"])

    return draw


def test_the_values_of_a_form_are_drawn_and_stand_in_the_text(drawn: Callable[[bytes], tuple[np.ndarray, str]]) -> None:
    image, text = drawn(_form(4, b"FILLED VALUE"))
    assert text == "Name:\nFILLED VALUE\nDate:"
    assert (image[80:120] < 128).any()
    image, text = drawn(_form(2, b"HIDDEN VALUE"))
    assert text == "Name:\nDate:" and not (image[80:120] < 128).any()
