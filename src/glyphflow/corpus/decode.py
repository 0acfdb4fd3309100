"""Bytes into pixels: strictly, turned upright, on white, never larger than a guard allows."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from glyphflow.core.hardware import require
from glyphflow.core.pictures import PictureError, foreign_profile, in_srgb, on_white, open_picture, plain, reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_SIDE = 10_000  # pixels: wider pictures are kept as bytes and never decoded
MAX_PIXELS = 100_000_000
_JPEGS = ("JPEG", "MPO")  # an MPO is a JPEG with others behind it
_ORIENTATION = 0x0112  # EXIF tag
_FLIPS = {2: (False, True, 0), 3: (False, False, 2), 4: (True, False, 0), 5: (False, True, 1), 6: (False, False, 3),
          7: (False, True, 3), 8: (False, False, 1)}  # fmt: skip

# Sum of the standard luminance quantisation table (ITU T.81, table K.1), which libjpeg calls quality 50.
_STANDARD_LUMINANCE_SUM = 3_688


@dataclass(frozen=True)
class Header:
    """What a picture says about itself before anything is decoded. Width and height are as stored, before the EXIF turn."""

    width: int
    height: int
    format: str
    mode: str
    orientation: int
    jpeg_quality: int | None
    profile: bytes = b""
    """The ICC profile that says what the numbers mean, where they are not sRGB."""


def read_header(data: bytes) -> Header:
    """Parse the header of ``data``; raises :class:`PictureError` with the reason when there is none or it is over the guard."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about sizes that the guard below refuses anyway
            with open_picture(data) as picture:
                tables: Any = getattr(picture, "quantization", None) or {}
                return Header(
                    width=picture.width,
                    height=picture.height,
                    format=str(picture.format).lower(),
                    mode=picture.mode,
                    orientation=_orientation(picture),
                    jpeg_quality=jpeg_quality(sum(tables[0])) if picture.format in _JPEGS and 0 in tables else None,
                    profile=foreign_profile(picture),
                )
    except PictureError:
        raise
    except Exception as error:  # damaged bytes make the parsers raise anything: ValueError, SyntaxError, struct.error, ...
        raise PictureError(reason("no readable header", error)) from error


def seems_cut(data: bytes) -> bool:
    """Whether a JPEG, PNG, WebP or GIF lacks its end, as a broken download leaves it; looked up without decoding.

    What is damaged inside, and other formats, only decoding tells.
    """
    if data.startswith(b"\xff\xd8"):
        if data.endswith(b"\xff\xd9"):
            return False
        scan = data.rfind(b"\xff\xda")  # the last one: thumbnails, with ends of their own, stand before it
        return data.find(b"\xff\xd9", max(scan, 0)) < 0
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data.find(b"IEND", max(0, len(data) - 64)) < 0 and data.rfind(b"IEND") < 0
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    return data.startswith(b"GIF8") and not data[-4096:].rstrip(b"\0").endswith(b";")


def check_size(header: Header) -> None:
    """Refuse what would take too much memory to decode."""
    if max(header.width, header.height) > MAX_SIDE or header.width * header.height > MAX_PIXELS:
        raise PictureError(
            f"{header.width}x{header.height} is over the guard ({MAX_SIDE} a side, {MAX_PIXELS // 1_000_000} million in all)"
        )


def decode_rgb(data: bytes, header: Header | None = None, short_side: int = 0) -> NDArray[np.uint8]:
    """Decode to (H, W, 3) uint8 RGB, upright (EXIF turn applied), transparency on white, first frame of an animation.

    With ``short_side`` > 0 a JPEG is decoded scaled by 1/2, 1/4 or 1/8 as long as both sides stay at or above it (up to three
    times cheaper). Decoding is strict: anything libjpeg only warns about (a cut end, a hole of zeros) is an error, because a
    tolerant decoder fills the rest with grey and calls the picture good. Raises :class:`PictureError`.
    """
    header = header or read_header(data)
    check_size(header)
    if header.format.upper() not in _JPEGS:
        return _decode_pillow(data)
    simplejpeg = require("simplejpeg", "corpus")
    try:
        if header.mode not in ("RGB", "L"):  # CMYK: looked through for damage here, converted there
            simplejpeg.decode_jpeg(data, "CMYK", min_height=1, min_width=1)
            return _decode_pillow(data)
        # A grey JPEG whose profile explains grey numbers stays grey until that is done.
        grey = header.mode == "L" and bool(header.profile)
        image = simplejpeg.decode_jpeg(data, "GRAY" if grey else "RGB", min_height=short_side, min_width=short_side)
    except ValueError as error:
        raise PictureError(reason("damaged JPEG", error)) from error
    if header.profile:
        stored = Image.fromarray(image[..., 0] if grey else image)
        image = np.asarray(in_srgb(stored, header.profile).convert("RGB"))
    return turn_upright(image, header.orientation)


def turn_upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply the EXIF ``orientation`` (1..8) to (H, W, 3)."""
    if orientation not in _FLIPS:
        return image
    up_down, left_right, quarter_turns = _FLIPS[orientation]
    if up_down:
        image = image[::-1]
    if left_right:
        image = image[:, ::-1]
    return np.ascontiguousarray(np.rot90(image, quarter_turns))


def upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """(width, height) after the EXIF turn."""
    return (height, width) if orientation >= 5 else (width, height)


def _decode_pillow(data: bytes) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_picture(data) as picture:
                return np.asarray(on_white(plain(picture)), dtype=np.uint8)
    except PictureError:
        raise
    except Exception as error:  # as above: codecs raise what they like on damaged input
        raise PictureError(reason("damaged file", error)) from error


def _orientation(picture: Image.Image) -> int:
    if picture.format == "TIFF":
        return 1  # Pillow turns a TIFF while it loads it, and tells the upright size before
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block does not make the picture unusable
        return 1
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1


def jpeg_quality(luminance_sum: int) -> int:
    """Quality 1..100 of the libjpeg scale whose luminance table sums to the nearest of ``luminance_sum``."""
    scale = 100.0 * luminance_sum / _STANDARD_LUMINANCE_SUM
    quality = (200 - scale) / 2 if scale <= 100 else 5000 / scale
    return int(min(100, max(1, round(quality))))
