"""HTML pages as pictures with the text that can be seen in them, drawn by a headless Chromium that reaches no network.

The browser is spoken to over a pipe, in its DevTools protocol. Every request that a page makes is stopped and answered here:
with a file of the page's own folder, under which absolute paths work too, or not at all. A page has a limit of time; one that
crashes or hangs the browser costs its own row.
"""

from __future__ import annotations

import base64
import contextlib
import json
import mimetypes
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from glyphflow.core.errors import MissingError
from glyphflow.core.text import TextError, decode_text
from glyphflow.corpus.ingest.shards import read_picture
from glyphflow.corpus.ingest.visible import VISIBLE_TEXT

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chrome-headless-shell")
PAGE_SECONDS = 30.0
SETTLED = 2000  # milliseconds of the page's own clock, which runs as fast as it can and waits for files: animations are over
_ORIGIN = "http://pages.invalid/"  # a name that can never be anybody's
_TEXTS = ("application/javascript", "application/json")
_CHARSET = re.compile(rb"<meta[^>]+charset", re.IGNORECASE)
_CHARSET_WITHIN = 1024  # bytes of a page in which a browser looks for it
_FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--mute-audio",
    "--font-render-hinting=none",
    # What is not a request of a page, such as a socket, ends at a proxy that is not there.
    "--proxy-server=http://127.0.0.1:9",
    "--proxy-bypass-list=<-loopback>",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
# The browser wants its pipe as file descriptors 3 and 4.
_LAUNCH = """import fcntl, os, sys
r, w = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])  # above 4, so that neither is overwritten
os.dup2(r, 3)
os.dup2(w, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_browser() -> str:
    """The path of a Chromium; without one a :class:`MissingError`."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise MissingError(
            f"HTML pages are drawn by Chromium, and none of {', '.join(BROWSERS)} is on the PATH; install one (Debian, Ubuntu: "
            "apt install chromium) and run the same command again."
        )
    return found


class _Failed(Exception):
    """Why a page gives no picture."""


class _BadXML(_Failed):
    """XHTML that the browser's XML parser refuses, and would show its own complaint about."""


class _LeavesEarly(_Failed):
    """A script forwards to another place while the page is read, of which the browser then shows the beginning alone."""


class Browser:
    """Draws pages in a window of ``width`` x ``height`` pixels; the browser starts when it is needed, and again if it died."""

    def __init__(self, width: int, height: int, seconds: float = PAGE_SECONDS) -> None:
        self._path, self._size, self._seconds = find_browser(), (width, height), seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._profile: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def page(self, folder: Path, name: str) -> tuple[bytes | None, str, str | None]:
        """The PNG of the top of ``folder``/``name``, the lines of text in it, and why there is no picture."""
        self._deadline = time.monotonic() + self._seconds
        try:
            if self._process is None or self._process.poll() is not None:
                self._start()
            lenient, scripts = False, True
            while True:  # at most three times: each of the two gives way once
                try:
                    return *self._draw(folder.resolve(), name, lenient, scripts), None
                except _BadXML:
                    lenient = True
                except _LeavesEarly:
                    scripts = False
        except TimeoutError:
            self._end()
            return None, "", f"the page took over {self._seconds:g} s"
        except _Failed as error:
            return None, "", str(error)
        except (OSError, EOFError, ValueError):
            self._end()
            return None, "", "the page crashed the browser"

    # -- one page -----------------------------------------------------------------------------------------------------

    def _draw(self, folder: Path, name: str, lenient: bool, scripts: bool) -> tuple[bytes, str]:
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        try:
            session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            page = _Page(self, session, folder, lenient, scripts)
            width, height = self._size
            page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
            page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
            page.call("Fetch.enable", patterns=[{"urlPattern": "*"}])
            page.call("Emulation.setScriptExecutionDisabled", value=not scripts)
            page.call("Page.enable")
            page.call("Inspector.enable")
            answer = page.call("Page.navigate", url=_ORIGIN + quote(name))
            if answer.get("errorText"):
                raise _Failed(f"the page cannot be opened: {answer['errorText']}")
            page.wait()
            where = page.value("location.href")
            if not where.startswith(_ORIGIN):
                raise _Failed(f"the page left for {where[:200]}")
            if not lenient and page.value("String(document.querySelector('parsererror') !== null)") == "true":
                raise _BadXML("the page is no XML")
            text = page.value(VISIBLE_TEXT)
            return base64.b64decode(page.call("Page.captureScreenshot", format="png")["data"]), text
        finally:
            if self._process is not None and self._process.poll() is None:
                self._send("Target.closeTarget", {"targetId": target}, None)

    # -- the pipe -----------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._end()
        self._profile = tempfile.TemporaryDirectory(prefix="glyphflow-browser-", ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # root has none
        window = f"--window-size={self._size[0]},{self._size[1]}"
        command = [self._path, *_FLAGS, *sandbox, window, f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(theirs_in), str(theirs_out), *command],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._number, self._buffer = 0, b""
        self._call("Browser.setDownloadBehavior", behavior="deny")

    def _end(self) -> None:
        if self._process is not None:
            _kill_group(self._process)
            self._process.wait()
            os.close(self._in)
            os.close(self._out)
        if self._profile is not None:
            self._profile.cleanup()
        self._process = self._profile = None

    def _send(self, method: str, params: Mapping[str, Any], session: str | None) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        data = json.dumps(message).encode() + b"\0"
        while data:
            _, ready, _ = select.select([], [self._out], [], max(0.0, self._deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            data = data[os.write(self._out, data[: 1 << 15]) :]
        return self._number

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, self._deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            data = os.read(self._in, 1 << 20)
            if not data:
                raise EOFError
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _call(
        self,
        method: str,
        session: str | None = None,
        event: Callable[[Mapping[str, Any]], None] | None = None,
        **params: Any,
    ) -> dict[str, Any]:
        """The result of a command; what else arrives meanwhile goes to ``event``."""
        number = self._send(method, params, session)
        while True:
            message = self._receive()
            if message.get("id") == number:
                if "error" in message:
                    raise _Failed(f"the browser refuses {method}: {message['error'].get('message', '')}")
                result: dict[str, Any] = message["result"]
                return result
            if event is not None and "method" in message:
                event(message)


class _Page:
    """One open page: its commands, and the answers to its requests."""

    def __init__(self, browser: Browser, session: str, folder: Path, lenient: bool, scripts: bool) -> None:
        self._browser, self._session, self._folder = browser, session, folder
        self._lenient, self._scripts = lenient, scripts
        self._loaded = self._settled = False
        self._main: str | None = None  # the frame of the page, once it was asked for

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser._call(method, self._session, self._event, **params)

    def value(self, expression: str) -> str:
        """What a script gives in the page."""
        return str(self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value", ""))

    def wait(self) -> None:
        """Until the page has loaded and its clock has then run for SETTLED."""
        while not self._loaded:
            self._next()
        self.call("Emulation.setVirtualTimePolicy", policy="pauseIfNetworkFetchesPending", budget=SETTLED)
        while not self._settled:
            self._next()

    def _next(self) -> None:
        message = self._browser._receive()
        if "method" in message:
            self._event(message)

    def _event(self, message: Mapping[str, Any]) -> None:
        if message.get("sessionId") != self._session:
            return
        kind, params = message["method"], message["params"]
        if kind == "Fetch.requestPaused":
            self._answer(params)
        elif kind == "Page.loadEventFired":
            self._loaded = True
        elif kind == "Emulation.virtualTimeBudgetExpired":
            self._settled = True
        elif kind == "Page.javascriptDialogOpening":  # it would hold the page for ever
            self._browser._send("Page.handleJavaScriptDialog", {"accept": False}, self._session)
        elif kind == "Inspector.targetCrashed":
            raise EOFError

    def _answer(self, params: Mapping[str, Any]) -> None:
        """Give a file of the folder, or refuse; the page itself stays, wherever it wants to go."""
        frame, document = params.get("frameId"), params.get("resourceType") == "Document"
        if document and self._main is None:
            self._main = frame
        elif document and frame == self._main:  # a forward to its site; it stays where it is
            self._refuse(params, "Aborted")
            if not self._loaded and self._scripts:
                raise _LeavesEarly("the page leaves before it has loaded")
            self._loaded = True
            return
        file = self._file(params["request"]["url"])
        data = read_picture(file)[0] if file is not None else None
        if data is not None and file is not None:
            self._fulfil(params, 200, content_type(file, data, self._lenient and frame == self._main), data)
        elif (document and frame != self._main) or (
            file is not None and file.is_file()
        ):  # in a frame the browser would draw its own words on a refusal
            self._fulfil(params, 200, "text/html", b"")
        else:
            self._refuse(params, "BlockedByClient")

    def _refuse(self, params: Mapping[str, Any], why: str) -> None:
        refusal = {"requestId": params["requestId"], "errorReason": why}
        self._browser._send("Fetch.failRequest", refusal, self._session)

    def _fulfil(self, params: Mapping[str, Any], code: int, kind: str, data: bytes) -> None:
        headers = [{"name": "Content-Type", "value": kind}, {"name": "Access-Control-Allow-Origin", "value": "*"}]
        body = base64.b64encode(data).decode("ascii")
        answer = {"requestId": params["requestId"], "responseCode": code, "responseHeaders": headers, "body": body}
        self._browser._send("Fetch.fulfillRequest", answer, self._session)

    def _file(self, url: str) -> Path | None:
        """The file in the folder that ``url`` names; None for every other place."""
        if not url.startswith(_ORIGIN):
            return None
        path = self._folder / unquote(urlsplit(url).path).lstrip("/")
        try:
            path = (path / "index.html" if path.is_dir() else path).resolve()
        except (OSError, ValueError):
            return None
        return path if path.is_relative_to(self._folder) else None


def content_type(file: Path, data: bytes, lenient: bool = False) -> str:
    """The type that a server would name for ``file``: with a charset where its text names none itself.

    A page loses the charset of its HTTP header when it is saved. ``lenient`` serves XHTML as HTML.
    """
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    if file.suffix.lower() in (".html", ".htm") or (lenient and kind == "application/xhtml+xml"):
        kind = "text/html"
    if kind == "application/xhtml+xml" or not (kind.startswith("text/") or kind in _TEXTS):
        return kind  # XML says its encoding, or it is UTF-8
    if kind == "text/html" and _CHARSET.search(data[:_CHARSET_WITHIN]):
        return kind  # the page's own counts
    try:
        return f"{kind}; charset={decode_text(data).encoding}"
    except TextError:
        return kind


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the browser with all its children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
