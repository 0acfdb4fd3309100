from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest

from glyphflow.core.errors import InputError, MissingError
from glyphflow.corpus import Corpus
from glyphflow.corpus.decode import decode_rgb
from glyphflow.corpus.ingest.any import ingest
from glyphflow.corpus.ingest.html import BROWSERS, Browser
from glyphflow.corpus.ingest.pages import find_pages, ingest_pages
from glyphflow.corpus.ingest.pdf import PDFReader
from local_server import Answer, serve
from warm import script

pytest.importorskip("pypdfium2")
chromium = pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="needs a Chromium")

HTML = """<!doctype html><meta charset="utf-8"><title>not shown</title>
<style>body {{ margin: 20px; font: 20px sans-serif }}</style>{body}"""


def pdf(pages: list[tuple[float, float, str]]) -> bytes:
    """A PDF written here by hand: for each page width and height in points, and a text in Helvetica at (50, height - 80)."""
    count = len(pages)
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, (width, height, text) in enumerate(pages):
        drawn = f"BT /F1 24 Tf 50 {height - 80} Td ({text}) Tj ET"
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width} {height}] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>",
            f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream",
        ]
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    start = len(data)
    return (
        data
        + (
            f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\n"
            f"startxref\n{start}\n%%EOF\n"
        ).encode()
    )


def encrypted() -> bytes:
    """A PDF that names a password handler with keys that no password fits."""
    plain = pdf([(200, 200, "secret")])
    lock = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >> /ID [<00> <00>] " % (b"11" * 32, b"22" * 32)
    return plain.replace(b"/Root 1 0 R", lock + b"/Root 1 0 R")


def rows(corpus: Corpus) -> dict[str, dict[str, object]]:
    found = {}
    for shard in corpus.shards():
        index = corpus.index(shard)
        for number, key in enumerate(index["key"]):
            found[key] = {name: values[number] for name, values in index.items()} | {"shard": shard}
    return found


def picture(corpus: Corpus, row: dict[str, object]) -> np.ndarray:
    return decode_rgb(corpus.payload(str(row["shard"]), "photo", int(str(row["offset"])), int(str(row["size"]))))


# -- documents ------------------------------------------------------------------------------------------------------------


def test_a_document_becomes_a_picture_a_page_with_its_text(tmp_path: Path) -> None:
    file = tmp_path / "book.pdf"
    file.write_bytes(pdf([(300, 200, "First page"), (144, 432, "Second")]))
    corpus = Corpus.create(tmp_path / "corpus")
    assert ingest(corpus, file, "books", "CC0").added == 2
    found = rows(corpus)
    assert list(found) == ["book.pdf/00001", "book.pdf/00002"]
    first, second = found.values()
    assert (first["width"], first["height"]) == (600, 400) and (second["width"], second["height"]) == (288, 864)
    assert json.loads(str(first["captions"])) == {"en": "First page"} and first["licence"] == "CC0" and first["format"] == "png"
    ink = np.argwhere(picture(corpus, first).min(axis=2) < 128)
    top, left = ink.min(axis=0)
    # The baseline is 80 pt under the top; capitals of Helvetica at 24 pt are 17 pt high; 2 px a point.
    assert abs(top - 2 * (80 - 17.2)) <= 3 and abs(left - 2 * 51.8) <= 4
    assert ingest(corpus, file, "books", "CC0").added == 0


def test_bad_documents_are_rows_with_a_reason_and_harm_no_other(tmp_path: Path) -> None:
    place = tmp_path / "papers"
    (place / "deep" / "er").mkdir(parents=True)
    good = pdf([(200, 100, "Good")])
    (place / "deep" / "er" / "good.PDF").write_bytes(good)
    (place / "cut.pdf").write_bytes(good[:60])
    (place / "empty.pdf").touch()
    (place / "page.pdf").write_bytes(b"<html>not a document</html>")
    (place / "locked.pdf").write_bytes(encrypted())
    (place / "poster.pdf").write_bytes(pdf([(14_000, 14_000, "Huge"), (100, 100, "Small")]))
    (place / "gone.pdf").symlink_to(tmp_path / "nowhere.pdf")
    corpus = Corpus.create(tmp_path / "corpus")
    assert ingest(corpus, place, "papers", "x").added == 8
    errors = {key: row["error"] for key, row in rows(corpus).items()}
    assert errors["deep/er/good.PDF/00001"] is None and errors["poster.pdf/00002"] is None
    assert errors["poster.pdf/00001"] == (
        "the page has 28000x28000 pixels at 144 dpi, over the guard (10000 a side, 100 million in all)"
    )
    assert errors["locked.pdf/00001"] == "the document is encrypted"
    assert errors["empty.pdf/00001"] == "the file is empty"
    assert str(errors["gone.pdf/00001"]).startswith("the file cannot be read: No such file")
    for name in ("cut.pdf", "page.pdf"):
        assert str(errors[f"{name}/00001"]).startswith("the document cannot be read: ")


def test_a_page_that_hangs_or_kills_the_reader_costs_itself(tmp_path: Path) -> None:
    file = tmp_path / "two.pdf"
    file.write_bytes(pdf([(100, 100, "One"), (100, 100, "Two")]))
    with PDFReader(72) as reader:
        assert reader.page(file, 0)[2] is None
        os.kill(reader._process.pid, signal.SIGSTOP)  # type: ignore[union-attr]
        reader._seconds = 0.5
        assert reader.page(file, 0) == (None, "", "the page took over 0.5 s")
        reader._seconds = 60
        data, text, error = reader.page(file, 1)
        assert data and text == "Two" and error is None
        os.kill(reader._process.pid, signal.SIGKILL)  # type: ignore[union-attr]
        reader._process.wait()  # type: ignore[union-attr]
        assert reader.page(file, 1)[0] == data


def test_new_files_are_added_and_changed_ones_refused(tmp_path: Path) -> None:
    place = tmp_path / "papers"
    place.mkdir()
    for number in range(3):
        (place / f"{number}.pdf").write_bytes(pdf([(100, 100, f"page {page} of {number}") for page in range(3)]))
    corpus = Corpus.create(tmp_path / "corpus")
    assert ingest_pages(corpus, place, "papers", "x", per_shard=4).added == 9
    assert [len(corpus.index(shard)["id"]) for shard in corpus.shards()] == [4, 4, 1]
    before = rows(corpus)
    (place / "3.pdf").write_bytes(pdf([(100, 100, "new")]))
    assert ingest_pages(corpus, place, "papers", "x", per_shard=4).added == 1
    assert {key: row for key, row in rows(corpus).items() if key in before} == before
    with pytest.raises(InputError, match="keep to the first"):
        ingest_pages(corpus, place, "papers", "x", per_shard=4, dpi=72)
    (place / "1.pdf").write_bytes(pdf([(100, 100, "another")]))
    with pytest.raises(InputError, match="now it has"):
        ingest_pages(corpus, place, "papers", "x", per_shard=4)


def test_exactly_once_after_a_kill(tmp_path: Path) -> None:
    place = tmp_path / "papers"
    place.mkdir()
    for number in range(4):
        (place / f"{number}.pdf").write_bytes(pdf([(600, 800, f"page {page} of {number}") for page in range(10)]))
    source = (
        "import sys; from pathlib import Path; from glyphflow.corpus import Corpus\n"
        "from glyphflow.corpus.ingest.pages import ingest_pages\n"
        "ingest_pages(Corpus.create(Path(sys.argv[1])), sys.argv[2], 'papers', 'x', per_shard=6, workers=1)"
    )
    killed = tmp_path / "killed"
    with script(source, killed, place) as process:
        end = time.monotonic() + 120
        while len(list(killed.glob("index/*.parquet"))) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait().returncode == -signal.SIGKILL
    ingest_pages(Corpus.open(killed), place, "papers", "x", per_shard=6)
    whole = Corpus.create(tmp_path / "whole")
    ingest_pages(whole, place, "papers", "x", per_shard=6)
    assert len(rows(whole)) == 40
    for path in sorted(whole.directory.glob("pixels/*.tar")):
        assert path.read_bytes() == (killed / "pixels" / path.name).read_bytes()
    assert rows(whole) == rows(Corpus.open(killed))


def test_a_folder_is_pages_unless_it_holds_pictures_at_its_top(tmp_path: Path) -> None:
    place = tmp_path / "site"
    (place / "img").mkdir(parents=True)
    (place / "paper.pdf").write_bytes(pdf([(100, 100, "x")]))
    (place / "img" / "logo.png").write_bytes(b"x")
    (place / ".hidden.pdf").touch()
    assert find_pages(place) == ["paper.pdf"]
    corpus = Corpus.create(tmp_path / "corpus")
    assert ingest(corpus, place, "pages", "x").added == 1
    (place / "gallery.jpg").write_bytes(b"x")
    assert ingest(corpus, place, "pictures", "x").added == 2
    with pytest.raises(InputError, match="brings its own"):
        ingest(corpus, place / "paper.pdf", "other", "x", captions=place / "captions.csv")


# -- web pages ------------------------------------------------------------------------------------------------------------


@chromium
def test_the_text_is_what_can_be_seen(tmp_path: Path) -> None:
    body = """<h1>Hello <b>big</b> world</h1><p style="text-transform: uppercase">shouted</p>
    <p style="width: 11em">One paragraph that is broken into several lines</p>
    <p style="display: none">never shown</p><p style="visibility: hidden">hidden</p><p style="opacity: 0">clear</p>
    <div style="height: 24px; overflow: hidden">kept<br>clipped away</div>
    <div style="position: relative">covered<div style="position: absolute; inset: 0; background: #fff"></div></div>
    <input placeholder="Search here"><input type="password" value="secret"><select><option>first<option>second</select>
    <table><tr><td style="padding-right: 200px">left cell</td><td>right cell</td></tr></table><p>你好，世界</p>
    <script>document.write("<p>made by script</p>"); alert("stop")</script>
    <div style="position: absolute; top: 5000px">far below</div>"""
    (tmp_path / "page.html").write_text(HTML.format(body=body), encoding="utf-8")
    with Browser(800, 600) as browser:
        data, text, error = browser.page(tmp_path, "page.html")
        assert error is None and data is not None
        assert decode_rgb(data).shape == (600, 800, 3)
        assert browser.page(tmp_path, "page.html")[0] == data
    lines = text.splitlines()
    assert lines[:2] == ["Hello big world", "SHOUTED"]
    assert " ".join(lines[2:-7]) == "One paragraph that is broken into several lines" and len(lines[2:-7]) > 1
    assert lines[-7:] == ["kept", "Search here", "first", "left cell", "right cell", "你好，世界", "made by script"]


@chromium
def test_pages_reach_their_folder_and_nothing_else(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "css").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("a secret")
    (site / "css" / "a b.css").write_text("body { background: rgb(10, 200, 30) }")
    (site / "link.txt").symlink_to(tmp_path / "secret.txt")
    with serve(lambda asked, number: Answer({})) as server:
        with pytest.raises(OSError):
            urlopen(server.url)  # it answers POST only, but it is there
        body = f"""<link rel="stylesheet" href="/css/a%20b.css"><img src="{server.url}"><p id="told">nothing</p><script>
        (async () => {{
          const got = [];
          const urls = ["/../secret.txt", "/%2e%2e/secret.txt", "/link.txt", "file://{tmp_path}/secret.txt", "{server.url}"];
          for (const url of urls)
            try {{ got.push(await (await fetch(url, {{method: "POST"}})).text()) }} catch (error) {{ got.push("refused") }}
          try {{ new WebSocket("{server.url.replace("http", "ws")}") }} catch (error) {{ }}
          document.getElementById("told").textContent = got.join(" ");
        }})()</script>"""
        (site / "index.html").write_text(HTML.format(body=body), encoding="utf-8")
        with Browser(400, 300) as browser:
            data, text, error = browser.page(site, "index.html")
        assert server.asked == []
    assert error is None and data is not None
    assert text == "refused refused refused refused refused"
    assert tuple(decode_rgb(data)[299, 399]) == (10, 200, 30)


@chromium
def test_bad_pages_are_rows_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "good.html").write_text(HTML.format(body="good"), encoding="utf-8")
    (tmp_path / "loop.html").write_text(HTML.format(body="<script>while (true) {}</script>"), encoding="utf-8")
    (tmp_path / "broken.htm").write_bytes(b"\xff\xfe\x00<p><<<\x00 \xc3( ok </b>")
    with Browser(200, 100, seconds=20) as browser:
        assert browser.page(tmp_path, "good.html")[1:] == ("good", None)
        browser._seconds = 1.5
        assert browser.page(tmp_path, "loop.html") == (None, "", "the page took over 1.5 s")
        browser._seconds = 20
        assert browser.page(tmp_path, "broken.htm")[2] is None
        os.killpg(browser._process.pid, signal.SIGKILL)  # type: ignore[union-attr]
        assert browser.page(tmp_path, "good.html")[2] in (None, "the page crashed the browser")
        assert browser.page(tmp_path, "good.html")[1:] == ("good", None)
        assert "cannot be opened" in str(browser.page(tmp_path, "missing.html")[2])


@chromium
def test_pages_of_both_kinds_are_one_source(tmp_path: Path) -> None:
    place = tmp_path / "site"
    place.mkdir()
    (place / "index.html").write_text(HTML.format(body="网页上的文字"), encoding="utf-8")
    (place / "book.pdf").write_bytes(pdf([(100, 100, "x")]))
    (place / "empty.html").touch()
    corpus = Corpus.create(tmp_path / "corpus")
    assert ingest(corpus, place, "site", "x").added == 3
    found = rows(corpus)
    assert json.loads(str(found["index.html"]["captions"])) == {"zh": "网页上的文字"}
    assert (found["index.html"]["width"], found["index.html"]["height"]) == (1280, 800)
    assert found["empty.html"]["error"] == "the file is empty"


def test_without_a_browser_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.html").write_text("x")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="apt install chromium"):
        ingest(Corpus.create(tmp_path / "corpus"), tmp_path / "page.html", "site", "x")
