"""Layered files: read back by Pillow, and by psd-tools where it is installed."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.generate.export_layers import _pack_bits, flatten, psd, write_layers

NAMES = ["background", "海报标题", "shape"]


def layers(width: int = 67, height: int = 41) -> list[Image.Image]:
    """An opaque gradient, noise of every alpha, and a shape on nothing: literals, short and long runs."""
    rng = np.random.default_rng(0)
    gradient = np.zeros((height, width, 4), np.uint8)
    gradient[..., 0] = np.linspace(0, 255, width)
    gradient[..., 3] = 255
    noise = rng.integers(0, 256, (height, width, 4), np.uint8)
    shape = np.zeros((height, width, 4), np.uint8)
    shape[5:20, 3:40] = (250, 40, 90, 200)
    return [Image.fromarray(array) for array in (gradient, noise, shape)]


def unpack_bits(data: bytes) -> bytes:
    out, at = bytearray(), 0
    while at < len(data):
        n = data[at]
        if n < 128:
            out += data[at + 1 : at + 2 + n]
            at += 2 + n
        else:
            assert n != 128
            out += data[at + 1 : at + 2] * (257 - n)
            at += 2
    return bytes(out)


@pytest.mark.parametrize("length", [1, 2, 3, 127, 128, 129, 130, 257, 1000])
def test_pack_bits_loses_nothing(length: int) -> None:
    rng = np.random.default_rng(length)
    for row in (
        np.zeros(length, np.uint8),
        rng.integers(0, 256, length, np.uint8),
        np.repeat(rng.integers(0, 256, length, np.uint8), rng.integers(1, 6, length))[:length],
    ):
        packed = _pack_bits(row)
        assert unpack_bits(packed) == row.tobytes()
        assert len(packed) <= length + -(-length // 128)  # never larger than copying


def test_pillow_reads_the_psd(tmp_path: Path) -> None:
    path = tmp_path / "poster.psd"
    write_layers(layers(), path, NAMES)
    with Image.open(path) as document:
        assert document.size == (67, 41)
        assert np.array_equal(np.asarray(document.convert("RGBA")), np.asarray(flatten(layers())))
        assert len(document.layers) == 3
        for n, layer in reversed(list(enumerate(layers()))):  # Pillow begins at frame 1 with the flattened picture
            document.seek(n + 1)
            channels = np.asarray(document)  # in the order of the file, which is alpha first, whatever their ids say
            assert np.array_equal(np.roll(channels, -1, axis=2), np.asarray(layer))


def test_psd_tools_reads_the_psd(tmp_path: Path) -> None:
    psd_tools = pytest.importorskip("psd_tools")
    path = tmp_path / "poster.psd"
    write_layers(layers(), path, NAMES)
    document = psd_tools.PSDImage.open(path)
    assert document.size == (67, 41) and document.channels == 4
    assert [layer.name for layer in document] == NAMES
    for read, layer in zip(document, layers(), strict=True):
        assert read.is_visible() and read.opacity == 255 and read.bbox == (0, 0, 67, 41)
        assert np.array_equal(np.asarray(read.topil()), np.asarray(layer))
    again = io.BytesIO()
    document.save(again)  # nothing was left unread or misplaced
    assert psd_tools.PSDImage.open(io.BytesIO(again.getvalue())).size == (67, 41)


def test_flattened_is_what_an_editor_shows() -> None:
    bottom = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    top = Image.new("RGBA", (2, 1), (0, 0, 255, 0))
    top.putpixel((1, 0), (0, 0, 255, 255))
    whole = flatten([bottom, top])
    assert [whole.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0, 255), (0, 0, 255, 255)]


@pytest.mark.parametrize("name", ["out.zip", "out"])
def test_pngs_with_a_manifest(tmp_path: Path, name: str) -> None:
    write_layers(layers(), tmp_path / name, NAMES)
    if name.endswith("zip"):
        with zipfile.ZipFile(tmp_path / name) as archive:
            archive.extractall(tmp_path / "out")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text(encoding="utf-8"))
    assert (manifest["width"], manifest["height"]) == (67, 41)
    assert [entry["name"] for entry in manifest["layers"]] == NAMES
    for entry, layer in zip(manifest["layers"], layers(), strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / entry["file"])), np.asarray(layer))
    whole = Image.open(tmp_path / "out" / manifest["flattened"])
    assert np.array_equal(np.asarray(whole), np.asarray(flatten(layers())))


def test_equal_layers_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        write_layers(layers(), tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert psd(layers(), NAMES) == psd(layers(), NAMES)


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    for name, sentence in (
        ("x.jpg", "JPEG holds no transparency"),
        ("x.png", "one PNG holds one layer"),
        ("x.gif", "cannot be written as .gif"),
    ):
        with pytest.raises(InputError, match=sentence):
            write_layers(layers(), tmp_path / name)
    with pytest.raises(InputError, match=r"\(67, 40\) and \(67, 41\)"):
        write_layers([*layers(), *layers(height=40)], tmp_path / "x.psd")
    with pytest.raises(InputError, match="3 layers and 1 names"):
        write_layers(layers(), tmp_path / "x.psd", ["one"])
    with pytest.raises(InputError, match="30000 pixels a side"):
        write_layers([Image.new("RGBA", (30001, 1))], tmp_path / "x.psd")
    assert not list(tmp_path.iterdir())
