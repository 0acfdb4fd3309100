"""Replies on disk, so that no request is ever paid twice: one file of JSON lines for each shard, only ever appended to.

A request is known by the picture's SHA-256, the hash of all that was said to the model about it, and the model's name. A file
holds one shard's replies, so it is small enough to be read whole and is gone through when one of its pictures is forgotten.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from glyphflow.core.files import storage_errors, write_bytes
from glyphflow.corpus.store import Corpus
from glyphflow.perception.server import Reply


class Replies:
    """The replies of one shard; safe for threads, and for a second process that appends to the same file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str, str], Reply] = {}
        self._torn = False
        for line, row in _rows(path):
            self._torn = not line.endswith(b"\n")
            if row is not None:
                self._known[row["picture"], row["prompt"], row["model"]] = Reply(row["status"], row["reply"])

    def get(self, picture: str, prompt: str, model: str) -> Reply | None:
        """The reply to a request that was answered before."""
        return self._known.get((picture, prompt, model))

    def add(self, picture: str, prompt: str, model: str, reply: Reply) -> None:
        """Keep an answer (status "ok" or "refused"); it is on disk, as one line, when this returns."""
        row = {"picture": picture, "prompt": prompt, "model": model, "status": reply.status, "reply": reply.text}
        line = json.dumps(row, ensure_ascii=True).encode() + b"\n"
        with self._lock, storage_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                file.write(b"\n" + line if self._torn else line)  # what a full disk left half must not swallow this one
            self._torn = False
            self._known[picture, prompt, model] = reply


def replies_path(corpus: Corpus, shard: str) -> Path:
    """Where the replies about pictures of ``shard`` are."""
    return corpus.directory / "replies" / f"{shard}.jsonl"


def forget_replies(corpus: Corpus, shard: str, pictures: Set[str]) -> None:
    """Take out what was said about pictures with these SHA-256; the file is replaced whole."""
    path = replies_path(corpus, shard)
    if path.exists():
        kept = [line for line, row in _rows(path) if row is not None and row["picture"] not in pictures]
        write_bytes(path, b"".join(kept))


def _rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Each line and what it says; None for one that a killed process or a full disk left half."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line)
                fits = all(isinstance(row[name], str) for name in ("picture", "prompt", "model", "status", "reply"))
            except (ValueError, KeyError, TypeError):
                fits = False
            yield line, row if fits else None
