"""How a question reaches a model and a reply comes back: an OpenAI-compatible endpoint, or recorded replies.

A request is the JSON body of a chat completion in which every picture stands as ``sha256:<hash of its pixels>``. That form is
hashed and kept; the endpoint sets the picture itself in its place on the wire. Keys travel in a header and are kept nowhere.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.hashing import fingerprint

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
LONGEST_PAUSE_S = 60.0
KEPT = 4000  # characters of an answer that is no reply, kept for audit


@dataclass(frozen=True)
class Reply:
    """What came back. ``text`` is the reply when ``status`` is "ok", else the reason; ``attempts`` is the audit."""

    status: Literal["ok", "refused", "timeout", "error"]
    text: str
    attempts: tuple[dict[str, Any], ...] = field(default=())


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
    """An OpenAI-compatible chat endpoint.

    ``url`` is its base ("http://localhost:8000/v1") or the full path of its chat completions. Busy or broken answers (429, 5xx,
    connection errors, time-outs of ``timeout_s`` seconds) are tried ``attempts`` times in all with pauses that double from
    ``pause_s``, at random up to that, or as long as the server asks. A wrong key or address stops the run
    (:class:`ConfigError`): no later answer would be any better.
    """

    def __init__(
        self, url: str, key: str | None = None, *, timeout_s: float = 120.0, attempts: int = 4, pause_s: float = 1.0
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{url!r} is not the address of an endpoint; give one such as http://localhost:8000/v1.")
        self._url = url if parts.path.endswith("/chat/completions") else url.rstrip("/") + "/chat/completions"
        self._key, self._timeout_s, self._attempts, self._pause_s = key, timeout_s, attempts, pause_s
        self.identity = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"

    def send(self, request: Mapping[str, Any], pictures: Mapping[str, NDArray[np.uint8]]) -> Reply:
        """Ask until there is an answer or the attempts are used up."""
        body = json.dumps(_with_pictures(request, pictures)).encode()
        log: list[dict[str, Any]] = []
        reply = Reply("error", "no attempt was made")
        for attempt in range(self._attempts):
            start, at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
            reply, pause = self._once(body)
            log.append({"at": at, "seconds": round(time.monotonic() - start, 3), "status": reply.status, **_outcome(reply)})
            if pause is None or attempt + 1 == self._attempts:
                break
            time.sleep(min(LONGEST_PAUSE_S, max(pause, self._pause_s * 2**attempt * random.uniform(0.5, 1.0))))
        return Reply(reply.status, reply.text, tuple(log))

    def _once(self, body: bytes) -> tuple[Reply, float | None]:
        """One attempt, and the least pause in seconds before another may help (None: it would not)."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        try:
            with urllib.request.urlopen(
                urllib.request.Request(self._url, body, headers, method="POST"), timeout=self._timeout_s
            ) as answer:
                return read_completion(self._clean(answer.read())), None
        except urllib.error.HTTPError as error:
            return self._refusal(error)
        except TimeoutError:
            return Reply("timeout", f"no answer within {self._timeout_s:g} s"), 0.0
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            if isinstance(getattr(error, "reason", None), TimeoutError):
                return Reply("timeout", f"no answer within {self._timeout_s:g} s"), 0.0
            return Reply("error", self._clean(str(error).encode())), 0.0

    def _refusal(self, error: urllib.error.HTTPError) -> tuple[Reply, float | None]:
        try:
            text = self._clean(error.read())[:KEPT]
        except OSError:
            text = ""
        reason = f"HTTP {error.code}: {text}"
        if error.code in (401, 403, 404) and not _is_filter(text):
            told = {401: "refuses the key", 403: "forbids the request", 404: "knows no such path or model"}[error.code]
            raise ConfigError(
                f"The judge at {self.identity} {told} (HTTP {error.code}); check the address, key and model name."
            )
        if error.code in RETRIED:
            wait = error.headers.get("Retry-After", "")
            return Reply("timeout" if error.code in (408, 504) else "error", reason), float(wait) if wait.isdigit() else 0.0
        return Reply("refused" if _is_filter(text) else "error", reason), None

    def _clean(self, data: bytes) -> str:
        """The answer as text, without the key should the server repeat it."""
        text = data.decode("utf-8", errors="replace")
        return text.replace(self._key, "***") if self._key else text


class Replay:
    """Recorded replies: JSON lines with ``request_hash`` and ``reply``, such as the verdicts.jsonl of a scored folder."""

    def __init__(self, path: Path) -> None:
        self._replies: dict[str, str] = {}
        self.identity = "recorded replies"
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
                row = row.get("raw", row)
                self._replies[row["request_hash"]] = str(row["reply"])
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # blank, a failure, or another judge's verdict
        if not self._replies:
            raise InputError(f"{path} holds no recorded reply; every line needs request_hash and reply.")

    def send(self, request: Mapping[str, Any], pictures: Mapping[str, NDArray[np.uint8]]) -> Reply:
        """The reply recorded for ``request``."""
        found = self._replies.get(fingerprint(request))
        return (
            Reply("error", f"no reply is recorded for request {fingerprint(request)}") if found is None else Reply("ok", found)
        )


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
    """The picture as a PNG data URL: lossless, so that the judge sees what was made."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _with_pictures(value: Any, pictures: Mapping[str, NDArray[np.uint8]]) -> Any:
    if isinstance(value, Mapping):
        return {name: _with_pictures(inner, pictures) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_with_pictures(inner, pictures) for inner in value]
    return data_url(pictures[value]) if isinstance(value, str) and value in pictures else value


def _outcome(reply: Reply) -> dict[str, str]:
    return {} if reply.status == "ok" else {"reason": reply.text[:KEPT]}


def _is_filter(text: str) -> bool:
    plain = text.casefold()
    return any(
        mark in plain for mark in ("content_filter", "content_policy", "content policy", "safety", "jailbreak", "moderation")
    )
