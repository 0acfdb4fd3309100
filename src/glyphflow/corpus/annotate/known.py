"""What is known about a picture without asking a model: the ground truth of a render, the name and captions of a file.

This is the whole annotator on a machine without a vision-language model, and what the rules check a model's answer against.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from glyphflow.core.hardware import require
from glyphflow.corpus.captions import language_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from glyphflow.corpus.operator import Row
    from glyphflow.perception.ocr import OCRLine
    from glyphflow.render import Rendered

MIN_CONFIDENCE = 0.9  # of a reading in a photograph: below it, textures and reflections are read as letters
MIN_CHARACTERS = 2  # for the same reason: a wheel is read as O, a highlight as 1
_TOKEN = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")
_CAMERA = frozenset(("img", "dsc", "dscn", "pxl", "image", "photo", "picture", "screenshot"))


@dataclass(frozen=True)
class Line:
    """One line of text in a picture: what, and how large (area and height in pixels of the picture)."""

    text: str
    area: float
    height: float


def sure_lines(read: Sequence[OCRLine]) -> list[Line]:
    """The lines of a reading that can be believed of a photograph."""
    # A reading of the whole picture as one line is a guess that is right for single glyphs only.
    sure = [line for line in read if line.confidence >= MIN_CONFIDENCE and not line.whole]
    return [_from_reading(line) for line in sure if sum(char.isalnum() for char in line.text) >= MIN_CHARACTERS]


def drawn_lines(drawn: Rendered) -> list[Line]:
    """The lines of a render."""
    return [
        Line(line.text, float((line.box[2] - line.box[0]) * (line.box[3] - line.box[1])), float(line.size_px))
        for line in drawn.lines
    ]


def _from_reading(line: OCRLine) -> Line:
    corners = np.asarray(line.box, dtype=np.float64)
    top, right, bottom, left = (float(np.linalg.norm(corners[a] - corners[b])) for a, b in ((0, 1), (1, 2), (2, 3), (3, 0)))
    width, height = (top + bottom) / 2, (left + right) / 2
    return Line(line.text, width * height, min(width, height))


def raw_captions(row: Row) -> dict[str, str]:
    """The captions that came with a picture, by language; {} if none did."""
    said: dict[str, str] = json.loads(row["captions"] or "{}")
    return {language: said[language] for language in ("en", "zh") if said.get(language)}


def captions_by_name(key: str) -> dict[str, str]:
    """A caption from the words of a file name; a camera's number is none, and a photograph is what it surely is."""
    words = [word for word in re.split(r"[\W_\d]+", PurePosixPath(key).stem) if len(word) > 1 or "\u4e00" <= word <= "\u9fff"]
    name = " ".join(words)
    if not name or name.lower() in _CAMERA:
        return {"en": "a photograph", "zh": "一张照片"}
    return {language_of(name): name}


def page_type(key: str) -> str | None:
    """What a row is that came out of a document or a web page ("book.pdf/00012", "index.html"); None for other rows."""
    place = PurePosixPath(key)
    if place.suffix.lower() in (".html", ".htm", ".xhtml"):
        return "screenshot"
    return "document" if place.parent.suffix.lower() == ".pdf" else None


def has_code(image: NDArray[np.uint8]) -> bool:
    """Whether a QR code can be read in the picture: one that decodes is no false alarm."""
    cv2 = require("cv2", "corpus")
    try:
        text, _, _ = cv2.QRCodeDetector().detectAndDecode(np.ascontiguousarray(image))
    except cv2.error:  # the detector throws on some shapes it takes for a code
        return False
    return bool(text)


def answer(caption: str, image_type: str, image_style: str, code: bool = False) -> Mapping[str, Any]:
    """What is known, in the form of a captioner's answer, so that the same rules go over both."""
    return {
        "Caption": caption,
        "Image Type": image_type,
        "Image Style": image_style,
        "Watermark List": [],
        "Abnormal Element": "yes" if code else "no",
    }


def text_columns(lines: Sequence[Line], height: int, width: int, captions: Sequence[str | None]) -> dict[str, Any]:
    """The text in a picture of ``height`` x ``width`` pixels, and how long the longer caption is."""
    text = "\n".join(line.text for line in lines)
    return {
        "text": text,
        "text_split": text_split(text),
        "text_chars": sum(not char.isspace() for char in text),
        "text_area": min(1.0, sum(line.area for line in lines) / max(1, width * height)),
        "smallest_text": min((line.height / min(width, height) for line in lines), default=None),
        "caption_tokens": max(len(_TOKEN.findall(caption or "")) for caption in captions),
    }


def text_split(text: str) -> str:
    """The report's split of pictures by the text in them."""
    if not text.strip():
        return "Non-Text"
    letters = [char for char in text if char.isalpha()]
    chinese = sum("\u3400" <= char <= "\u9fff" for char in letters)
    latin = sum(char.isascii() for char in letters)
    if chinese * 3 >= max(1, len(letters)):
        return "Chinese"
    return "English" if latin * 2 > len(letters) else "Other Language"
