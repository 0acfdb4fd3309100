"""Drawing text: pictures per second and core, with shaping, boxes and captions, before encoding.

`python -m benchmarks.render.speed [--rounds 5] [--trdg PYTHON]`

CPU time of one process, medians of rounds in which the sides take turns. PYTHON is the interpreter of an environment of its own
in which `pip install trdg "numpy<2" "pillow<10"` ran; TRDG then draws the same English lines in the same typeface.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import machine, table
from glyphflow.render import FontLibrary, RenderSpec, render, sample_text

FACE = {"en": "lato-regular", "zh": "noto-sans-cjk-sc-regular"}
PRINT = {"background": "plain", "palette": ["white", "black"]}
HEIGHT = 48


def texts(language: str, length: int, count: int) -> list[str]:
    """Texts of about ``length`` characters: sentences, cut."""
    rng = random.Random(0)
    found = []
    for _ in range(count):
        text = ""
        while len(text) < length:
            text += sample_text(rng, language, "paragraph") + (" " if language == "en" else "")  # type: ignore[arg-type]
        found.append(text[:length].strip())
    return found


def line(text: str, seed: int, language: str) -> RenderSpec:
    size = {"grid": 0.0625, "max_size": 0.75, "fonts": [FACE[language]], "text": text}
    return RenderSpec("word", seed, 512, HEIGHT, {**PRINT, **size})


def page(text: str, seed: int, language: str) -> RenderSpec:
    size = {"min_size": 24 / 1024, "max_size": 24 / 1024, "fonts": [FACE[language]], "text": text}
    return RenderSpec("paragraph", seed, 1024, 1024, {**PRINT, **size, "direction": "horizontal"})


def works() -> dict[str, list[RenderSpec]]:
    """What is drawn, by name."""
    english = [text[:20] for text in texts("en", 60, 800)]
    chinese = [text[:9] for text in texts("zh", 20, 800)]
    return {
        "line 512x48, Chinese, 9 characters, one face, size and baseline": [
            line(text, i, "zh") for i, text in enumerate(chinese)
        ],
        "line 512x48, English, 20 characters, one face, size and baseline": [
            line(text, i, "en") for i, text in enumerate(english)
        ],
        "word 320x48, text, face, size and colours sampled": [
            RenderSpec("word", i, 320, HEIGHT, {"max_lines": 1}) for i in range(800)
        ],
        "page 1024x1024, Chinese, 1,000 glyphs, one face and size": [
            page(text, i, "zh") for i, text in enumerate(texts("zh", 1000, 60))
        ],
        "page 1024x1024, English, 2,000 glyphs, one face and size": [
            page(text, i, "en") for i, text in enumerate(texts("en", 2000, 60))
        ],
        "page 1024x1024, everything sampled": [RenderSpec("paragraph", i, 1024, 1024, {}) for i in range(30)],
        "surface 512x512, everything sampled": [RenderSpec("surface", i, 512, 512, {}) for i in range(20)],
        "photo_text 512x512, everything sampled": [RenderSpec("photo_text", i, 512, 512, {}) for i in range(20)],
        "slide 1280x720, everything sampled": [RenderSpec("slide", i, 1280, 720, {}) for i in range(20)],
    }


def seconds(specs: Sequence[RenderSpec], fonts: FontLibrary) -> float:
    """CPU seconds a picture, with every text shaped anew."""
    for name in fonts.names():
        fonts.font(name).shape.cache_clear()
        fonts.font(name).shape_text.cache_clear()
    start = time.process_time()
    for spec in specs:
        render(spec, fonts)
    return (time.process_time() - start) / len(specs)


def trdg(python: str, font: Path, lines: list[str]) -> float:
    """CPU seconds a line of TRDG in its own environment."""
    script = Path(__file__).with_name("trdg_lines.py")
    asked = json.dumps({"texts": lines, "font": str(font), "height": HEIGHT})
    done = subprocess.run([python, str(script)], input=asked, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trdg", metavar="PYTHON")
    parser.add_argument("--only", default="", help="what begins like this")
    options = parser.parse_args()
    fonts = FontLibrary.from_manifest()
    lines = texts("en", 20, 60)
    specs = {name: some for name, some in works().items() if name.startswith(options.only)}
    found: dict[str, list[float]] = {name: [] for name in specs}
    for turn in range(options.rounds + 1):
        for name, some in specs.items():
            seconds(some[:10], fonts)  # Skia's cache holds what was drawn last
            spent = seconds(some, fonts)
            if turn:
                found[name].append(spent)
        if options.trdg and turn:
            spent = trdg(options.trdg, fonts.path(FACE["en"]), lines)
            found.setdefault("TRDG: the English line, plain white ground, no boxes", []).append(spent)
    print(machine("skia-python", "uharfbuzz", "opencv-python-headless"))
    print()
    rows: list[tuple[object, ...]] = [
        (name, f"{1 / statistics.median(all_):,.0f}", f"{1 / min(all_):,.0f}") for name, all_ in found.items()
    ]
    print(table(("drawn", "a second and core, median", "best round"), rows))


if __name__ == "__main__":
    main()
