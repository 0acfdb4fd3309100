"""One reader of picture files for all rooms: which formats are opened, and how their numbers become 8-bit sRGB.

Formats are an allow-list (Pillow would hand PostScript to Ghostscript). A picture is turned upright by its EXIF. Its colours
are converted to sRGB when it carries another ICC profile. 16 bits are scaled to 8 (v / 257). Numbers that have no agreed
scale are refused by name. Transparency stays until :func:`on_white`.
"""

from __future__ import annotations

import functools
import io
import warnings
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from glyphflow.core.errors import InputError

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "HEIF")
"""What is opened; HEIF where pillow-heif is installed."""

_PLAIN = ("L", "LA", "RGB", "RGBA")
_TEXT_CHUNKS = (b"iTXt", b"zTXt", b"tEXt", b"iCCP")
_PNG_MARK = b"\x89PNG\r\n\x1a\n"
_PROFILE_LIMIT = 16 << 20  # bytes of an ICC profile, unpacked: printers' have one or two million
_SAME_COLOUR = 2  # levels of 255 by which a profile may move colours and still be called sRGB


class PictureError(InputError):
    """Bytes that cannot become a picture; the text is the reason alone, without the file's name."""


def open_picture(source: Path | bytes | IO[bytes]) -> Image.Image:
    """The picture in ``source`` as Pillow opens it: header read, pixels not yet, nothing converted.

    Raises :class:`PictureError` for what is no picture in one of :data:`FORMATS`, and OSError for a file that cannot be opened.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        return _opened(file)
    except UnidentifiedImageError as error:
        raise PictureError("not a picture in a known format") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"larger than {(Image.MAX_IMAGE_PIXELS or 0) * 2 // 1_000_000} million pixels") from error
    except ValueError as error:
        # Texts or a profile of over a megabyte: the picture beside them is good. Pillow refuses the whole file.
        data = _bytes_of(file)
        if not data.startswith(_PNG_MARK):
            raise PictureError(reason("no readable header", error)) from error
        return _without_texts(data)
    except OSError:
        raise
    except Exception as error:  # damaged bytes make the parsers raise anything: SyntaxError, struct.error, IndexError, ...
        raise PictureError(reason("no readable header", error)) from error


def plain(picture: Image.Image) -> Image.Image:
    """``picture`` upright, in 8-bit sRGB: mode L, LA, RGB or RGBA. Raises :class:`PictureError` for what has no such form."""
    try:
        picture = ImageOps.exif_transpose(picture)  # photographs are often stored lying on their side
    except (SyntaxError, ValueError, KeyError, TypeError, OverflowError):  # a damaged EXIF block; the pixels may be good
        picture.load()
    profile = picture.info.get("icc_profile")
    picture = _eight_bits(picture)
    if profile:
        picture = in_srgb(picture, profile)
    if picture.mode not in _PLAIN:
        see_through = picture.mode in ("PA", "La", "RGBa") or "transparency" in picture.info
        picture = picture.convert("RGBA" if see_through else "RGB")
    elif "transparency" in picture.info:
        picture = picture.convert("LA" if picture.mode == "L" else "RGBA")
    picture.info.pop("icc_profile", None)  # else a file that is written from it would say the old colours
    return picture


def foreign_profile(picture: Image.Image) -> bytes:
    """The ICC profile of ``picture``, as :func:`open_picture` gives it, by which its numbers are not sRGB; else nothing."""
    profile = picture.info.get("icc_profile") or b""
    base = {"RGBA": "RGB", "LA": "L", "P": "RGB", "PA": "RGB"}.get(picture.mode, picture.mode)
    return profile if profile and _transform(profile, base) is not None else b""


def on_white(picture: Image.Image) -> Image.Image:
    """A :func:`plain` picture in RGB; what is transparent becomes white."""
    if picture.mode in ("LA", "RGBA"):
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def read_picture(path: Path) -> Image.Image:
    """The picture in the file ``path``, :func:`plain`; what cannot be read raises :class:`InputError`, which names it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's words on damaged EXIF and large pictures come with source lines
            with open_picture(path) as picture:
                return plain(picture)
    except Exception as error:  # as above: codecs raise what they like on damaged input
        if isinstance(error, MemoryError):
            raise
        raise InputError(f"{path} cannot be read as a picture: {_why(error)}; give another file that can be read.") from error


def read_rgb(path: Path) -> Image.Image:
    """The picture in the file ``path`` as people see it on a white page: upright, sRGB, mode RGB."""
    return on_white(read_picture(path))


def reason(what: str, error: Exception) -> str:
    """``what``, and what the library said of it, in one line."""
    text = " ".join(str(error).split())[:200]
    return f"{what}: {text}" if text else what


def _why(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    try:
        import pillow_heif  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _opened(file: Path | IO[bytes]) -> Image.Image:
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise InputError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on in this process, which hides cut files; set it to False.")
    return Image.open(file, formats=_formats())


def _bytes_of(file: Path | IO[bytes]) -> bytes:
    if isinstance(file, Path):
        return file.read_bytes()
    file.seek(0)
    return file.read()


def _without_texts(data: bytes) -> Image.Image:
    """The PNG in ``data`` without its texts, and with its colour profile if that is of a believable size."""
    kept, profile, at = [_PNG_MARK], b"", len(_PNG_MARK)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in _TEXT_CHUNKS:
            kept.append(data[at:end])
        elif data[at + 4 : at + 8] == b"iCCP":
            packed = data[at + 8 : end - 4].partition(b"\0")[2][1:]
            try:
                profile = zlib.decompressobj().decompress(packed, _PROFILE_LIMIT)
            except zlib.error:
                profile = b""
        at = end
    try:
        picture = _opened(io.BytesIO(b"".join(kept)))
    except Exception as error:
        raise PictureError(reason("no readable header", error)) from error
    if profile:
        picture.info["icc_profile"] = profile
    return picture


def _eight_bits(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):
        deep = np.asarray(picture).astype(np.uint32)
    elif picture.mode == "I":
        deep = np.asarray(picture)
        if deep.size and (deep.min() < 0 or deep.max() > 65_535):
            raise PictureError(f"it holds 32-bit numbers from {deep.min()} to {deep.max()}; save it with 8 or 16 bits")
    elif picture.mode == "F":
        values = np.asarray(picture)
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        if not (low >= 0 and high <= 1):  # also where one of them is no number
            raise PictureError(
                f"it holds floating-point numbers from {low:g} to {high:g}, not 0 to 1; save it with 8 or 16 bits"
            )
        return Image.fromarray(np.round(values * 255).astype(np.uint8))
    else:
        return picture
    return Image.fromarray(((deep + 128) // 257).astype(np.uint8))


def in_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """``picture``, whose numbers ``profile`` explains, in sRGB; unchanged where the profile is broken or of another kind."""
    alpha = picture.getchannel("A") if picture.mode in ("RGBA", "LA", "PA") else None
    if picture.mode in ("P", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        alpha = picture.getchannel("A")
    base = {"RGBA": "RGB", "LA": "L"}.get(picture.mode, picture.mode)
    transform = _transform(profile, base)
    if transform is None:
        return picture
    colours = ImageCms.applyTransform(picture.convert(base) if picture.mode != base else picture, transform)
    if colours is None:
        return picture
    if alpha is not None:
        colours.putalpha(alpha)
    return colours


@functools.lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The conversion of ``mode`` numbers under ``profile`` to sRGB; None where there is none or it changes next to nothing."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != {"L": "GRAY"}.get(mode, mode):
            return None
        made = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if mode in ("RGB", "L"):
        levels = np.arange(0, 256, 17, dtype=np.uint8)
        grid = np.stack(np.meshgrid(*[levels] * 3), axis=-1).reshape(1, -1, 3) if mode == "RGB" else levels[None]
        sample = Image.fromarray(np.ascontiguousarray(grid))
        moved = ImageCms.applyTransform(sample, made)
        before = np.asarray(sample.convert("RGB")).astype(int)
        if moved is None or np.abs(np.asarray(moved).astype(int) - before).max() <= _SAME_COLOUR:
            return None
    return made
