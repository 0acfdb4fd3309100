"""Long pictures in tiles: nothing is lost at a seam, and no tile grows beyond what its picture's area explains."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from glyphflow.perception import OCR
from glyphflow.perception.ocr import LONGEST_LINE, _all_ink, _bounded
from glyphflow.perception.strips import LONG, NARROW, find_boxes, is_strip


def _boxes_of_ink(tile: np.ndarray) -> np.ndarray:
    """Each black run of rows, or of columns in a wide tile, as a box: what a perfect detector finds."""
    tall = tile.shape[0] >= tile.shape[1]
    dark = (tile < 128).any(axis=2)
    rows = np.flatnonzero(dark.any(axis=1 if tall else 0))
    found = []
    for run in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1) if len(rows) else []:
        part = dark[run] if tall else dark[:, run]
        across = np.flatnonzero(part.any(axis=0 if tall else 1))
        (left, right), (top, bottom) = (
            ((across, run) if tall else (run, across))[0][[0, -1]],
            (run if tall else across)[[0, -1]],
        )
        found.append([(left, top), (right + 1, top), (right + 1, bottom + 1), (left, bottom + 1)])
    return np.array(found, np.float32).reshape(-1, 4, 2)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("short", [20, 200, 700])
def test_every_line_of_a_strip_is_found_once_and_whole(short: int, turned: bool) -> None:
    picture = np.full((7000, short, 3), 255, np.uint8)
    tops = range(5, 6900, 61)
    for top in tops:
        picture[top : top + 30, 3 : short - 4] = 0
    sizes: list[tuple[int, ...]] = []

    def find(tile: np.ndarray) -> np.ndarray:
        sizes.append(tile.shape)
        return _boxes_of_ink(tile)

    found = find_boxes(picture.transpose(1, 0, 2) if turned else picture, find)
    found = found[..., ::-1] if turned else found
    spans = sorted((float(box[:, 1].min()), float(box[:, 1].max())) for box in found)
    assert spans == [(top, top + 30) for top in tops]
    assert all(box[:, 0].min() == 3 and box[:, 0].max() == short - 4 for box in found)
    assert all(max(size[:2]) <= max(LONG, short) and min(size[:2]) >= NARROW for size in sizes)
    assert all(max(size[:2]) <= 4 * min(size[:2]) for size in sizes)  # the package enlarges it to 736 x 2944 at most


def test_a_line_along_the_strip_is_one_line_and_neighbours_stay_two() -> None:
    picture = np.full((120, 9000, 3), 255, np.uint8)
    picture[40:80, 100:8800] = 0
    (box,) = find_boxes(picture, _boxes_of_ink)
    assert box.min(axis=0).tolist() == [100, 40] and box.max(axis=0).tolist() == [8800, 80]
    close = np.full((3000, 100, 3), 255, np.uint8)
    for top in range(0, 2990, 20):
        close[top : top + 9] = 0
    assert len(find_boxes(close, _boxes_of_ink)) == len(range(0, 2990, 20))


def test_only_what_the_package_would_shrink_or_blow_up_is_a_strip() -> None:
    for height, width in ((1080, 1920), (4000, 3000), (2000, 300), (90, 728), (128, 128), (1, 1), (60, 1900), (3000, 400)):
        assert not is_strip(height, width), (height, width)
    for height, width in ((5000, 200), (9900, 192), (2000, 16), (3000, 1), (1, 3000), (100, 5000), (8000, 990), (100, 1)):
        assert is_strip(height, width), (height, width)


def test_text_of_a_strip_is_read_and_a_rule_is_no_text() -> None:
    image = Image.new("RGB", (90, 760), "white")
    for number in range(7):
        ImageDraw.Draw(image).text((6, 20 + 100 * number), f"No {number}", font=ImageFont.load_default(22), fill="black")
    thin = [np.full(shape, 255, np.uint8) for shape in ((10_000, 1, 3), (1, 10_000, 3), (1, 1, 3), (5, 900, 3))]
    thin[1][0, ::2] = 0
    read, *nothing = OCR(fast=True, threads=1).read([np.asarray(image), *thin])
    assert [line.text for line in read] == [f"No {number}" for number in range(7)]
    assert not any(nothing)
    assert all(abs(min(y for _, y in line.box) - 25 - 100 * number) < 10 for number, line in enumerate(read))


def test_ink_and_lines_of_any_length_have_a_bounded_width() -> None:
    rule = np.full((40, 9000, 3), 255, np.uint8)
    rule[20:22, 5:8990] = 0
    assert not _all_ink(rule).crops
    assert _bounded(rule).shape[1] == LONGEST_LINE * 40 and _bounded(rule[:, :3000]).shape == (40, 3000, 3)
