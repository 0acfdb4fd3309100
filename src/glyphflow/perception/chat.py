"""How a question reaches a model and a reply comes back: the chat completions of an OpenAI-compatible endpoint.

A request is the JSON body of a chat completion in which every picture stands as ``sha256:<hash of its pixels>``. That form is
hashed and kept; the endpoint sets the picture itself in its place on the wire. Keys travel in a header and are kept nowhere.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glyphflow.perception.server import KEPT, Reply, Server


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
        self._url = server.url if server.url.endswith("/chat/completions") else server.url + "/chat/completions"
        self.identity = server.identity

    def send(self, request: Mapping[str, Any], pictures: Mapping[str, NDArray[np.uint8]]) -> Reply:
        """Ask until there is an answer or the attempts are used up."""
        body = json.dumps(_with_pictures(request, {name: self._picture_url(each) for name, each in pictures.items()})).encode()
        return self._server.post(self._url, body, "application/json", read_completion)


def read_completion(text: str) -> Reply:
    """The reply in the JSON of a chat completion; an empty one, or one that a filter stopped, is a refusal."""
    try:
        choice = json.loads(text)["choices"][0]
        message = choice["message"]
        content, refusal, stopped = message.get("content"), message.get("refusal"), choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return Reply("error", f"the answer is no chat completion: {text[:KEPT]}")
    if isinstance(content, list):  # some servers answer in parts
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if refusal or stopped == "content_filter":
        return Reply("refused", str(refusal or content or "stopped by the content filter"))
    if not isinstance(content, str) or not content.strip():
        return Reply("refused", "the reply is empty")
    return Reply("ok", content)


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
