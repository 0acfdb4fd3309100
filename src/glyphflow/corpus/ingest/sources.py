"""Real pictures that are already on the machine: they come inside scikit-image and scikit-learn, nothing is downloaded.

Beside the pictures themselves :func:`collect` writes parts of them that are pictures of their own, and a folder ``faults`` of
copies that were damaged on purpose, so that every filter has something to find. Captions are written by hand in English and
Chinese (data/pictures.yaml).
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
from PIL import Image, ImageFilter

from glyphflow.core.config import Config, load_config, parse_yaml
from glyphflow.core.errors import MissingError
from glyphflow.core.files import write_bytes, write_json
from glyphflow.core.hardware import install_command
from glyphflow.core.pictures import open_picture

_JPEG_QUALITY = 95


class Crop(Config):
    """A part of a picture; ``box`` is (left, top, right, bottom) in pixels."""

    name: str
    box: tuple[int, int, int, int]
    en: str
    zh: str


class Picture(Config):
    """A picture inside an installed package: ``file`` is the package's name and the path in it."""

    file: str
    licence: str
    en: str
    zh: str
    crops: tuple[Crop, ...] = ()

    @property
    def name(self) -> str:
        return Path(self.file).stem


class _Pictures(Config):
    pictures: tuple[Picture, ...] = pydantic.Field(min_length=1)


@dataclass(frozen=True)
class Collected:
    """How many files a collection holds, by kind."""

    pictures: int
    crops: int
    faults: int


def packaged_pictures() -> tuple[Picture, ...]:
    """The list of pictures with captions, as shipped."""
    text = (importlib.resources.files("glyphflow.corpus") / "data" / "pictures.yaml").read_text(encoding="utf-8")
    return load_config(_Pictures, {"pictures": parse_yaml(text, "pictures.yaml")}).pictures


def collect(folder: Path | str) -> Collected:
    """Write pictures, crops and faults with sidecar captions below ``folder``; files that are there already are kept."""
    folder = Path(folder)
    pictures = packaged_pictures()
    for picture in pictures:
        origin = _locate(picture.file)
        _write(folder / Path(picture.file).name, origin.read_bytes, picture.en, picture.zh, picture.licence)
        for crop in picture.crops:
            _write(
                folder / "crops" / f"{picture.name}-{crop.name}.jpg",
                lambda origin=origin, crop=crop: _jpeg(_opened(origin).crop(crop.box)),  # type: ignore[misc]
                crop.en,
                crop.zh,
                picture.licence,
            )
    for name, (file, make) in FAULTS.items():
        picture = next(each for each in pictures if each.file == file)
        origin = _locate(file)
        _write(
            folder / "faults" / name,
            lambda origin=origin, make=make: make(origin),  # type: ignore[misc]
            picture.en,
            picture.zh,
            picture.licence,
        )
    return Collected(len(pictures), sum(len(picture.crops) for picture in pictures), len(FAULTS))


def _locate(file: str) -> Path:
    package, _, inside = file.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingError(f"The picture {file} comes with a package that is not installed; run: {install_command('demo')}")
    path = Path(spec.origin).parent / inside
    if not path.exists():
        raise MissingError(f"The installed {package} lacks {inside}; install scikit-image>=0.24 and scikit-learn>=1.5.")
    return path


def _write(path: Path, make: Callable[[], bytes], en: str, zh: str, licence: str) -> None:
    beside = path.with_suffix(".json")
    if not path.exists():
        write_bytes(path, make())
    if not beside.exists():
        write_json(beside, {"en": en, "zh": zh, "licence": licence})


def _opened(path: Path) -> Image.Image:
    with open_picture(path) as picture:
        return picture.convert("RGB")


def _jpeg(picture: Image.Image, quality: int = _JPEG_QUALITY, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, **options)
    return buffer.getvalue()


# -- faults, each a function of the original's path ------------------------------------------------------------------------


def cut(data: bytes, keep: float) -> bytes:
    """The first part of a file, as a broken download leaves it."""
    return data[: int(len(data) * keep)]


def punch(data: bytes, size: int = 4096) -> bytes:
    """``data`` with ``size`` zeros in the middle, as a hole in a disk image leaves it."""
    middle = len(data) // 2
    return data[:middle] + bytes(size) + data[middle + size :]


def _half(path: Path) -> bytes:
    picture = _opened(path)
    return _jpeg(picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS), 85)


def _tiny(path: Path) -> bytes:
    picture = _opened(path)
    picture.thumbnail((64, 64))
    return _jpeg(picture, 80)


def _small(path: Path) -> bytes:
    picture = _opened(path)
    picture.thumbnail((120, 120))
    return _jpeg(picture)


def _turned(path: Path) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    mirrored = _opened(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT)  # so that it is no duplicate of the original
    return _jpeg(mirrored.transpose(Image.Transpose.ROTATE_90), exif=exif)


def _blurred(path: Path) -> bytes:
    return _jpeg(_opened(path).transpose(Image.Transpose.ROTATE_180).filter(ImageFilter.GaussianBlur(9)))


def _shifted(path: Path, levels: int) -> bytes:
    upside_down = _opened(path).transpose(Image.Transpose.ROTATE_180)  # so that it is no duplicate of the original
    return _jpeg(Image.fromarray(np.clip(np.asarray(upside_down, dtype=np.int16) + levels, 0, 255).astype(np.uint8)))


def _garish(path: Path) -> bytes:
    hsv = np.asarray(_opened(path).convert("HSV")).copy()
    hsv[..., 1] = 255
    return _jpeg(Image.fromarray(hsv, "HSV").convert("RGB"))


def _noise(_: Path) -> bytes:
    return _jpeg(Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)))


def _flat(path: Path) -> bytes:
    picture = _opened(path)
    return _jpeg(Image.new("RGB", picture.size, (120, 140, 160)))


_CHINA, _FLOWER = "sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg"
_ROCKET, _COFFEE = "skimage/data/rocket.jpg", "skimage/data/coffee.png"
_CAT = "skimage/data/chelsea.png"

FAULTS: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "cut-in-half.jpg": (_CHINA, lambda path: cut(path.read_bytes(), 0.5)),
    "last-bytes-missing.jpg": (_FLOWER, lambda path: path.read_bytes()[:-2]),
    "only-700-bytes.jpg": (_ROCKET, lambda path: path.read_bytes()[:700]),
    "hole-of-zeros.jpg": (_CHINA, lambda path: punch(path.read_bytes())),
    "a-web-page.jpg": (_ROCKET, lambda _: b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>\n"),
    "cut.png": (_COFFEE, lambda path: cut(path.read_bytes(), 0.7)),
    "tiny-file.jpg": (_CAT, _tiny),
    "small.jpg": (_COFFEE, _small),
    "copy.jpg": (_CHINA, lambda path: path.read_bytes()),
    "halved.jpg": (_FLOWER, _half),
    "re-encoded.jpg": (_ROCKET, lambda path: _jpeg(_opened(path), 60)),
    "turned.jpg": (_CAT, _turned),
    "blurred.jpg": (_COFFEE, _blurred),
    "too-dark.jpg": (_COFFEE, lambda path: _shifted(path, -160)),
    "too-bright.jpg": (_CHINA, lambda path: _shifted(path, 190)),
    "garish.jpg": (_ROCKET, _garish),
    "noise.jpg": (_COFFEE, _noise),
    "flat.jpg": (_CAT, _flat),
}
"""Name below ``faults`` -> the original and what was done to it."""
