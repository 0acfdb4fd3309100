"""Watermarks: lines of text that owners put on pictures, and faint marks that repeat over the whole picture.

No free watermark detector ships in a package. What is here finds the two common kinds: readable lines by rules, and tiled
overlays by their repetition. A single faint logo without readable text is not found.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from glyphflow.core.hardware import require
from glyphflow.perception.packaged import check_picture

VERSION = 2
LONG_SIDE = 1024  # px: larger pictures are searched at this size
NEAREST = 40  # px between two copies of a mark, at least; JPEG's own grid repeats at 8, 16 and 24
FARTHEST = 0.6  # of the sides
GRAIN = 1.5  # px: structures up to about this size are looked at
PARALLEL = 0.34  # sine of the angle above which two directions of repetition are two
REPEATED = 3  # times that a line occurs in a picture
MOST = 0.5  # of a picture's lines: a list repeats words, too, but has others

# Agencies and sites whose name on a picture is their mark, and words that only marks use.
_OWNERS = (
    "shutterstock", "gettyimages", "istock", "alamy", "adobestock", "dreamstime", "depositphotos", "123rf", "bigstock",
    "fotolia", "freepik", "vecteezy", "canstock", "agefotostock", "superstock", "stocksy", "pond5", "pngtree", "lovepik",
    "videoblocks", "storyblocks", "watermark", "allrightsreserved",
    "视觉中国", "图虫", "全景网", "摄图网", "千图网", "包图网", "昵图网", "千库网", "汇图网", "站酷", "花瓣网",
    "东方ic", "海洛创意", "版权所有", "盗版必究", "禁止转载", "请勿转载", "翻版必究", "水印", "小红书号", "抖音号",
)  # fmt: skip
_OWNER = re.compile("|".join(_OWNERS))
_SITE = re.compile(r"(https?://|www\.)\S+|\b[a-z0-9-]{2,}\.(com|net|org|cn|com\.cn|co\.uk|de|io|photo|photography|pics)\b")
_HANDLE = re.compile(r"^[@＠][\w.·-]{2,30}$")
# After the sign a year or a name of two words: on screens the icon beside a button is read as ©, "© Cancel".
_RIGHTS = re.compile(
    r"\(c\)\s*((19|20)\d\d\b|[^\W\d]{2,}\s+[^\W\d]{2,})|\bcopyright\s*(\(c\)|by\b|(19|20)\d\d)"
    r"|\bphoto(graph)?(ed)? by\b|摄影[:：]|图片来源|来源[:：]"
)


def is_mark(line: str) -> bool:
    """Whether a line of text reads like an owner's mark: an agency, a site, a handle, a claim of rights.

    A poster's own address line reads like one, too: text cannot tell whose picture it stands on.
    """
    plain = " ".join(unicodedata.normalize("NFKC", line.replace("©", "(c)")).casefold().split())
    return bool(_OWNER.search(plain.replace(" ", "")) or _SITE.search(plain) or _HANDLE.search(plain) or _RIGHTS.search(plain))


def marks(lines: Sequence[str]) -> list[str]:
    """Those of a picture's ``lines`` that are marks: by what they say, or because they stand there again and again."""
    counts = Counter(line.casefold().strip() for line in lines)
    enough = max(REPEATED, MOST * len(lines))
    return [line for line in lines if is_mark(line) or (counts[line.casefold().strip()] >= enough and len(line.strip()) > 2)]


def repetition(image: NDArray[np.uint8]) -> float:
    """How strongly fine structures of (H, W, 3) uint8 RGB repeat in two directions, 0..1.

    Photographs give 0.01 to 0.05; a mark of 20 % opacity tiled over them about 0.1, one of 40 % about 0.2. A picture that is
    itself a pattern (tiles, fabric, a spreadsheet) gives up to 0.9, which nothing here can tell from a mark. Marks that repeat
    at less than 40 px or at more than 60 % of a side (after shrinking to 1024 px) are not seen.

    Method: the autocorrelation of the fine structures, each divided by the strength of its neighbourhood, so that a faint mark
    counts as much as the edges of the picture; of its peaks the highest and the highest in another direction, multiplied, and
    the root of that.
    """
    check_picture(image)
    cv2 = require("cv2", "corpus")
    scale = LONG_SIDE / max(image.shape[:2])
    if int(min(image.shape[:2]) * min(1.0, scale) * FARTHEST) < 2 * NEAREST:
        return 0.0  # too narrow for two marks side by side; a rule of 1 px would be shrunk to nothing
    gray = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(np.float32)
    if scale < 1:
        gray = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = gray.shape
    down, right = int(height * FARTHEST), int(width * FARTHEST)
    if min(down, right) < 2 * NEAREST:
        return 0.0
    fine = gray - cv2.GaussianBlur(gray, (0, 0), GRAIN)
    fine /= np.sqrt(cv2.GaussianBlur(fine * fine, (0, 0), 4 * GRAIN)) + np.float32(1)
    fine = np.clip(fine, -2.5, 2.5)
    fine -= fine.mean()
    peaks, overlap = _autocorrelation(cv2, fine, down, right)
    peaks -= cv2.GaussianBlur(peaks, (0, 0), 6)  # slow changes are the picture's own
    ys, xs = np.arange(down)[:, None], np.arange(-right, right + 1)[None]
    peaks[(ys < NEAREST) & (np.abs(xs) < NEAREST)] = 0
    # Where little overlaps, chance peaks are high: there a peak counts by what it exceeds chance by.
    sure = peaks * np.sqrt(overlap)
    first_y, first_x = np.unravel_index(int(sure.argmax()), sure.shape)
    y, x = int(ys[first_y, 0]), int(xs[0, first_x])
    sine = np.abs(ys * x - xs * y) / np.maximum(1.0, np.hypot(ys, xs) * np.hypot(y, x))
    second = np.unravel_index(int(np.where(sine > PARALLEL, sure, 0).argmax()), sure.shape)
    return float(np.sqrt(max(0.0, float(peaks[first_y, first_x])) * max(0.0, float(peaks[second]))))


def _autocorrelation(
    cv2: ModuleType, fine_HW: NDArray[np.float32], down: int, right: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of shifts 0..down-1 and -right..right, (down, 2 right + 1): correlation, 1 at no shift; and the share that overlaps."""
    height, width = fine_HW.shape
    size = tuple(cv2.getOptimalDFTSize(side) for side in (height + down, width + right))
    power = np.abs(np.fft.rfft2(fine_HW, size)) ** 2
    found = np.fft.irfft2(power, size).astype(np.float32)
    shifts = np.arange(-right, right + 1)
    overlap = (1 - np.arange(down) / height)[:, None] * (1 - np.abs(shifts) / width)[None]
    found = found[:down][:, shifts % size[1]] / max(float(found[0, 0]), 1e-6)
    return (found / overlap).astype(np.float32), overlap.astype(np.float32)
