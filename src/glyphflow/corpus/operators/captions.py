"""What is wrong with captions: the operator captions, which opens no picture."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from glyphflow.corpus.annotate.prompts import refusal, unquoted
from glyphflow.corpus.operator import Operator, Row
from glyphflow.corpus.recipe import VARIANTS
from glyphflow.corpus.variants import TOKEN

VERSION = 1
PHRASE = 3  # tokens of a run that is looked for again
REPEATED = 0.3  # of a text's runs are repetitions from here on: a loop of a captioner, or a list of keywords
_ENOUGH = 8  # tokens that a text needs before repetition means anything
_HASHTAGS = 4

_BOILERPLATE = {
    "an address": r"https?://|\bwww\.\w|\b[\w-]+\.(?:com|net|org|cn)\b|\S+@\S+\.\w{2,}",
    "markup": r"</?[a-z][a-z0-9]*(?:\s[^<>]*)?/?>|&(?:amp|nbsp|quot|lt|gt|#\d+);|\[/?(?:img|url)\]|!\[[^\]]*\]\(",
    "a file name": r"^\W*(?:(?:img|dsc[fn]?|pxl|screenshot|image|photo|p)[\s_-]*\d[\w\s-]*|\S+)"
    r"\.(?:jpe?g|png|gif|webp|bmp|tiff?)\W*$|^\W*(?:img|dsc[fn]?|pxl)[\s_-]?\d{3,}\w*\W*$",
    "a stock phrase": r"\b(?:stock (?:photo|image|vector|illustration|footage)|royalty[- ]free|image may contain|all rights "
    r"reserved|click (?:here|to (?:view|enlarge|download))|(?:free )?download(?: now)?$|image not available|no (?:description|"
    r"caption|alt text)|photo (?:credit|courtesy)|(?:getty images|shutterstock|istock|alamy|depositphotos|dreamstime)\b)"
    r"|点击(?:查看|放大|下载|图片)|版权所有|图片(?:来源|加载)|免费下载|高清(?:图片|壁纸)下载|暂无(?:描述|图片)|扫码|公众号",
}
_PATTERNS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _BOILERPLATE.items()}
_HASHTAG = re.compile(r"#\w+")


def captions(annotated: bool = False) -> Operator:
    """For each variant (raw; with ``annotated``, which needs the stage annotate, also recaption and fused), over its languages:

    ``raw_tokens``: words plus Chinese characters of the longest, about what a Qwen tokenizer counts; ``raw_refusal``: the words
    with which a captioner refused; ``raw_boilerplate``: the kind of a text that describes no picture; ``raw_language``: ISO
    639-1 codes, joined by commas. All are null where the variant is not there, the middle two where nothing is wrong.
    """
    from glyphflow.perception import language

    names = VARIANTS if annotated else VARIANTS[:1]
    columns = {f"{name}_{column}": kind for name in names for column, kind in _COLUMNS.items()}
    return Operator(
        "captions",
        {"version": VERSION, "annotated": annotated, "language": language.identity()},
        columns,
        lambda rows: [_check_row(row, names) for row in rows],
        batch=256,
        parallel="processes",
        inputs=("annotate",) if annotated else (),
    )


_COLUMNS = {"tokens": "int32", "refusal": "string", "boilerplate": "string", "language": "string"}


def _check_row(row: Row, names: Sequence[str]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name in names:
        if name == "raw":
            texts = [text for text in json.loads(row["captions"] or "{}").values() if text]
        else:
            texts = [text for language in ("en", "zh") if (text := row[f"annotate.{name}_{language}"])]
        if texts:
            told |= {f"{name}_{column}": value for column, value in check_captions(texts).items()}
    return told


def check_captions(texts: Sequence[str]) -> Mapping[str, Any]:
    """The four columns for the captions of one variant."""
    from glyphflow.perception.language import language

    return {
        "tokens": max(len(TOKEN.findall(text)) for text in texts),
        "refusal": next((words for text in texts if (words := refusal(text))), None),
        "boilerplate": next((kind for text in texts if (kind := boilerplate(text))), None),
        "language": ",".join(code for text in texts if (code := language(text))),
    }


def boilerplate(text: str) -> str | None:
    """What kind of text that describes no picture ``text`` is or holds; None for none."""
    if not any(char.isalpha() for char in text):
        return "no words"
    text = unquoted(text)  # what is written in a picture may be an address
    tokens = TOKEN.findall(text.lower())
    for kind, pattern in _PATTERNS.items():
        if pattern.search(text):
            return kind
    if len(_HASHTAG.findall(text)) >= _HASHTAGS:
        return "hashtags"
    return "repetition" if repetition(tokens) >= REPEATED else None


def repetition(tokens: Sequence[str]) -> float:
    """The part of the runs of PHRASE tokens that occurred before in the same text, 0..1; 0 for a short text."""
    if len(tokens) < _ENOUGH:
        return 0.0
    runs = list(zip(*(tokens[start:] for start in range(PHRASE)), strict=False))
    return 1 - len(set(runs)) / len(runs)
