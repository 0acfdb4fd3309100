"""What a model's reply says, apart from what it thought; endpoints themselves are tested with the judges and the annotator."""

import json

import pytest

from glyphflow.perception.chat import answer_of, read_completion


@pytest.mark.parametrize(
    "reply",
    [
        "OPFN",
        "<think>It should say OPEN, but the letters look different.</think>\nOPFN",
        "<think>\n\n</think>\n\nOPFN",
        "The sign might say OPEN.\n</think>\n\nOPFN",  # the template wrote the opening mark
        "<think>OPEN?</think><think>no</think>OPFN",
        "<think>in my head: </think> OPEN </think>OPFN",
        "<Thinking>OPEN</Thinking>OPFN",
        "<reasoning>OPEN</reasoning>\n<answer>OPFN</answer>",
        "<think>OPEN</think><answer>OPFN",
        "[THINK]OPEN[/THINK]OPFN",
        "◁think▷OPEN◁/think▷OPFN",
        "<seed:think>OPEN</seed:think>OPFN",
        "<|begin_of_thought|>OPEN<|end_of_thought|><|begin_of_solution|>OPFN<|end_of_solution|>",
        "<|channel|>analysis<|message|>OPEN<|end|><|start|>assistant<|channel|>final<|message|>OPFN<|return|>",
        "<think>OPEN</think>\n<|begin_of_box|>OPFN<|end_of_box|>",
        "```\nOPFN\n```",
        "```text\nOPFN\n```\n",
        "<think>```\nOPEN\n```</think>\n```plaintext\nOPFN\n```",
        "OPFN<|im_end|>",
        "OPFN\n<think>let me look again: OPEN",
    ],
)
def test_thoughts_fences_and_tags_are_no_part_of_an_answer(reply: str) -> None:
    assert answer_of(reply).strip() == "OPFN"
    assert read_completion(_completion(reply)).text.strip() == "OPFN"


@pytest.mark.parametrize(
    "reply",
    [
        "I think so [THINKING] of <tags>",
        "```a``` and ```b```",
        "```\na\n```\nbetween\n```\nb\n```",
        '{"a": "x"}\n',
        " Yes. ",
        "",
    ],
)
def test_an_answer_without_them_is_as_it_was(reply: str) -> None:
    assert answer_of(reply) == reply


def test_thoughts_without_an_answer_are_no_answer() -> None:
    for reply in ("<think>It should say OPEN", "<think>OPEN</think>", "<think>OPEN</think>\n```\n```"):
        assert not answer_of(reply).strip()
        assert read_completion(_completion(reply)) == read_completion(_completion(""))
    cut = read_completion(_completion("<think>It should say OPEN", finish_reason="length"))
    assert (cut.status, cut.text) == ("refused", "the reply ended at the limit of tokens, without an answer")


def test_parts_of_a_reply_that_hold_thoughts_are_left_out() -> None:
    said = [{"type": "thinking", "text": "OPEN"}, {"type": "reasoning", "text": "OPEN"}, {"type": "text", "text": "OPFN"}]
    assert read_completion(_completion(said)).text == "OPFN"
    assert read_completion(_completion([{"text": "OP"}, {"type": "output_text", "text": "FN"}])).text == "OPFN"
    aside = {"choices": [{"message": {"content": "OPFN", "reasoning_content": "OPEN", "reasoning": "OPEN"}}]}
    assert read_completion(json.dumps(aside)).text == "OPFN"


def test_half_a_character_becomes_the_sign_for_it() -> None:
    reply = read_completion('{"choices": [{"message": {"content": "cut \\ud83d, whole \\ud83d\\ude00"}}]}')
    assert reply.text == "cut \ufffd, whole \U0001f600"
    assert reply.text.encode("utf-8")


def _completion(content: object, finish_reason: str = "stop") -> str:
    return json.dumps({"choices": [{"message": {"content": content}, "finish_reason": finish_reason}]})
