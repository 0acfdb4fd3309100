"""The pictures that the corpus is measured with: `python -m benchmarks.corpus.pictures FOLDER [--photos /usr/share]`.

Cut from desktop wallpapers (Debian's mate-backgrounds, gnome-backgrounds, ukui-wallpapers, lomiri-wallpapers-16.04,
lomiri-wallpapers-20.04, plasma-workspace-wallpapers; installed, or unpacked below --photos) and from the pictures in
scikit-image and scikit-learn: 640x480 to 1920x1080, quality 75 to 95, 4:2:0 and 4:4:4, 15 % progressive. ``manifest.json`` says
of every file where it was cut and with what it was written; the same inputs give the same files.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from glyphflow.core.hashing import sha256_file

SIZES = ((640, 480), (800, 600), (1024, 768), (1280, 720), (1280, 960), (1600, 900), (1920, 1080))
ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


def originals(photos: Path) -> list[Path]:
    """Photographs of at least 640x480 below ``photos`` and in the two packages, in a fixed order."""
    folders = [photos]
    for package, inside in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            folders.append(Path(spec.origin).parent / inside)
    found = []
    for folder in folders:
        places = (
            [folder]
            if folder != photos
            else sorted(path for path in folder.rglob("*") if path.name in ("backgrounds", "wallpapers"))
        )
        for place in places:
            files = sorted(path for path in place.rglob("*") if path.suffix.lower() in ENDINGS)
            found += [path for path in files if _large_enough(path)]
    return list(dict.fromkeys(found))


def _large_enough(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            return picture.width >= SIZES[0][0] and picture.height >= SIZES[0][1]
    except OSError:
        return False


def build(folder: Path, photos: Path, count: int = 400) -> list[dict[str, object]]:
    """Write ``count`` JPEGs and their manifest into ``folder``, or read the manifest of those that are there."""
    told = folder / "manifest.json"
    if told.exists():
        return list(json.loads(told.read_text()))
    files = originals(photos)
    if not files:
        raise SystemExit(f"no photographs below {photos}; install the packages that the first lines of this script name")
    folder.mkdir(parents=True, exist_ok=True)
    manifest = [_cut(folder, photos, files, number) for number in range(count)]
    told.write_text(json.dumps(manifest, indent=1))
    return manifest


def _cut(folder: Path, photos: Path, files: Sequence[Path], number: int) -> dict[str, object]:
    rng = np.random.default_rng(number)
    origin = files[number % len(files)]
    with Image.open(origin) as opened:
        picture = opened.convert("RGB")
    fitting = [size for size in SIZES if size[0] <= picture.width and size[1] <= picture.height]
    width, height = fitting[int(rng.integers(len(fitting)))]
    scale = max(width / picture.width, height / picture.height) ** float(rng.uniform(0, 1))  # a part, or nearly the whole
    picture = picture.resize((max(width, round(picture.width * scale)), max(height, round(picture.height * scale))))
    left, top = (int(rng.integers(0, room + 1)) for room in (picture.width - width, picture.height - height))
    options = {
        "quality": int(rng.integers(75, 96)),
        "subsampling": "4:4:4" if rng.random() < 0.3 else "4:2:0",
        "progressive": bool(rng.random() < 0.15),
    }
    name = f"{number:03d}.jpg"
    picture.crop((left, top, left + width, top + height)).save(folder / name, "JPEG", **options)
    where = origin.relative_to(photos) if origin.is_relative_to(photos) else Path(*origin.parts[-3:])
    return {
        "file": name, "sha256": sha256_file(folder / name), "from": where.as_posix(), "scaled": round(scale, 4),
        "box": [left, top, left + width, top + height], **options,
    }  # fmt: skip


def load(folder: Path, photos: Path, count: int = 400) -> list[bytes]:
    """The bytes of the pictures in ``folder``, which is filled first if it is empty."""
    return [(folder / str(entry["file"])).read_bytes() for entry in build(folder, photos, count)]


def arguments(text: str) -> argparse.ArgumentParser:
    """A parser with what every script here takes."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the 400 pictures are, or are to be written")
    parser.add_argument(
        "--photos", type=Path, default=Path("/usr/share"), help="where the photographs are installed or unpacked"
    )
    return parser


def main() -> None:
    given = arguments(__doc__ or "").parse_args()
    data = load(given.folder, given.photos)
    print(f"{len(data)} pictures, {sum(map(len, data)) / len(data) / 1e3:.0f} KB each, in {given.folder}")


if __name__ == "__main__":
    main()
