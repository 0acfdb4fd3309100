"""Reading pictures that Pillow drew; the engine itself runs (it ships inside the rapidocr package)."""

import socket

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from glyphflow.core.errors import InputError
from glyphflow.perception import OCR, OCRLine, normalise_text
from glyphflow.perception.ocr import reading_order

pytest.importorskip("rapidocr")


def draw(text: str, size: int = 40, canvas: tuple[int, int] = (128, 128), at: tuple[int, int] = (64, 64)) -> np.ndarray:
    image = Image.new("RGB", canvas, (20, 30, 90))
    ImageDraw.Draw(image).text(at, text, font=ImageFont.load_default(size), fill=(250, 250, 250), anchor="mm")
    return np.asarray(image)


@pytest.fixture(scope="module")
def fast() -> OCR:
    return OCR(fast=True, threads=1)


def test_reads_a_word_and_places_it_in_the_pictures_own_pixels(fast: OCR) -> None:
    (lines,) = fast.read([draw("HELLO", 30)])
    assert [line.text for line in lines] == ["HELLO"]
    xs, ys = zip(*lines[0].box, strict=True)
    assert 0 <= min(xs) < 30 and 98 < max(xs) <= 128
    assert 40 < min(ys) < 60 < max(ys) < 90
    assert lines[0].confidence > 0.9 and not lines[0].whole


def test_page_mode_reads_lines_from_the_top(fast: OCR) -> None:
    page = np.full((300, 400, 3), 255, np.uint8)
    for y, text in ((60, "FIRST LINE"), (150, "second line"), (240, "and the third")):
        strip = Image.fromarray(page)
        ImageDraw.Draw(strip).text((20, y), text, font=ImageFont.load_default(32), fill=(0, 0, 0), anchor="lm")
        page = np.asarray(strip)
    (lines,) = OCR(threads=1).read([page])
    assert [line.text for line in lines] == ["FIRST LINE", "second line", "and the third"]


def test_nothing_is_read_where_nothing_is_written(fast: OCR) -> None:
    rng = np.random.default_rng(0)
    blank = [np.full((128, 128, 3), value, np.uint8) for value in (0, 128, 255)]
    noise = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert fast.read([*blank, noise]) == [[], [], [], []]


def test_never_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("OCR opened a socket")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    (lines,) = OCR(threads=1).read([draw("local", 36)])
    assert [line.text for line in lines] == ["local"]


def test_whole_picture_is_the_second_look(fast: OCR, monkeypatch: pytest.MonkeyPatch) -> None:
    """When detection finds no line, the recogniser reads the picture as one line and says so."""
    engine = fast._engine

    def blind(image: np.ndarray, *, use_det: bool, **rest: bool) -> object:
        return engine(np.zeros((64, 64, 3), np.uint8) if use_det else image, use_det=use_det, **rest)

    monkeypatch.setattr(fast, "_engine", blind)
    (lines,) = fast.read([draw("WORD", 40, (128, 48), (64, 24))])
    assert [(line.text, line.whole) for line in lines] == [("WORD", True)]
    assert lines[0].box == ((0.0, 0.0), (128.0, 0.0), (128.0, 48.0), (0.0, 48.0))


def test_identity_names_version_models_and_mode(fast: OCR) -> None:
    page = OCR(threads=1)
    assert fast.identity != page.identity
    assert fast.identity == OCR(fast=True, threads=2).identity
    assert fast.identity.startswith("rapidocr-") and "rec-" in fast.identity and "det-" in fast.identity


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8)],
)
def test_refuses_what_is_no_rgb_picture(fast: OCR, image: np.ndarray) -> None:
    with pytest.raises(InputError, match="uint8"):
        fast.read([image])


def test_refuses_no_threads() -> None:
    with pytest.raises(InputError, match="0 threads"):
        OCR(threads=0)


def line(text: str, x0: float, y0: float, x1: float, y1: float) -> OCRLine:
    return OCRLine(text, ((x0, y0), (x1, y0), (x1, y1), (x0, y1)), 1.0)


def test_reading_order_follows_rows() -> None:
    tall, low = line("tall", 0, 10, 40, 50), line("low", 50, 24, 90, 48)  # one baseline, tops 14 px apart
    below, right = line("below", 0, 60, 30, 80), line("right", 40, 62, 70, 78)
    assert [entry.text for entry in reading_order([right, low, below, tall])] == ["tall", "low", "below", "right"]
    assert reading_order([]) == []


def test_normalise_text() -> None:
    assert normalise_text("  ＨＥＬＬＯ，\n 你好 ") == "HELLO, 你好"
    assert normalise_text("Straße", casefold=True) == "strasse"
    assert normalise_text(" \t ") == ""
