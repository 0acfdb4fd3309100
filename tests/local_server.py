"""A real HTTP server on this machine that answers what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The words of a chat request."""
        return next(part["text"] for part in self.json["messages"][-1]["content"] if part["type"] == "text")


@dataclass
class Answer:
    """What goes back: a status, a body (JSON unless it is bytes), headers."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def says(text: str | None, **choice: Any) -> Answer:
    """A chat completion with that reply."""
    return Answer({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **choice}]})


class LocalServer:
    """Where it is, and everything it was asked, in order."""

    def __init__(self, url: str) -> None:
        self.url, self.asked = url, list[Asked]()


@contextmanager
def serve(answer: Callable[[Asked, int], Answer]) -> Iterator[LocalServer]:
    """A server that answers with ``answer(request, its number from 0)``."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked = Asked(self.path, dict(self.headers), body)
            with lock:
                number = len(local.asked)
                local.asked.append(asked)
            found = answer(asked, number)
            data = found.body if isinstance(found.body, bytes) else json.dumps(found.body).encode()
            try:
                self.send_response(found.status)
                for name, value in found.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client did not wait

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    local = LocalServer(f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield local
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
