"""Caption and metadata of every kept row, as the report's JSON.

Renders bring their own ground truth. Photographs are described by the caption or the name they came with, the text that is
read in them, and simple rules; a vision-language model takes this place when one is at hand.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from glyphflow.core.hardware import require
from glyphflow.corpus.decode import PictureError, decode_rgb
from glyphflow.corpus.ingest import language_of
from glyphflow.corpus.measure import run_stage
from glyphflow.corpus.specs import Renderer
from glyphflow.corpus.store import PHOTO, Corpus

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from glyphflow.perception.ocr import OCRLine

Read = Callable[[Sequence["NDArray[np.uint8]"]], "list[list[OCRLine]]"]

ANNOTATION_TYPES = {
    "caption_en": "string",
    "caption_zh": "string",
    "annotation": "string",  # JSON with the report's keys
    "text": "string",  # what is written in the picture, lines joined by line breaks
    "text_split": "string",  # English | Chinese | Other Language | Non-Text
    "text_chars": "int32",
    "text_area": "float32",  # share of the picture under text boxes
    "smallest_text": "float32",  # height of the smallest line as a share of the picture's short side; null without text
    "caption_tokens": "int32",  # words plus Chinese characters of the longer caption
    "refusal": "string",  # the words that make a caption invalid, else null
    "error": "string",
}
KEYS = ("Caption", "Image Type", "Image Style", "Watermark List", "Abnormal Element")
MIN_CONFIDENCE = 0.9  # of a reading in a photograph: below it, textures and reflections are read as letters
MIN_CHARACTERS = 2  # for the same reason: a wheel is read as O, a highlight as 1

_WATERMARK = re.compile(
    r"©|\(c\)|www\.|https?:|\.com\b|watermark|shutterstock|getty\s?images|alamy|水印|版权所有", re.IGNORECASE
)
_REFUSAL = re.compile(
    r"\bI (?:cannot|can't|can not|am unable to|'m unable to)\b|\bas an AI\b|\bI'm sorry\b|抱歉|我无法|作为(?:一个)?人工智能",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")


@dataclass(frozen=True)
class _Text:
    """One line of text in a picture: what, how large (area and height in pixels)."""

    text: str
    area: float
    height: float


@dataclass(frozen=True)
class _Described:
    """What is known about a picture before it becomes columns."""

    captions: Mapping[str, str]
    image_type: str
    image_style: str
    lines: Sequence[_Text] = ()
    watermarks: Sequence[str] = field(default=())
    abnormal: bool = False


def annotate(corpus: Corpus, view: str, read: Read | None, identity: str, workers: int | None = None) -> int:
    """Annotate every row that ``view`` keeps; other rows get nulls. Gives the number of rows looked at in this call.

    ``read`` reads the text in pictures ((H, W, 3) uint8 RGB) and ``identity`` names it for the fingerprint; None leaves
    photographs without read text.
    """
    mark = corpus.view_info(view)["fingerprint"]
    kept: set[str] = set()
    for shard in corpus.shards():
        decided = corpus.view(view, shard)
        kept.update(row for row, keep in zip(decided["id"], decided["kept"], strict=True) if keep)
    renderer, lock = Renderer(), threading.Lock()
    saturation = _saturations(corpus)

    def compute(row: Mapping[str, Any], data: bytes) -> Mapping[str, Any]:
        if row["id"] not in kept:
            return {}
        if row["kind"] != PHOTO:
            drawn = renderer.draw(data)
            return _columns(_from_render(drawn), drawn.image.shape)
        try:
            image = decode_rgb(data)
        except PictureError as error:  # the view's recipe need not look for broken files
            return {"error": str(error)}
        lines: list[OCRLine] = []
        if read is not None:
            with lock:  # the reader uses all cores by itself and need not be safe for threads
                lines = read([image])[0]
        return _columns(_from_photo(row, image, lines, saturation.get(row["id"])), image.shape)

    operator = {"stage": "annotate", "version": 1, "reader": identity if read else "none", "view": view, "decided": mark}
    with corpus.writing("annotating"):
        return run_stage(corpus, "annotate", operator, ANNOTATION_TYPES, compute, workers)


def _saturations(corpus: Corpus) -> dict[str, float]:
    found: dict[str, float] = {}
    for shard in corpus.shards():
        pixels = corpus.columns("pixels", shard, ("id", "saturation"))
        if pixels:
            measured = zip(pixels["id"], pixels["saturation"], strict=True)
            found.update((row, value) for row, value in measured if value is not None)
    return found


def _from_render(drawn: Any) -> _Described:
    lines = []
    for line in drawn.lines:
        x0, y0, x1, y1 = line.box
        lines.append(_Text(line.text, float((x1 - x0) * (y1 - y0)), float(line.size_px)))
    return _Described(drawn.captions, drawn.image_type, drawn.image_style, lines)


def _from_photo(
    row: Mapping[str, Any], image: NDArray[np.uint8], read: Sequence[OCRLine], saturation: float | None
) -> _Described:
    # A reading of the whole picture as one line is a guess that is right for single glyphs only.
    sure = [line for line in read if line.confidence >= MIN_CONFIDENCE and not line.whole]
    lines = [_from_reading(line) for line in sure if sum(char.isalnum() for char in line.text) >= MIN_CHARACTERS]
    watermarks = [line.text for line in lines if _WATERMARK.search(line.text)]
    captions: dict[str, str] = json.loads(row["captions"] or "{}") or _from_name(row["key"])
    quoted = [line.text for line in lines if line.text not in watermarks]
    return _Described(
        {language: _with_text(caption, quoted, language) for language, caption in captions.items()},
        "photograph",
        "black and white" if saturation is not None and saturation < 0.02 else "realistic",
        lines,
        watermarks,
        _has_code(image),
    )


def _from_reading(line: OCRLine) -> _Text:
    corners = np.asarray(line.box, dtype=np.float64)
    top, right, bottom, left = (float(np.linalg.norm(corners[a] - corners[b])) for a, b in ((0, 1), (1, 2), (2, 3), (3, 0)))
    width, height = (top + bottom) / 2, (left + right) / 2
    return _Text(line.text, width * height, min(width, height))


def _from_name(key: str) -> dict[str, str]:
    """A caption from the words of a file name; a camera's number is none, and a photograph is what it surely is."""
    words = [word for word in re.split(r"[\W_\d]+", PurePosixPath(key).stem) if len(word) > 1 or "\u4e00" <= word <= "\u9fff"]
    name = " ".join(words)
    if not name or name.lower() in ("img", "dsc", "dscn", "pxl", "image", "photo", "picture", "screenshot"):
        return {"en": "a photograph", "zh": "一张照片"}
    return {language_of(name): name}


def _with_text(caption: str, lines: Sequence[str], language: str) -> str:
    missing = [line for line in lines if line not in caption]
    if not missing:
        return caption
    quoted = [f'"{line}"' for line in missing]
    return f"{caption}，上面写着{'、'.join(quoted)}" if language == "zh" else f"{caption}, with the text {', '.join(quoted)}"


def _has_code(image: NDArray[np.uint8]) -> bool:
    """Whether a QR code can be read in the picture: one that decodes is no false alarm."""
    cv2 = require("cv2", "corpus")
    try:
        text, _, _ = cv2.QRCodeDetector().detectAndDecode(np.ascontiguousarray(image))
    except cv2.error:  # the detector throws on some shapes it takes for a code
        return False
    return bool(text)


def _columns(described: _Described, shape: Sequence[int]) -> dict[str, Any]:
    height, width = shape[:2]
    captions = [described.captions.get(language) for language in ("en", "zh")]
    text = "\n".join(line.text for line in described.lines)
    annotation = dict(
        zip(
            KEYS,
            (
                captions[0] or captions[1] or "",
                described.image_type,
                described.image_style,
                list(described.watermarks),
                "yes" if described.abnormal else "no",
            ),
            strict=True,
        )
    )
    refusals = [match.group() for caption in captions if caption and (match := _REFUSAL.search(caption))]
    return {
        "caption_en": captions[0],
        "caption_zh": captions[1],
        "annotation": json.dumps(annotation, ensure_ascii=False),
        "text": text,
        "text_split": text_split(text),
        "text_chars": sum(not char.isspace() for char in text),
        "text_area": min(1.0, sum(line.area for line in described.lines) / max(1, width * height)),
        "smallest_text": min((line.height / min(width, height) for line in described.lines), default=None),
        "caption_tokens": max(len(_TOKEN.findall(caption or "")) for caption in captions),
        "refusal": refusals[0] if refusals else None,
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
