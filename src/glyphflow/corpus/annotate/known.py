"""What is known about a picture without asking a model: the ground truth of a render, the name and captions of a file.

This is the whole annotator on a machine without a vision-language model, and what the rules check a model's answer against.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from glyphflow.core.text import split_lines
from glyphflow.corpus.ingest.captions import language_of

if TYPE_CHECKING:
    from glyphflow.corpus.operator import Row

MIN_CONFIDENCE = 0.9  # of a reading in a photograph: below it, textures and reflections are read as letters
MIN_CHARACTERS = 2  # for the same reason: a wheel is read as O, a highlight as 1
_CAMERA = frozenset(("img", "dsc", "dscn", "pxl", "image", "photo", "picture", "screenshot"))
_PAGES = {
    "document": {"en": "A page of a document", "zh": "一页文档"},
    "screenshot": {"en": "A screenshot of a web page", "zh": "一张网页截图"},
}


def known_lines(row: Row) -> list[str] | None:
    """The text in a picture that can be relied on, in reading order, every line once; None when nobody read it.

    A render knows its own, and so does a page; of a photograph it is what the stage text read surely.
    """
    drawn = row.rendered
    if drawn is not None:
        return list(dict.fromkeys(line.text for line in drawn.lines))
    if page_type(row["key"]):
        return page_lines(row)
    read = row["text.lines"]
    return None if read is None else sure_lines(json.loads(read))


def sure_lines(lines: list[Mapping[str, Any]]) -> list[str]:
    """The texts of the lines of a photograph, as the stage text has them, that can be believed."""
    sure = [line["text"] for line in lines if line["confidence"] >= MIN_CONFIDENCE]
    return list(dict.fromkeys(text for text in sure if sum(char.isalnum() for char in text) >= MIN_CHARACTERS))


def raw_captions(row: Row) -> dict[str, str]:
    """The captions that came with a picture, by language, English and Chinese first; {} if none did."""
    said: dict[str, str] = json.loads(row["captions"] or "{}")
    return {language: said[language] for language in ("en", "zh", *said) if said.get(language)}


def page_type(key: str) -> str | None:
    """What a row is that came out of a document or a web page ("book.pdf/00012", "index.html"); None for other rows."""
    place = PurePosixPath(key)
    if place.suffix.lower() in (".html", ".htm", ".xhtml"):
        return "screenshot"
    return "document" if place.parent.suffix.lower() == ".pdf" else None


def page_lines(row: Row) -> list[str]:
    """The lines of the text that a page came with."""
    return [line.strip() for text in raw_captions(row).values() for line in split_lines(text) if line.strip()]


def captions_by_kind(kind: str) -> Mapping[str, str]:
    """The beginning of a page's caption in both languages; its text follows."""
    return _PAGES[kind]


def captions_by_name(key: str) -> dict[str, str]:
    """A caption from the words of a file name; a camera's number is none, and a photograph is what it surely is."""
    words = [word for word in re.split(r"[\W_\d]+", PurePosixPath(key).stem) if len(word) > 1 or "\u4e00" <= word <= "\u9fff"]
    name = " ".join(words)
    if not name or name.lower() in _CAMERA:
        return {"en": "a photograph", "zh": "一张照片"}
    return {language_of(name): name}


def answer(caption: str, image_type: str, image_style: str) -> Mapping[str, Any]:
    """What is known, in the form of a captioner's answer, so that the same rules go over both.

    Nothing here can see what disturbs a view; the stages codes, mosaic and watermark measure it.
    """
    return {
        "Caption": caption,
        "Image Type": image_type,
        "Image Style": image_style,
        "Watermark List": [],
        "Abnormal Element": "no",
    }
