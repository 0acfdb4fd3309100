"""Caption checks: good captions pass, and what is wrong with the others is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from glyphflow.core.errors import ConfigError
from glyphflow.corpus import Corpus
from glyphflow.corpus.ingest.pictures import ingest_folder
from glyphflow.corpus.operators.captions import boilerplate, check_captions, repetition
from glyphflow.corpus.runner.stage import run


@pytest.mark.parametrize(
    "text",
    [
        "A dog on grass.", "一只猫坐在窗台上，看着外面的雨。", "The Eiffel Tower at night, 3.5 km away", "Mr. Smith & Co.",
        'A sign that reads "OPEN", with the text "www.shop.com"', "the cat, the cat and the other cat", "🐈 a cat",
        "a 16:9 picture of Route 66", "a map with 12 # signs", "海报上写着“点击查看”", "a photo of a photo album", "Tokyo",
    ],
)  # fmt: skip
def test_good_captions_pass(text: str) -> None:
    assert boilerplate(text) is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("see more at https://example.com/a", "an address"), ("photos by jane@mail.org", "an address"),
        ("www.example", "an address"),
        ("a cat <br/> on a mat", "markup"), ("cats &amp; dogs", "markup"), ("![a cat](cat)", "markup"),
        ("IMG_1234.JPG", "a file name"), ("DSC00012", "a file name"), ("sunset-final-2.png", "a file name"),
        ("Screenshot 2024-01-02.png", "a file name"), ("Stock photo of a businessman", "a stock phrase"),
        ("Image may contain: one person", "a stock phrase"), ("A cat. All rights reserved", "a stock phrase"),
        ("点击查看大图", "a stock phrase"), ("版权所有", "a stock phrase"), ("#cat #dog #pet #love cute", "hashtags"),
        ("1234 - 55", "no words"), ("…", "no words"), ("a red red red red red red red red car", "repetition"),
        ("a cat on a mat a cat on a mat a cat on a mat", "repetition"), ("猫坐在窗台上猫坐在窗台上猫坐在窗台上", "repetition"),
    ],
)  # fmt: skip
def test_what_describes_no_picture_is_named(text: str, kind: str) -> None:
    assert boilerplate(text) == kind


def test_repetition_is_the_share_of_runs_that_came_before() -> None:
    assert repetition(["a", "b", "c", "d", "e", "f", "g", "h"]) == 0
    assert repetition(["a", "b", "c", "a", "b", "c", "a", "b", "c"]) == pytest.approx(4 / 7)  # abc bca cab abc bca cab abc
    assert repetition(["a"] * 7) == 0  # too short to say


def test_the_columns_of_a_variant_cover_its_languages() -> None:
    found = check_captions(["A very long English caption of nine tokens here", "一只猫 DVD"])
    assert found == {"tokens": 9, "refusal": None, "boilerplate": None, "language": "en,zh"}
    assert check_captions(["fine", "很抱歉，我无法描述这张图片"])["refusal"] is not None
    assert check_captions(["I'm sorry, but I can't help with that."])["refusal"] is not None
    assert check_captions(['a plaque: "I cannot tell a lie"'])["refusal"] is None


def test_the_operator_opens_no_picture(tmp_path: Path) -> None:
    place = tmp_path / "pictures"
    place.mkdir()
    for name, caption in (("a", "IMG_1.jpg"), ("b", "ein Hund auf der Wiese hinter dem Haus"), ("c", "")):
        (place / f"{name}.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture at all" * 9)
        (place / f"{name}.txt").write_text(caption)
    corpus = Corpus.create(tmp_path / "corpus")
    ingest_folder(corpus, place, "mine", "x")
    assert run(corpus, "captions", workers=1) == 3
    columns = corpus.columns("captions", "mine-00000") or {}
    assert columns["raw_boilerplate"] == ["a file name", None, None] and columns["raw_tokens"] == [2, 8, None]
    assert columns["raw_language"][1] == "de" and "recaption_tokens" not in columns
    with pytest.raises(ConfigError, match="annotate"):
        run(corpus, "captions", {"annotated": True}, workers=1)
