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
from glyphflow.corpus.ingest.shards import read_picture

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chrome-headless-shell")
PAGE_SECONDS = 30.0
SETTLED = 2000  # milliseconds of the page's own clock, which runs as fast as it can and waits for files: animations are over
_ORIGIN = "http://pages.invalid/"  # a name that can never be anybody's
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

# The lines of text that can be seen whole in the window, as they are shown: runs of characters of one line, in the order of the
# document, that are not hidden, clipped or covered. What stands in fields counts, icon fonts do not.
_VISIBLE_TEXT = """(() => {
  const lines = [], range = document.createRange();
  let count = 0;
  const shown = (element, box) => {
    if (box.left < -1 || box.top < -1 || box.right > innerWidth + 1 || box.bottom > innerHeight + 1) return false;
    if (box.right - box.left < 1 || box.bottom - box.top < 4) return false;
    const hit = document.elementFromPoint((box.left + box.right) / 2, (box.top + box.bottom) / 2);
    return hit !== null && hit.contains(element);
  };
  const add = (element, text, box) => {
    text = text.replace(/[\\ue000-\\uf8ff\\u00ad\\u200b]/g, "").replace(/\\s+/g, " ");
    if (!text.trim() || !shown(element, box)) return;
    const last = lines[lines.length - 1], height = box.bottom - box.top;
    const over = last ? Math.min(last.box.bottom, box.bottom) - Math.max(last.box.top, box.top) : 0;
    const gap = last ? box.left - last.box.right : 0;
    if (last && over > Math.min(height, last.box.bottom - last.box.top) / 2 && gap > -2 && gap < height) {
      const space = gap > height / 6 && !/\\s$/.test(last.text) && !/^\\s/.test(text);
      last.text += (space ? " " : "") + text;
      last.box = {left: last.box.left, top: Math.min(last.box.top, box.top), right: box.right,
                  bottom: Math.max(last.box.bottom, box.bottom)};
    } else lines.push({text, box});
  };
  const say = (text, transform) => transform === "uppercase" ? text.toUpperCase()
    : transform === "lowercase" ? text.toLowerCase()
    : transform === "capitalize" ? text.replace(/(^|\\s)(\\S)/g, (_, a, b) => a + b.toUpperCase()) : text;
  const walker = document.createTreeWalker(document.body || document, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT);
  for (let node = walker.nextNode(); node && count < 200000; node = walker.nextNode()) {
    const element = node.nodeType === 1 ? node : node.parentElement;
    if (!element || /^(SCRIPT|STYLE|NOSCRIPT|TEMPLATE|OPTION|TEXTAREA)$/.test(element.tagName) && node.nodeType === 3) continue;
    if (!element.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (node.nodeType === 1) {
      if (!/^(INPUT|TEXTAREA|SELECT)$/.test(node.tagName)) continue;
      if (/^(hidden|checkbox|radio|range|color|file|password|image)$/.test(node.type)) continue;
      const text = node.tagName === "SELECT" ? (node.selectedOptions[0] || {}).text : node.value || node.placeholder;
      if (text && node.scrollWidth <= node.clientWidth + 1) add(node, text, node.getBoundingClientRect());
      continue;
    }
    if (!node.data.trim()) continue;
    const text = say(node.data, getComputedStyle(element).textTransform);
    const same = text.length === node.data.length;
    let run = "", box = null;
    for (let i = 0; i < node.data.length; i++, count++) {
      range.setStart(node, i);
      range.setEnd(node, i + 1);
      const at = range.getClientRects()[0], char = same ? text[i] : node.data[i];
      if (!at || (!at.width && !char.trim())) { run += /\\s/.test(char) && run ? " " : ""; continue; }
      if (box && (Math.abs(at.top - box.top) > at.height / 2 || at.left < box.left - 1)) {
        add(element, run, box);
        run = "";
        box = null;
      }
      run += char;
      box = box ? {left: Math.min(box.left, at.left), top: Math.min(box.top, at.top), right: Math.max(box.right, at.right),
                   bottom: Math.max(box.bottom, at.bottom)}
                : {left: at.left, top: at.top, right: at.right, bottom: at.bottom};
    }
    if (box) add(element, run, box);
  }
  return lines.map(line => line.text.trim()).filter(line => line).join("\\n");
})()"""


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
            return *self._draw(folder.resolve(), name), None
        except TimeoutError:
            self._end()
            return None, "", f"the page took over {self._seconds:g} s"
        except _Failed as error:
            return None, "", str(error)
        except (OSError, EOFError, ValueError):
            self._end()
            return None, "", "the page crashed the browser"

    # -- one page -----------------------------------------------------------------------------------------------------

    def _draw(self, folder: Path, name: str) -> tuple[bytes, str]:
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        try:
            session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            page = _Page(self, session, folder)
            width, height = self._size
            page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
            page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
            page.call("Fetch.enable", patterns=[{"urlPattern": "*"}])
            page.call("Page.enable")
            page.call("Inspector.enable")
            answer = page.call("Page.navigate", url=_ORIGIN + quote(name))
            if answer.get("errorText"):
                raise _Failed(f"the page cannot be opened: {answer['errorText']}")
            page.wait()
            text = page.call("Runtime.evaluate", expression=_VISIBLE_TEXT, returnByValue=True)["result"].get("value", "")
            return base64.b64decode(page.call("Page.captureScreenshot", format="png")["data"]), str(text)
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

    def __init__(self, browser: Browser, session: str, folder: Path) -> None:
        self._browser, self._session, self._folder = browser, session, folder
        self._loaded = self._settled = False

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser._call(method, self._session, self._event, **params)

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
        """Give a file of the folder, or refuse."""
        which = {"requestId": params["requestId"]}
        url = params["request"]["url"]
        file = self._file(url)
        data = read_picture(file)[0] if file is not None else None
        if data is None and (file is None or not file.is_file()):
            self._browser._send("Fetch.failRequest", which | {"errorReason": "BlockedByClient"}, self._session)
            return
        kind = mimetypes.guess_type(str(file))[0] or "application/octet-stream"
        if file is not None and file.suffix.lower() in (".html", ".htm"):
            kind = "text/html"  # without a charset the page's own counts
        body = base64.b64encode(data or b"").decode("ascii")
        headers = [{"name": "Content-Type", "value": kind}, {"name": "Access-Control-Allow-Origin", "value": "*"}]
        answer = {"responseCode": 200, "responseHeaders": headers, "body": body}
        self._browser._send("Fetch.fulfillRequest", which | answer, self._session)

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


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the browser with all its children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
