"""What rows are told apart by beside their pictures: variants of captions, and how much is written in a picture."""

from __future__ import annotations

import re
from collections.abc import Mapping

from glyphflow.core.text import split_lines

# variant -> its columns, and what such a column holds beside null when there is no caption
VARIANT_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "raw": {"index.captions": "{}"},
    "recaption": {"annotate.recaption_en": "", "annotate.recaption_zh": ""},
    "fused": {"annotate.fused_en": "", "annotate.fused_zh": ""},
}

TOKEN = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")
"""A Chinese character, or a word: about what a Qwen tokenizer makes a token of, without its 11 MB of tables."""

_WORD, _LINE = 4, 16  # tokens: an idiom or a name of four characters is still one word; more than a line of them is a paragraph


def text_level(text: str) -> str:
    """How much is written: "none"; "word", one line of one word or of up to four Chinese characters; "line", up to two lines
    and 16 tokens; "paragraph", more. ``text`` holds the lines joined by line breaks.
    """
    lines = [line for line in split_lines(text) if line.strip()]
    tokens = TOKEN.findall(text)
    if not lines:
        return "none"
    words = sum(not "\u3400" <= token[0] <= "\u9fff" for token in tokens)
    if len(lines) == 1 and words <= 1 and len(tokens) <= _WORD:
        return "word"
    return "line" if len(lines) <= 2 and len(tokens) <= _LINE else "paragraph"


def languages(captions: Mapping[str, str]) -> list[str]:
    """The languages of ``captions`` ("raw_en", "recaption_ja", "zh"), in order."""
    return sorted({name.rpartition("_")[2] for name, told in captions.items() if told})


def best_caption(captions: Mapping[str, str], language: str) -> str | None:
    """What says most in a language: a render's own words, a captioner's, those fused with the raw caption, the raw caption."""
    names = (language, f"recaption_{language}", f"fused_{language}", f"raw_{language}")
    return next((captions[name] for name in names if captions.get(name)), None)
