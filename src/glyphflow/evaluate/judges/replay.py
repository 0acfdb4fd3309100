"""Replies that were recorded take the place of a model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glyphflow.core.errors import InputError
from glyphflow.core.hashing import fingerprint
from glyphflow.core.text import TextError, decode_text, read_lines, split_lines
from glyphflow.perception.server import Reply


class Replay:
    """Recorded replies: JSON lines with ``request_hash`` and ``reply``, such as the verdicts.jsonl of a scored folder."""

    def __init__(self, path: Path) -> None:
        self._replies: dict[str, str] = {}
        self.identity = "recorded replies"
        for line in _lines(path):
            try:
                row = json.loads(line)
                row = row.get("raw", row)
                self._replies[row["request_hash"]] = str(row["reply"])
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue  # blank, a failure, or another judge's verdict
        if not self._replies:
            raise InputError(f"{path} holds no recorded reply; every line needs request_hash and reply.")

    def send(self, request: Mapping[str, Any], pictures: Mapping[str, NDArray[np.uint8]]) -> Reply:
        """The reply recorded for ``request``."""
        found = self._replies.get(fingerprint(request))
        return (
            Reply("error", f"no reply is recorded for request {fingerprint(request)}") if found is None else Reply("ok", found)
        )


def _lines(path: Path) -> list[str]:
    """The lines of the file; the half line that a killed run left at its end may be cut inside of a character."""
    data = path.read_bytes() if path.is_file() else b""
    with contextlib.suppress(TextError):
        return split_lines(decode_text(data[: data.rfind(b"\n") + 1] or data).text) + _last(data)
    return read_lines(path)  # says what is wrong


def _last(data: bytes) -> list[str]:
    with contextlib.suppress(UnicodeDecodeError):
        return [data[data.rfind(b"\n") + 1 :].decode()]
    return []
