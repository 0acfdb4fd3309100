"""The nano tokenizer: a byte-level BPE of the Qwen2 kind that spells quoted text.

It differs from the released vocabulary in three ways that matter to a small model that has to write:

* each of the 8,105 characters of the Table of General Standard Chinese Characters is one token;
* no merge crosses a character inside quotation marks (pre-tokenisation isolates each of them), so every letter that must be
  drawn is seen by the model as a token of its own;
* outside quotation marks, merges are learned from captions, so that descriptions stay short.

Special tokens and their roles are the released ones, so the same prompt template works with both.
"""

from __future__ import annotations

import collections
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from glyphflow.core.files import atomic_path, write_json
from glyphflow.render.schedule import standard_characters

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# One character that stands inside a pair of quotation marks. Straight double quotes pair up by counting those that follow;
# a straight single quote between two letters is an apostrophe, and one not followed by a letter closes.
_QUOTED = "|".join(
    (
        r"""[^"](?=[^"]*"(?:[^"]*"[^"]*")*[^"]*$)""",
        r"""[^“”](?=[^“”]*”)""",
        r"""[^「」](?=[^「」]*」)""",
        r"""[^'](?=(?:[^']|(?<=[A-Za-z])'(?=[A-Za-z]))*(?<!\s)'(?![A-Za-z]))""",
    )
)
PUNCTUATION = "“”‘’「」《》（）【】，。、！？：；…—·￥"
_WORDS = r"""[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""


def byte_symbols() -> dict[int, str]:
    """The printable stand-in of each byte that byte-level BPE vocabularies use (space is ``Ġ``)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(rest)}


def build_tokenizer(captions: Iterable[str], merges: int = 1500) -> Tokenizer:
    """Build the tokenizer; ``captions`` teach at most ``merges`` merges outside quotation marks.

    The result depends on the captions' content and not on their order.
    """
    symbols = byte_symbols()
    spelled = {
        character: [symbols[byte] for byte in character.encode("utf-8")] for character in (*standard_characters(), *PUNCTUATION)
    }
    pairs: list[tuple[str, str]] = []
    for length in (1, 2, 3):  # a character has three or four bytes; shorter prefixes are merged first
        pairs += dict.fromkeys(("".join(s[:length]), s[length]) for s in spelled.values() if len(s) > length)
    tokenizer = _assemble(pairs, symbols)
    pairs += _learn(tokenizer, captions, merges)
    return _assemble(pairs, symbols)


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write ``directory`` so that ``transformers.AutoTokenizer`` opens it."""
    with atomic_path(directory) as temporary:
        temporary.mkdir()
        tokenizer.save(str(temporary / "tokenizer.json"))
        write_json(
            temporary / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "pad_token": "<|endoftext|>",
                "eos_token": "<|im_end|>",
                "model_max_length": 32768,
                "clean_up_tokenization_spaces": False,
            },
        )


def _assemble(pairs: Sequence[tuple[str, str]], symbols: dict[int, str]) -> Tokenizer:
    vocabulary = {symbol: n for n, symbol in enumerate(symbols[byte] for byte in range(256))}
    for left, right in pairs:
        vocabulary.setdefault(left + right, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(pairs)))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QUOTED), "isolated"),
            pre_tokenizers.Split(Regex('["“”「」]'), "isolated"),
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def _learn(tokenizer: Tokenizer, captions: Iterable[str], merges: int) -> list[tuple[str, str]]:
    """Plain BPE over the pieces that pre-tokenisation leaves; ties go to the alphabetically first pair."""
    counts: collections.Counter[str] = collections.Counter()
    for caption in sorted(captions):
        normal = tokenizer.normalizer.normalize_str(caption)
        counts.update(piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal))
    words = [[token.value for token in tokenizer.model.tokenize(piece)] for piece in counts]
    often = list(counts.values())
    frequency: collections.Counter[tuple[str, str]] = collections.Counter()
    places: dict[tuple[str, str], set[int]] = collections.defaultdict(set)

    def count(number: int, sign: int) -> None:
        for pair in itertools.pairwise(words[number]):
            if not _too_long(pair):
                frequency[pair] += sign * often[number]
                places[pair].add(number)

    for number in range(len(words)):
        count(number, 1)
    learned: list[tuple[str, str]] = []
    while len(learned) < merges:
        top = max(frequency.values(), default=0)
        if top < 3:
            break
        best = min(pair for pair, found in frequency.items() if found == top)
        learned.append(best)
        for number in places.pop(best):
            count(number, -1)
            words[number] = _merge(words[number], best)
            count(number, 1)
    return learned


def _too_long(pair: tuple[str, str]) -> bool:
    """Chinese has no spaces that would end a merge; beyond three characters a token would be a rare sentence."""
    text = "".join(pair)
    return len(text) > 9 and any(ord(symbol) > 0x7F and symbol != "Ġ" for symbol in text)


def _merge(word: Sequence[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    n = 0
    while n < len(word):
        if n + 1 < len(word) and (word[n], word[n + 1]) == pair:
            merged.append(word[n] + word[n + 1])
            n += 2
        else:
            merged.append(word[n])
            n += 1
    return merged


def vocabulary_texts(tokenizer: Tokenizer) -> dict[int, str]:
    """The text of each token that stands for whole characters (byte fragments and special tokens are left out)."""
    back = {symbol: byte for byte, symbol in byte_symbols().items()}
    texts: dict[int, str] = {}
    for token, index in json.loads(tokenizer.to_str())["model"]["vocab"].items():
        try:
            texts[index] = bytes(back[symbol] for symbol in token).decode("utf-8")
        except UnicodeDecodeError:
            continue
    return texts
