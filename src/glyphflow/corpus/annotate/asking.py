"""A conversation with a vision-language model about one picture, until its answer can be used or the attempts are used up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.hashing import fingerprint
from glyphflow.core.text import whole_characters
from glyphflow.corpus.annotate.prompts import RESPONSE_FORMAT, follow_up, read_answer, refusal, request_text
from glyphflow.corpus.annotate.replies import Replies
from glyphflow.perception.chat import Transport
from glyphflow.perception.server import Reply

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_TOKENS = 1536
MAX_SIDE = 1024  # px of a picture as it is shown; the caller makes it so
SILENT = 8  # pictures in a row without any answer, after which the server is tried with a plain picture
_ECHO = 2000  # characters of an unusable answer that are shown to the model again


class NoAnswer(Exception):
    """The transport gave no answer for this picture; it says nothing about the picture."""


@dataclass(frozen=True)
class Told:
    """How a conversation ended: with an annotation, or with the words that refuse it, or with what was wrong with it."""

    annotation: Mapping[str, Any] | None
    refusal: str | None = None
    why: str | None = None
    asked: int = 0
    """Requests that it took, those that are answered from disk included."""


class Asker:
    """Asks ``model`` behind ``transport`` for annotations; safe for threads.

    An answer that does not fit is answered with the reason, one that refuses with a word on what is asked, ``attempts`` times
    in all. Every answer is kept in ``Replies``, so a conversation that was cut off goes on where it was.
    """

    def __init__(
        self, model: str, transport: Transport, *, attempts: int = 3, max_tokens: int = MAX_TOKENS, max_side: int = MAX_SIDE
    ) -> None:
        self.model, self.max_side = model, max_side
        self._transport, self._attempts, self._max_tokens = transport, attempts, max_tokens
        self._lock = threading.Lock()
        self._silent = 0

    @property
    def identity(self) -> dict[str, Any]:
        """What answers depend on besides the picture and the words."""
        return {
            "model": self.model,
            "attempts": self._attempts,
            "max_tokens": self._max_tokens,
            "max_side": self.max_side,
            "temperature": 0,
        }

    def ask(
        self, picture: str, image: Callable[[], NDArray[np.uint8]], language: str, raw: str | None, replies: Replies
    ) -> Told:
        """The annotation of the picture with SHA-256 ``picture``; ``image`` gives its pixels when they are needed.

        ``raw``: the caption that it came with, for a fused one. Raises :class:`NoAnswer`, and :class:`InputError` when the
        server is gone: it answers nothing for SILENT pictures in a row, nor for a plain one then.
        """
        words: list[dict[str, Any]] = [{"role": "user", "content": request_text(language, raw)}]
        said, why = None, "it was never asked"
        for attempt in range(1, self._attempts + 1):
            reply = self._reply(picture, image, words, replies)
            found, said, why = _judge(reply, language)
            if found is not None:
                return Told(found, asked=attempt)
            words += [
                {"role": "assistant", "content": reply.text[:_ECHO]},
                {"role": "user", "content": follow_up(language, why, said is not None)},
            ]
        return Told(None, said, None if said else f"no usable answer in {self._attempts}: {why}", self._attempts)

    def _reply(
        self, picture: str, image: Callable[[], NDArray[np.uint8]], words: list[dict[str, Any]], replies: Replies
    ) -> Reply:
        prompt = fingerprint([words, self._max_tokens, self.max_side])
        known = replies.get(picture, prompt, self.model)
        if known is not None:
            return known
        reply = self._sent(f"sha256:{picture}", image(), words)
        if reply.status in ("timeout", "error"):
            raise NoAnswer(whole_characters(reply.text[:200]))
        replies.add(picture, prompt, self.model, reply)
        return reply

    def _sent(self, name: str, image: NDArray[np.uint8], words: list[dict[str, Any]]) -> Reply:
        try:
            reply = self._transport.send(self._request(name, words), {name: image})
        except ConfigError as error:
            if not self._lives():
                raise
            raise NoAnswer(str(error)[:200]) from error  # such as a firewall that dislikes this picture
        self._count(reply)
        return reply

    def _request(self, name: str, words: list[dict[str, Any]]) -> dict[str, Any]:
        first = {"role": "user", "content": [_picture(name), {"type": "text", "text": words[0]["content"]}]}
        return {
            "model": self.model,
            "messages": [first, *words[1:]],
            "temperature": 0,
            "seed": 0,
            "max_tokens": self._max_tokens,
            "response_format": RESPONSE_FORMAT,
        }

    def _count(self, reply: Reply) -> None:
        """Stop the run when nothing answers any more: every further picture would become a row with an error.

        A rejection of one request counts for nothing. Pictures that break the server one after another are told apart from a
        server that is gone by a plain picture.
        """
        with self._lock:
            if reply.rejected:
                return
            self._silent = self._silent + 1 if reply.status in ("timeout", "error") else 0
            if self._silent < SILENT:
                return
            if self._lives():
                self._silent = 0
                return
            raise InputError(
                f"{self._transport.identity} gave no answer for {SILENT} pictures in a row (last: {reply.text[:200]}), nor for "
                "a plain grey one; see to it and run the same command again, every answer so far is kept."
            )

    def _lives(self) -> bool:
        """Whether the server answers for a grey picture."""
        import numpy as np

        words: list[dict[str, Any]] = [{"role": "user", "content": request_text("en")}]
        grey = np.full((64, 64, 3), 128, np.uint8)
        try:
            reply = self._transport.send(self._request("sha256:plain", words), {"sha256:plain": grey})
        except ConfigError:
            return False
        return reply.rejected or reply.status in ("ok", "refused")


def _judge(reply: Reply, language: str) -> tuple[dict[str, Any] | None, str | None, str]:
    """The annotation in a reply, or the words that refuse it, and what is wrong with it."""
    if reply.status == "refused":
        return None, reply.text[:200], "it refuses"
    try:
        found = read_answer(reply.text, language)
    except ValueError as error:
        words = refusal(reply.text) if "{" not in reply.text else None
        return None, words, str(error)
    words = refusal(found["Caption"])
    return (None, words, "the Caption refuses") if words else (found, None, "")


def _picture(name: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": name}}
