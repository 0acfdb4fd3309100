"""A sheet of pictures with what was asked and what the judges saw, from folders that `glyphflow evaluate score` has scored.

    python -m benchmarks.evaluate.sheet runs/text:8 runs/subjects:4 runs/edits:4 -o docs/images/nano.png

Of each folder so many samples, evenly from its list, never chosen by hand. An edit shows what it began with, too. Green is what
the judge calls right.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glyphflow.core.files import atomic_path
from glyphflow.evaluate.folder import load_picture
from glyphflow.evaluate.question import resize
from glyphflow.render import FontLibrary
from glyphflow.render.canvas import Canvas
from glyphflow.render.emojis import find_emoji
from glyphflow.render.fonts import Font
from glyphflow.render.layout import wrap

SIDE, GAP, LINE, LINES, COLUMNS = 192, 22, 18, 4, 4
GREEN, ORANGE, GRAY = (28, 122, 52), (184, 84, 12), (66, 66, 70)


@dataclass(frozen=True)
class Cell:
    """Pictures (side by side), what was asked, what was seen, and whether that is right."""

    pictures: tuple[NDArray[np.uint8], ...]
    asked: str
    seen: str
    right: bool


def cells(folder: Path, count: int) -> list[Cell]:
    """``count`` samples of a scored folder, one from the middle of each of as many equal stretches."""
    scores: dict[str, Any] = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    samples = scores["samples"]
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in scores["rows"]:
        rows.setdefault(row["sample"], []).append(row)
    found = []
    for number in range(count):
        sample = samples[int((number + 0.5) * len(samples) / count)]
        given = [load_picture(Path(path)) for path in sample["references"]]
        made = load_picture(folder / sample["pictures"][0])
        judged = rows[sample["id"]]
        right = all(row["status"] == "ok" and row["quality"] in (None, 1.0) for row in judged)
        found.append(Cell((*given, made), sample["prompt"], seen(judged), right))
    return found


def seen(rows: list[dict[str, Any]]) -> str:
    """What the judges' rows say of a picture, in a few words."""
    told = []
    for row in rows:
        values = row["values"]
        if values.get("reading") is not None:
            told.append("read: " + (" / ".join(values["reading"]) or "nothing"))
        if "nearest" in values:
            told.append(f"nearest: {find_emoji(values['nearest']).name_en}")
        if row["part"] == "outside" and "psnr" in values:
            told.append(f"untouched: {values['psnr']:.1f} dB")
    return ", ".join(told)


def draw(found: list[Cell]) -> NDArray[np.uint8]:
    """The sheet, (height, width, 3) uint8 RGB; a cell is as wide as its pictures."""
    fonts = FontLibrary.from_manifest()
    plain, bold = fonts.font("noto-sans-cjk-sc-regular"), fonts.font("noto-sans-cjk-sc-bold")
    height = SIDE + 8 + LINE * LINES + GAP
    width = COLUMNS * (SIDE + GAP) + GAP
    places: list[tuple[Cell, int, int]] = []
    x, y = GAP, GAP
    for cell in found:
        wide = len(cell.pictures) * (SIDE + 4) - 4
        if x + wide > width:
            x, y = GAP, y + height
        places.append((cell, x, y))
        x += len(cell.pictures) * (SIDE + GAP)
    canvas = Canvas(width, y + height)
    for cell, left, top in places:
        room = len(cell.pictures) * (SIDE + GAP) - GAP
        used = _write(canvas, plain, cell.asked, left, top + SIDE + 8, room, GRAY, LINES - 1)
        _write(canvas, bold, cell.seen, left, top + SIDE + 8 + used * LINE, room, GREEN if cell.right else ORANGE, LINES - used)
    sheet = canvas.image()
    for cell, left, top in places:
        for number, picture in enumerate(cell.pictures):
            at = left + number * (SIDE + 4)
            sheet[top : top + SIDE, at : at + SIDE] = resize(picture, SIDE, SIDE)
    return sheet


def _write(canvas: Canvas, face: Font, text: str, x: int, y: int, room: int, colour: tuple[int, int, int], most: int) -> int:
    """Write ``text`` in at most ``most`` lines; gives how many it took."""
    lines = (wrap(text, face, 13.0, room) or [text])[:most]
    for number, line in enumerate(lines):
        canvas.run(face.shape(line), x, y + number * LINE + 13, 13.0, colour)
    return len(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", help="FOLDER:COUNT")
    parser.add_argument("-o", "--out", type=Path, required=True)
    asked = parser.parse_args()
    found = [cell for entry in asked.folders for cell in cells(Path(entry.rpartition(":")[0]), int(entry.rpartition(":")[2]))]
    with atomic_path(asked.out) as temporary:
        Image.fromarray(draw(found)).save(temporary, format="PNG")
    print(f"{len(found)} samples on {asked.out}")


if __name__ == "__main__":
    main()
