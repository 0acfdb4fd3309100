"""Designs and edit pairs: pictures a second and core, and how well their text is read back.

`python -m benchmarks.render.complex speed [--rounds 5] [--blitz PYTHON]`
`python -m benchmarks.render.complex reading [--pictures 60] [--only KIND ...]`

Speed: CPU time of one process before encoding, medians of rounds in which the sides take turns. PYTHON is the interpreter of an
environment of its own in which `pip install blitz-py` ran; blitz then draws the same slide of six cards from the same HTML.

Reading: a line counts as read when the OCR finds exactly its characters at its place, case and spaces aside. The ceiling is the
same reader on the same lines in the same faces and sizes, black on white, one under another: what is missing there is the
reader's, what is missing beside it is the design's.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.common import machine, table
from glyphflow.perception import OCR, OCRLine, normalise_text
from glyphflow.render import FontLibrary, Rendered, RenderSpec, render
from glyphflow.render.canvas import Canvas
from glyphflow.render.complex import KINDS, packaged
from glyphflow.render.edits import render_edit
from glyphflow.render.spec import TextLine
from glyphflow.render.texts import sample_text

FACES = ("lato-regular", "lato-bold", "noto-sans-cjk-sc-regular", "noto-sans-cjk-sc-bold")
CSS = """
body { padding: 40px 48px; gap: 28px; background: #fafafa; color: #101014 }
h1 { font-size: 52px; font-weight: bold; line-height: 1.2; color: #1e60dc }
.row { display: flex; gap: 28px; flex: 1 }
.card { flex: 1; padding: 24px; gap: 12px; border: 2px solid #d0d0d4; border-radius: 14px; background: #ffffff }
h2 { font-size: 30px; font-weight: bold; line-height: 1.3 }
p { font-size: 24px; line-height: 1.4; color: #404048 }
"""
# What a browser does on its own and our blocks do not: gaps between blocks, and no margins.
BROWSER = """
* { margin: 0; box-sizing: border-box; font-family: Lato, 'Noto Sans CJK SC', sans-serif }
body { display: flex; flex-direction: column; width: 1280px; height: 720px }
.card { display: flex; flex-direction: column }
"""


def six_cards(number: int) -> list[str]:
    """A title, then heading and text of six cards, three of them Chinese."""
    rng = random.Random(number)
    texts = [sample_text(rng, "en", "phrase")]
    for card in range(6):
        language = ("en", "zh")[card % 2]
        texts += [sample_text(rng, language, "phrase"), sample_text(rng, language, "line")]  # type: ignore[arg-type]
    return texts


def body(texts: list[str], ours: bool) -> str:
    def element(tag: str, text: str) -> str:
        text = text.replace("&", "&amp;").replace('"', "&quot;")
        return f'<{tag} data-en="{text}" data-zh="{text}"></{tag}>' if ours else f"<{tag}>{text}</{tag}>"

    cards = [f'<div class="card">{element("h2", texts[k])}{element("p", texts[k + 1])}</div>' for k in range(1, 13, 2)]
    rows = "".join(f'<div class="row">{"".join(cards[k : k + 3])}</div>' for k in (0, 3))
    return f"<body>{element('h1', texts[0])}{rows}</body>"


def our_slides(folder: Path, count: int) -> list[RenderSpec]:
    """The slides of six cards as designs of one's own; parsing is part of the time, as it is for blitz."""
    meta = (("kind", "slide"), ("size", "1280x720"), ("caption-en", "a slide"), ("caption-zh", "幻灯片"))
    head = "".join(f'<meta name="{name}" content="{content}">' for name, content in meta)
    specs = []
    for number in range(count):
        path = folder / f"{number}.html"
        path.write_text(
            f"<html><head>{head}<style>{CSS}</style></head>{body(six_cards(number), True)}</html>", encoding="utf-8"
        )
        specs.append(RenderSpec("slide", number, 1280, 720, {"design": str(path), "fonts": list(FACES)}))
    return specs


PEER = """
import json, sys, time, blitz_py
asked = json.load(sys.stdin)
pages = asked["pages"]
blitz_py.register_fonts([open(path, "rb").read() for path in asked["fonts"]], default_family=asked["family"])
for page in pages[:2]: blitz_py.render_rgba(page, width=1280, height=720)
start, wall = time.process_time(), time.perf_counter()
for page in pages: blitz_py.render_rgba(page, width=1280, height=720)
print((time.process_time() - start) / len(pages), (time.perf_counter() - wall) / len(pages))
"""


def blitz(python: str, fonts: FontLibrary, count: int) -> float:
    """CPU seconds of a slide in blitz, in its own environment, with the files of the same typefaces."""
    head = f"<head><style>{CSS}{BROWSER}</style></head>"
    pages = [f"<html>{head}{body(six_cards(number), False)}</html>" for number in range(count)]
    files = dict.fromkeys(str(fonts.path(name)) for name in FACES)
    asked = json.dumps({"pages": pages, "fonts": list(files), "family": "Lato"})
    done = subprocess.run([python, "-c", PEER], input=asked, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[0])


def speed(rounds: int, python: str | None) -> None:
    fonts = FontLibrary.from_manifest()
    works: dict[str, list[RenderSpec]] = {}
    for kind in KINDS:
        designs = [design for design in packaged() if design.kind == kind]
        specs = [RenderSpec(kind, seed, *design.size, {"design": design.name}) for design in designs for seed in range(5)]
        works[f"{kind}, its {len(designs)} designs at their own sizes, everything sampled"] = specs
    for side in (64, 128, 256, 512):
        works[f"edit pair {side}x{side}, both pictures, mask, instruction"] = [
            RenderSpec("edit", seed, side, side) for seed in range(120)
        ]
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds + 1):
            # New files every round: nothing of the round before is remembered.
            own = Path(folder) / str(turn)
            own.mkdir()
            sides = {**works, "slide of six cards 1280x720, given texts, from HTML": our_slides(own, 20)}
            for name, specs in sides.items():
                start = time.process_time()
                for spec in specs:
                    render_edit(spec, fonts) if spec.template == "edit" else render(spec, fonts)
                if turn:
                    found.setdefault(name, []).append((time.process_time() - start) / len(specs))
            if python and turn:
                found.setdefault("blitz: the same slide from the same HTML, no boxes", []).append(blitz(python, fonts, 20))
    print(machine("skia-python", "uharfbuzz"))
    print()
    rows: list[tuple[object, ...]] = [
        (name, f"{1 / statistics.median(all_):,.0f}", f"{1 / min(all_):,.0f}") for name, all_ in found.items()
    ]
    print(table(("drawn", "a second and core, median", "best round"), rows))


def letters(text: str) -> str:
    return normalise_text(text).replace(" ", "").lower()


def is_read(line: TextLine, found: list[OCRLine]) -> bool:
    """Whether ``line`` is among what was read where it stands; the reader may have joined it with its neighbours."""
    x0, y0, x1, y1 = line.box
    here = []
    for one in found:
        xs, ys = [x for x, _ in one.box], [y for _, y in one.box]
        wide, high = min(x1, max(xs)) - max(x0, min(xs)), min(y1, max(ys)) - max(y0, min(ys))
        if wide > 0 and high > 0.4 * min(y1 - y0, max(ys) - min(ys)):
            here.append((min(xs), one.text))
    return letters(line.text) in letters("".join(text for _, text in sorted(here)))


def alone(rendered: Rendered, fonts: FontLibrary) -> tuple[Canvas, list[TextLine]]:
    """The lines of a picture, black on white, one under another, in the same faces and sizes."""
    height = sum(line.size_px * 1.8 for line in rendered.lines) + 40
    canvas = Canvas(max(line.box[2] - line.box[0] for line in rendered.lines) + 80, round(height))
    y, placed = 20.0, []
    for line in rendered.lines:
        y += line.size_px * 1.8
        run = fonts.font(line.font).shape(line.text)
        box = canvas.run(run, 40 - run.ink[0] * line.size_px, y - line.size_px * 0.5, line.size_px, (0, 0, 0))
        placed.append(TextLine(line.text, box, line.font, line.size_px, (0, 0, 0)))
    return canvas, placed


def reading(pictures: int, only: list[str] | None) -> None:
    fonts, ocr = FontLibrary.from_manifest(), OCR()
    rows: list[tuple[object, ...]] = []
    for kind in only or KINDS:
        designs = [design for design in packaged() if design.kind == kind]
        counts = [0, 0, 0]
        missed: list[str] = []
        for number in range(pictures):
            design = designs[number % len(designs)]
            made = render(RenderSpec(kind, 1000 + number, *design.size, {"design": design.name}), fonts)
            canvas, lines = alone(made, fonts)
            in_place, by_itself = ocr.read([made.image]), ocr.read([canvas.image()])
            for line, single in zip(made.lines, lines, strict=True):
                first, second = is_read(line, in_place[0]), is_read(single, by_itself[0])
                counts[0] += 1
                counts[1] += first
                counts[2] += second
                if second and not first:
                    missed.append(f"{design.name} {1000 + number}: {line.text}")
        rows.append((kind, pictures, counts[0], f"{counts[1] / counts[0]:.1%}", f"{counts[2] / counts[0]:.1%}"))
        print("|", *rows[-1], "| missed in place only:", "; ".join(missed[:12]), flush=True)
    print(machine("skia-python", "rapidocr"))
    print()
    print(table(("kind", "pictures", "lines", "lines read in the picture", "the same lines alone (ceiling)"), rows))


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    fast = commands.add_parser("speed")
    fast.add_argument("--rounds", type=int, default=5)
    fast.add_argument("--blitz", metavar="PYTHON")
    read = commands.add_parser("reading")
    read.add_argument("--pictures", type=int, default=60)
    read.add_argument("--only", nargs="*")
    options = parser.parse_args()
    if options.command == "speed":
        speed(options.rounds, options.blitz)
    else:
        reading(options.pictures, options.only)


if __name__ == "__main__":
    main()
