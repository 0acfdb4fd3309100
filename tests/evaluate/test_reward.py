"""Reading as a reward: partial credit, no free text, masks, and failures that are no numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from glyphflow.core.errors import InputError
from glyphflow.evaluate import Case, FunctionJudge, OCRJudge
from glyphflow.evaluate.metrics import levenshtein
from glyphflow.evaluate.reward import TextReward, best_match, unreadable

BLANK = np.zeros((4, 4, 3), np.uint8)


def reads(*lines: str) -> FunctionJudge:
    return FunctionJudge(lambda case: [{"text": text} for text in lines], "fixed", ["ocr"])


def reward(targets: list[str], lines: list[str], **settings: object) -> float | None:
    return TextReward(reads(), **settings).of_reading(targets, lines)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("targets", "lines", "value"),
    [
        (["HELLO"], ["hello"], 1.0),
        (["HELLO"], [], 0.0),
        (["HELLO"], ["HEXLO"], 0.8),
        (["HELLO"], ["HEL"], 0.6),
        (["HELLO", "world"], ["HELLO"], 0.5),  # every target counts
        (["HELLO", "world"], ["world", "HELLO"], 1.0),  # wherever it stands
        (["New York"], ["New", "York"], 1.0),  # a target may take two lines
        (["HELLO"], ["HELLO HELLO"], 0.5),  # saying it twice does not pay
        (["HELLO"], ["HELLO and ten"], 1 - 0.5 * 6 / 5),
        (["GO", "GO"], ["GO"], 0.5),  # one reading serves one target
        (["GO", "GO"], ["GO", "GO"], 1.0),
        (["ab"], ["xyz"], 0.0),
        (["飞机"], ["飞几"], 0.5),
    ],
)
def test_rewards_by_hand(targets: list[str], lines: list[str], value: float) -> None:
    assert reward(targets, lines) == pytest.approx(max(0.0, value))


def test_what_the_judge_cannot_read_is_out_of_the_question() -> None:
    masked = {"unreadable": "齉"}
    for read in ("鼻齉子", "鼻龘子", "鼻子"):
        assert reward(["鼻齉子"], [read], **masked) == 1.0
    assert reward(["鼻齉子"], ["鼻"], **masked) == 0.5
    assert reward(["齉"], ["anything"], **masked) is None
    assert reward(["齉", "子"], ["子"], **masked) == 1.0
    assert reward(["鼻齉子"], ["鼻龘子"]) == pytest.approx(2 / 3)


def test_nothing_asked_for_is_no_division_by_zero() -> None:
    assert reward([], ["x"]) is None and reward([" "], ["x"]) is None


def test_failures_have_no_reward_and_are_counted() -> None:
    def read(case: Case) -> list[dict[str, str]]:
        if case.images[0].any():
            raise TimeoutError("busy")
        return [{"text": "GO"}]

    rewards = TextReward(FunctionJudge(read, "j", ["ocr"]), "齉")([BLANK, BLANK + 1, BLANK], [["GO"], ["GO"], ["齉"]])
    assert rewards.values == (1.0, None, None) and rewards.failed == 2
    assert "busy" in rewards.reasons[1] and "nothing that the judge can read" in rewards.reasons[2]
    with pytest.raises(InputError, match="1 pictures and 0 lists"):
        TextReward(reads())([BLANK], [])
    with pytest.raises(InputError, match="does not read"):
        TextReward(FunctionJudge(lambda case: 1, "j", ["chat"]))


words = st.text("abc字", max_size=6)


@given(words.filter(bool), words)
def test_the_best_piece_is_the_best_of_all_pieces(target: str, text: str) -> None:
    edits, start, end = best_match(target, text)
    pieces = [text[i:j] for i in range(len(text) + 1) for j in range(i, len(text) + 1)]
    assert edits == min(levenshtein(target, piece) for piece in pieces) == levenshtein(target, text[start:end])


@given(st.lists(words.filter(bool), min_size=1, max_size=3), st.lists(words, max_size=3), words.filter(bool))
def test_rewards_are_bounded_and_extra_text_never_helps_the_perfect(targets: list[str], lines: list[str], extra: str) -> None:
    value = reward(targets, lines)
    assert value is not None and 0 <= value <= 1
    assert reward(targets, targets) == 1.0
    more = reward(targets, [*targets, extra])
    assert more is not None and more < 1.0


def test_better_pictures_earn_more() -> None:
    """The engine itself reads typeset words that are covered more and more."""
    pytest.importorskip("rapidocr")
    from glyphflow.perception import OCR

    image = Image.new("RGB", (256, 96), (250, 250, 250))
    ImageDraw.Draw(image).text((128, 48), "PICTURE", font=ImageFont.load_default(44), fill=(0, 0, 0), anchor="mm")
    pictures = []
    for covered in (0, 100, 150, 256):
        spoiled = np.asarray(image).copy()
        spoiled[:, :covered] = 250
        pictures.append(spoiled)
    judge = OCRJudge(OCR(fast=True, threads=1))
    values = TextReward(judge)(pictures, [["PICTURE"]] * 4).values
    assert values[0] == 1.0 and values[-1] == 0.0 and list(values) == sorted(values, reverse=True) and len(set(values)) == 4

    def typeset(char: str) -> np.ndarray:
        return np.asarray(image) if char == "PICTURE" else np.full((64, 64, 3), 250, np.uint8)

    assert unreadable(judge, ["PICTURE", "Q"], [typeset]) == {"Q"}


def test_a_judge_without_an_answer_says_nothing_of_a_character() -> None:
    def busy(case: Case) -> object:
        raise TimeoutError("busy")

    with pytest.raises(InputError, match="no answer for 'Q'"):
        unreadable(FunctionJudge(busy, "j", ["ocr"]), ["Q"], [lambda char: BLANK])
