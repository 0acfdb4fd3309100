"""Asking a server until there is an answer: retries with back-off, failures as statuses, no secret in any record."""

from __future__ import annotations

import base64
import email.utils
import http.client
import json
import random
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from glyphflow.core.errors import ConfigError, InputError

BUSY = frozenset({429, 502, 503, 529})  # a limit by the minute, a model that is being loaded, a restart: time mends it
_ABOUT_SERVER = frozenset({401, 402, 403, 404, 405, 407})
RETRIED = BUSY | frozenset({408, 409, 425, 500, 504, 520, 521, 522, 523, 524})
PATIENCE_S = 600.0
SAID_S = 10.0  # a longer wait is said
LONGEST_PAUSE_S = 60.0  # between two attempts, unless the server asks for more
MAX_ANSWER = 64 << 20  # bytes: a picture of 4096 x 4096 as PNG in base64 and some room
KEPT = 4000  # characters of an answer that is no reply, kept for audit
_AGAIN = re.compile(r"(?:try again|retry) (?:in|after) ((?:[\d.]+\s*(?:ms|h|m|s)[a-z]*\s*)+)", re.IGNORECASE)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Reply:
    """What came back. ``text`` is the reply when ``status`` is "ok", else the reason; ``attempts`` is the audit.

    ``code`` is the HTTP status that a rejection had, 0 for anything else.
    """

    status: Literal["ok", "refused", "timeout", "error"]
    text: str
    attempts: tuple[dict[str, Any], ...] = ()
    code: int = 0

    @property
    def rejected(self) -> bool:
        """Whether the server lives and rejects this very request, such as one with a picture that it cannot take."""
        return 400 <= self.code < 500 and self.code not in RETRIED | _ABOUT_SERVER


class Server:
    """A server that takes POST requests under the address ``url``, with a ``key`` in the Authorization header where it has one.

    Busy or broken answers (429, 5xx, connection errors, time-outs of ``timeout_s`` seconds) are tried ``attempts`` times in all
    with pauses that double from ``pause_s``, at random up to that, or as long as the server asks. With ``patience_s`` a busy
    server (429, 502, 503, 529) is waited for until the pauses add up to that, whatever their number: a run that nobody
    watches takes PATIENCE_S. ``stopped`` ends all waiting. A wrong key or address, or a quota that is used up, stops the run
    (:class:`ConfigError`): no later answer would be any better.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = 120.0,
        attempts: int = 4,
        pause_s: float = 1.0,
        patience_s: float = 0.0,
        stopped: threading.Event | None = None,
    ) -> None:
        parts = _parts(url)
        key = _key(key)
        self._headers = _authorization(parts, key)
        port = f":{parts.port}" if parts.port else ""
        host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
        self._place = parts._replace(netloc=f"{host}{port}", path=parts.path.rstrip("/"), fragment="")
        self.url = urlunsplit(self._place._replace(query=""))
        secrets = (key, unquote(parts.password or ""), parts.password, parts.query, *self._headers.values())
        self._secrets = [each.removeprefix("Basic ") for each in secrets if each]
        self._timeout_s, self._attempts, self._pause_s = timeout_s, attempts, pause_s
        self._patience_s, self._stopped = patience_s, stopped or threading.Event()
        self._answered = self._told = False
        self.identity = f"{parts.scheme}://{host}{port}{parts.path}"
        """The address without user, password and query, which may be secrets."""

    def at(self, path: str) -> str:
        """The full address of ``path`` under the server's; what follows a question mark stays at the end."""
        base = self._place.path
        return urlunsplit(self._place._replace(path=base if base.endswith(f"/{path}") else f"{base}/{path}"))

    def post(self, url: str, body: bytes, content_type: str, read: Callable[[str], Reply]) -> Reply:
        """The reply that ``read`` finds in the server's answer, or why there is none."""
        log: list[dict[str, Any]] = []
        failures, waited, pause = 0, 0.0, self._pause_s
        while True:
            start, at = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
            reply, asked = self._once(url, body, content_type, read)
            reason = {} if reply.status == "ok" else {"reason": reply.text[:KEPT]}
            log.append({"at": at, "seconds": round(time.monotonic() - start, 3), "status": reply.status, **reason})
            if asked is None:
                break
            busy = reply.code in BUSY and self._patience_s > 0
            failures += not busy
            waited += max(asked, pause)
            if failures >= self._attempts or (busy and waited > self._patience_s):
                break
            if busy and waited >= SAID_S:
                self._say(f"{self.identity} is busy (HTTP {reply.code}); the run waits for it, up to {self._patience_s:g} s.")
            if self._stopped.wait(max(asked if busy else min(LONGEST_PAUSE_S, asked), pause * random.uniform(0.5, 1.0))):
                break
            pause = min(LONGEST_PAUSE_S, 2 * pause)
        return replace(reply, attempts=tuple(log))

    def _once(self, url: str, body: bytes, content_type: str, read: Callable[[str], Reply]) -> tuple[Reply, float | None]:
        """One attempt, and the least pause in seconds before another may help (None: it would not)."""
        late = Reply("timeout", f"no answer within {self._timeout_s:g} s")
        try:
            request = urllib.request.Request(url, body, {"Content-Type": content_type, **self._headers}, method="POST")
            end = time.monotonic() + self._timeout_s
            with _OPENER.open(request, timeout=self._timeout_s) as answer:
                data = _read(answer, end)
            if len(data) > MAX_ANSWER:
                return Reply("error", f"the answer has more than {MAX_ANSWER} bytes"), None
            return self._taken(self._clean(data), read)
        except urllib.error.HTTPError as error:
            try:
                text = self._clean(error.read(4 * KEPT))[:KEPT]
            except (OSError, http.client.HTTPException):
                text = ""
            return self._rejection(error.code, text, dict(error.headers.items()))
        except TimeoutError:
            return late, 0.0
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            if isinstance(getattr(error, "reason", None), TimeoutError):
                return late, 0.0
            return Reply("error", self._clean(f"{type(error).__name__}: {error}".encode())), 0.0

    def _taken(self, text: str, read: Callable[[str], Reply]) -> tuple[Reply, float | None]:
        """The reply in an answer with HTTP 200; gateways give the errors of a server behind them so, too."""
        reply = read(text)
        code = _code_within(text) if reply.status == "error" else None
        if code is not None:
            return self._rejection(code, text[:KEPT], {})
        self._answered = self._answered or reply.status != "error"
        return reply, None

    def _rejection(self, code: int, text: str, headers: Mapping[str, str]) -> tuple[Reply, float | None]:
        reason = f"HTTP {code}: {text}"
        if _is_filter(text) and code not in RETRIED:
            return Reply("refused", reason, code=code), None
        told = self._hopeless(code, text)
        if told:
            raise ConfigError(
                f"The server at {self.identity} {told} (HTTP {code}); check the address, the key and the model's name."
            )
        if code in RETRIED:
            return Reply("timeout" if code in (408, 504, 524) else "error", reason, code=code), _asked_pause(headers, text)
        return Reply("error", reason, code=code), None

    def _hopeless(self, code: int, text: str) -> str | None:
        """What a rejection says of the server, not of the request, so that every other request would meet it as well."""
        if 300 <= code < 400:
            return "sends to another address, which is not followed with a key"
        if code == 402 or (code == 429 and any(mark in text for mark in ("insufficient_quota", "billing"))):
            return "asks for payment"
        if code == 401:
            return "refuses the key"
        # One that took other requests before knows path, model and key: this one holds what it does not want.
        told = {403: "forbids the request", 404: "knows no such path or model", 405: "takes no requests of this kind there"}
        return None if self._answered else told.get(code)

    def _say(self, text: str) -> None:
        if not self._told:
            self._told = True
            print(text, file=sys.stderr)

    def _clean(self, data: bytes) -> str:
        """The answer as text, without the key, password or query should the server repeat them."""
        text = data.decode("utf-8", errors="replace")
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nobody: urllib would send the key to the other address, too, and the request without its body."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Stay)


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url.strip())
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        good = good and url.strip().isascii() and not re.search(r"[\s\x00-\x1f\x7f]", url.strip())
    except ValueError:
        good = False
    if not good:
        shown = re.sub(r"//[^/@]*@", "//***@", url)
        raise InputError(f"{shown!r} is not the address of a server; give one such as http://localhost:8000/v1.")
    return parts


def _key(key: str | None) -> str | None:
    """The key without what files and quoting leave around it; one that no header can hold is an error that does not show it."""
    bare = (key or "").strip("\ufeff\u200b \t\r\n\v\f\0\u00a0")
    if len(bare) > 2 and bare[0] == bare[-1] and bare[0] in "\"'":
        bare = bare[1:-1].strip()
    if any(not "!" <= character <= "~" for character in bare):
        raise ConfigError(
            "The key for the server holds a space, a line break or a character beyond ASCII, which no header can carry; "
            "check the environment variable that it comes from."
        )
    return bare or None


def _authorization(parts: SplitResult, key: str | None) -> dict[str, str]:
    if key:
        return {"Authorization": f"Bearer {key}"}
    if parts.username or parts.password:
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


def _asked_pause(headers: Mapping[str, str], text: str) -> float:
    """The seconds that a busy server asks to wait, by its headers or its words; 0 if it does not say."""
    given = {name.casefold(): value.strip() for name, value in headers.items()}
    wait = given.get("retry-after", "")
    try:
        if "retry-after-ms" in given:
            return max(0.0, float(given["retry-after-ms"]) / 1000)
        return min(max(0.0, float(wait)), 1e9)
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(wait).timestamp() - time.time())
    except (ValueError, OverflowError):
        said = _AGAIN.search(text)
    pairs = re.findall(r"(\d+(?:\.\d+)?)\s*(ms|h|m|s)", said[1], re.IGNORECASE) if said else []
    return sum(float(number) * _UNITS[unit.lower()] for number, unit in pairs)


def _code_within(text: str) -> int | None:
    """The HTTP status that an error in JSON carries, if it does."""
    try:
        code = int(json.loads(text)["error"]["code"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return code if 400 <= code < 600 else None


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
