"""Replies that were recorded take the place of a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glyphflow.core.errors import InputError
from glyphflow.core.hashing import fingerprint
from glyphflow.perception.server import Reply


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
