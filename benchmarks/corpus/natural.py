"""Fit what good photographs are like: `python -m benchmarks.corpus.natural FOLDER`, which writes perception/natural.json.

FOLDER holds the photographs of Debian's endless-sky-data and of the wallpapers that pictures.py names, installed or unpacked.
Each is taken at 1280 px, at 480 px (which removes the traces of its own compression), and this sharpened as cameras and web
sites do it; the 5 % that fit worst to all the others (screenshots and drawings among the wallpapers) are left out. The same
files give the same numbers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from glyphflow.core.files import write_text
from glyphflow.perception import quality

SHARE = 0.95
LONG_SIDES = (1280, 480)  # px
SHARPEN = ImageFilter.UnsharpMask(radius=1, percent=80, threshold=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    found = []
    for path in sorted(parser.parse_args().folder.rglob("*")):
        if path.suffix.lower() in (".jpg", ".jpeg", ".webp") and {"land", "backgrounds", "wallpapers"} & set(path.parts):
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
            for long_side in LONG_SIDES:
                if max(picture.size) > long_side:
                    picture.thumbnail((long_side, long_side), Image.Resampling.LANCZOS)
                found.append(quality.features(np.asarray(picture)))
            found.append(quality.features(np.asarray(picture.filter(SHARPEN))))
    if not found:
        raise SystemExit("no photographs there; the first lines of this script say which packages have them")
    rows = np.array([numbers for numbers in found if numbers is not None])
    first = quality.Natural(quality.fit_natural(rows))
    away = np.array([first.distance(row) for row in rows])
    kept = rows[away <= np.quantile(away, SHARE)]
    told = quality.fit_natural(kept)
    told["of"] = f"{len(kept)} versions of photographs of Debian's endless-sky-data and wallpaper packages"
    write_text(Path(quality.__file__).with_name("natural.json"), json.dumps(told) + "\n")
    final = quality.Natural(told)
    clean = np.quantile([final.distance(row) for row in kept], [0.05, 0.5, 0.95])
    print(json.dumps({"versions": len(rows), "kept": len(kept), "distance at 5, 50, 95 %": clean.round(2).tolist()}))


if __name__ == "__main__":
    main()
