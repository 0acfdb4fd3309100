"""Bytes into pixels: strictly, turned upright, on white, never larger than a guard allows."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_SIDE = 10_000  # pixels: wider pictures are kept as bytes and never decoded
MAX_PIXELS = 100_000_000
_ORIENTATION = 0x0112  # EXIF tag
_FLIPS = {2: (False, True, 0), 3: (False, False, 2), 4: (True, False, 0), 5: (False, True, 1), 6: (False, False, 3),
          7: (False, True, 3), 8: (False, False, 1)}  # fmt: skip

# Sum of the standard luminance quantisation table (ITU T.81, table K.1), which libjpeg calls quality 50.
_STANDARD_LUMINANCE_SUM = 3_688


class PictureError(InputError):
    """A picture's bytes cannot become pixels; the text is the reason that goes into the table."""


@dataclass(frozen=True)
class Header:
    """What a picture says about itself before anything is decoded. Width and height are as stored, before the EXIF turn."""

    width: int
    height: int
    format: str
    mode: str
    orientation: int
    jpeg_quality: int | None


def read_header(data: bytes) -> Header:
    """Parse the header of ``data``; raises :class:`PictureError` with the reason when there is none or it is over the guard."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about sizes that the guard below refuses anyway
            with Image.open(io.BytesIO(data)) as picture:
                tables: Any = getattr(picture, "quantization", None) or {}
                return Header(
                    width=picture.width,
                    height=picture.height,
                    format=str(picture.format).lower(),
                    mode=picture.mode,
                    orientation=_orientation(picture),
                    jpeg_quality=jpeg_quality(sum(tables[0])) if picture.format == "JPEG" and 0 in tables else None,
                )
    except Image.DecompressionBombError as error:
        raise PictureError(f"larger than {MAX_PIXELS // 1_000_000} million pixels") from error
    except UnidentifiedImageError as error:
        raise PictureError("not a picture in a known format") from error
    except Exception as error:  # damaged bytes make the parsers raise anything: ValueError, SyntaxError, struct.error, ...
        raise PictureError(_reason("no readable header", error)) from error


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
    if header.format == "jpeg" and header.mode in ("RGB", "L"):
        simplejpeg = require("simplejpeg", "corpus")
        try:
            image = simplejpeg.decode_jpeg(data, "RGB", min_height=short_side, min_width=short_side)
        except ValueError as error:
            raise PictureError(_reason("damaged JPEG", error)) from error
    else:
        image = _decode_pillow(data)
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
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise InputError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on in this process, which hides cut files; set it to False.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as picture:
                picture.load()
                return np.asarray(_to_rgb(picture), dtype=np.uint8)
    except Exception as error:  # as above: codecs raise what they like on damaged input
        raise PictureError(_reason("damaged file", error)) from error


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):  # 16-bit grey: Pillow's own conversion clips instead of scaling
        return Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, rgba).convert("RGB")
    return picture.convert("RGB")


def _orientation(picture: Image.Image) -> int:
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


def _reason(what: str, error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{what}: {text}" if text else what
