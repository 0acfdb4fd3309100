"""Asking a server until there is an answer: retries with back-off, failures as statuses, no secret in any record."""

from __future__ import annotations

import http.client
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from glyphflow.core.errors import ConfigError, InputError

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
LONGEST_PAUSE_S = 60.0
MAX_ANSWER = 64 << 20  # bytes: a picture of 4096 x 4096 as PNG in base64 and some room
KEPT = 4000  # characters of an answer that is no reply, kept for audit


@dataclass(frozen=True)
class Reply:
    """What came back. ``text`` is the reply when ``status`` is "ok", else the reason; ``attempts`` is the audit."""

    status: Literal["ok", "refused", "timeout", "error"]
    text: str
    attempts: tuple[dict[str, Any], ...] = ()


class Server:
    """A server that takes POST requests under the address ``url``, with a ``key`` in the Authorization header where it has one.

    Busy or broken answers (429, 5xx, connection errors, time-outs of ``timeout_s`` seconds) are tried ``attempts`` times in all
    with pauses that double from ``pause_s``, at random up to that, or as long as the server asks. A wrong key or address stops
    the run (:class:`ConfigError`): no later answer would be any better.
    """

    def __init__(
        self, url: str, key: str | None = None, *, timeout_s: float = 120.0, attempts: int = 4, pause_s: float = 1.0
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{url!r} is not the address of a server; give one such as http://localhost:8000/v1.")
        self.url, self._key = url.rstrip("/"), key
        self._timeout_s, self._attempts, self._pause_s = timeout_s, attempts, pause_s
        self.identity = f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
        """The address without user, password and query, which may be secrets."""

    def post(self, url: str, body: bytes, content_type: str, read: Callable[[str], Reply]) -> Reply:
        """The reply that ``read`` finds in the server's answer, or why there is none."""
        log: list[dict[str, Any]] = []
        reply = Reply("error", "no attempt was made")
        for attempt in range(self._attempts):
            start, at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
            reply, pause = self._once(url, body, content_type, read)
            reason = {} if reply.status == "ok" else {"reason": reply.text[:KEPT]}
            log.append({"at": at, "seconds": round(time.monotonic() - start, 3), "status": reply.status, **reason})
            if pause is None or attempt + 1 == self._attempts:
                break
            time.sleep(min(LONGEST_PAUSE_S, max(pause, self._pause_s * 2**attempt * random.uniform(0.5, 1.0))))
        return replace(reply, attempts=tuple(log))

    def _once(self, url: str, body: bytes, content_type: str, read: Callable[[str], Reply]) -> tuple[Reply, float | None]:
        """One attempt, and the least pause in seconds before another may help (None: it would not)."""
        headers = {"Content-Type": content_type} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        late = Reply("timeout", f"no answer within {self._timeout_s:g} s")
        try:
            request = urllib.request.Request(url, body, headers, method="POST")
            end = time.monotonic() + self._timeout_s
            with urllib.request.urlopen(request, timeout=self._timeout_s) as answer:
                data = _read(answer, end)
            if len(data) > MAX_ANSWER:
                return Reply("error", f"the answer has more than {MAX_ANSWER} bytes"), None
            return read(self._clean(data)), None
        except urllib.error.HTTPError as error:
            return self._rejection(error)
        except TimeoutError:
            return late, 0.0
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            if isinstance(getattr(error, "reason", None), TimeoutError):
                return late, 0.0
            return Reply("error", self._clean(f"{type(error).__name__}: {error}".encode())), 0.0

    def _rejection(self, error: urllib.error.HTTPError) -> tuple[Reply, float | None]:
        try:
            text = self._clean(error.read(4 * KEPT))[:KEPT]
        except OSError:
            text = ""
        reason = f"HTTP {error.code}: {text}"
        if error.code in (401, 403, 404) and not _is_filter(text):
            told = {401: "refuses the key", 403: "forbids the request", 404: "knows no such path or model"}[error.code]
            raise ConfigError(
                f"The server at {self.identity} {told} (HTTP {error.code}); check the address, the key and the model's name."
            )
        if error.code in RETRIED:
            wait = error.headers.get("Retry-After", "")
            return Reply("timeout" if error.code in (408, 504) else "error", reason), float(wait) if wait.isdigit() else 0.0
        return Reply("refused" if _is_filter(text) else "error", reason), None

    def _clean(self, data: bytes) -> str:
        """The answer as text, without the key should the server repeat it."""
        text = data.decode("utf-8", errors="replace")
        return text.replace(self._key, "***") if self._key else text


def _read(answer: Any, end: float) -> bytes:
    """The body, at most a little more than MAX_ANSWER bytes of it; TimeoutError when it still comes at the time ``end``.

    The socket's own time-out begins anew with every byte, so a server that drips would hold a thread for hours.
    """
    parts, size = [], 0
    while size <= MAX_ANSWER and (part := answer.read1(1 << 20)):
        parts.append(part)
        size += len(part)
        if time.monotonic() > end:
            raise TimeoutError
    if size <= MAX_ANSWER and answer.length:  # the connection broke; read1 does not say so
        raise http.client.IncompleteRead(b"", answer.length)
    return b"".join(parts)


def _is_filter(text: str) -> bool:
    marks = ("content_filter", "content_policy", "content policy", "safety", "jailbreak", "moderation")
    return any(mark in text.casefold() for mark in marks)
