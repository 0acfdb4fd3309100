"""The nano tokenizer spells what is quoted, knows the 8,105 characters and gives texts back."""

import unicodedata
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from glyphflow.render.schedule import standard_characters
from glyphflow.train.tokenizer import SPECIAL_TOKENS, build_tokenizer, save_tokenizer

CAPTIONS = [
    *['white text "HELLO" on a dark blue background'] * 8,
    *['深蓝色背景上写着白色文字"你好"'] * 8,
    *["a red apple emoji on a white background"] * 8,
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer(CAPTIONS, merges=300)


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([index]) for index in tokenizer.encode(text).ids]


def test_the_table_has_8105_characters_and_each_is_one_token(tokenizer: Tokenizer) -> None:
    characters = standard_characters()
    assert len(characters) == len(set(characters)) == 8105
    assert characters[0] == "一"
    assert all(len(tokenizer.encode(character).ids) == 1 for character in characters)


@pytest.mark.parametrize(
    ("caption", "quoted"),
    [
        ('white text "white background" on a white background', "white background"),
        ("the word 'on a white' on a white background", "on a white"),
        ("it’s a sign that says 'background' in red, don't you see", "background"),
        ("a poster that says “a white”", "a white"),
        ("写着「white」的海报", "white"),
        ("写着'white'的海报", "white"),
        ('"white" and "background" on a white background', "background"),
    ],
)
def test_quoted_text_is_spelled(tokenizer: Tokenizer, caption: str, quoted: str) -> None:
    found = pieces(tokenizer, caption)
    assert any(found[n : n + len(quoted)] == list(quoted) for n in range(len(found)))


def test_text_outside_quotes_is_merged(tokenizer: Tokenizer) -> None:
    assert pieces(tokenizer, 'text "A" on a white background')[-4:] == [" on", " a", " white", " background"]


def test_chinese_merges_have_at_most_three_characters(tokenizer: Tokenizer) -> None:
    assert max(len(piece) for piece in pieces(tokenizer, "深蓝色背景上写着白色文字")) <= 3


def test_captions_in_any_order_give_the_same_tokenizer(tokenizer: Tokenizer) -> None:
    assert build_tokenizer(reversed(CAPTIONS), merges=300).to_str() == tokenizer.to_str()


@cache
def small_tokenizer() -> Tokenizer:
    return build_tokenizer(CAPTIONS, merges=50)


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
@settings(max_examples=100, deadline=None)
def test_every_text_comes_back(text: str) -> None:
    ids = small_tokenizer().encode(text, add_special_tokens=False).ids
    assert small_tokenizer().decode(ids, skip_special_tokens=False) == unicodedata.normalize("NFC", text)


def test_transformers_opens_what_is_saved(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    opened = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    text = '<|im_start|>user\nwhite text "HELLO 你好"<|im_end|>'
    assert opened(text).input_ids == tokenizer.encode(text).ids
    assert all(len(opened(token).input_ids) == 1 for token in SPECIAL_TOKENS)
