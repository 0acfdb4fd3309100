"""Reading many pictures: `OCR.read` against a plain loop over the package that it wraps, with the package's own threading.

`python benchmarks/evaluate/ocr.py [--pictures 60] [--rounds 3]`

Both sides read the same typeset pictures (words, paragraphs, posters, slides, text on photographs) in one process, taking
turns; medians of wall time. Lines are equal when box and text are; every line that differs is listed. Two settings: the
package's defaults, and those for generated pictures (no orientation classifier, detection from 512 px).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy as np
import rapidocr
from numpy.typing import NDArray

from glyphflow.perception import OCR
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
    files = {f"{part}.model_path": str(path) for part, path in OCR()._files.items()}  # the same files, named by path
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    images = pictures(arguments.pictures)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},")
    print(f"rapidocr {metadata.version('rapidocr')}, onnxruntime {metadata.version('onnxruntime')}; {len(images)} pictures,")
    print(f"{arguments.rounds} rounds, the sides taking turns, medians\n")
    print("| settings | plain loop, pictures/s | GlyphFlow, pictures/s | ratio (each round) | lines | equal |")
    print("|---|---|---|---|---|---|")
    listed = []
    for name, fast in (("defaults", False), ("for generated pictures", True)):
        sides = (plain(images, fast), ours(images, fast))
        results: list[Lines] = [run() for run in sides]  # first calls allocate
        times: list[list[float]] = [[], []]
        for _ in range(arguments.rounds):
            for side, run in enumerate(sides):
                start = time.perf_counter()
                results[side] = run()
                times[side].append(time.perf_counter() - start)
        rates = [len(images) / statistics.median(side) for side in times]
        ratios = [a / b for a, b in zip(*times, strict=True)]
        total, different = compare(*results)
        listed += [f"{name}: {line}" for line in different]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        equal = 100 * (1 - len(different) / max(1, total))
        print(
            f"| {name} | {rates[0]:.2f} | {rates[1]:.2f} | **{statistics.median(ratios):.2f}** ({each}) | {total} | "
            f"{equal:.2f} % |",
            flush=True,
        )
    print("\nLines that differ: " + ("none" if not listed else ""))
    print("\n".join(f"- {line}" for line in listed))


if __name__ == "__main__":
    main()
