"""Reading renders back: the share of lines that OCR reads exactly, for pure templates, and effect by effect.

`python -m benchmarks.render.reading [--pictures 60] [--only NAME ...]`

A picture counts as read when its whole text is read, case and spaces aside; characters are counted by edit distance. Each
effect is measured on the template "surface" alone with plain ink (or as the ink itself), so that a row shows that effect and no
other.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from benchmarks.common import machine, table
from glyphflow.perception import OCR, OCRLine, normalise_text
from glyphflow.render import FontLibrary, Rendered, RenderSpec, render
from glyphflow.render.curves import PATHS
from glyphflow.render.effects import EFFECTS, INKS
from glyphflow.render.palette import MIN_CONTRAST

MEDIUM = {"chalk": "blackboard", "glow": "dark brick wall", "emboss": "wooden board"}
STRAIGHT = {"path": "straight"}


def groups() -> Iterator[tuple[str, str, int, int, dict[str, object]]]:
    """(name, template, width, height, params) of every row."""
    for name in EFFECTS:
        effects = [name] if name in INKS else ["print", name]
        medium = {"medium": MEDIUM[name]} if name in MEDIUM else {"medium": "white wall"}
        if name == "perspective":
            medium = {"medium": "sheet of paper"}
        yield f"effect {name}", "surface", 576, 512, {**STRAIGHT, **medium, "effects": effects}
    for path in PATHS:
        languages = {"languages": ["zh"]} if path == "vertical" else {}
        yield f"path {path}", "surface", 576, 512, {**languages, "path": path, "medium": "white wall", "effects": ["print"]}
    yield "surface, everything sampled", "surface", 576, 512, {}
    yield "photo_text, everything sampled", "photo_text", 576, 512, {}
    yield "word", "word", 512, 512, {}
    yield "paragraph, horizontal", "paragraph", 512, 512, {"direction": "horizontal"}
    yield "paragraph, vertical", "paragraph", 512, 512, {"direction": "vertical", "languages": ["zh"], "level": "line"}


def letters(text: str) -> str:
    """``text`` as it is compared: normal form, no case, no spaces."""
    return normalise_text(text).replace(" ", "").lower()


def distance(a: str, b: str) -> int:
    """Edits from ``a`` to ``b``."""
    row = list(range(len(b) + 1))
    for i, first in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, second in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (first != second))
    return row[-1]


def in_order(made: Rendered, found: Sequence[OCRLine]) -> list[OCRLine]:
    """What was read in the order of the drawn lines, by place: a reader cannot know which column comes first."""

    def place(line: OCRLine) -> tuple[int, float]:
        x, y = (sum(corner[k] for corner in line.box) / 4 for k in (0, 1))

        def away(number: int) -> float:
            x0, y0, x1, y1 = made.lines[number].box
            return max(x0 - x, x - x1, 0.0) ** 2 + max(y0 - y, y - y1, 0.0) ** 2

        nearest = min(range(len(made.lines)), key=away)
        return nearest, y if made.lines[nearest].vertical else x

    return sorted(found, key=place)


def measure(pictures: list[Rendered], ocr: OCR) -> tuple[float, float, float]:
    """(share of pictures read whole, share of them whose letters and digits are, share of characters read)."""
    whole, worded, characters, wrong = 0, 0, 0, 0
    for made, found in zip(pictures, ocr.read([made.image for made in pictures]), strict=True):
        wanted = letters("".join(line.text for line in made.lines))
        read = letters("".join(line.text for line in in_order(made, found)))
        edits = distance(wanted, read)
        whole += edits == 0
        worded += [*filter(str.isalnum, wanted)] == [*filter(str.isalnum, read)]
        characters += len(wanted)
        wrong += min(edits, len(wanted))
    return whole / len(pictures), worded / len(pictures), 1 - wrong / characters


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--only", nargs="*")
    options = parser.parse_args()
    fonts, ocr = FontLibrary.from_manifest(), OCR(fast=True)
    rows: list[tuple[object, ...]] = []
    for name, template, width, height, params in groups():
        if options.only and not any(part in name for part in options.only):
            continue
        # Texts of one or two letters, and single characters, are left out: the reader takes them for noise.
        pictures: list[Rendered] = []
        seed = 0
        while len(pictures) < options.pictures:
            made = render(RenderSpec(template, seed, width, height, params), fonts)
            seed += 1
            if sum(len(line.text) for line in made.lines) >= 4:
                pictures.append(made)
        whole, worded, characters = measure(pictures, ocr)
        contrasts = sorted(float(made.subject.get("contrast", MIN_CONTRAST)) for made in pictures)
        least = f"{contrasts[0]:.1f}" if "contrast" in pictures[0].subject else ""
        rows.append((name, len(pictures), f"{whole:.0%}", f"{worded:.0%}", f"{characters:.1%}", least))
        print("|", *rows[-1], flush=True)
    print(machine("skia-python", "rapidocr"))
    print()
    print(table(("what", "pictures", "read whole", "but for punctuation", "characters read", "least contrast"), rows))


if __name__ == "__main__":
    main()
