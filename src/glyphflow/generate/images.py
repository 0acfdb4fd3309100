"""Pictures on their way in and out: sizes, resizing, masks, and the forms that a result can have."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops

from glyphflow.core.errors import InputError
from glyphflow.core.pictures import PictureError, on_white, plain
from glyphflow.generate.finite import require_finite
from glyphflow.models import image_to_tensor, tensor_to_images

Picture = Image.Image | np.ndarray  # an array is uint8 (H, W), (H, W, 3) or (H, W, 4)

RATIOS = {"1:1": (1, 1), "16:9": (16, 9), "9:16": (9, 16), "4:3": (4, 3), "3:4": (3, 4), "3:2": (3, 2), "2:3": (2, 3)}
_RELEASED = {  # width, height: what the released weights were finished on
    "1:1": (1328, 1328),
    "16:9": (1664, 928),
    "9:16": (928, 1664),
    "4:3": (1472, 1104),
    "3:4": (1104, 1472),
    "3:2": (1584, 1056),
    "2:3": (1056, 1584),
}
_NEARLY = 40  # levels from black or white within which a mask's pixel is one of the two
_CHANNELS = ((), (1,), (3,), (4,))
_MOST_NARROW = 50
_RELEASED_AREA = 1024 * 1024


def aspect_size(name: str, native_area: int) -> tuple[int, int]:
    """(height, width) of the aspect ratio ``name`` ("16:9", or any W:H) for a model of ``native_area`` pixels.

    Released models get the published sizes (16:9 is 1664 x 928); others multiples of 16 at their native area.
    """
    if native_area == _RELEASED_AREA and name in _RELEASED:
        width, height = _RELEASED[name]
        return height, width
    parts = name.split(":")
    if len(parts) != 2 or not all(re.fullmatch("[0-9]{1,5}", part) and int(part) for part in parts):
        raise InputError(f"The aspect ratio {name!r} is not width:height; try one of {', '.join(RATIOS)}.")
    if not 1 / _MOST_NARROW <= int(parts[0]) / int(parts[1]) <= _MOST_NARROW:
        raise InputError(f"The aspect ratio {name!r} is too narrow: one side may be at most {_MOST_NARROW} times the other.")
    return area_size((int(parts[0]), int(parts[1])), native_area, 16)


def area_size(size: tuple[int, int], area: int, multiple: int = 32) -> tuple[int, int]:
    """(height, width) of about ``area`` pixels in the ratio of ``size`` (width, height), each a multiple of ``multiple``."""
    ratio = size[0] / size[1]
    width = math.sqrt(area * ratio)
    height, width = (max(multiple, round(side / multiple) * multiple) for side in (width / ratio, width))
    return height, width


def rgb(picture: Picture) -> Image.Image:
    """``picture`` upright and in RGB; what is transparent becomes white. Raises :class:`InputError` for what is no picture."""
    return on_white(_image(picture))


def rgba(picture: Picture) -> Image.Image:
    """``picture`` upright and with its alpha channel, opaque where it has none."""
    return _image(picture).convert("RGBA")


def resized(image: Image.Image, height: int, width: int) -> Image.Image:
    """``image`` stretched to ``height`` x ``width`` with a Lanczos filter; the same picture when it has that size."""
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)


def filled(image: Image.Image, height: int, width: int) -> Image.Image:
    """``image`` in its own ratio in the middle of ``height`` x ``width``; its edges are stretched over what is left."""
    inner_width = min(width, image.width * height // image.height)
    inner_height = min(height, image.height * width // image.width)
    left, top = width // 2 - inner_width // 2, height // 2 - inner_height // 2
    inner = np.asarray(image.resize((inner_width, inner_height), Image.Resampling.LANCZOS))
    around = ((top, height - inner_height - top), (left, width - inner_width - left), (0, 0))
    return Image.fromarray(np.pad(inner, around[: inner.ndim], mode="edge"))


def to_pixels(images: Sequence[Image.Image]) -> torch.Tensor:
    """Pictures of one size -> float32 (B, C, H, W) in [-1, 1]."""
    return torch.stack([image_to_tensor(image) for image in images])


def binary_mask(picture: Picture) -> Image.Image:
    """``picture`` in grey; white is where the new picture goes, and what is transparent counts as black.

    Raises :class:`InputError` when all of it is black, and for a picture in colours with transparent parts (a photograph with
    a hole): whether its hole or its colours are meant cannot be told.
    """
    image = _image(picture)
    mask = image.convert("L")
    if "A" in image.getbands():
        alpha = image.getchannel("A")
        if _transparent_photo(image):
            raise InputError(
                "The mask has colours or greys and transparent parts, so what is to be repainted cannot be told; give a mask "
                "that is white there and black, or transparent, elsewhere."
            )
        mask = ImageChops.multiply(mask, alpha)
    brightest = mask.getextrema()[1]
    if brightest < 128:  # type: ignore[operator]
        raise InputError(
            f"The mask is black everywhere (its brightest value is {brightest} of 255, and transparent parts count as black), "
            "so nothing would be painted; make the part to repaint white."
        )
    return mask


def _transparent_photo(image: Image.Image) -> bool:
    """Whether a picture with alpha is no mask: transparent in parts, and what shows of it is neither black, white nor clear."""
    pixels = np.asarray(image.convert("RGBA")).reshape(-1, 4)
    shown = pixels[pixels[:, 3] >= 128, :3]
    if len(shown) == len(pixels) or not len(shown):
        return False
    low, high = shown.min(axis=1).astype(int), shown.max(axis=1).astype(int)
    plain = (high <= _NEARLY) | (low >= 255 - _NEARLY)
    return bool(plain.mean() < 0.9)  # soft edges are grey


def mask_tokens(mask: Image.Image, channels: int) -> torch.Tensor:
    """A grey mask (sides multiples of 16) -> bool (N, 4 channels): which latent features of each token are repainted.

    A latent pixel is repainted when the top left one of its 8 x 8 pixels is at least half white, as in the reference.
    """
    from glyphflow.models import pack_latents

    latent = torch.from_numpy(np.asarray(mask)[::8, ::8] >= 128)
    if not bool(latent.any()):
        raise InputError(
            "The white parts of the mask are so thin that no latent pixel (8 x 8 pixels) falls into them, and nothing would be "
            "painted; make them wider."
        )
    return pack_latents(latent.expand(1, channels, *latent.shape))[0]


def mask_region(mask: Image.Image, padding: int, height: int, width: int) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) of what is not black, ``padding`` pixels wider on each side.

    It is widened further to the ratio of ``height`` x ``width`` as far as the picture allows.
    """
    left, top, right, bottom = mask.getbbox() or (0, 0, *mask.size)
    left, top = max(left - padding, 0), max(top - padding, 0)
    right, bottom = min(right + padding, mask.width), min(bottom + padding, mask.height)
    ratio = width / height
    if (right - left) / (bottom - top) > ratio:
        top, bottom = _widened(top, bottom, int((right - left) / ratio - (bottom - top)), mask.height)
    else:
        left, right = _widened(left, right, int((bottom - top) * ratio - (right - left)), mask.width)
    return left, top, right, bottom


def pasted(picture: Image.Image, original: Image.Image, mask: Image.Image, region: tuple[int, int, int, int]) -> Image.Image:
    """``original`` with ``picture`` in ``region`` where ``mask`` is white; grey parts of the mask mix the two."""
    left, top, right, bottom = region
    width, height = right - left, bottom - top
    # The picture may hold stretched edges, above and below or left and right, around what was cut out: see filled().
    if width * picture.height > height * picture.width:
        size = width, picture.height * width // picture.width
    else:
        size = picture.width * height // picture.height, height
    x, y = size[0] // 2 - width // 2, size[1] // 2 - height // 2
    whole = picture.resize(size, Image.Resampling.LANCZOS)
    new = original.copy()
    new.paste(whole.crop((x, y, x + width, y + height)), (left, top))
    return Image.composite(new, original, mask)


def finite_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """``pixels`` as the VAE decoded them; refused where they hold nan or inf, which would be saved as black."""
    return require_finite(
        pixels,
        "The VAE decoded latents to pixels that are not finite (nan or inf), so there is no picture; its weights are damaged "
        "or its dtype is too narrow (try float32).",
    )


def as_type(pixels: torch.Tensor, output_type: str) -> Any:
    """Pixels (B, C, H, W) in [-1, 1] as ``output_type``: PIL pictures, an array (B, H, W, C) or a tensor in [0, 1]."""
    if output_type == "pil":
        return tensor_to_images(pixels)
    pixels = (pixels.float() * 0.5 + 0.5).clamp(0, 1)
    return pixels.permute(0, 2, 3, 1).cpu().numpy() if output_type == "np" else pixels


def _image(picture: Picture) -> Image.Image:
    if isinstance(picture, np.ndarray):
        channels = picture.shape[2:]
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or channels not in _CHANNELS or not picture.size:
            raise InputError(
                "A picture array must be uint8 of shape (H, W) or (H, W, C) with 1, 3 or 4 channels, "
                f"not {picture.dtype} of shape {picture.shape}."
            )
        return Image.fromarray(picture[..., 0] if channels == (1,) else picture)
    if not isinstance(picture, Image.Image):
        raise InputError(f"A picture must be a PIL picture or a uint8 array, not {type(picture).__name__}.")
    try:
        return plain(picture)
    except PictureError as error:
        raise InputError(f"A picture cannot be used: {error}.") from error


def _widened(low: int, high: int, by: int, limit: int) -> tuple[int, int]:
    """``low`` and ``high`` moved apart by ``by`` together, inside 0 .. ``limit``."""
    low, high = low - by // 2, high + by - by // 2
    if high > limit:
        low, high = low - (high - limit), limit
    return (0, min(high - low, limit)) if low < 0 else (low, high)
