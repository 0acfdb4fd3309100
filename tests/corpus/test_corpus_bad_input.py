"""Everything that arrives in a folder of pictures from outside: a reason in the table, and every other row unharmed."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from corpus_pictures import encoded, photo
from PIL import Image

from glyphflow.core.errors import InputError, StorageError
from glyphflow.corpus import Corpus
from glyphflow.corpus.decode import MAX_SIDE
from glyphflow.corpus.ingest.pictures import ingest_folder
from glyphflow.corpus.ingest.sources import cut, punch
from glyphflow.corpus.operators.measure import measure
from warm import script

Folder = Callable[..., Path]


def _png_bomb(width: int, height: int) -> bytes:
    """A valid PNG header over pixels that were never there."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    start = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(3_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", start) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _text_bomb() -> bytes:
    """A small PNG whose text chunk unpacks to 100 MB."""
    good = encoded(photo(1, 64, 48), "PNG")
    body = b"Comment\x00\x00" + zlib.compress(bytes(100_000_000), 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    return good[:33] + chunk + good[33:]


def _bad(place: Path) -> dict[str, str]:
    """File name -> what its reason must contain."""
    good = encoded(photo(1))
    with zipfile.ZipFile(place / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000_000))
    files = {
        "zip.png": ((place / "bomb.zip").read_bytes(), "not a picture"),
        "wide.png": (encoded(Image.new("1", (40_000, 3)), "PNG"), "40000x3 is over the guard"),
        "tall.jpg": (encoded(Image.new("L", (2, MAX_SIDE + 1))), "over the guard"),
        "bomb.png": (_png_bomb(60_000, 60_000), "million"),
        "hollow.png": (_png_bomb(9_000, 9_000), "damaged file"),
        "cut.jpg": (cut(good, 0.5), "damaged JPEG"),
        "zeros.jpg": (punch(good, 2048), "damaged JPEG"),
        "only-zeros.jpg": (bytes(50_000), "not a picture"),
        "page.webp": (b"<html>404</html>", "not a picture"),
        "cut.gif": (cut(encoded(photo(2), "GIF"), 0.3), "damaged file"),
        "cut.tiff": (cut(encoded(photo(2), "TIFF", compression="tiff_lzw"), 0.4), ""),
        "empty.bmp": (b"", "the file is empty"),
    }
    (place / "bomb.zip").unlink()
    for name, (data, _) in files.items():
        (place / name).write_bytes(data)
    return {name: reason for name, (_, reason) in files.items()}


def _odd(place: Path) -> set[str]:
    """Pictures that are unusual and good."""
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [photo(number, 64, 48) for number in range(3)]
    files = {
        "text.png": _text_bomb(),  # the text is of no interest, the picture is good
        "really-a-png.jpg": encoded(photo(3), "PNG"),
        "really-a-jpeg.png": encoded(photo(4)),
        "cmyk.jpg": encoded(photo(5).convert("CMYK")),
        "gray.jpg": encoded(photo(6).convert("L")),
        "deep.png": encoded(Image.fromarray((np.arange(60_000).reshape(200, 300) % 65_536).astype(np.uint16)), "PNG"),
        "animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated.webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "palette.png": encoded(photo(7).convert("P"), "PNG"),
        "see-through.png": encoded(photo(8).convert("RGBA"), "PNG"),
        "one-bit.tif": encoded(photo(9).convert("1"), "TIFF"),
        "turned.jpg": encoded(photo(10), exif=exif),
        "tiny.png": encoded(photo(11, 1, 1), "PNG"),
        "line.png": encoded(photo(12, 700, 1), "PNG"),
        "double/a.jpg": encoded(photo(13)),
        "double/a.png": encoded(photo(13), "PNG"),  # one key for WebDataset, two rows here
    }
    (place / "double").mkdir()
    for name, data in files.items():
        (place / name).write_bytes(data)
    (place / "cmyk.txt").write_bytes("猫 ".encode() + b"\xff\xfe\x00\xc3")
    (place / "gray.txt").write_bytes(b"x" * 10_000_000)
    (place / "turned.json").write_text('{"caption": ["no", "text"], "en": 5, "zh": "\\ud800broken", "licence": {}}')
    (place / "deep.json").write_text("[" * 100_000)
    return set(files)


def test_every_bad_file_has_its_reason_and_every_odd_one_is_measured(folder: Folder, tmp_path: Path) -> None:
    place = folder(4)
    bad, odd = _bad(place), _odd(place)
    corpus = Corpus.create(tmp_path / "corpus")
    assert ingest_folder(corpus, place, "mine", "x", per_shard=10).added == len(bad) + len(odd) + 4
    measure(corpus)
    reasons, captions = {}, {}
    for shard in corpus.shards():
        index, pixels, header = corpus.index(shard), corpus.columns("pixels", shard), corpus.columns("header", shard)
        assert pixels is not None and header is not None
        for number, key in enumerate(index["key"]):
            reasons[key] = pixels["error"][number]
            captions[key] = json.loads(index["captions"][number])
            assert (pixels["clarity"][number] is None) == (reasons[key] is not None)
            if reasons[key] is None:
                assert header["error"][number] is None and header["width"][number] >= 1
    assert {key for key, reason in reasons.items() if reason} == set(bad)
    for name, part in bad.items():
        assert part in (reasons[name] or ""), (name, reasons[name])
    assert captions["gray.jpg"] == {} and captions["deep.png"] == {}
    assert captions["cmyk.jpg"] == {}  # bytes of no encoding are no caption
    assert captions["turned.jpg"] == {"zh": "?broken"}
    header = corpus.columns("header", next(s for s in corpus.shards() if "turned.jpg" in corpus.index(s)["key"]))
    assert header is not None
    selection = corpus.records()
    loaded = {selection.load(number).image.shape for number, row in enumerate(selection.rows) if row.width <= MAX_SIDE and
              _good(corpus, row.id, reasons)}  # fmt: skip
    assert (320, 240, 3) in loaded and (1, 1, 3) in loaded and (1, 700, 3) in loaded


def _good(corpus: Corpus, row: str, reasons: dict[str, str | None]) -> bool:
    for shard in corpus.shards():
        index = corpus.index(shard, ("id", "key"))
        if row in index["id"]:
            return reasons[index["key"][index["id"].index(row)]] is None
    return False


_WRITE = """
import sys, time
from pathlib import Path
from glyphflow.core.errors import StorageError
from glyphflow.corpus import Corpus
from glyphflow.corpus.ingest.pictures import ingest_folder
corpus = Corpus.create(Path(sys.argv[1]))
for attempt in range(600):
    try:
        print(ingest_folder(corpus, Path(sys.argv[2]), sys.argv[3], "x", per_shard=2).added)
        break
    except StorageError as error:
        assert "is already at work there" in str(error)
        time.sleep(0.05)
"""


def test_two_writers_take_turns_and_neither_loses_a_row(folder: Folder, tmp_path: Path) -> None:
    places = {name: folder(7, name) for name in ("one", "two")}
    runs = [script(_WRITE, tmp_path / "corpus", place, name) for name, place in places.items()]
    for run in runs:
        with run:
            assert run.wait().output.splitlines()[-1] == "7"
    corpus = Corpus.open(tmp_path / "corpus")
    assert len(set(corpus.records().ids)) == 14 and len(corpus.shards()) == 8


def test_a_full_disk_while_measuring_keeps_what_was_finished(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    corpus = Corpus.create(tmp_path / "corpus")
    ingest_folder(corpus, folder(6), "mine", "x", per_shard=3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(StorageError, match="larger than this process may write"):
            measure(corpus)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(corpus.directory.rglob("*.tmp")) and len(corpus.records()) == 6
    assert measure(corpus)["pixels"] == 6


def test_pixels_that_are_gone_are_a_sentence(folder: Folder, tmp_path: Path) -> None:
    corpus = Corpus.create(tmp_path / "corpus")
    ingest_folder(corpus, folder(3), "mine", "x")
    index = corpus.index("mine-00000", ("offset", "size"))
    places = [("mine-00000", *place) for place in zip(index["offset"], index["size"], strict=True)]
    assert [bytes(each) for each in corpus.payloads(places)] == [corpus.payload(shard, "photo", *at) for shard, *at in places]
    assert corpus.payloads([]) == []
    path = corpus.pixels_path("mine-00000")
    path.write_bytes(path.read_bytes()[: places[-1][1] + 10])
    with pytest.raises(InputError, match="which the index expects; restore the file"):
        corpus.payloads(places)
    path.unlink()
    with pytest.raises(InputError, match="is gone while its index is still there"):
        measure(corpus)
