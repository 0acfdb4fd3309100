"""Photographs that come inside Python packages, as places to put a sign into."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.pictures import open_picture


@dataclass(frozen=True)
class Photo:
    """A packaged photograph: where its file is, and what it shows in both languages."""

    name: str
    package: str
    pip: str
    file: str
    en: str
    zh: str


PHOTOS: tuple[Photo, ...] = (
    Photo("astronaut", "skimage", "scikit-image", "data/astronaut.png", "an astronaut in front of a flag", "国旗前的宇航员"),
    Photo("brick", "skimage", "scikit-image", "data/brick.png", "a gray brick wall", "灰色砖墙"),
    Photo("cameraman", "skimage", "scikit-image", "data/camera.png", "a cameraman in black and white", "黑白照片里的摄影师"),
    Photo("cat", "skimage", "scikit-image", "data/chelsea.png", "a tabby cat", "一只虎斑猫"),
    Photo("coffee", "skimage", "scikit-image", "data/coffee.png", "a cup of coffee on a wooden table", "木桌上的一杯咖啡"),
    Photo("gravel", "skimage", "scikit-image", "data/gravel.png", "gray gravel", "灰色碎石"),
    Photo("hubble", "skimage", "scikit-image", "data/hubble_deep_field.jpg", "distant galaxies", "遥远的星系"),
    Photo("motorcycle", "skimage", "scikit-image", "data/motorcycle_left.png", "a motorcycle in a workshop", "车间里的摩托车"),
    Photo("rocket", "skimage", "scikit-image", "data/rocket.jpg", "a rocket on its launch pad", "发射台上的火箭"),
    Photo("palace", "sklearn", "scikit-learn", "datasets/images/china.jpg", "a Chinese palace", "中国古建筑"),
    Photo("flower", "sklearn", "scikit-learn", "datasets/images/flower.jpg", "an orange dahlia", "橙色的大丽花"),
)

_BY_NAME = {photo.name: photo for photo in PHOTOS}


def find_photo(name: str) -> Photo:
    """The photograph called ``name``; an unknown one raises :class:`InputError` with those that exist."""
    if name not in _BY_NAME:
        raise InputError(f"There is no packaged photograph {name!r}; there are {', '.join(_BY_NAME)}.")
    return _BY_NAME[name]


@lru_cache(maxsize=16)
def load_photo(name: str) -> npt.NDArray[np.uint8]:
    """The photograph as (height, width, 3) uint8 RGB, read-only; :class:`MissingError` when its package is not installed."""
    photo = find_photo(name)
    # Only the file is wanted: importing scikit-learn for it would take a second.
    found = importlib.util.find_spec(photo.package)
    path = Path(found.origin).parent / photo.file if found is not None and found.origin else None
    if path is None or not path.is_file():
        raise MissingError(f"The photograph {name!r} comes with {photo.pip}; run: pip install {photo.pip}")
    with open_picture(path) as picture:
        pixels = np.array(picture.convert("RGB"), dtype=np.uint8)
    pixels.setflags(write=False)
    return pixels
