"""The pictures of the page: only those that a section asks for are decoded, and together they stay under a bound."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from glyphflow.core.errors import GlyphFlowError
from glyphflow.core.progress import Progress
from glyphflow.corpus.decode import decode_rgb
from glyphflow.corpus.report.rows import Rows
from glyphflow.corpus.report.text import plain
from glyphflow.corpus.specs import Renderer
from glyphflow.corpus.store import PHOTO, RENDER

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Long side in px and JPEG quality. The first step that fits the bound is taken, for all pictures alike.
LADDER = ((144, 80), (120, 68), (96, 52), (72, 40))
BUDGET = 12_000_000  # bytes of all pictures in the page; text and diagrams have at most 3 MB
BLURRED = 6  # px: what is flagged is reduced to this side, so that nothing of it is in the file
_MARK = re.compile("\x00(\\d+)\x00")


class Shots:
    """Hands out marks for pictures, and sets the pictures in their places when all of the page is known.

    ``flagged`` (N,) are the rows whose pictures are made unrecognisable wherever they stand.
    """

    def __init__(self, rows: Rows, flagged: NDArray[np.bool_], budget: int = BUDGET) -> None:
        self._rows, self._flagged, self._budget = rows, flagged, budget
        self._renderer = Renderer()

    def picture(self, row: int) -> str:
        """The place of a row's picture."""
        return f'<span class="shot{" flagged" if self._flagged[row] else ""}">\x00{row}\x00</span>'

    def figure(self, row: int, caption: str) -> str:
        """A picture with ``caption`` (HTML) below."""
        return f"<figure>{self.picture(row)}<figcaption>{caption}</figcaption></figure>"

    def fill(self, page: str) -> str:
        """``page`` with its pictures: each row is decoded once, and counts once for each place."""
        places: dict[int, int] = {}
        for mark in _MARK.findall(page):
            places[int(mark)] = places.get(int(mark), 0) + 1
        small = self._small(sorted(places))
        for side, quality in LADDER:
            encoded = {row: _encoded(image, side, quality) for row, image in small.items() if image is not None}
            if sum(len(data) * places[row] for row, data in encoded.items()) <= self._budget:
                break
        return _MARK.sub(lambda mark: self._element(int(mark[1]), encoded), page)

    def _element(self, row: int, encoded: Mapping[int, str]) -> str:
        if row not in encoded:
            return "<i>no picture</i>"
        name = plain(self._rows.key(row), 80)
        alt = "blurred: perhaps offensive" if self._flagged[row] else name
        return f'<img alt="{alt}" title="{alt}" loading="lazy" src="data:image/jpeg;base64,{encoded[row]}">'

    def _small(self, rows: Iterable[int]) -> dict[int, Image.Image | None]:
        wanted = list(rows)
        with Progress("report", len(wanted), "picture") as progress, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            found = {}
            for row, image in zip(wanted, pool.map(self._load, wanted), strict=True):
                found[row] = image
                progress.advance()
        return found

    def _load(self, row: int) -> Image.Image | None:
        """The picture at the first step's size; None where there is none or it cannot be decoded."""
        shard, number = self._rows.place(row)
        if not self._rows.has_bytes[row]:
            return None
        offsets, sizes = self._rows.corpus.places(shard)
        photo = bool(self._rows.photo[row])
        try:
            data = self._rows.corpus.payload(shard, PHOTO if photo else RENDER, int(offsets[number]), int(sizes[number]))
            image = decode_rgb(data, short_side=LADDER[0][0]) if photo else self._renderer.draw(data).image
        except GlyphFlowError:  # a damaged picture, a font that is not here: the page shows the rest
            return None
        picture = Image.fromarray(image)
        # Very long pictures keep a side that can be seen: what is over 1:4 is cut in the middle.
        width, height = picture.size
        if max(width, height) > 4 * min(width, height):
            width, height = min(width, 4 * height), min(height, 4 * width)
            left, top = (picture.width - width) // 2, (picture.height - height) // 2
            picture = picture.crop((left, top, left + width, top + height))
        picture.thumbnail((LADDER[0][0], LADDER[0][0]), Image.Resampling.LANCZOS)
        if self._flagged[row]:
            size = picture.size
            picture = picture.resize((BLURRED, BLURRED), Image.Resampling.BOX).resize(size, Image.Resampling.BICUBIC)
        return picture


def _encoded(image: Image.Image, side: int, quality: int) -> str:
    picture = image
    if max(image.size) > side:
        picture = image.copy()
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def flagged(rows: Rows, threshold: float) -> NDArray[np.bool_]:
    """(N,) the rows whose pictures are shown blurred: those that the stage safety gives more than ``threshold``."""
    if not rows.has("safety.nsfw"):
        return np.zeros(len(rows), np.bool_)
    found: NDArray[np.bool_] = rows.numbers("safety.nsfw") > threshold
    return found
