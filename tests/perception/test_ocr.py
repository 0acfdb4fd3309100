"""Reading pictures that Pillow drew; the engine itself runs (it ships inside the rapidocr package)."""

import socket

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from glyphflow.core.errors import InputError
from glyphflow.perception import OCR, OCRLine, normalise_text
from glyphflow.perception.ocr import _all_ink, _batches, _Found, _padded_widths, reading_order

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


def test_the_ink_is_the_second_look(fast: OCR, monkeypatch: pytest.MonkeyPatch) -> None:
    """When detection finds no line, the recogniser reads all ink as one line and says so."""
    monkeypatch.setattr(fast, "_detect", lambda image: _Found([], [], [], whole=False))
    (lines,) = fast.read([draw("WORD", 40, (256, 96), (96, 40))])
    assert [(line.text, line.whole) for line in lines] == [("WORD", True)]
    (left, top), (right, _), (_, bottom), _ = lines[0].box
    assert 20 < left < 50 and 140 < right < 170 and 0 <= top < 26 and 54 < bottom < 75


def test_ink_reaches_the_border_or_is_not_there() -> None:
    assert _all_ink(np.full((20, 30, 3), 200, np.uint8)).crops == []
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    (crop,) = _all_ink(noise).crops
    assert crop.shape == noise.shape and np.array_equal(crop, noise[..., ::-1])


def pages() -> list[np.ndarray]:
    """Pictures of several sizes with short and long lines."""
    pictures = []
    for height, texts in ((300, ("FIRST LINE", "of two")), (420, ("A", "longer line of words", "and 3 more")), (200, ("O",))):
        page = Image.new("RGB", (460, height), (250, 250, 245))
        for number, text in enumerate(texts):
            at = (20, 50 + 100 * number)
            ImageDraw.Draw(page).text(at, text, font=ImageFont.load_default(36), fill=(10, 10, 60), anchor="lm")
        pictures.append(np.asarray(page))
    return pictures


def test_reads_what_the_package_reads() -> None:
    """Batched over pictures and spread over threads, every line is the package's own, with its box and confidence."""
    import rapidocr

    files = {f"{part}.model_path": str(path) for part, path in OCR()._files.items()}
    package = rapidocr.RapidOCR(params={**files, "Global.log_level": "critical"})
    for picture, lines in zip(pages(), OCR(threads=3).read(pages()), strict=True):
        plain = package(np.ascontiguousarray(picture[..., ::-1]))
        expected = sorted((text, box.tolist()) for text, box in zip(plain.txts or (), plain.boxes, strict=True))
        assert sorted((line.text, [list(corner) for corner in line.box]) for line in lines) == expected
        assert sorted(line.confidence for line in lines) == pytest.approx(sorted(plain.scores), abs=1e-3)


def test_a_reading_does_not_depend_on_its_company() -> None:
    ocr = OCR(threads=2)
    alone = [[line.text for line in ocr.read([picture])[0]] for picture in pages()]
    assert [[line.text for line in lines] for lines in ocr.read(pages())] == alone
    assert ocr.read([]) == []


def test_lines_of_one_width_share_batches_up_to_a_limit() -> None:
    batches = _batches([320] * 8 + [960, 321])
    assert [len(batch) for batch in batches] == [1, 1, 6, 2]
    assert sorted(index for batch in batches for index in batch) == list(range(10))
    assert _batches([]) == []


def test_lines_are_padded_as_the_package_pads_them() -> None:
    shapes = [(48, 96), (24, 480), (48, 48), (48, 480), (10, 40), (48, 330), (48, 150)]
    crops = [np.zeros((*shape, 3), np.uint8) for shape in shapes]
    assert _padded_widths(crops) == [480, 960, 480, 480, 480, 480, 480]


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
