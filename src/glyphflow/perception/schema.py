"""Reading a model's reply as JSON: exactly one value, which fits a schema, or none at all."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from glyphflow.perception.chat import answer_of
from glyphflow.perception.lenient import lenient_value

MAX_REPLY = 200_000  # characters; looking for JSON in more takes time and finds nothing that was asked for
_OPENING = re.compile(r"[{\[]")
_NEAR = 8  # places at which a value that is nearly JSON may begin

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def parse_json(reply: str, schema: Mapping[str, Any]) -> Any:
    """The JSON value in ``reply`` that fits ``schema``; ValueError says what is wrong.

    Models wrap JSON into thoughts, code fences, sentences and lists of one; that is taken off. Nearly JSON is read as what it
    is meant to be (:mod:`glyphflow.perception.lenient`). A reply with two different values that fit is refused: which one is
    meant would be a guess. So is one of more than MAX_REPLY characters, unread.
    """
    if len(reply) > MAX_REPLY:
        raise ValueError(f"the reply has {len(reply)} characters, more than {MAX_REPLY}")
    reply = answer_of(reply)
    found = [value for value in _values(reply) if isinstance(value, dict | list)]
    told = "the reply holds no JSON"
    if not found:
        try:
            found = [json.loads(reply, strict=False)]
        except (ValueError, RecursionError):
            found = []
    fitting = _fitting(found, schema)
    if not fitting:
        near, why = _near(reply)
        fitting, told = _fitting(near, schema), why or told
        right = [[value for value in values if _right_type(value, schema)] for values in (found, near)]
        found = right[0] or right[1] or ([] if why else found)
    if len(fitting) == 1:
        return fitting[0]
    if len(fitting) > 1 or len(found) > 1:
        raise ValueError(f"the reply holds {max(len(fitting), len(found))} JSON values")
    if not found:
        raise ValueError(told)
    check(found[0], schema)
    return found[0]


def check(value: Any, schema: Mapping[str, Any], where: str = "the reply") -> None:
    """Raise ValueError unless ``value`` fits ``schema``.

    Understood are type, enum, minimum, maximum, properties, required, additionalProperties (false), items, minItems and
    maxItems; anything else in a schema is refused, because ignoring it would let replies pass.
    """
    unknown = set(schema) - set(_CHECKS) - {"type", "required", "description", "title"}
    if unknown:
        raise ValueError(f"the schema uses {', '.join(sorted(unknown))}, which is not understood here")
    kinds = schema.get("type")
    if kinds is not None:
        names = [kinds] if isinstance(kinds, str) else list(kinds)
        if not any(_is(value, name) for name in names):
            raise ValueError(f"{where} is {json.dumps(value, ensure_ascii=False)}, not {' or '.join(names)}")
    for name in schema.get("required", ()):
        if isinstance(value, dict) and name not in value:
            raise ValueError(f"{where} has no {name!r}")
    for name, rule in _CHECKS.items():
        if name in schema:
            rule(value, schema, where)


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool) and name != "boolean":
        return False  # Python counts True as an integer, JSON does not
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[name])


def _enum(value: Any, schema: Mapping[str, Any], where: str) -> None:
    if value not in schema["enum"]:
        raise ValueError(f"{where} is {json.dumps(value, ensure_ascii=False)}, not one of {schema['enum']}")


def _range(value: Any, schema: Mapping[str, Any], where: str) -> None:
    low, high = schema.get("minimum"), schema.get("maximum")
    outside = (low is not None and value < low) or (high is not None and value > high)
    if isinstance(value, int | float) and outside:
        raise ValueError(f"{where} is {value}, outside {low} to {high}")


def _properties(value: Any, schema: Mapping[str, Any], where: str) -> None:
    if isinstance(value, dict):
        for name, inner in schema["properties"].items():
            if name in value:
                check(value[name], inner, name)


def _additional(value: Any, schema: Mapping[str, Any], where: str) -> None:
    extra = sorted(set(value) - set(schema.get("properties", ()))) if isinstance(value, dict) else []
    if schema["additionalProperties"] is False and extra:
        raise ValueError(f"{where} has {', '.join(extra)}, which was not asked for")


def _items(value: Any, schema: Mapping[str, Any], where: str) -> None:
    if isinstance(value, list):
        for number, item in enumerate(value, 1):
            check(item, schema["items"], f"{where} item {number}")


def _length(value: Any, schema: Mapping[str, Any], where: str) -> None:
    low, high = schema.get("minItems", 0), schema.get("maxItems", float("inf"))
    if isinstance(value, list) and not low <= len(value) <= high:
        raise ValueError(f"{where} has {len(value)} items, not {low} to {high}")


_CHECKS = {
    "enum": _enum,
    "minimum": _range,
    "maximum": _range,
    "properties": _properties,
    "additionalProperties": _additional,
    "items": _items,
    "minItems": _length,
    "maxItems": _length,
}


def _fitting(values: list[Any], schema: Mapping[str, Any]) -> list[Any]:
    """The different values among ``values``, or within a list of one of them, that fit."""
    fitting: list[Any] = []
    for value in values:
        inner = value[0] if isinstance(value, list) and len(value) == 1 and not _right_type(value, schema) else value
        try:
            check(inner, schema)
        except ValueError:
            continue
        if inner not in fitting:
            fitting.append(inner)
    return fitting


def _right_type(value: Any, schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type", ())
    return not kinds or any(_is(value, name) for name in ([kinds] if isinstance(kinds, str) else kinds))


def _values(reply: str) -> list[Any]:
    """Every JSON object or array that stands in ``reply``, outermost ones only."""
    decoder, found, start = json.JSONDecoder(strict=False), [], 0  # not strict: a line break may stand in a string
    while (match := _OPENING.search(reply, start)) is not None:
        try:
            value, start = decoder.raw_decode(reply, match.start())
            found.append(value)
        except ValueError:
            start = match.end()
        except RecursionError:  # thousands of brackets; to try each of them again would take for ever
            break
    return found


def _near(reply: str) -> tuple[list[Any], str]:
    """The values in a reply that is nearly JSON, and why the first of them cannot be read."""
    found, why, start = [], "", 0
    for _ in range(_NEAR):
        match = _OPENING.search(reply, start)
        if match is None:
            break
        try:
            value, start = lenient_value(reply, match.start())
            found.append(value)
        except ValueError as error:
            start = match.end()
            why = why or (str(error) if match[0] == "{" else "")  # brackets stand in prose, too
    return found, why
