"""Text files of other people: which bytes are which characters, and where a line ends.

One rule for every room. A byte order mark is obeyed. Bytes that are valid UTF-8 are UTF-8. Other bytes are tried as the
encodings that captions and prompts are met in (GB18030, Big5, Shift-JIS, EUC-JP, EUC-KR, Windows-1251, KOI8-R, Windows-1252
and -1254); the one in which nearly every character is an everyday one of its script is taken and named. Where none is, the file
is refused: a wrong guess would be trained on. A line ends at a line feed, a carriage return or both, and nowhere else
(``str.splitlines`` also cuts at U+2028, U+0085, form feeds and file separators, which stand inside captions of web pages).
"""

from __future__ import annotations

import codecs
import itertools
import os
import re
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

from glyphflow.core.errors import InputError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CERTAIN = 0.85  # share of the characters beyond ASCII that must be everyday ones of the script
_CONTROLS = frozenset(chr(n) for n in range(32)) - set("\t\n\r\f\x1c\x1d\x1e\x1f\x1b\v")


class TextError(InputError):
    """Bytes that are no text in an encoding that can be told."""


class Decoded(NamedTuple):
    """Text, and the encoding that it was in, by Python's name."""

    text: str
    encoding: str

    @property
    def guessed(self) -> bool:
        """Whether the encoding was inferred from the characters, without a mark that says it."""
        return not self.encoding.startswith("utf")


def decode_text(data: bytes) -> Decoded:
    """The text in ``data``, without its byte order mark. Raises :class:`TextError` for bytes that are no text."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return Decoded(data[len(mark) :].decode(encoding), encoding)
            except UnicodeDecodeError as error:
                raise TextError(f"it begins as {encoding.upper()} and byte {error.start} is not; save it as UTF-8") from error
    wide = _without_mark(data)
    if wide is not None:
        return wide
    try:
        text, encoding = data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        text, encoding = _guessed(data)
    if not _CONTROLS.isdisjoint(text):
        raise TextError("it holds control characters and is no text")
    return Decoded(text, encoding)


def read_text(path: Path) -> str:
    """The text of the file ``path`` (see the module); what cannot be read raises :class:`InputError`, which names it."""
    return read_decoded(path).text


def read_decoded(path: Path) -> Decoded:
    """As :func:`read_text`, with the encoding, for those who say which one was taken."""
    try:
        return decode_text(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; check the path.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; give another file.") from error
    except TextError as error:
        raise TextError(f"{path} cannot be read as text: {error}.") from error


def split_lines(text: str) -> list[str]:
    """The lines of ``text`` without their ends (``\\n``, ``\\r\\n`` or ``\\r``); an empty last line is none."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_lines(path: Path) -> list[str]:
    """The lines of the file ``path``: :func:`read_text`, then :func:`split_lines`."""
    return split_lines(read_text(path))


def utf8_stream(stream: IO[str]) -> IO[str]:
    """``stream`` (standard output) writing UTF-8 and line feeds where it is a file or a pipe; a terminal keeps its encoding."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None and not stream.isatty():
        reconfigure(encoding="utf-8", newline="\n", errors="backslashreplace")
    elif reconfigure is not None:
        reconfigure(errors="backslashreplace")  # a character that the terminal's code page lacks is no reason to stop
    return stream


def whole_characters(text: str) -> str:
    """``text`` with U+FFFD for every lone surrogate, which no UTF-8 file can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def argument_text(text: str) -> str:
    """A word of the command line as its writer meant it: bytes that are no UTF-8 are decoded as a file's would be."""
    plain = sys.getfilesystemencoding() == "utf-8" and not any("\udc80" <= character <= "\udcff" for character in text)
    if text.isascii() or plain:
        return text
    return decode_text(os.fsencode(text)).text


def _without_mark(data: bytes) -> Decoded | None:
    """UTF-16 that lacks its mark: mostly ASCII, so that every second byte is zero."""
    if len(data) < 4 or len(data) % 2 or b"\0" not in data:
        return None
    for first, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        if data[first::2].count(0) * 2 > len(data) // 2 and 0 not in data[1 - first :: 2]:
            try:
                return Decoded(data.decode(encoding), encoding)
            except UnicodeDecodeError:
                return None
    return None


def _guessed(data: bytes) -> Decoded:
    best, certain = None, 0.0
    for encoding, everyday in _SCRIPTS.items():
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        score = _score(text, everyday)
        if score > certain:
            best, certain = Decoded(text, encoding), score
    if best is None or certain < _CERTAIN:
        raise TextError("it is not UTF-8, and its encoding cannot be told; save it as UTF-8")
    return best


def _score(text: str, everyday: Callable[[str], float]) -> float:
    """The share of everyday characters among those beyond ASCII, by the rule of the script."""
    if any(unicodedata.category(character) in ("Cc", "Co", "Cn") and character not in "\t\n\r\f\v" for character in text):
        return 0.0
    return everyday(text)


def _share(text: str, good: Callable[[str], bool]) -> float:
    beyond = [character for character in text if not character.isascii()]
    return sum(map(good, beyond)) / len(beyond) if beyond else 0.0


def _lead(character: str, encoding: str) -> int:
    """The first byte of ``character`` in a two-byte encoding; 0 where it is not of two bytes."""
    try:
        code = character.encode(encoding)
    except UnicodeEncodeError:
        return 0
    return code[0] if len(code) == 2 else 0


def _wide_mark(character: str) -> bool:
    return "\u3000" <= character <= "\u303f" or "\uff01" <= character <= "\uff5e" or character in "‘’“”—…·《》"


def _korean(text: str) -> float:
    # Hangul alone: the same bytes are hanzi in GB2312, where everyday texts also use characters of the later rows.
    hangul = [character for character in text if "\uac00" <= character <= "\ud7a3"]
    share = _share(text, lambda each: "\uac00" <= each <= "\ud7a3" or _wide_mark(each)) if len(hangul) >= 3 else 0.0
    return share + 0.15 if share >= _CERTAIN else share  # hanzi that are read into it are seldom of the commonest


def _chinese(text: str, encoding: str, low: int, high: int) -> float:
    # Bytes of one Chinese encoding are often everyday characters of the other: the commonest of all decide between them, and a
    # single character decides nothing.
    hanzi = [each for each in text if low <= _lead(each, encoding) <= high and each >= "\u4e00"]
    if len(hanzi) < 2:
        return 0.0
    share = _share(text, lambda each: low <= _lead(each, encoding) <= high or _wide_mark(each))
    return share + sum(each in _COMMON for each in hanzi) / len(hanzi) if share >= _CERTAIN else share


def _japanese(text: str, encoding: str, low: int, high: int) -> float:
    kana = _share(text, lambda each: "\u3041" <= each <= "\u30fe")
    common = _share(text, lambda each: "\u3041" <= each <= "\u30fe" or low <= _lead(each, encoding) <= high or _wide_mark(each))
    return common + kana if kana >= 0.15 and common >= _CERTAIN else 0.0


def _letters(text: str, good: Callable[[str], bool], low: float, high: float) -> float:
    """Letters of an alphabet beyond ASCII, which make up between ``low`` and ``high`` of all letters."""
    letters = [character for character in text if character.isalpha()]
    share = sum(not character.isascii() for character in letters) / max(1, len(letters))
    return _share(text, good) if low <= share <= high else 0.0


def _mixed_case(text: str) -> bool:
    """Whether capitals stand inside small words, a sign of bytes that mean something else."""
    words = [word for word in text.split() if not word.isascii()]
    odd = sum(any(a.islower() and b.isupper() and not b.isascii() for a, b in itertools.pairwise(word)) for word in words)
    return odd * 4 > len(words)


def _western(text: str) -> float:
    words = re.findall(r"[^\W\d_]+", text)
    foreign = any(len(word) > 2 and not any(map(str.isascii, word)) for word in words)  # a word of accents alone
    if foreign or _mixed_case(text) or re.search(r"[a-zà-ÿ][±¼¾¶¦¯¸¹£¥¢]|[±¶¦¯¸¹][a-zà-ÿ]", text):
        return 0.0
    return _letters(text, lambda each: each.isalpha() or each in "‘’“”„–—…€£¥§©®°±·×«»¿¡™•´²³½¼¾ºª", 0.0, 0.45)


def _icelandic(text: str) -> float:
    # Windows-1252 and -1254 differ in six letters: ð þ ý of Icelandic are ğ ş ı of Turkish. What stands beside them decides.
    lower = text.lower()
    if not any(each in "ðþý" for each in lower):
        return _western(text)
    words = re.findall(r"[^\W\d_]+", lower)
    icelandic = sum(each in "áéíóúæjx" for each in lower)
    icelandic += sum(bool(re.search("[rfg]ð|[eiuoö]ð$|^þ?að$", word)) for word in words)
    turkish = sum(each in "zcçü" for each in lower)
    turkish += sum(bool(re.search("^ý|..þ|ý.*ý|...ý$", word)) for word in words)
    return _western(text) if icelandic > turkish else 0.0


def _cyrillic(text: str) -> float:
    words = [word for word in re.findall(r"[^\W\d_]+", text) if not word.isascii()]
    letters = "".join(words).lower()
    if len(letters) < 3 or _mixed_case(text):
        return 0.0
    # Three letters of four in Russian are among these thirteen; read by the table of another encoding, fewer than half are.
    common = sum(each in "оеаинтсрвлкмд" for each in letters) / len(letters)
    good = _share(text, lambda each: "\u0410" <= each <= "\u044f" or each in "Ёё«»–—…„“”№ІіЇїЄєҐґ")
    return good * common + _CERTAIN if common >= 0.5 and good >= _CERTAIN else 0.0


# The commonest characters of captions, simplified and traditional.
_COMMON = frozenset(
    "的一是不了在人有我他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事其里所去行过家十用发天如然作方成者"
    "多日都三小军二无同么经法当起与好看学进种将还分此心前面又定见只主没公从知全动长两白黑红蓝绿黄色图片照写字文张只座站坐穿女男孩山水花树"
    "這為來個們說國時會後對著裡過發無麼經當與學進種將還見沒從動長兩紅藍綠黃圖寫張隻樹貓狗猫"
)

# In this order: of equal scores the first counts.
_SCRIPTS: dict[str, Callable[[str], float]] = {
    "euc-kr": _korean,
    "cp932": lambda text: _japanese(text, "cp932", 0x88, 0x97),
    "euc-jp": lambda text: _japanese(text, "euc-jp", 0xB0, 0xCF),
    "gb18030": lambda text: _chinese(text, "gb2312", 0xB0, 0xD7),
    "big5": lambda text: _chinese(text, "big5", 0xA4, 0xC6),
    "cp1251": _cyrillic,
    "koi8-r": lambda text: _cyrillic(text) if any(map(str.islower, text)) else 0.0,  # its capitals are Hebrew elsewhere
    "cp1252": _icelandic,
    "cp1254": _western,
}
