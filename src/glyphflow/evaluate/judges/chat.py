"""A vision-language model as a judge: it answers questions about pictures, or reads them out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from glyphflow.core.hashing import fingerprint
from glyphflow.core.text import split_lines
from glyphflow.evaluate.case import Case, Line, Verdict, failed
from glyphflow.perception.chat import Transport, answer_of
from glyphflow.perception.schema import parse_json

READ = (
    "Write down all text that you can read in this picture, exactly as it is written and in reading order, one line of text "
    "per line. Add nothing of your own. If there is no text, answer with the two characters [] only."
)
NOTHING = ("", "[]", "no text recognized", "no text recognized.")
_FENCE = re.compile(r"(?:`{3,}|~{3,})[\w+-]*")
# What a model sets around a whole line: **bold**, __bold__, *slanted*, `code`. A line with two such pairs is none of them.
_DRESS = re.compile(r"(?P<mark>\*{1,3}|__|`+)(?P<text>(?:(?!(?P=mark)).)+)(?P=mark)")


class ChatJudge:
    """Asks ``model`` behind ``transport``; ``workers`` questions are under way at a time.

    It takes cases of kind "chat", and unless ``read`` is False of kind "ocr": the reply's lines are the reading, and a request
    may bring its own ``prompt``. ``temperature`` 0 and one ``seed`` make replies as repeatable as the server allows. A reply
    that does not fit the case's schema is a "parse_error" and is not asked for again: to keep the good ones of several would
    raise the score.
    """

    batch = 1  # every reply is on disk as soon as it is there

    def __init__(
        self,
        model: str,
        transport: Transport,
        *,
        temperature: float = 0.0,
        seed: int | None = 0,
        max_tokens: int = 1024,
        workers: int = 8,
        read: bool = True,
    ) -> None:
        self._model, self._transport, self.workers = model, transport, workers
        self.kinds = frozenset({"chat", "ocr"} if read else {"chat"})
        self._temperature, self._seed, self._max_tokens = temperature, seed, max_tokens

    @property
    def identity(self) -> str:
        settings = f"temperature {self._temperature:g}, seed {self._seed}, max_tokens {self._max_tokens}, png"
        return f"chat/2 {self._model} at {self._transport.identity} ({settings})"

    def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(self._judge, cases))

    def request(self, case: Case) -> dict[str, Any]:
        """The body of the chat completion, pictures by their hashes."""
        asked = case.request
        images = [{"type": "image_url", "image_url": {"url": f"sha256:{name}"}} for name in case.pictures_sha256]
        text = {"type": "text", "text": asked.get("prompt", READ) if case.kind == "ocr" else asked["prompt"]}
        content = [text, *images] if asked.get("images", "before") == "after" else [*images, text]
        system = [{"role": "system", "content": asked["system"]}] if asked.get("system") else []
        body = {
            "model": self._model,
            "messages": [*system, {"role": "user", "content": content}],
            "temperature": self._temperature,
            "max_tokens": asked.get("max_tokens", self._max_tokens),
        }
        seed = None if self._seed is None else self._seed + int(asked.get("repeat", 0))
        return body if seed is None else body | {"seed": seed}

    def _judge(self, case: Case) -> Verdict:
        request = self.request(case)
        pictures = {f"sha256:{name}": image for name, image in zip(case.pictures_sha256, case.images, strict=True)}
        reply = self._transport.send(request, pictures)
        raw: dict[str, Any] = {"request_hash": fingerprint(request), "request": request, "attempts": list(reply.attempts)}
        if reply.status != "ok":
            return failed(self.identity, reply.status, reply.text, **raw)
        raw["reply"] = reply.text
        try:
            return Verdict("ok", _value(case, reply.text), raw, self.identity)
        except ValueError as error:
            return failed(self.identity, "parse_error", str(error), **raw)


def written(reply: str) -> list[str]:
    """The lines that a reply says are written in the picture: without code fences, and without the marks of bold or slanted
    type or of code around a whole line."""
    found = []
    for line in split_lines(reply):
        text = line.strip()
        if _FENCE.fullmatch(text):
            continue
        while (match := _DRESS.fullmatch(text)) is not None and match["text"].strip():
            text = match["text"].strip()
        found += [text] if text else []
    return found


def _value(case: Case, reply: str) -> Any:
    answer = answer_of(reply)  # recorded replies may hold a model's thoughts
    if reply.strip() and not answer.strip():
        raise ValueError("the reply holds a model's thoughts and no answer")
    reply = answer
    if case.kind == "ocr":
        return _lines(case, reply)
    schema = case.request.get("schema")
    return reply.strip() if schema is None else parse_json(reply, schema)


def _lines(case: Case, reply: str) -> list[Line]:
    """The reply's lines; a model of this kind says neither where they are nor how sure it is."""
    height, width = case.images[0].shape[:2]
    box = [[0.0, 0.0], [float(width), 0.0], [float(width), float(height)], [0.0, float(height)]]
    texts = [] if reply.strip().casefold() in NOTHING else written(reply)
    return [{"text": text, "box": box, "confidence": 1.0, "whole": True} for text in texts]
