"""Replies that every reader understands are read; what is cut off or ambiguous is not. Judges' cases are in tests/evaluate."""

import json
from typing import Any

import pytest

from glyphflow.perception.lenient import lenient_value
from glyphflow.perception.schema import parse_json

SAID = {"Caption": "A blur of soft colours on a wall.", "List": [], "Yes": "no"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["Caption", "List", "Yes"],
    "properties": {"Caption": {"type": "string"}, "List": {"type": "array"}, "Yes": {"type": "string"}},
}
GOOD = json.dumps(SAID)


@pytest.mark.parametrize(
    ("reply", "caption"),
    [
        (GOOD[:-1] + ",}", None),
        (GOOD.replace("[]", '["a", "b",]'), None),
        (GOOD + "\n" + GOOD, None),
        (f"[{GOOD}]", None),
        (f"Here you are:\n```json\n{GOOD}\n```\nAnything else?", None),
        ('<think>Draft: {"Caption": "a draft"} is too short.</think>\n' + GOOD, None),
        ('Draft: {"Caption": "a draft"}. Better:\n' + GOOD, None),
        (GOOD.replace(", ", "\n"), None),  # commas that are missing
        (GOOD.replace("soft colours", "soft\ncolours\t"), "A blur of soft\ncolours\t on a wall."),
        (GOOD.replace("soft", 'so-called "soft"'), 'A blur of so-called "soft" colours on a wall.'),
        (GOOD.replace("A blur", '"OPEN", "DAILY": a blur'), '"OPEN", "DAILY": a blur of soft colours on a wall.'),
        (GOOD.replace("wall.", 'wall, "SALE"'), 'A blur of soft colours on a wall, "SALE"'),
        (GOOD.replace("wall", 'wall \\"A\\" "B"'), 'A blur of soft colours on a wall "A" "B".'),
        (GOOD.replace("wall", "\\u4e00 wall\\n\\q"), "A blur of soft colours on a 一 wall\nq."),
        (GOOD.replace('"', "'"), None),
        (str(SAID).replace("wall", 'wall that isn\'t "white"'), 'A blur of soft colours on a wall that isn\'t "white".'),
        ("{“Caption”：“A blur of soft colours on a wall.”，“List”：[]，“Yes”：“no”}", None),
        ("{Caption: " + GOOD[len('{"Caption": ') :], None),
        (GOOD.replace("{", "{ // what is seen\n"), None),
    ],
)
def test_what_every_reader_understands_is_read(reply: str, caption: str | None) -> None:
    found = parse_json(reply, SCHEMA)
    assert found["Caption"] == (caption or SAID["Caption"]) and found["Yes"] == "no"


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (GOOD[:40], "not complete|cannot be read"),
        (GOOD[:-2], "not complete|cannot be read"),
        (GOOD + GOOD.replace("soft", "hard"), "2 JSON values"),
        (GOOD.replace('"Yes"', '"No"'), "no 'Yes'"),
        ("[]", r"is \[\], not object"),
        ("words only", "no JSON"),
        ('{"Caption": {{{', "not complete|cannot be read"),
        ("{" * 10_000, "cannot be read|not complete|no JSON"),
        ("[" * 10_000, "cannot be read|not complete|no JSON"),
        ('{"a": ' * 300, "cannot be read|not complete|no JSON"),
    ],
)
def test_what_is_cut_or_ambiguous_is_refused_with_its_reason(reply: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(reply, SCHEMA)


def test_a_broken_object_is_not_mistaken_for_the_list_in_it() -> None:
    broken = GOOD.replace('"Caption": "', '"Caption" "')
    with pytest.raises(ValueError, match="no 'Caption'"):
        parse_json(broken, SCHEMA)


def test_python_s_constants_and_numbers() -> None:
    text = "{'a': True, 'b': None, 'c': false, 'd': -1.5e3, 'e': [1, 2,], 'f': {'g': \"x\"}} and more"
    assert lenient_value(text, 0)[0] == {"a": True, "b": None, "c": False, "d": -1500.0, "e": [1, 2], "f": {"g": "x"}}
