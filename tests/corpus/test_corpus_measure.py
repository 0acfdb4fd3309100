from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from corpus_pictures import encoded, photo
from PIL import Image, ImageFilter

from glyphflow.core.errors import InputError
from glyphflow.core.pictures import PictureError
from glyphflow.corpus import Corpus
from glyphflow.corpus.decode import MAX_SIDE, decode_rgb, jpeg_quality, read_header
from glyphflow.corpus.ingest.pictures import ingest_folder
from glyphflow.corpus.ingest.sources import cut, punch
from glyphflow.corpus.operators.duplicates import Candidate, crop_pairs, group_duplicates, linked_pairs, near_pairs
from glyphflow.corpus.operators.kernels import components, fixed_scale, gray_and_saturation, jpeg_headers, structure
from glyphflow.corpus.operators.measure import HEADER_TYPES, PIXEL_TYPES, measure
from glyphflow.corpus.operators.metrics import CROPS, perceptual_hash, pixel_metrics

Folder = Callable[..., Path]


def _damaged(data: bytes) -> dict[str, bytes]:
    """The damages of the facts, made from one good JPEG."""
    return {
        "half": cut(data, 0.5),
        "tail": data[:-2],
        "700": data[:700],
        "hole": punch(data),
        "html": b"<!DOCTYPE html><html><body>404</body></html>",
    }


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 75}])
def test_every_damaged_jpeg_is_caught_and_no_good_one(options: dict[str, object]) -> None:
    for seed in range(12):
        data = encoded(photo(seed, 480, 360), **options)
        for short_side in (0, 128):
            assert decode_rgb(data, short_side=short_side).ndim == 3
            for name, broken in _damaged(data).items():
                with pytest.raises(PictureError):
                    decode_rgb(broken, short_side=short_side)
                    pytest.fail(f"{name} passed, seed {seed}")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats_decode_and_are_caught_when_cut(kind: str) -> None:
    data = encoded(photo(1), kind)
    assert decode_rgb(data).shape == (240, 320, 3)
    with pytest.raises(PictureError):
        decode_rgb(cut(data, 0.6))


def test_one_bad_in_a_hundred_costs_exactly_that_row(folder: Folder, tmp_path: Path) -> None:
    pictures = folder(100)
    (pictures / "picture-050.jpg").write_bytes(punch((pictures / "picture-050.jpg").read_bytes(), 2048))
    corpus = Corpus.create(tmp_path / "corpus")
    ingest_folder(corpus, pictures, "mine", "x", per_shard=30)
    measure(corpus)
    bad = []
    for shard in corpus.shards():
        index, pixels = corpus.index(shard), corpus.columns("pixels", shard)
        assert pixels is not None and pixels["id"] == index["id"]
        bad += [key for key, error in zip(index["key"], pixels["error"], strict=True) if error]
    assert bad == ["picture-050.jpg"]


def test_columns_are_aligned_complete_and_computed_once(folder: Folder, tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "corpus")
    ingest_folder(corpus, folder(5), "mine", "x", per_shard=2)
    assert measure(corpus) == {"header": 5, "pixels": 5, "duplicates": 5}
    assert measure(corpus) == {"header": 0, "pixels": 0, "duplicates": 0}
    for shard in corpus.shards():
        for stage, types in (("header", HEADER_TYPES), ("pixels", PIXEL_TYPES)):
            columns = corpus.columns(stage, shard)
            assert columns is not None
            assert set(columns) == {"id", "measured", *types} and columns["id"] == corpus.index(shard, ("id",))["id"]
    corpus.column_path("pixels", corpus.stage_fingerprint("pixels") or "", "mine-00001").unlink()
    assert measure(corpus)["pixels"] == 2  # only what is missing


def test_new_rows_are_measured_and_grouped_with_the_old_ones(folder: Folder, tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "corpus")
    ingest_folder(corpus, folder(3), "mine", "x")
    measure(corpus)
    others = tmp_path / "others"
    others.mkdir()
    (others / "larger.png").write_bytes(encoded(photo(0, 200, 160).resize((400, 320)), "PNG"))
    ingest_folder(corpus, others, "others", "x")
    assert measure(corpus) == {"header": 1, "pixels": 1, "duplicates": 4}
    found = corpus.columns("duplicates", "mine-00000")
    assert found is not None
    larger = corpus.index("others-00000")["id"][0]
    assert found["duplicate_of"] == [larger, None, None] and found["first_of_group"][0] == larger


def test_header_reads_turned_and_odd_pictures() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(photo(3, 320, 240), exif=exif)
    assert (read_header(turned).width, read_header(turned).orientation) == (320, 6)
    assert decode_rgb(turned).shape == (320, 240, 3)
    for quality in (30, 75, 95):
        assert read_header(encoded(photo(3), quality=quality)).jpeg_quality == quality
    assert decode_rgb(encoded(photo(3).convert("CMYK"))).shape == (240, 320, 3)
    deep = Image.fromarray(np.full((20, 20), 0x8000, np.uint16))
    assert abs(int(decode_rgb(encoded(deep, "PNG")).mean()) - 128) <= 1
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert decode_rgb(encoded(clear, "PNG")).min() == 255  # transparency lies on white


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_agrees_with_pillow(orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(5, 30, 20), "PNG", exif=exif)
    with Image.open(__import__("io").BytesIO(data)) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    assert np.array_equal(decode_rgb(data), expected)


def test_decompression_bombs_are_refused_before_they_are_decoded() -> None:
    wide = encoded(Image.new("1", (MAX_SIDE + 1, 2)), "PNG")
    with pytest.raises(PictureError, match="over the guard"):
        decode_rgb(wide)
    bomb = bytearray(encoded(Image.new("L", (8, 8)), "BMP"))
    bomb[18:26] = (60_000).to_bytes(4, "little") * 2
    with pytest.raises(PictureError, match=r"million pixels|guard"):
        decode_rgb(bytes(bomb))


def test_metrics_order_pictures_as_people_would() -> None:
    base = photo(7, 640, 480)
    sharp, blurred = (pixel_metrics(np.asarray(each)) for each in (base, base.filter(ImageFilter.GaussianBlur(6))))
    assert sharp["clarity"] > 5 * blurred["clarity"] and sharp["texture"] > blurred["texture"]
    dark, bright = (pixel_metrics(np.asarray(base.point(lambda v, f=f: int(v * f)))) for f in (0.1, 1.0))
    assert dark["luma"] < 0.15 < bright["luma"]
    flat = pixel_metrics(np.full((300, 300, 3), 90, np.uint8))
    assert flat["entropy"] == 0 and flat["clarity"] == 0 and flat["saturation"] == 0
    noise = pixel_metrics(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))
    assert noise["texture"] > 20 and noise["entropy"] > 7
    half = pixel_metrics(np.asarray(base.resize((320, 240), Image.Resampling.LANCZOS)))
    assert half["luma"] == pytest.approx(bright["luma"], abs=0.01)


def test_copies_are_grouped_and_the_largest_stays() -> None:
    def candidate(name: str, picture: Image.Image) -> Candidate:
        data = encoded(picture)
        gray = np.asarray(picture.convert("L"))
        return Candidate(name, str(hash(data)), perceptual_hash(gray), picture.width * picture.height, len(data), name)

    originals = [photo(seed, 640, 480) for seed in range(40)]
    rows = [candidate(f"{seed}-original", each) for seed, each in enumerate(originals)]
    rows += [
        candidate(f"{seed}-half", each.resize((320, 240), Image.Resampling.LANCZOS)) for seed, each in enumerate(originals)
    ]
    rows.append(Candidate("exact", rows[0].sha256, None, 1, 1, "exact"))
    found = group_duplicates(rows, 3, 5)
    assert {row: columns["duplicate_of"] for row, columns in found.items() if columns["duplicate_of"]} == {
        **{f"{seed}-half": f"{seed}-original" for seed in range(40)},
        "exact": "0-original",
    }
    assert group_duplicates(rows[::-1], 3, 5) == found


def test_a_chain_is_cut_where_pictures_no_longer_resemble_the_one_that_stays() -> None:
    # Each is two bits from the next, so the hashes 0 and 0b111111 are six bits apart.
    hashes = [0b0, 0b11, 0b1111, 0b111111, 0b11111111]
    rows = [Candidate(str(n), str(n), value, area=100 - n, size=1, key=str(n)) for n, value in enumerate(hashes)]
    found = group_duplicates(rows, 3, 5)
    assert {row: columns["duplicate_of"] for row, columns in found.items()} == {"0": None, "1": "0", "2": None, "3": "2"}
    assert {row: columns["group_size"] for row, columns in found.items()} == dict.fromkeys("0123", 2)
    assert group_duplicates(rows[::-1], 3, 5) == found


def test_near_pairs_equal_brute_force() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2**63, 300, dtype=np.uint64)
    flips = np.uint64(1) << rng.integers(0, 64, (4, 300), dtype=np.uint64)
    hashes = np.concatenate([base, base ^ flips[0], base ^ flips[0] ^ flips[1] ^ flips[2], base ^ flips[0] ^ flips[3]])
    bits = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    expected = {(int(a), int(b)) for a, b in zip(*np.nonzero(bits <= 3), strict=True) if a < b}
    found = [tuple(pair) for pair in near_pairs(hashes, 3).tolist()]
    assert set(found) == expected and len(found) == len(expected)
    again = np.concatenate([hashes, hashes[:100], hashes[:50]])
    linked, plain = (components(len(again), pairs(again, 3)) for pairs in (linked_pairs, near_pairs))
    assert np.array_equal(linked, plain)
    windows = np.stack([again[number : number + CROPS] for number in range(0, 800, 40)])
    distinct = np.unique(hashes)
    bits = np.bitwise_count(distinct[:, None, None] ^ windows[None])
    expected = {(int(a), int(b)) for a, b in np.argwhere((bits <= 5).any(-1))}
    assert {tuple(pair) for pair in crop_pairs(distinct, windows, 5).tolist()} == expected


def test_cut_copies_are_found_wherever_they_were_cut() -> None:
    rng = np.random.default_rng(3)
    rows, cut = [], []
    for seed in range(30):
        picture = photo(seed, 640, 480)
        left, top = rng.integers(0, 52), rng.integers(0, 39)
        part = picture.crop((left, top, left + 589, top + 442))
        for name, each in (("whole", picture), ("part", part)):
            measured = pixel_metrics(decode_rgb(encoded(each, quality=80)))
            crops = np.frombuffer(measured["crop_phashes"], np.uint64)
            rows.append(Candidate(f"{seed}-{name}", f"{seed}{name}", measured["phash"], each.width, 1, name, crops))
        cut.append(f"{seed}-part")
    found = group_duplicates(rows, 3, 5)
    assert {row for row, columns in found.items() if columns["duplicate_of"]} == set(cut)
    assert all(found[row]["duplicate_of"] == row.replace("part", "whole") and found[row]["distance"] <= 5 for row in cut)


def test_pixel_metrics_are_those_of_opencv() -> None:
    import cv2

    for seed, size in enumerate([(300, 256), (640, 480), (256, 256), (3, 2), (1, 5), (1, 1)]):
        image = np.asarray(photo(seed, *size))
        gray = np.empty(image.shape[:2], np.uint8)
        saturation = gray_and_saturation(image, gray)
        assert np.array_equal(gray, cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
        assert saturation == pytest.approx(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1].mean() / 255, abs=3e-3)
        small = fixed_scale(gray, 256)
        if min(size) > 256:
            theirs = cv2.resize(gray, small.shape[::-1], interpolation=cv2.INTER_AREA)
            assert np.abs(small.astype(int) - theirs).max() <= 1
        laplacian = cv2.Laplacian(small, cv2.CV_16S).astype(np.int64)
        sobel = [cv2.norm(cv2.Sobel(small, cv2.CV_16S, *axes), cv2.NORM_L1) for axes in ((1, 0), (0, 1))]
        histogram = np.zeros(256, np.int64)
        assert structure(small, histogram) == (laplacian.sum(), (laplacian**2).sum(), sum(sobel))
        assert np.array_equal(histogram, np.bincount(small.ravel(), minlength=256))


def test_jpeg_headers_read_at_once_are_those_of_pillow() -> None:
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a description", 8
    none = Image.Exif()
    none[0x010E] = "no turn is told"
    options: list[dict[str, object]] = [
        {},
        {"progressive": True},
        {"exif": exif},
        {"exif": none},
        {"quality": 30},
        {"comment": b"x"},
    ]
    good = [encoded(photo(number, 64 + number, 40), **each) for number, each in enumerate(options)]
    good += [encoded(photo(9).convert(mode)) for mode in ("L", "CMYK")]
    odd = [b"", b"\xff\xd8", good[0][:150], encoded(photo(1), "PNG"), b"<html>", bytes(3000), encoded(photo(1))[:-1][::-1]]
    odd.append(encoded(photo(2), xmp=b'<x:xmpmeta tiff:Orientation="6"/>'))  # for Pillow, which knows XMP
    files = good + odd
    sizes = np.array([len(each) for each in files])
    offsets = np.cumsum(sizes) - sizes
    found = np.zeros((len(files), 5), np.int32)
    jpeg_headers(np.frombuffer(b"".join(files), np.uint8), offsets, sizes, found)
    for data, row in zip(good, found.tolist(), strict=False):
        header = read_header(data)
        assert (header.width, header.height, header.orientation) == (row[0], row[1], row[3])
        assert {1: "L", 3: "RGB", 4: "CMYK"}[row[2]] == header.mode and jpeg_quality(row[4]) == header.jpeg_quality
    assert not found[len(good) :].any()
    rng = np.random.default_rng(0)
    for _ in range(200):  # whatever the bytes are, nothing is read outside of them
        wild = np.frombuffer(good[2], np.uint8).copy()
        wild[rng.integers(2, 400, 3)] = rng.integers(0, 256, 3)
        jpeg_headers(wild, np.array([0]), np.array([rng.integers(4, len(wild))]), found[:1])


def test_loading_a_damaged_record_is_a_sentence(tmp_path: Path) -> None:
    place = tmp_path / "pictures"
    place.mkdir()
    (place / "cut.jpg").write_bytes(cut(encoded(photo(1)), 0.5))
    corpus = Corpus.create(tmp_path / "corpus")
    ingest_folder(corpus, place, "mine", "x")
    with pytest.raises(InputError, match="cannot be decoded"):
        corpus.records().load(0)
