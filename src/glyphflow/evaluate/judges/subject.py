"""Which of some emoji a picture shows: the nearest, by what a frozen network sees, among clean drawings of each.

Colours, size and place are other questions: the picture is brought to black on white along the line from the stated ground to
the stated ink, and cut to what is darker than half-way, with a margin; the drawings likewise. The network (EfficientNet-lite0
on ImageNet) never saw such drawings; that it tells them apart is measured by the judge's own ceiling, perfect pictures in other
layouts, which stands beside every score.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glyphflow.core.files import atomic_path
from glyphflow.core.hashing import fingerprint
from glyphflow.evaluate.case import Case, Verdict
from glyphflow.evaluate.drawing import cache_folder, in_colours
from glyphflow.perception.embedding import ImageEmbedder, prepared
from glyphflow.render import RenderSpec
from glyphflow.render.emojis import find_emoji
from glyphflow.render.palette import RGB, colours

SIDE = 256
"""Pixels of the drawings and of what the network is shown."""
DRAWN = {"background": "plain", "jitter": 0.0, "min_size": 0.6, "max_size": 0.6}
MARGIN = 0.1  # of the longer side of the ink
BATCH = 16  # pictures in one pass of the network
LEAST = 8  # pixels of ink in a row or column that count as part of a subject: fewer are specks

_Vectors = dict[str, NDArray[np.float32]]


class SubjectJudge:
    """Answers questions of kind "subject". What the network sees in the drawings is kept in the user's cache: it costs a
    hundred times what it takes to look at the picture."""

    kinds = frozenset({"subject"})

    def __init__(self, embedder: ImageEmbedder | None = None) -> None:
        self._embedder = embedder or ImageEmbedder()

    @property
    def identity(self) -> str:
        return f"subject/2 {self._embedder.identity} {fingerprint([DRAWN, SIDE, MARGIN, LEAST])}"

    def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
        return [Verdict("ok", self._nearest(case), {}, self.identity) for case in cases]

    def _nearest(self, case: Case) -> dict[str, Any]:
        codes = [str(code) for code in case.request["emoji"]]
        self._know(codes)
        stated = colours([str(case.request["foreground"]), str(case.request["background"])])
        seen = self._embedder.look(silhouette(case.images[0], stated[0].rgb, stated[1].rgb)).vector
        cosines = np.stack([self._known[code] for code in codes]) @ seen
        best = int(cosines.argmax())
        return {"emoji": codes[best], "name": find_emoji(codes[best]).name_en, "cosine": round(float(cosines[best]), 4)}

    @cached_property
    def _known(self) -> _Vectors:
        """Unit vectors (1280,) of the drawings that were ever asked for."""
        if not self._path.is_file():
            return {}
        with np.load(self._path) as stored:
            return {code: stored[code] for code in stored.files}

    @cached_property
    def _path(self) -> Path:
        return cache_folder("subjects") / f"{fingerprint(self.identity)}.npz"

    def _know(self, codes: Sequence[str]) -> None:
        """Draw and look at those of ``codes`` that are not known."""
        missing = [code for code in codes if code not in self._known]
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            seen = self._embedder.look_at([prepared(drawing(code)) for code in part])
            self._known.update({code: one.vector for code, one in zip(part, seen, strict=True)})
        if missing:
            with atomic_path(self._path) as temporary, temporary.open("wb") as file:
                np.savez(file, **self._known)  # type: ignore[arg-type]  # the names are code points, none of them numpy's own


def drawing(code: str) -> NDArray[np.uint8]:
    """The clean drawing of an emoji as :func:`silhouette` gives it, (SIDE, SIDE, 3) uint8."""
    made = in_colours(RenderSpec("emoji", 0, SIDE, SIDE, {**DRAWN, "emoji": [code]}), "black", "white")
    return silhouette(made.image, *(colour.rgb for colour in colours(["black", "white"])))


def silhouette(image: NDArray[np.uint8], ink: RGB, ground: RGB) -> NDArray[np.uint8]:
    """(SIDE, SIDE, 3) uint8: the (H, W, 3) picture in black (``ink``) on white (``ground``), cut to its ink.

    Where there is no ink, the whole picture.
    """
    along = np.asarray(ink, np.float64) - ground
    share = np.clip((image.astype(np.float64) - ground) @ along / (along @ along), 0, 1)
    dark = share > 0.5
    rows, columns = np.flatnonzero(dark.sum(1) >= LEAST), np.flatnonzero(dark.sum(0) >= LEAST)
    top, bottom, left, right = 0, image.shape[0], 0, image.shape[1]
    if len(rows) and len(columns):
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    side = round(max(bottom - top, right - left) * (1 + 2 * MARGIN))
    square = np.ones((side, side))
    y, x = (side - (bottom - top)) // 2, (side - (right - left)) // 2
    square[y : y + bottom - top, x : x + right - left] = 1 - share[top:bottom, left:right]
    gray = Image.fromarray(np.round(255 * square).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.repeat(np.asarray(gray)[..., None], 3, axis=2)
