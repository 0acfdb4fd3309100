"""Where text goes: choosing a font that covers it, fitting a size, breaking lines, placing them."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from glyphflow.core.errors import InputError
from glyphflow.render.bidi import mixes, runs_right
from glyphflow.render.canvas import Box, Canvas, shifted
from glyphflow.render.fonts import Font, FontEntry, FontLibrary, Run
from glyphflow.render.palette import RGB
from glyphflow.render.spec import TextLine

CJK = re.compile(r"[\u3000-\u303f\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef]")
_BASELINE = 0.36  # below the middle of a line, in em: capitals and Chinese characters then stand in the middle
# A line may not start with these (closing punctuation), nor end with those (opening punctuation).
NOT_FIRST = set("，。！？；：、）》」』”’％%,.!?;:)]}…")
NOT_LAST = set("（《「『“‘([{")


def has_cjk(text: str) -> bool:
    """Whether ``text`` has a Chinese character or full-width punctuation."""
    return CJK.search(text) is not None


def split_scripts(text: str) -> list[str]:
    """``text`` cut where it changes between Chinese and anything else."""
    return [piece.strip() for piece in re.findall(f"(?:{CJK.pattern})+|(?:(?!{CJK.pattern}).)+", text) if piece.strip()]


def pick_fonts(
    rng: random.Random,
    fonts: FontLibrary,
    names: Sequence[str] | None,
    lines: Sequence[str],
    styles: tuple[str, ...] | None = None,
    licences: tuple[str, ...] | None = None,
) -> list[Font] | None:
    """A font for each line: one Latin face for all Latin lines, one CJK face for the others.

    Candidates are ``names``, else the library's fonts of the split "train"; ``styles`` and ``licences`` narrow them. None when
    a line finds no font that covers it.
    """
    chosen: list[Font] = []
    order: dict[str, list[FontEntry]] = {}
    for script in ("latin", "cjk"):
        pool = list(fonts.candidates(None if names is None else tuple(names), script, styles, licences))
        rng.shuffle(pool)
        # Half of the choices by style, so that twenty sans families do not drown two handwritten ones.
        if names is None and pool and rng.random() < 0.5:
            wanted = rng.choice(sorted({entry.style for entry in pool}))
            pool.sort(key=lambda entry: entry.style != wanted)
        # The CJK faces also draw Latin; without a wish for them they are the last resort for a Latin line.
        if script == "latin":
            pool.sort(key=lambda entry: "cjk" in entry.scripts)
        order[script] = pool
    for line in lines:
        pool = order["cjk" if has_cjk(line) else "latin"]
        match = next((font for entry in pool if (font := fonts.font(entry.name)).draws(line)), None)
        if match is None:
            return None
        chosen.append(match)
    return chosen


def require_fonts(
    rng: random.Random,
    fonts: FontLibrary,
    names: Sequence[str] | None,
    lines: Sequence[str],
    styles: tuple[str, ...] | None = None,
    licences: tuple[str, ...] | None = None,
) -> list[Font]:
    """As :func:`pick_fonts`, but an uncovered line raises :class:`InputError` naming a character that no font has."""
    chosen = pick_fonts(rng, fonts, names, lines, styles, licences)
    if chosen is not None:
        return chosen
    entries = fonts.candidates(None if names is None else tuple(names), None, styles, licences)
    pool = [fonts.font(entry.name) for entry in entries]
    if not pool:
        raise InputError(f"No font has a style of {styles} and a licence of {licences}; widen styles or licences.")
    for line in lines:
        if not any(font.covers(line) for font in pool):
            lacking = sorted({c for c in line if not c.isspace() and not any(ord(c) in font.coverage for font in pool)})
            what = f"no glyph for {' '.join(lacking[:8])}" if lacking else "no single font with every character"
            listed = ", ".join(font.name for font in pool[:4]) + (" …" if len(pool) > 4 else "")
            raise InputError(f"The fonts {listed} have {what} of {line[:40]!r}; add a font that covers it.")
    raise InputError(f"The fonts cannot shape {lines[0][:40]!r}; choose other fonts.")


@dataclass(frozen=True)
class Placed:
    """A line at its place: shaped run, baseline origin (x, y) in pixels, em size in pixels."""

    text: str
    run: Run
    x: float
    y: float
    size: float

    @property
    def ink(self) -> Box:
        """Exact ink box in pixels."""
        return shifted(self.run.ink, self.x, self.y, self.size)


def stack(
    lines: Sequence[str], faces: Sequence[Font], size: float, align: str = "centre", leading: float = 1.2
) -> tuple[list[Placed], float, float]:
    """Lines under one another with the block's ink starting at (0, 0): (placed lines, width, height) in pixels.

    ``leading`` is the distance of baselines in em. ``align``: left, centre or right, by ink.
    """
    runs = [face.shape(line) for face, line in zip(faces, lines, strict=True)]
    width = max(run.ink[2] - run.ink[0] for run in runs) * size
    placed = []
    for index, (line, run) in enumerate(zip(lines, runs, strict=True)):
        slack = width - (run.ink[2] - run.ink[0]) * size
        left = slack * {"left": 0.0, "centre": 0.5, "right": 1.0}[align]
        placed.append(Placed(line, run, left - run.ink[0] * size, index * leading * size, size))
    top = min(line.ink[1] for line in placed)
    moved = [Placed(p.text, p.run, p.x, p.y - top, p.size) for p in placed]
    return moved, width, max(line.ink[3] for line in moved)


def fit_size(lines: Sequence[str], faces: Sequence[Font], width: float, height: float, leading: float = 1.2) -> float:
    """The largest em size in pixels at which the block of lines fits into width x height."""
    _, block_width, block_height = stack(lines, faces, 1.0, leading=leading)
    return min(width / max(block_width, 1e-6), height / max(block_height, 1e-6))


def grid_size(face: Font, letter: float) -> float:
    """The em size in pixels at which a digit (in a monospaced face every letter) is ``letter`` pixels wide."""
    return letter / face.shape("0").advance


def grid_baseline(middle: float, size: float) -> float:
    """The baseline, in pixels, of a line of em ``size`` whose capitals and Chinese characters stand around ``middle``."""
    return middle + _BASELINE * size


def draw(canvas: Canvas, placed: Sequence[Placed], dx: float, dy: float, rgb: RGB) -> list[TextLine]:
    """Draw placed lines moved by (dx, dy) and return what was drawn, with ink boxes in pixels."""
    drawn = []
    for p in placed:
        box = canvas.run(p.run, p.x + dx, p.y + dy, p.size, rgb)
        drawn.append(TextLine(p.text, box, p.run.font.name, round(p.size, 2), rgb))
    return drawn


@lru_cache(maxsize=512)
def tokens(text: str) -> tuple[str, ...]:
    """``text`` in pieces between which a line may break: Latin words with the space behind them, Chinese characters singly,
    punctuation kept with the piece that it closes or opens."""
    pieces: list[str] = []
    for piece in re.findall(r"[^\s\u3000-\u303f\u3400-\u9fff\uff00-\uffef]+\s*|.\s*", text):
        if pieces and (piece[0] in NOT_FIRST or pieces[-1].rstrip()[-1:] in NOT_LAST):
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return tuple(pieces)


def wrap(text: str, face: Font, size: float, width: float) -> list[str] | None:
    """``text`` broken into lines at most ``width`` pixels wide, or None when a single piece is wider than that."""
    # Pieces are measured one by one, so that their shapes are found again at every other size; what kerning between two
    # pieces adds is checked on the whole line.
    lines: list[str] = []
    current, used = "", 0.0
    for piece in tokens(text):
        advance, bare = face.shape(piece).advance * size, face.shape(piece.rstrip()).advance * size
        if current and used + bare > width:
            lines.append(current.rstrip())
            current, used = "", 0.0
        if bare > width:
            return None
        current += piece
        used += advance
    if current.strip():
        lines.append(current.rstrip())
    if len(lines) > 1 and runs_right(text) and mixes(text):
        raise InputError(
            f"The text {text[:40]!r} mixes directions and needs {len(lines)} lines here, each of which would begin on a side "
            "of its own; shorten it, or put a line break where a line shall end."
        )
    return lines if all(face.shape(line).advance * size <= width * 1.01 for line in lines) else None


def join_lines(lines: Sequence[str]) -> str:
    """The lines as one quoted text: a space between them, none between two Chinese characters."""
    text = lines[0]
    for line in lines[1:]:
        text += line if CJK.match(text[-1]) and CJK.match(line[0]) else f" {line}"
    return text
