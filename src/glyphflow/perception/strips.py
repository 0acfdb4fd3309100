"""Pictures many times longer than wide (web comics, chat logs, panoramas, dividers): searched for text in tiles.

The package would shrink such a picture to 2000 px and then enlarge its short side to 736 px: letters are lost first, and memory
follows the ratio of the sides, gigabytes for a file of 20 kB. Here the picture is cut across its length into tiles that
overlap, a narrow one is widened with its ground first, and what two tiles found of one line is joined.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

LONG = 2000  # px: the package shrinks what is longer
RATIO = 8  # of the sides, beyond which what the package would shrink is a strip
TALL = 2000 * 2000 / 736**2  # height by width, from which the package would enlarge to more than 2000 x 2000
NARROW = 184  # px: a quarter of what the package enlarges to; narrower pictures are widened to it
_TILE = 4  # length of a tile by its width
_OVERLAP = 5  # the overlap of two tiles is this part of one

_Picture = NDArray[np.uint8]
_Boxes = NDArray[np.float32]


def is_strip(height: int, width: int) -> bool:
    """Whether a picture is read in tiles; one that the package takes as it is, or pads, is none."""
    short, long = sorted((height, width))
    return long > RATIO * short if long > LONG else height > TALL * width


def find_boxes(picture: _Picture, find: Callable[[_Picture], _Boxes]) -> _Boxes:
    """The corners (N, 4, 2) of the lines of a strip in its own pixels; ``find`` gives those of a tile."""
    tall = picture.shape[0] >= picture.shape[1]
    wide, before = _widened(picture, 1 if tall else 0)
    length, short = (wide.shape[:2]) if tall else (wide.shape[1], wide.shape[0])
    size = min(length, max(short, min(_TILE * short, LONG)))
    overlap = size // _OVERLAP
    count = 1 + -(-(length - size) // (size - overlap))
    found: list[_Boxes] = []
    for start in np.linspace(0, length - size, count).round().astype(int).tolist():
        tile = wide[start : start + size] if tall else wide[:, start : start + size]
        shift = np.array([-before, start] if tall else [start, -before], np.float32)
        found.append(find(np.ascontiguousarray(tile)) + shift)
    limits = np.array([picture.shape[1], picture.shape[0]], np.float32)
    return np.clip(_joined(found, overlap, 1 if tall else 0), 0, limits)


def _widened(picture: _Picture, axis: int) -> tuple[_Picture, int]:
    """The picture with its ground on both sides along ``axis`` up to NARROW px, and how much of it came before."""
    lacking = max(0, NARROW - picture.shape[axis])
    before = lacking // 2
    if not lacking:
        return picture, 0
    shape = list(picture.shape)
    shape[axis] += lacking
    wide = np.empty(shape, np.uint8)
    wide[:] = np.median(picture.reshape(-1, 3), axis=0)
    place = slice(before, before + picture.shape[axis])
    wide[(slice(None), place) if axis else place] = picture
    return wide, before


def _joined(found: list[_Boxes], overlap: int, axis: int) -> _Boxes:
    """All boxes; those of two neighbouring tiles that are one line, whole or cut, become one upright box.

    ``axis`` is that of the length, in (x, y). Two are one where they share half of the smaller one's side across the length,
    and along it half of it or of the overlap.
    """
    joined: list[_Boxes] = list(found[0])
    last = list(range(len(joined)))  # where the boxes of the tile before are
    for _, boxes in itertools.pairwise(found):
        now = []
        for box in boxes:
            same = next((number for number in last if _same(joined[number], box, overlap, axis)), None)
            if same is None:
                now.append(len(joined))
                joined.append(box)
                continue
            both = np.concatenate([joined[same], box])
            (left, top), (right, bottom) = both.min(axis=0), both.max(axis=0)
            joined[same] = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)
            now.append(same)
        last = now
    return np.array(joined, np.float32).reshape(-1, 4, 2)


def _same(one: _Boxes, other: _Boxes, overlap: int, axis: int) -> bool:
    low, high = np.maximum(one.min(axis=0), other.min(axis=0)), np.minimum(one.max(axis=0), other.max(axis=0))
    wanted = np.minimum(np.ptp(one, axis=0), np.ptp(other, axis=0)) / 2
    wanted[axis] = min(wanted[axis], overlap / 2)
    return bool((high - low >= np.maximum(wanted, 1)).all())
