"""Which bytes are which characters, and where a line ends. The expected texts are Python's own codecs'."""

from __future__ import annotations

import codecs
import io
from pathlib import Path

import pytest

from glyphflow.core.errors import InputError
from glyphflow.core.text import (
    TextError,
    argument_text,
    decode_text,
    read_lines,
    read_text,
    split_lines,
    utf8_stream,
    whole_characters,
)

SIX_SCRIPTS = {
    "gb18030": ("一只猫坐在垫子上", "红色", "品牌：华为；型号 P50", "1girl, 长发, 微笑", "海报上写着“新年快乐”"),
    "big5": ("一隻貓坐在墊子上", "香港夜景", "夕陽下的海灘，有兩個人在散步。"),
    "cp932": ("マットの上に座っている猫", "東京タワー", "ネコ"),
    "euc-jp": ("マットの上に座っている猫", "夕日の海岸を歩く二人。"),
    "euc-kr": ("매트 위에 앉아 있는 고양이", "a cat 고양이가"),
    "cp1251": ("кот сидит на коврике", "ПРИВЕТ МИР", "a cat, кот"),
    "koi8-r": ("кот сидит на коврике", "Привет"),
    "cp1252": ("café crème", "Größe: 5 €", "“quoted” – it’s", "El niño comió", "5°C, 10 m², ½ liter", "Það er á mottunni",
               "Það rignir", "hundur og köttur að leik", "skip við bryggju", "fjörður", "Þorp við fjörð", "tvær kýr"),
    "cp1254": ("İstanbul güneşli bir gün", "çiçek ve ağaç", "Kırmızı bir araba", "Şeker ve çay", "café'nin önünde bir kız",
               "İndirim", "garajın kapısı", "şemsiye", "ağaç altında oturan kız"),
}  # fmt: skip


@pytest.mark.parametrize(("encoding", "text"), [(name, text) for name, texts in SIX_SCRIPTS.items() for text in texts])
def test_texts_of_six_scripts_are_read_in_the_encoding_they_were_written_in(encoding: str, text: str) -> None:
    assert decode_text(text.encode(encoding)) == (text, encoding)
    assert decode_text(text.encode(encoding)).guessed


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_byte_order_mark_is_obeyed_and_no_part_of_the_text(encoding: str) -> None:
    mark = "\ufeff".encode(encoding)
    assert decode_text(mark + "猫 on a mat".encode(encoding)) == ("猫 on a mat", encoding)
    assert not decode_text(mark + b"").guessed


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_its_mark_is_known_by_its_zeros(encoding: str) -> None:
    assert decode_text("a cat on a mat".encode(encoding)) == ("a cat on a mat", encoding)


@pytest.mark.parametrize(
    "data",
    [
        "龘靐齉".encode("gb18030"),  # three rare characters: as likely something else
        "貓".encode("big5"),  # one character decides nothing
        "חתול יושב על שטיח".encode("cp1255"),  # no encoding of ours, and none of ours fits
        "Łódź nocą".encode("iso8859-2"),
        b"\xff\xfe broken \xc3",  # begins as UTF-16 and is not
        codecs.BOM_UTF8 + b"\xff",
        b"PK\x03\x04" + bytes(range(256)),
        b"text\x00with a NUL",
    ],
)
def test_what_cannot_be_told_is_refused_rather_than_guessed(data: bytes) -> None:
    with pytest.raises(TextError):
        decode_text(data)


def test_lines_end_at_newlines_only() -> None:
    inside = "a\u2028b\x85c\x0cd\x1ce\x0bf\u2029g"
    assert split_lines(f"{inside}\none\r\ntwo\rthree\n\nlast") == [inside, "one", "two", "three", "", "last"]
    assert split_lines("") == [] and split_lines("\n") == [""] and split_lines("a\n") == ["a"]


def test_files_are_named_in_what_is_said_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo".encode("utf-16-le"))
    assert read_lines(tmp_path / "a.txt") == ["one", "two"]
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(TextError, match=r"b\.txt cannot be read as text: .*save it as UTF-8"):
        read_text(tmp_path / "b.txt")
    with pytest.raises(InputError, match=r"c\.txt does not exist"):
        read_text(tmp_path / "c.txt")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_text(tmp_path)


def test_arguments_pipes_and_lone_surrogates() -> None:
    assert argument_text("一只猫坐在垫子上".encode("gb18030").decode("utf-8", "surrogateescape")) == "一只猫坐在垫子上"
    assert argument_text("plain") == "plain" and argument_text("猫") == "猫"
    assert whole_characters("a\ud800b\U0001f600") == "a\ufffdb\U0001f600"
    pipe = io.TextIOWrapper(raw := io.BytesIO(), encoding="cp1252", newline="\r\n")
    utf8_stream(pipe).write("猫\n")
    pipe.flush()
    assert raw.getvalue() == "猫\n".encode()
