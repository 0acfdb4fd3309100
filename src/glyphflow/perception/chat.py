"""How a question reaches a model and a reply comes back: the chat completions of an OpenAI-compatible endpoint.

A request is the JSON body of a chat completion in which every picture stands as ``sha256:<hash of its pixels>``. That form is
hashed and kept; the endpoint sets the picture itself in its place on the wire. Keys travel in a header and are kept nowhere.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glyphflow.core.text import whole_characters
from glyphflow.perception.server import KEPT, Reply, Server

# The marks between which models think, of one family a line. A chat template may write the opening one itself; the reply then
# begins without it.
_TAG = "(?i:think|thinking|thoughts?|reasoning|reflection|seed:think)"
_THOUGHTS = (
    (f"<{_TAG}>", f"</{_TAG}>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    (r"<\|channel\|>analysis<\|message\|>", r"<\|channel\|>final(?: \S+)?<\|message\|>"),
)
_BEGIN = re.compile("|".join(begin for begin, _ in _THOUGHTS))
_END = re.compile("|".join(end for _, end in _THOUGHTS))
# What may stand around the whole answer: the end mark of a template, tags, the box of GLM, a code fence.
_AROUND = (
    re.compile(r"(.*?)\s*(?:<\|(?:return|end|im_end|eot_id|endoftext)\|>|</s>)", re.DOTALL),
    re.compile(r"<answer>(.*?)(?:</answer>)?", re.DOTALL | re.IGNORECASE),
    re.compile(r"<\|begin_of_(?:box|solution)\|>(.*?)(?:<\|end_of_(?:box|solution)\|>)?", re.DOTALL),
    re.compile(r"```[^\n`]*\n((?:(?!```).)*?)\n?[ \t]*```", re.DOTALL),
)
EMPTY = "the reply is empty"
# Fields of a request that servers lack, and the words with which they say so; without max_tokens, max_completion_tokens stands.
OPTIONAL = {
    "response_format": re.compile(r"response.?format|json.?schema|structured|grammar|guided", re.IGNORECASE),
    "seed": re.compile(r"\bseed\b", re.IGNORECASE),
    "temperature": re.compile(r"\btemperature\b", re.IGNORECASE),
    "max_tokens": re.compile(r"\bmax_completion_tokens\b", re.IGNORECASE),
}
_LACKS = re.compile(
    r"support|unknown|unrecogni[sz]ed|permitted|unexpected|invalid|forbidden|available|allowed|extra|must|fail|implemented",
    re.IGNORECASE,
)
_ABOUT_PICTURE = re.compile(r"image|picture|pixel|large|long|small|size|token|context|length|decode|url", re.IGNORECASE)


class Transport(Protocol):
    """Anything that answers requests; called from several threads at once."""

    @property
    def identity(self) -> str:
        """Where the model is, and no secret."""
        ...

    def send(self, request: Mapping[str, Any], pictures: Mapping[str, NDArray[np.uint8]]) -> Reply:
        """The reply to ``request``; ``pictures`` are the pixels behind its ``sha256:…`` names."""
        ...


class Endpoint:
    """The chat completions of an OpenAI-compatible ``server``, whose address is the base ("…/v1") or their full path."""

    def __init__(self, server: Server, picture_url: Callable[[NDArray[np.uint8]], str] | None = None) -> None:
        """``picture_url`` puts a picture on the wire (default: :func:`data_url`)."""
        self._server, self._picture_url = server, picture_url or data_url
        self._url = server.at("chat/completions")
        self._lacking: frozenset[str] = frozenset()  # fields that the server takes no requests with
        self._taken: frozenset[str] = frozenset()  # and those that it took
        self.identity = server.identity

    def send(self, request: Mapping[str, Any], pictures: Mapping[str, NDArray[np.uint8]]) -> Reply:
        """Ask until there is an answer or the attempts are used up.

        A field that not every server has (a schema for the reply, a seed) is left out where the server rejects it; when that
        helps, also in what follows.
        """
        whole = _with_pictures(request, {name: self._picture_url(each) for name, each in pictures.items()})
        without = self._lacking
        attempts: list[dict[str, Any]] = []
        while True:
            body = _fields(whole, without)
            reply = self._server.post(self._url, json.dumps(body).encode(), "application/json", read_completion)
            attempts += reply.attempts
            if not reply.code:
                self._lacking |= without
                self._taken |= {name for name in OPTIONAL if name in body}
            fault = _rejected_field(reply, [name for name in OPTIONAL if name in whole and name not in without], self._taken)
            if fault is None:
                return replace(reply, attempts=tuple(attempts))
            without |= {fault}


def _fields(request: Mapping[str, Any], without: Set[str]) -> dict[str, Any]:
    """The request without those fields."""
    body = {name: value for name, value in request.items() if name not in without}
    return body | {"max_completion_tokens": request["max_tokens"]} if "max_tokens" in without else body


def _rejected_field(reply: Reply, sent: Sequence[str], taken: Set[str]) -> str | None:
    """The one of the fields ``sent`` that a rejection is about; where it says nothing, a schema that was never ``taken``."""
    if reply.code not in (400, 422, 500, 501) or reply.status == "refused":
        return None
    for name in sent:
        if OPTIONAL[name].search(reply.text) and _LACKS.search(reply.text):
            return name
    silent = reply.code != 500 and not _ABOUT_PICTURE.search(reply.text.partition(":")[2])
    return "response_format" if silent and "response_format" in sent and "response_format" not in taken else None


def read_completion(text: str) -> Reply:
    """The reply in the JSON of a chat completion; an empty one, or one that a filter stopped, is a refusal."""
    try:
        choice = json.loads(text)["choices"][0]
        message = choice["message"]
        content, refusal, stopped = message.get("content"), message.get("refusal"), choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return Reply("error", f"the answer is no chat completion: {text[:KEPT]}")
    if isinstance(content, list):  # some servers answer in parts
        content = "".join(str(part.get("text") or "") for part in content if _is_said(part))
    if refusal or stopped == "content_filter":
        return Reply("refused", whole_characters(str(refusal or content or "stopped by the content filter")))
    answer = answer_of(content) if isinstance(content, str) else ""
    if not answer.strip():
        return Reply("refused", "the reply ended at the limit of tokens, without an answer" if stopped == "length" else EMPTY)
    return Reply("ok", answer)


def answer_of(reply: str) -> str:
    """What a model answered: ``reply`` without its thoughts, and without a code fence or tags around the whole.

    Thoughts end at the last of their closing marks. Those that were cut off before it, at the limit of tokens, hold no answer.
    A half of a character (a lone surrogate) becomes U+FFFD, as no file can hold it.
    """
    text = whole_characters(reply)
    ends = list(_END.finditer(text))
    text = text[ends[-1].end() :] if ends else text
    begin = _BEGIN.search(text)
    text = text[: begin.start()] if begin else text
    for around in _AROUND:
        found = around.fullmatch(text.strip())
        text = found[1] if found else text
    return text


def _is_said(part: Any) -> bool:
    """Whether a part of a reply is for the reader; others hold thoughts."""
    return isinstance(part, dict) and part.get("type", "text") in ("text", "output_text")


def data_url(picture: NDArray[np.uint8]) -> str:
    """The picture as a PNG data URL: lossless, so that the model sees what is there."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def jpeg_url(picture: NDArray[np.uint8]) -> str:
    """The picture as a JPEG data URL of quality 95 with full colour: a tenth of a PNG's time and size, and text stays sharp."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=95, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _with_pictures(value: Any, pictures: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {name: _with_pictures(inner, pictures) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_with_pictures(inner, pictures) for inner in value]
    return pictures[value] if isinstance(value, str) and value in pictures else value
