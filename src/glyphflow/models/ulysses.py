"""Sharing the tokens of an MMDiT between processes, and trading them inside attention for all tokens of some heads.

The target picture, the references and each text are dealt one by one, every process an equal run of each (the first ones one
token more where it does not come out even), so that the last block, which works on the target alone, is shared as evenly as
all others. Nothing is padded. Tokens have their rotary positions with them, so attention may see them in the order of ranks.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from glyphflow.models.attention import Layout
from glyphflow.models.collectives import exchange, gather
from glyphflow.models.mmdit import StepCache
from glyphflow.models.msrope import ImageShape

Lengths = tuple[tuple[int, ...], ...]
"""Lengths[i][r]: tokens that rank r has of sequence i."""


class Deal(NamedTuple):
    """Which tokens each rank has: ``numbers[r]`` in the whole stream, ``counts[r]`` of each part."""

    numbers: tuple[Tensor, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Tokens of each rank."""
        return tuple(map(sum, self.counts))


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # what sampling makes first, training reads later: these must be ordinary tensors
def deal(parts: tuple[int, ...], ranks: int, device: torch.device) -> Deal:
    """Every one of the consecutive ``parts`` (numbers of tokens) in equal runs to all ranks."""
    starts = itertools.accumulate((0, *parts[:-1]))
    runs = [torch.arange(first, first + n, device="cpu").tensor_split(ranks) for first, n in zip(starts, parts, strict=True)]
    numbers = tuple(torch.cat([part[r] for part in runs]).to(device) for r in range(ranks))
    return Deal(numbers, tuple(tuple(len(part[r]) for part in runs) for r in range(ranks)))


@dataclass(frozen=True)
class LocalLayout(Layout):
    """The :class:`Layout` of one rank's tokens, with ``keys`` and ``queries``: all ranks' lengths of each joint sequence.

    ``key_mask`` is that of the whole sequences, in the order of ranks.
    """

    keys: Lengths
    queries: Lengths
    targets: Lengths

    def for_target(self) -> LocalLayout:
        """The same where only tokens of the target ask."""
        return replace(self, queries=self.targets)


class Share:
    """One rank's share of the tokens of a call, and the way back.

    ``layout``, ``shapes`` and ``target`` are what the blocks are told about the share instead of the whole; ``shapes`` have
    only the right number of tokens.
    """

    def __init__(self, layout: Layout, segments: tuple[int, ...], target: int, text: int, group: ProcessGroup) -> None:
        ranks, rank, device = group.size(), group.rank(), layout.image_rotation.device
        ends = sorted({target, *itertools.accumulate(segments)})
        parts = tuple(b - a for a, b in itertools.pairwise((0, *ends)))
        self._group = group
        self._image = deal(parts, ranks, device)
        self._text = deal(layout.lengths or (text,), ranks, device)
        inside = ends.index(target) + 1  # parts of which the target consists
        self._targets = tuple(sum(counts[:inside]) for counts in self._image.counts)
        self.target = self._targets[rank]
        border = ends.index(segments[0]) + 1
        own = self._image.counts[rank]
        self.shapes: tuple[ImageShape, ...] = ((1, 1, sum(own[:border])), (1, 1, sum(own[border:])))[: len(segments)]
        self.layout = self._local(layout, text, rank)

    def _local(self, layout: Layout, text: int, rank: int) -> LocalLayout:
        images, texts = self._image, self._text
        mask = layout.key_mask
        if mask is not None:
            order = [n for r in range(len(images.numbers)) for n in (texts.numbers[r], text + images.numbers[r])]
            mask = mask[..., torch.cat(order)]
        samples = range(len(texts.counts[rank]))
        per_sample = [[counts[i] for counts in texts.counts] for i in samples]
        keys = tuple(tuple(n + m for n, m in zip(one, images.sizes, strict=True)) for one in per_sample)
        return LocalLayout(
            layout.text_rotation[texts.numbers[rank]],
            layout.image_rotation[images.numbers[rank]],
            mask,
            None if layout.lengths is None else texts.counts[rank],
            keys=keys,
            queries=keys,
            targets=(self._targets,) * len(samples),
        )

    def image(self, whole_BND: Tensor) -> Tensor:
        """This rank's part of an image stream."""
        return whole_BND.index_select(1, self._image.numbers[self._group.rank()])

    def text(self, whole_BLD: Tensor) -> Tensor:
        """This rank's part of a text stream."""
        return whole_BLD.index_select(1, self._text.numbers[self._group.rank()])

    def first(self, whole_BND: Tensor) -> Tensor:
        """This rank's part of the target's tokens."""
        return whole_BND.index_select(1, self._image.numbers[self._group.rank()][: self.target])

    def whole(self, local_BND: Tensor) -> Tensor:
        """All ranks' tokens of an image stream, in their order."""
        return self._gathered(local_BND, self._image.sizes)

    def whole_target(self, local_BND: Tensor) -> Tensor:
        """All ranks' tokens of the target, in their order."""
        return self._gathered(local_BND, self._targets)

    def _gathered(self, local_BND: Tensor, sizes: Sequence[int]) -> Tensor:
        numbers = torch.cat([own[:size] for own, size in zip(self._image.numbers, sizes, strict=True)])
        # What follows runs whole in every process and the blocks on a part: with this gain the mean of both is the gradient.
        return gather(local_BND, 1, sizes, self._group, gain=len(sizes)).index_select(1, numbers.argsort())


class SharedCache:
    """A :class:`StepCache` that sees whole streams, so that all ranks decide alike and as a single device would."""

    def __init__(self, cache: StepCache, share: Share, target: int) -> None:
        self._cache, self._share, self._target = cache, share, target

    def recall(self, first: Tensor, tokens: int) -> Tensor | None:
        """See :class:`StepCache`."""
        known = self._cache.recall(self._share.whole(first), self._target)
        return None if known is None else self._share.first(known)

    def remember(self, first: Tensor, last: Tensor) -> None:
        """See :class:`StepCache`."""
        self._cache.remember(self._share.whole(first), self._share.whole_target(last))


def tokens_to_heads(tensors: Sequence[Tensor], lengths: Sequence[Sequence[int]], group: ProcessGroup) -> list[Tensor]:
    """Some tokens of all heads -> all tokens of some heads: (B, S_r, H, d) -> (B, S, H / P, d), all ``tensors`` in one go.

    ``lengths[i][r]``: the tokens S_r of tensor i that rank r has. Rank p gets the p-th part of the heads, and the tokens in the
    order of ranks.
    """
    ranks = group.size()
    grouped = [x.reshape(*x.shape[:2], ranks, x.shape[2] // ranks, x.shape[3]) for x in tensors]
    per_head = [x.movedim(2, 0) for x in grouped]  # (P, B, S_r, H / P, d)
    sent = torch.cat([x.reshape(ranks, -1) for x in per_head], dim=1)
    token = [x.shape[1] * x.shape[3] * x.shape[4] for x in per_head]  # numbers of one token, of all samples
    sizes = [[n * each[r] for n, each in zip(token, lengths, strict=True)] for r in range(ranks)]
    flat = exchange(sent.view(-1), [sent.shape[1]] * ranks, [sum(size) for size in sizes], group)
    came = [torch.split(own, size) for own, size in zip(torch.split(flat, [sum(s) for s in sizes]), sizes, strict=True)]
    return [
        torch.cat([own[i].view(x.shape[1], lengths[i][r], *x.shape[3:]) for r, own in enumerate(came)], dim=1)
        for i, x in enumerate(per_head)
    ]


def heads_to_tokens(tensors: Sequence[Tensor], lengths: Sequence[Sequence[int]], group: ProcessGroup) -> list[Tensor]:
    """All tokens of some heads -> some tokens of all heads: (B, S, h * d) -> (B, S_r, P * h * d); inverse of the above."""
    ranks, rank = group.size(), group.rank()
    runs = [torch.split(x, list(each), dim=1) for x, each in zip(tensors, lengths, strict=True)]
    sent = [torch.cat([run[r].reshape(-1) for run in runs]) for r in range(ranks)]
    own = [x.shape[0] * each[rank] * x.shape[2] for x, each in zip(tensors, lengths, strict=True)]
    flat = exchange(torch.cat(sent), [part.numel() for part in sent], [sum(own)] * ranks, group)
    rows = torch.split(flat.view(ranks, -1), own, dim=1)
    return [
        row.view(ranks, x.shape[0], each[rank], x.shape[2]).movedim(0, 2).flatten(2)
        for row, x, each in zip(rows, tensors, lengths, strict=True)
    ]
