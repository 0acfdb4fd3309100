"""Running a causal language model over texts that begin alike: the common beginning once, then only what follows it.

Its keys and values are kept; the model then sees the rest of each text as a continuation. The states equal those of whole
passes up to the rounding of matrix products of another shape (3e-6 in fp32).
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from glyphflow.models.vision import Picture, positions

_BATCH = 16  # texts per forward pass, sorted by length so that little is padding
_PADDING = 1.5  # a pass may hold this many times as many tokens as its texts have
_BATCH_TOKENS = 16384  # and this many tokens, shared ones counted for each: 0.9 GB of keys and values at the released width
_REMEMBERED = 4  # beginnings; one of 1,433 tokens (a template with 1036 x 1036 pixels) takes 92 MB of host memory

_Value = TypeVar("_Value")


class Recent(collections.OrderedDict[Any, _Value]):
    """A dictionary that keeps the ``limit`` entries used last."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __getitem__(self, key: Any) -> _Value:
        self.move_to_end(key)
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: _Value) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self._limit:
            del self[next(iter(self))]


@dataclass(frozen=True)
class Line:
    """One text in tokens: ``shared`` leading ones are its beginning, the states of ``drop`` leading ones are not wanted.

    ``pictures`` stand in the beginning (a text that shares nothing has none).
    """

    ids: tuple[int, ...]
    drop: int
    shared: int
    pictures: tuple[Picture, ...] = ()

    @property
    def beginning(self) -> tuple[Any, ...]:
        """What two lines must have in common to share it."""
        return self.ids[: self.shared], tuple(picture.key for picture in self.pictures)


@dataclass(frozen=True)
class _Beginning:
    """Kept on the host: the device is for the model that is at work, and copying is far cheaper than computing again."""

    states: torch.Tensor  # (n, D)
    keys_values: list[tuple[torch.Tensor, torch.Tensor]]  # per layer, (1, heads, n, head size)
    end: int  # position of the token after it; pictures span fewer positions than they have tokens


class SharedPrefixModel:
    """A language model of transformers with 3-axis positions, and the beginnings that it has seen lately.

    ``features`` gives a picture's (tokens, D) embeddings, which take the places of ``image_token``.
    """

    def __init__(self, language: Any, image_token: int, features: Callable[[Picture], torch.Tensor]) -> None:
        self._language = language
        self._image_token = image_token
        self._features = features
        self._beginnings: Recent[_Beginning] = Recent(_REMEMBERED)

    def states(self, lines: Sequence[Line]) -> list[torch.Tensor]:
        """The last hidden states (len(ids) - drop, D) of each line."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for n, line in enumerate(lines):
            groups.setdefault(line.beginning, []).append(n)
        found: dict[int, torch.Tensor] = {}
        for members in groups.values():
            first = lines[members[0]]
            beginning = self._beginning(first) if first.shared else None
            for batch in _batches(members, lines):
                rests = self._continue([lines[n].ids[first.shared :] for n in batch], beginning)
                found |= {n: _wanted(lines[n], beginning, rest) for n, rest in zip(batch, rests, strict=True)}
        return [found[n] for n in range(len(lines))]

    @torch.inference_mode()
    def _beginning(self, line: Line) -> _Beginning:
        if line.beginning not in self._beginnings:
            from transformers import DynamicCache

            ids, device = line.ids[: line.shared], self._language.device
            tokens = torch.tensor(ids, device=device)
            embeds = self._language.embed_tokens(tokens)
            if line.pictures:
                embeds[tokens == self._image_token] = torch.cat([self._features(p) for p in line.pictures]).to(device)
            places = positions(ids, self._image_token, line.pictures)
            cache = DynamicCache()
            states = self._language(
                inputs_embeds=embeds[None], position_ids=places[:, None].to(device), past_key_values=cache, use_cache=True
            ).last_hidden_state[0]
            pairs = [(layer.keys.cpu(), layer.values.cpu()) for layer in cache.layers]
            self._beginnings[line.beginning] = _Beginning(states.cpu(), pairs, int(places.max()) + 1)
        return self._beginnings[line.beginning]

    @torch.inference_mode()
    def _continue(self, rests: Sequence[Sequence[int]], beginning: _Beginning | None) -> torch.Tensor:
        """States (B, longest, D) of ``rests`` behind ``beginning``."""
        # Padding stands behind and attention is causal: no real token can see it, so no mask is needed.
        device = self._language.device
        padded = torch.zeros(len(rests), max(map(len, rests)), dtype=torch.long)
        for row, rest in zip(padded, rests, strict=True):
            row[: len(rest)] = torch.tensor(rest)
        known: dict[str, Any] = {"use_cache": False}
        start = 0
        if beginning is not None:
            from transformers import DynamicCache

            cache, start = DynamicCache(), beginning.end
            for layer, pair in enumerate(beginning.keys_values):
                cache.update(*(one.to(device).expand(len(rests), -1, -1, -1) for one in pair), layer)
            known = {"past_key_values": cache, "use_cache": True}
        places = torch.arange(start, start + padded.shape[1], device=device).expand(3, len(rests), -1)
        states: torch.Tensor = self._language(input_ids=padded.to(device), position_ids=places, **known).last_hidden_state
        return states


def _batches(members: Sequence[int], lines: Sequence[Line]) -> Iterator[list[int]]:
    """``members`` in groups of similar length, the shortest first."""
    batch: list[int] = []
    real = 0
    for n in sorted(members, key=lambda n: len(lines[n].ids)):
        length = len(lines[n].ids)
        own = length - lines[n].shared
        size = len(batch) + 1
        if batch and (size > _BATCH or size * length > _BATCH_TOKENS or size * own > _PADDING * (real + own)):
            yield batch
            batch, real = [], 0
        batch.append(n)
        real += own
    yield batch


def _wanted(line: Line, beginning: _Beginning | None, rest: torch.Tensor) -> torch.Tensor:
    """The line's states without the dropped ones; ``rest`` (padded, D) begins where the shared beginning ends."""
    tail = rest[max(line.drop - line.shared, 0) : len(line.ids) - line.shared]
    if beginning is None or line.drop >= line.shared:
        return tail.clone()  # outside inference mode: usable in training, and compact
    return torch.cat([beginning.states[line.drop :].to(tail.device), tail])
