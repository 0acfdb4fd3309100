"""Layers of a picture as files: a layered PSD, a ZIP of PNGs with a manifest, or PNGs in a directory.

The PSD follows Adobe's published file format: 8 bits a channel, run-length coded, RGBA layers of the picture's full size;
names are Unicode. Image editors show the layers; programs that know none show the flattened picture that stands behind them.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.core.files import atomic_path, write_bytes
from glyphflow.generate.files import FLATTENED, XMP_IN_PSD, png_texts, xmp_packet
from glyphflow.generate.metadata import Metadata

_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal layers give equal bytes
_MAX_SIDE = 30000  # of the PSD format
_RUN_LENGTH = 1  # PSD's number for the compression
_ENDINGS = (".psd", ".zip", "")
_OWN = re.compile(r"layer-\d+\.png|flattened\.png|manifest\.json")


def flatten(layers: Sequence[Image.Image]) -> Image.Image:
    """The RGBA picture that ``layers``, bottom first, show together."""
    whole = Image.new("RGBA", layers[0].size, (0, 0, 0, 0))
    for layer in layers:
        whole = Image.alpha_composite(whole, layer.convert("RGBA"))
    return whole


def write_layers(
    layers: Sequence[Image.Image], path: Path, names: Sequence[str] | None = None, metadata: Metadata | None = None
) -> None:
    """Write RGBA ``layers`` of one size, bottom first, in the form that the name of ``path`` asks for.

    ``.psd`` is a layered document, ``.zip`` holds PNGs and ``manifest.json``, a name without ending becomes a directory of the
    same files. ``names`` default to "layer 1" and so on; ``metadata`` say how the layers were made and are read again by
    :func:`glyphflow.generate.read_metadata`. Files appear whole or not at all; equal layers give equal bytes. Other endings and
    layers of different sizes raise :class:`InputError`.
    """
    path = Path(path)
    kind = path.suffix.lower()
    names = [f"layer {n + 1}" for n in range(len(layers))] if names is None else list(names)
    check_layers_path(path)
    _check(layers, names, kind)
    pictures = [layer.convert("RGBA") for layer in layers]
    if kind == ".psd":
        write_bytes(path, psd(pictures, names, metadata))
    elif kind == ".zip":
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for name, data in _files(pictures, names, metadata).items():
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    else:
        with atomic_path(path) as temporary:
            temporary.mkdir()
            for name, data in _files(pictures, names, metadata).items():
                (temporary / name).write_bytes(data)


def psd(layers: Sequence[Image.Image], names: Sequence[str], metadata: Metadata | None = None) -> bytes:
    """The bytes of a Photoshop document with these RGBA layers of one size, bottom first."""
    width, height = layers[0].size
    coded = [[_run_lengths(plane) for plane in _planes(layer)] for layer in layers]
    records = b"".join(_record(name, (height, width), planes) for name, planes in zip(names, coded, strict=True))
    # Each channel of a layer is coded by itself; a negative count says that the flattened picture has transparency.
    data = b"".join(struct.pack(">H", _RUN_LENGTH) + counts + rows for planes in coded for counts, rows in planes)
    info = struct.pack(">h", -len(layers)) + records + data
    info += bytes(-len(info) % 2)
    section = _sized(info) + _sized(b"")  # the layers, and no global mask
    flat = [_run_lengths(plane) for plane in np.moveaxis(np.asarray(flatten(layers)), 2, 0)]
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 4, height, width, 8, 3)  # version, channels, size, depth, RGB
    counts, rows = b"".join(plane[0] for plane in flat), b"".join(plane[1] for plane in flat)
    resources = b"" if metadata is None else _resource(XMP_IN_PSD, xmp_packet(metadata))
    return header + _sized(b"") + _sized(resources) + _sized(section) + struct.pack(">H", _RUN_LENGTH) + counts + rows


def _planes(layer: Image.Image) -> list[np.ndarray]:
    red, green, blue, alpha = np.moveaxis(np.asarray(layer), 2, 0)
    return [alpha, red, green, blue]  # the order in which image editors write them, and that of _record's channel ids


def _record(name: str, size: tuple[int, int], planes: Sequence[tuple[bytes, bytes]]) -> bytes:
    channels = b"".join(
        struct.pack(">hI", channel, 2 + len(counts) + len(rows))
        for channel, (counts, rows) in zip((-1, 0, 1, 2), planes, strict=True)
    )
    latin = name.encode("ascii", "replace")[:255]
    pascal = bytes([len(latin)]) + latin
    pascal += bytes(-len(pascal) % 4)
    wide = name.encode("utf-16-be")
    unicode_name = struct.pack(">I", len(wide) // 2) + wide
    unicode_name += bytes(-len(unicode_name) % 4)
    extra = _sized(b"") + _sized(b"") + pascal + b"8BIMluni" + _sized(unicode_name)  # no mask, no blending ranges
    blending = b"8BIMnorm" + struct.pack(">BBBx", 255, 0, 0)  # opaque, not clipped, visible
    return struct.pack(">4iH", 0, 0, *size, 4) + channels + blending + _sized(extra)


def _resource(number: int, data: bytes) -> bytes:
    return b"8BIM" + struct.pack(">HH", number, 0) + _sized(data) + bytes(len(data) % 2)  # without a name


def _sized(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _run_lengths(plane_HW: np.ndarray) -> tuple[bytes, bytes]:
    """A channel in PackBits: the coded rows' lengths (2 bytes each), and the rows."""
    rows = [_pack_bits(row) for row in np.ascontiguousarray(plane_HW)]
    return struct.pack(f">{len(rows)}H", *map(len, rows)), b"".join(rows)


def _pack_bits(row: np.ndarray) -> bytes:
    """PackBits: n < 128 is followed by n + 1 bytes as they are, n > 128 by one byte that stands 257 - n times.

    Only runs of three and more are worth a pair of bytes; what lies between them is copied.
    """
    data = row.tobytes()
    starts = np.flatnonzero(np.diff(row)) + 1
    bounds = np.concatenate([[0], starts, [len(row)]])
    long = np.flatnonzero(np.diff(bounds) > 2)
    out = bytearray()
    done = 0
    for start, end in zip(bounds[long].tolist(), bounds[long + 1].tolist(), strict=True):
        _copy(out, data[done:start])
        for at in range(start, end, 128):
            length = min(128, end - at)
            out += bytes((257 - length, data[at])) if length > 1 else bytes((0, data[at]))
        done = end
    _copy(out, data[done:])
    return bytes(out)


def _copy(out: bytearray, data: bytes) -> None:
    for at in range(0, len(data), 128):
        part = data[at : at + 128]
        out.append(len(part) - 1)
        out += part


def _files(layers: Sequence[Image.Image], names: Sequence[str], metadata: Metadata | None) -> dict[str, bytes]:
    """File name -> content: one PNG a layer, the flattened picture, and the manifest that says which is which."""
    width, height = layers[0].size
    files = {f"layer-{n + 1:02d}.png": _png(layer, metadata) for n, layer in enumerate(layers)}
    manifest = {
        "width": width,
        "height": height,
        "flattened": FLATTENED,
        "layers": [{"file": file, "name": name} for file, name in zip(files, names, strict=True)],  # bottom first
    }
    text = json.dumps(manifest, ensure_ascii=False, indent=2) + "\n"
    return {"manifest.json": text.encode(), **files, FLATTENED: _png(flatten(layers), metadata)}


def _png(image: Image.Image, metadata: Metadata | None) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=None if metadata is None else png_texts(metadata))
    return buffer.getvalue()


def check_layers_path(path: Path) -> None:
    """Refuse a file name with another ending, and a directory that holds more than layers, because it would be replaced."""
    kind = path.suffix.lower()
    if kind in (".jpg", ".jpeg"):
        raise InputError(
            f"{path.name}: layers are transparent (RGBA) and JPEG holds no transparency; use .psd, .zip or a directory."
        )
    if kind not in _ENDINGS:
        several = "one PNG holds one layer" if kind == ".png" else f"layers cannot be written as {kind}"
        raise InputError(f"{path.name}: {several}; use .psd, .zip, or a name without ending for a directory of PNGs.")
    if kind == "" and path.is_file():
        raise InputError(f"{path} is a file and no directory; give the layers another name.")
    other = sorted(file.name for file in path.iterdir() if not _OWN.fullmatch(file.name)) if path.is_dir() else []
    if other:
        raise InputError(f"{path} holds other files than layers, such as {other[0]}; name a new directory.")


def _check(layers: Sequence[Image.Image], names: Sequence[str], kind: str) -> None:
    if not layers or len(names) != len(layers):
        raise InputError(
            f"There are {len(layers)} layers and {len(names)} names; give at least one layer and one name for each."
        )
    sizes = sorted({layer.size for layer in layers})
    if len(sizes) > 1:
        raise InputError(f"Layers of one picture have one size, but these are {sizes[0]} and {sizes[1]}; resize them.")
    if kind == ".psd" and max(sizes[0]) > _MAX_SIDE:
        raise InputError(f"A PSD holds at most {_MAX_SIDE} pixels a side and these layers have {max(sizes[0])}; use .zip.")
