"""Reading many pictures: `OCR.read` against a plain loop over the package that it wraps, with the package's own threading.

    python -m benchmarks.evaluate.ocr [--pictures 60] [--rounds 3] [--quick]

Both sides read the same typeset pictures (words, paragraphs, posters, slides, text on photographs) in one process, taking
turns on every core; medians of wall time. Lines are equal when box and text are; every line that differs is listed. Two
settings: the package's defaults, and those for generated pictures (no orientation classifier, detection from 512 px).
``--quick`` is six pictures, once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rapidocr
from numpy.typing import NDArray

from benchmarks.common import machine, table, take_turns
from glyphflow.perception import OCR
from glyphflow.perception.ocr import MODELS
from glyphflow.render import FontLibrary, RenderSpec, render

KINDS = (
    ("word", 512, 512),
    ("paragraph", 768, 768),
    ("poster", 768, 1024),
    ("slide", 1024, 576),
    ("word", 1024, 1024),
    ("photo_text", 768, 512),
)
Lines = list[list[tuple[str, tuple[float, ...]]]]


def pictures(count: int) -> list[NDArray[np.uint8]]:
    fonts = FontLibrary.from_manifest()
    found: list[NDArray[np.uint8]] = []
    for number in range(count):
        template, width, height = KINDS[number % len(KINDS)]
        found.append(render(RenderSpec(template, number, width, height, {}), fonts).image)
    return found


def plain(images: Sequence[NDArray[np.uint8]], fast: bool) -> Callable[[], Lines]:
    """One picture after the other through the package, as its own documentation does it."""
    directory = Path(str(rapidocr.__file__)).parent / "models"
    files = {f"{part}.model_path": str(directory / name) for part, name in MODELS.items()}
    options: dict[str, Any] = {"Det.limit_side_len": 512, "Global.use_cls": False} if fast else {}
    engine = rapidocr.RapidOCR(params={**files, **options, "Global.log_level": "critical"})
    bgr = [np.ascontiguousarray(image[..., ::-1]) for image in images]

    def run() -> Lines:
        lines: Lines = []
        for image in bgr:
            found = engine(image)
            boxes = [] if found.boxes is None else found.boxes
            lines.append([(text, corners(box)) for text, box in zip(found.txts or (), boxes, strict=True)])
        return lines

    return run


def ours(images: Sequence[NDArray[np.uint8]], fast: bool) -> Callable[[], Lines]:
    ocr = OCR(fast=fast)

    def run() -> Lines:
        lines = [entry for start in range(0, len(images), 16) for entry in ocr.read(images[start : start + 16])]
        return [[(line.text, corners(line.box)) for line in found if not line.whole] for found in lines]

    return run


def corners(box: Any) -> tuple[float, ...]:
    return tuple(np.asarray(box, dtype=np.float64).round(1).ravel().tolist())


def compare(theirs: Lines, own: Lines) -> tuple[int, list[str]]:
    """How many lines there are in all, and those that only one side has."""
    total, different = 0, []
    for number, (a, b) in enumerate(zip(theirs, own, strict=True)):
        boxes_a, boxes_b = ({box: text for text, box in lines} for lines in (a, b))
        for box in {**boxes_a, **boxes_b}:
            total += 1
            if boxes_a.get(box) != boxes_b.get(box):
                different.append(f"picture {number}: package {boxes_a.get(box)!r}, GlyphFlow {boxes_b.get(box)!r}")
    return total, different


def measure(images: Sequence[NDArray[np.uint8]], fast: bool, rounds: int) -> tuple[list[object], list[str]]:
    """One row of the table, and the lines that differ."""
    runs = {"package": plain(images, fast), "ours": ours(images, fast)}
    total, different = compare(runs["package"](), runs["ours"]())
    seconds = take_turns(runs, rounds)
    rates = [f"{len(images) / value:.2f}" for value in seconds.values()]
    equal = 100 * (1 - len(different) / max(1, total))
    return [*rates, f"{seconds['package'] / seconds['ours']:.2f}", total, f"{equal:.2f} %"], different


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.pictures, options.rounds = 6, 1
    images = pictures(options.pictures)
    print(f"{machine('rapidocr', 'onnxruntime')}; {len(images)} pictures, medians of {options.rounds}\n")
    rows, listed = [], []
    for name, fast in (("defaults", False), ("for generated pictures", True)):
        row, different = measure(images, fast, options.rounds)
        rows.append((name, *row))
        listed += [f"- {name}: {line}" for line in different]
    print(table(("settings", "plain loop, pictures/s", "GlyphFlow, pictures/s", "ratio", "lines", "equal"), rows))
    print("\n".join(["\nLines that differ:", *(listed or ["- none"])]))


if __name__ == "__main__":
    main()
