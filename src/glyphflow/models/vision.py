"""Pictures on their way into Qwen2.5-VL: resizing, patches in the vision tower's order, and positions of their tokens.

The arithmetic is that of transformers' Pillow image processor, value for value. It is done here because transformers picks
another one, with other pixels, as soon as torchvision is installed; an embedding must not depend on that.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from glyphflow.core.config import Config, load_config, to_dict
from glyphflow.core.errors import InputError
from glyphflow.core.files import read_json_object, write_json
from glyphflow.core.pictures import PictureError, on_white, plain

FILE = "preprocessor_config.json"
_MOST_NARROW = 200  # longer side over shorter one, as in the reference


@dataclass(frozen=True)
class Picture:
    """A picture ready for the vision tower: RGB pixels (height, width multiples of ``patch_size * merge_size``).

    ``key`` identifies its content, ``grid`` is (rows, columns) of the tokens that it becomes in the language model.
    """

    pixels: np.ndarray
    key: str
    grid: tuple[int, int]

    @property
    def tokens(self) -> int:
        """How many tokens the picture becomes."""
        return self.grid[0] * self.grid[1]


class Preprocessing(Config):
    """How pictures are brought into the vision tower; the field names are those of the released file.

    The defaults are transformers' own for this model. The released edit checkpoints ship a file with a far larger
    ``max_pixels``; without it a picture of 1024 x 1024 would be shrunk to 980 x 980.
    """

    min_pixels: int = Field(default=56 * 56, ge=1)
    max_pixels: int = Field(default=28 * 28 * 1280, ge=1)
    patch_size: int = Field(default=14, ge=1)
    temporal_patch_size: int = Field(default=2, ge=1)
    merge_size: int = Field(default=2, ge=1)
    image_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)

    @classmethod
    def from_directory(cls, directory: Path) -> Preprocessing | None:
        """What ``directory/preprocessor_config.json`` (or the newer ``processor_config.json``) says; None without a file."""
        found = [path for path in (directory / FILE, directory / "processor_config.json") if path.is_file()]
        if not found:
            return None
        values: dict[str, Any] = read_json_object(found[0])
        values = values.get("image_processor", values)
        size = values.get("size") or {}
        if not isinstance(values, dict) or not isinstance(size, dict):
            raise InputError(f"{found[0]} says nothing about pictures that can be read; fetch the file again.")
        limits = {"min_pixels": size.get("shortest_edge"), "max_pixels": size.get("longest_edge")}
        own = {name: value for name, value in values.items() if value is not None}
        known = {name: value for name, value in (limits | own).items() if name in cls.model_fields and value is not None}
        return load_config(cls, known)

    def save(self, directory: Path) -> None:
        """Write ``directory/preprocessor_config.json`` in the released form."""
        edges = {"size": {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels}}
        flags = {"do_convert_rgb": True, "do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3}
        kind = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}
        write_json(directory / FILE, to_dict(self) | edges | flags | kind | {"rescale_factor": 1 / 255})

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) that a picture is brought to: whole tokens, within the limits of pixels, its ratio nearly kept."""
        if max(width, height) > _MOST_NARROW * min(width, height):
            raise InputError(
                f"A picture of {width} x {height} pixels has sides in a ratio of {max(width, height) / min(width, height):.0f} "
                f"and the vision tower takes at most {_MOST_NARROW}; crop it first."
            )
        unit = self.patch_size * self.merge_size
        rounded = (round(width / unit) * unit, round(height / unit) * unit)
        if rounded[0] * rounded[1] > self.max_pixels:
            shrink = math.sqrt(width * height / self.max_pixels)
            return max(unit, int(width / shrink / unit) * unit), max(unit, int(height / shrink / unit) * unit)
        if rounded[0] * rounded[1] < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (width * height))
            return math.ceil(width * grow / unit) * unit, math.ceil(height * grow / unit) * unit
        return rounded

    def picture(self, image: Image.Image) -> Picture:
        """Convert to RGB (upright, sRGB, transparency over white) and resize (bicubic); a ratio over 200 is an InputError."""
        try:
            image = on_white(plain(image))
        except PictureError as error:
            raise InputError(f"A picture cannot be used: {error}.") from error
        width, height = self.resized(*image.size)
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
        digest = hashlib.sha256(f"{width}x{height}:".encode() + pixels.tobytes()).hexdigest()
        unit = self.patch_size * self.merge_size
        return Picture(pixels, digest, (height // unit, width // unit))

    def patches(self, picture: Picture) -> torch.Tensor:
        """(patches, 3 * temporal * patch * patch) float32, standardised; the patches of one merged token are neighbours."""
        levels = (np.arange(256) * (1 / 255)).astype(np.float32)[:, None]
        table = (levels - np.array(self.image_mean, np.float32)) / np.array(self.image_std, np.float32)
        values = np.stack([table[picture.pixels[..., c], c] for c in range(3)])
        (rows, columns), merge, patch = picture.grid, self.merge_size, self.patch_size
        split = values.reshape(3, rows, merge, patch, columns, merge, patch).transpose(1, 4, 2, 5, 0, 3, 6)
        twice = np.repeat(split[:, :, :, :, :, None], self.temporal_patch_size, axis=5)  # a still picture is two equal frames
        return torch.from_numpy(twice.reshape(rows * columns * merge * merge, -1))


def expand(ids: Sequence[int], image_token: int, pictures: Iterable[Picture]) -> list[int]:
    """Token ids with each picture's placeholder repeated as often as the picture has tokens."""
    counts: Iterator[int] = iter([picture.tokens for picture in pictures])
    return [token for one in ids for token in ([one] * next(counts) if one == image_token else [one])]


def positions(ids: Sequence[int], image_token: int, pictures: Iterable[Picture]) -> torch.Tensor:
    """Positions (3, L) of expanded ``ids`` on the axes time, height, width.

    Text counts on, the same on all three axes. A picture's tokens share the time at which it starts and count rows and columns
    from there; what follows starts after the largest of them. This is the rule the weights were trained with (transformers 4);
    transformers 5 numbers pictures like text unless it is told which tokens are pictures.
    """
    grids = iter([picture.grid for picture in pictures])
    runs: list[torch.Tensor] = []
    start = n = 0
    while n < len(ids):
        if ids[n] == image_token:
            rows, columns = next(grids)
            row = torch.arange(rows).repeat_interleave(columns)
            runs.append(start + torch.stack([torch.zeros_like(row), row, torch.arange(columns).repeat(rows)]))
            n, start = n + rows * columns, start + max(rows, columns)
        else:
            end = next((k for k in range(n, len(ids)) if ids[k] == image_token), len(ids))
            runs.append(torch.arange(start, start + end - n).expand(3, -1))
            n, start = end, start + end - n
    return torch.cat(runs, dim=1) if runs else torch.zeros(3, 0, dtype=torch.long)
