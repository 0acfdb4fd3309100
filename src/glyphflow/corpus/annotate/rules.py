"""Expert rules over what a captioner said: names made uniform, and what can be checked against the text read in the picture.

A rule never asks a model. What it changed is said in words, so that a person can judge the rules by their traces.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from glyphflow.corpus.annotate.prompts import KEYS, NONE, quotations
from glyphflow.perception.watermark import is_mark

VERSION = 1  # raise it when the same answer would become another annotation
ALIKE = 0.75  # share of equal characters from which a quotation counts as the text that was read: OCR errs, too
MAX_ADDED = 20  # lines; a caption that lacks more is a summary on purpose, and a list of them behind it would be no caption
MIN_QUOTED = 2  # characters; a single letter in quotation marks is found in nearly every text

_TYPES = {
    "photograph": "photo; photography; photographic; snapshot; real photo; 照片; 摄影; 实拍; 摄影作品",
    "portrait": "portrait photo; headshot; selfie; 肖像; 人像; 自拍",
    "painting": (
        "oil painting; watercolor; watercolour; watercolor painting; ink painting; drawing; sketch; 油画; 绘画; 水彩画; "
        "国画; 素描"
    ),
    "illustration": (
        "digital art; digital illustration; digital painting; vector; vector art; vector illustration; clip art; "
        "clipart; artwork; graphic; 插画; 插图; 数字艺术; 矢量图"
    ),
    "cartoon": "anime; comic; manga; animation; comics; 动漫; 漫画; 卡通",
    "3d rendering": "3d render; render; rendering; cgi; 3d; 3d model; computer graphics; 三维渲染; 3d渲染; 渲染图",
    "poster": (
        "flyer; cover; banner; book cover; album cover; movie poster; greeting card; card; sign; typography; 海报; 封面; "
        "传单; 横幅"
    ),
    "advertisement": "ad; advert; commercial; promotional image; marketing; 广告; 宣传图",
    "product picture": (
        "product; product photo; product image; product photograph; packshot; e-commerce image; 商品图; 产品图"
    ),
    "slide": "presentation; presentation slide; ppt; powerpoint; slides; 幻灯片; 演示文稿",
    "screenshot": (
        "ui; user interface; web page; webpage; website; website screenshot; app screenshot; interface; ui design; 截图; "
        "界面; 网页; 屏幕截图"
    ),
    "document": (
        "form; letter; receipt; invoice; certificate; scan; scanned document; handwriting; 文档; 文件; 表格; 扫描件; 证书"
    ),
    "book page": "page; magazine page; newspaper; text page; 书页; 报纸",
    "chart": "diagram; infographic; graph; plot; figure; flowchart; technical drawing; 图表; 信息图; 示意图; 流程图",
    "map": "地图",
    "icon": "logo; emoji; symbol; sticker; 图标; 标志; 表情",
    "collage": "photo collage; montage; grid; 拼图; 拼贴",
    "sculpture or craft": "sculpture; craft; handicraft; statue; 雕塑; 工艺品; 手工艺品",
    "other": "unknown; 其他; 其它",
}
_BY_NAME = {name: kind for kind, names in _TYPES.items() for name in (kind, *names.split("; "))}


@dataclass(frozen=True)
class Ruled:
    """What the rules made of an answer. ``caption`` may quote more than before; ``changed`` says what they did."""

    caption: str
    image_type: str
    image_style: str
    watermarks: list[str]
    abnormal: bool
    unread: list[str] = field(default_factory=list)  # what the caption quotes and nobody read in the picture
    changed: list[str] = field(default_factory=list)

    @property
    def annotation(self) -> dict[str, Any]:
        """With the report's keys."""
        said = (self.caption, self.image_type, self.image_style, self.watermarks, "yes" if self.abnormal else "no")
        return dict(zip(KEYS, said, strict=True))


def apply(said: Mapping[str, Any], lines: Sequence[str] | None, language: str) -> Ruled:
    """Apply every rule to an annotation with the report's keys.

    ``lines`` is the text read in the picture, surely, in reading order; None when nobody read it, and nothing is checked
    against it then.

    Text that was read and is no watermark must be quoted in the caption: up to MAX_ADDED missing lines are
    added. What the caption quotes and nobody read is listed, not removed: a captioner reads some things that OCR does not. A
    watermark stands if it is known as one or was read; a known one that was read is added.
    """
    changed: list[str] = []
    kind = image_type(said["Image Type"])
    if kind != said["Image Type"]:
        changed.append(f"Image Type {said['Image Type']!r} is {kind!r}")
    watermarks = _watermarks(said["Watermark List"], lines, changed)
    caption, unread = said["Caption"], []
    if lines is not None:
        missing = unquoted_lines(caption, [line for line in lines if not is_watermark(line, watermarks)])
        if len(missing) > MAX_ADDED:
            changed.append(f"the Caption leaves out {len(missing)} lines of text")
        elif missing:
            caption = with_text(caption, missing, language)
            changed.append("text that was read is added to the Caption")
        unread = [text for text in quotations(said["Caption"]) if not was_read(text, lines)]
    abnormal = said["Abnormal Element"] == "yes"
    style = " ".join(said["Image Style"].casefold().split()).strip(" .,。") or "unknown"
    return Ruled(caption, kind, style, watermarks, abnormal, unread, changed)


def image_type(said: str) -> str:
    """The name in IMAGE_TYPES for what a captioner said, "other" if there is none."""
    plain = " ".join(unicodedata.normalize("NFKC", said).casefold().replace("_", " ").split()).strip(" .。")
    if plain in _BY_NAME:
        return _BY_NAME[plain]
    # "a photograph of food", "movie poster (vintage)": the longest known name in it, the first of equals.
    held = [name for name in _BY_NAME if _holds(plain, name)]
    return _BY_NAME[max(held, key=len)] if held else "other"


def _holds(text: str, name: str) -> bool:
    return name in text if not name.isascii() else re.search(rf"\b{re.escape(name)}s?\b", text) is not None


def _watermarks(said: Sequence[str], lines: Sequence[str] | None, changed: list[str]) -> list[str]:
    kept = []
    for mark in dict.fromkeys(" ".join(each.split()) for each in said):
        if mark.casefold().strip(" .。") in NONE:
            continue
        if lines is None or is_mark(mark) or was_read(mark, lines):
            kept.append(mark)
        else:
            changed.append(f"watermark {mark!r} was not read and is not known")
    for line in lines or ():
        if is_mark(line) and not was_read(line, kept):
            kept.append(line)
            changed.append(f"watermark {line!r} was read")
    return kept


def is_watermark(line: str, watermarks: Sequence[str]) -> bool:
    """Whether a line of text is one of the known watermarks, or a part of one."""
    return is_mark(line) or was_read(line, watermarks)


def was_read(text: str, lines: Sequence[str]) -> bool:
    """Whether ``text`` stands in ``lines``, alone or run over several of them, allowing for what readers confuse."""
    wanted = _plain(text)
    whole = "".join(map(_plain, lines))
    if len(wanted) < MIN_QUOTED or wanted in whole:
        return bool(not wanted or wanted in whole)
    if not whole:
        return False
    # The stretch of the reading that begins where the longest common run says the text would begin.
    matcher = SequenceMatcher(None, whole, wanted, autojunk=False)
    run = matcher.find_longest_match()
    start = max(0, run.a - run.b)
    return SequenceMatcher(None, whole[start : start + len(wanted)], wanted, autojunk=False).ratio() >= ALIKE


def unquoted_lines(caption: str, lines: Sequence[str]) -> list[str]:
    """The ``lines`` that a caption neither quotes nor holds as they are."""
    quoted = quotations(caption)
    return [line for line in lines if line not in caption and not was_read(line, quoted)]


def with_text(caption: str, lines: Sequence[str], language: str) -> str:
    """The caption with ``lines`` quoted at its end."""
    if not lines:
        return caption
    quoted = [f'"{line}"' for line in lines]
    told = caption.rstrip(" .。")
    end = caption[len(told) :].strip()
    return (
        f"{told}，上面写着{'、'.join(quoted)}{end}" if language == "zh" else f"{told}, with the text {', '.join(quoted)}{end}"
    )


def _plain(text: str) -> str:
    """Letters, digits and characters only, in one case and width: spaces and punctuation are read at random."""
    return "".join(char for char in unicodedata.normalize("NFKC", text).casefold() if char.isalnum())
