"""The token payload: conversations about rendered pictures, for training the condition encoder as a captioner.

Three tasks, all of them "say the next token of the answer":

``json``  a picture and the request of the corpus's annotator; the answer is the report's JSON about it, from the ground truth
``text``  a caption in the frame of a prompt: the answer is the caption itself
``edit``  a picture and an instruction in the frame of an edit: the answer is the instruction

The first aligns what is seen with what is said, in the words in which :mod:`glyphflow.corpus.annotate` asks. The others teach
the language of prompts at the very places from which the MMDiT reads hidden states.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from PIL import Image

from glyphflow.core.config import load_config, to_dict
from glyphflow.core.errors import ConfigError, InputError
from glyphflow.feed.amendments import Amendment
from glyphflow.feed.batches import tensor_fields
from glyphflow.feed.order import Interleave, Part, Serving, is_heldout, record_keys
from glyphflow.feed.records import open_selection
from glyphflow.feed.settings import Source
from glyphflow.feed.transport import FeedPlan
from glyphflow.models.qwen_vl import open_tokenizer
from glyphflow.models.templates import IMAGE_TOKEN, PICTURE, templated
from glyphflow.models.vision import Picture, Preprocessing, expand, positions

if TYPE_CHECKING:
    from glyphflow.corpus import Selection
    from glyphflow.render import Rendered

TokenTask = Literal["json", "text", "edit"]
TOKEN_TASKS: tuple[TokenTask, ...] = ("json", "text", "edit")
LANGUAGES = ("en", "zh")
_RENDER = "render"
_QUOTE = '"'
_END = "<|im_end|>"


@dataclass(frozen=True)
class TokenBatch:
    """Conversations of one task and language, one behind the other in every row, zeros behind the shorter ones."""

    step: int
    ids: tuple[str, ...]
    tasks: tuple[str, ...]
    languages: tuple[str, ...]
    input_ids: torch.Tensor
    """(B, L) int64."""
    answers: torch.Tensor
    """(B, L) bool: the tokens that are asked for; each from all that stand before it."""
    positions: torch.Tensor
    """(B, 3, L) int64 on the axes time, height and width (:func:`glyphflow.models.vision.positions`)."""
    patches: torch.Tensor
    """(P, F) float32: the patches of all pictures, as the vision tower takes them; (0, F) where the task shows none."""
    grids: torch.Tensor
    """(B, 3) int64: frames, rows and columns of each row's patches; zeros without a picture."""
    first: int = 0
    """Place of the first row in the global batch of the step."""
    total: int = 0
    """Rows of the global batch."""

    @property
    def tokens(self) -> int:
        """Tokens that the language model computes on, padding included."""
        return self.input_ids.numel()

    def to(self, device: torch.device) -> TokenBatch:
        """A copy whose tensors are on ``device``; itself if they are there."""
        moved: dict[str, Any] = {name: one.to(device, non_blocking=True) for name, one in tensor_fields(self).items()}
        return replace(self, **moved)

    def split(self, parts: int) -> list[TokenBatch]:
        """``parts`` micro-batches in order (views, no copies); rows must divide."""
        rows = len(self.ids)
        if rows % parts:
            raise ConfigError(
                f"A batch of {rows} samples cannot be cut into {parts} equal micro-batches; use a divisor of {rows}."
            )
        return [self._rows(start, rows // parts) for start in range(0, rows, rows // parts)]

    def _rows(self, start: int, count: int) -> TokenBatch:
        rows = slice(start, start + count)
        sizes = self.grids.prod(1)
        begin, size = int(sizes[:start].sum()), int(sizes[rows].sum())
        return replace(
            self,
            ids=self.ids[rows],
            tasks=self.tasks[rows],
            languages=self.languages[rows],
            input_ids=self.input_ids[rows],
            answers=self.answers[rows],
            positions=self.positions[rows],
            patches=self.patches[begin : begin + size],
            grids=self.grids[rows],
            first=self.first + start,
        )


class Conversation(NamedTuple):
    """One sample: its tokens, how many of them are given before the answer begins, and the picture it is about."""

    ids: list[int]
    given: int
    picture: Picture | None


class Conversations:
    """Turns pictures and words into tokens, exactly as the annotator and the pipelines do when they ask.

    ``tokenizer`` is any of ``transformers`` that reports character offsets; samples are cut behind ``limit`` tokens.
    """

    def __init__(self, tokenizer: Any, how: Preprocessing, limit: int) -> None:
        self.tokenizer, self.how, self._limit = tokenizer, how, limit
        self._image_token = int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
        self._requests: dict[str, list[int]] = {}

    def about(self, image: Image.Image, answer: Mapping[str, Any], language: str) -> Conversation:
        """The annotator's request for a caption in ``language``, and ``answer`` (the report's keys) as JSON."""
        picture = self.how.picture(image)
        asked = expand(self._request(language), self._image_token, [picture])
        return self._cut([*asked, *self.json_ids(answer), *self._ids(_END)], len(asked), picture)

    def prompt(self, caption: str, image: Image.Image | None = None) -> Conversation:
        """``caption`` as a prompt, or with ``image`` as an instruction, in the frame in which the encoder embeds it."""
        before, after = templated("t2i", caption) if image is None else templated("edit", caption, 1)
        encoded = self.tokenizer(before + after, return_offsets_mapping=True)
        begin = len(before) + (0 if image is None else len(PICTURE))
        end = begin + len(caption) + len(_END)
        ids = [one for one, (start, _) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True) if start < end]
        given = sum(start < begin for start, _ in encoded["offset_mapping"])
        if image is None:
            return self._cut(ids, given, None)
        picture = self.how.picture(image)
        return self._cut(expand(ids, self._image_token, [picture]), given + picture.tokens - 1, picture)

    def json_ids(self, answer: Mapping[str, Any]) -> list[int]:
        """Tokens of ``json.dumps(answer)``: keys and the caption's own words merged, what the caption quotes spelled.

        As one text everything would stand between quotation marks and be spelled, and an answer be five times as long. Decoding
        gives the JSON back, whichever way it was cut.
        """
        (quote,) = self._ids(_QUOTE)
        ids: list[int] = []
        for key, value in answer.items():
            lead = "{" if not ids else ", "
            ids += [*self._ids(lead), quote, *self._ids(key), quote, *self._ids(": ")]
            ids += self._string_ids(value, quote) if isinstance(value, str) else self._ids(json.dumps(value))
        return [*ids, *self._ids("}")]

    def _string_ids(self, value: str, quote: int) -> list[int]:
        escaped = json.dumps(value, ensure_ascii=False)[1:-1]
        escape = self._ids("\\")
        inside = [part for one in self._ids(value) for part in ([*escape, quote] if one == quote else [one])]
        if self.tokenizer.decode(inside) != escaped:  # other escapes, or a vocabulary that merges quotation marks
            inside = self._ids(escaped)
        return [quote, *inside, quote]

    def _request(self, language: str) -> list[int]:
        if language not in self._requests:
            from glyphflow.corpus.annotate.prompts import request_text
            from glyphflow.corpus.annotate.qwen import spoken

            shown = {"type": "image_url", "image_url": {"url": ""}}
            turn = {"role": "user", "content": [shown, {"type": "text", "text": request_text(language)}]}
            self._requests[language] = self._ids(spoken([turn]))
        return self._requests[language]

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text)["input_ids"]
        return found

    def _cut(self, ids: list[int], given: int, picture: Picture | None) -> Conversation:
        if given >= self._limit:
            raise ConfigError(
                f"A question alone has {given} tokens and feed.max_tokens is {self._limit}; raise it, or make pictures smaller."
            )
        return Conversation(ids[: self._limit], given, picture)

    def batch(self, step: int, samples: Sequence[Conversation], **known: Any) -> TokenBatch:
        """``samples`` padded to one length; ``known`` are the other fields of :class:`TokenBatch`."""
        length = max(len(sample.ids) for sample in samples)
        input_ids = torch.zeros(len(samples), length, dtype=torch.long)
        answers = torch.zeros(len(samples), length, dtype=torch.bool)
        places = torch.zeros(len(samples), 3, length, dtype=torch.long)
        grids = torch.zeros(len(samples), 3, dtype=torch.long)
        features = 3 * self.how.temporal_patch_size * self.how.patch_size**2
        patches = [torch.zeros(0, features)]
        for row, (ids, given, picture) in enumerate(samples):
            input_ids[row, : len(ids)] = torch.tensor(ids)
            answers[row, given : len(ids)] = True
            pictures = [] if picture is None else [picture]
            places[row, :, : len(ids)] = positions(ids, self._image_token, pictures)
            for one in pictures:
                grids[row] = torch.tensor([1, *(self.how.merge_size * side for side in one.grid)])
                patches.append(self.how.patches(one))
        return TokenBatch(
            step, input_ids=input_ids, answers=answers, positions=places, patches=torch.cat(patches), grids=grids, **known
        )


class _Stream(NamedTuple):
    source: int
    task: TokenTask
    language: str
    members: list[int]
    """Places in the source's selection."""
    order: Serving


class TokenFeed:
    """Batches of conversations; the batch of a step is a pure function of the sources, the settings and the seed.

    ``sources`` are (name, selection of renders, weight); steps are shared among tasks, sources and languages in proportion to
    their weights. Records whose id falls into ``heldout_share`` are left to :meth:`heldout`. Raises ConfigError where a task
    that is asked for has no record in any source.
    """

    def __init__(
        self,
        sources: Sequence[tuple[str, Selection, float]],
        conversations: Conversations,
        *,
        batch_size: int,
        seed: int,
        tasks: Mapping[str, float],
        languages: Mapping[str, float],
        heldout_share: float = 0.0,
    ) -> None:
        self._sources = [selection for _, selection, _ in sources]
        self._conversations = conversations
        self._batch, self._seed = batch_size, seed
        self._streams: list[_Stream] = []
        self._heldout: list[tuple[int, TokenTask, str, list[int]]] = []
        weights: list[float] = []
        for task in TOKEN_TASKS:
            groups = [(n, name, weight, _members(each, task)) for n, (name, each, weight) in enumerate(sources)]
            groups = [group for group in groups if group[3] and tasks.get(task, 0.0) > 0]
            total = sum(weight for _, _, weight, _ in groups)
            if not groups and tasks.get(task, 0.0) > 0:
                lack = "edit pairs" if task == "edit" else "renders"
                raise ConfigError(f"feed.tasks asks for {task}, and the sources hold no {lack}; add some, or leave it out.")
            for number, name, weight, members in groups:
                for language in [one for one in LANGUAGES if languages.get(one, 0.0) > 0]:
                    share = tasks[task] * weight / total * languages[language]
                    weights += self._add(number, f"{name}|{task}|{language}", task, language, members, heldout_share, share)
        self._turns = Interleave(weights)

    def _add(
        self, source: int, name: str, task: TokenTask, language: str, members: list[int], heldout_share: float, weight: float
    ) -> list[float]:
        """Note a stream with its held-out members; its weight, unless all of them are held out."""
        ids = self._sources[source].ids
        held = [place for place in members if is_heldout(ids[place], heldout_share)]
        kept = [place for place in members if not is_heldout(ids[place], heldout_share)]
        if held:
            self._heldout.append((source, task, language, held))
        if not kept:
            return []
        keys = record_keys([ids[place] for place in kept])
        self._streams.append(_Stream(source, task, language, kept, Serving(keys, self._batch, self._seed, name)))
        return [weight]

    def batch(self, step: int, part: Part | None = None) -> TokenBatch:
        """The conversations of ``step`` >= 0 that belong to ``part`` (default: all)."""
        number, turn = self._turns.at(step)
        stream = self._streams[number]
        picks = stream.order.picks(turn)
        first, end = (part or Part()).bounds(len(picks))
        places = [stream.members[pick.member] for pick in picks[first:end]]
        return self._made(step, stream.source, stream.task, stream.language, places, first, len(picks))

    def amend(self, amendments: Sequence[Amendment]) -> None:
        """Nothing of this feed can be changed while a run goes on."""
        if amendments:
            raise ConfigError("The feed of a captioner cannot be changed while it runs; remove amendments.jsonl.")

    def stop(self) -> None:
        """Nothing here waits for others."""

    def heldout(self, count: int) -> list[TokenBatch]:
        """Up to about ``count`` held-out samples, evenly from all tasks and languages, always the same ones."""
        each = -(-count // max(1, len(self._heldout)))
        batches = []
        for source, task, language, held in self._heldout if count else ():
            places = held[:: max(1, len(held) // each)][:each]
            for start in range(0, len(places), self._batch):
                some = places[start : start + self._batch]
                batches.append(self._made(0, source, task, language, some, 0, len(some)))
        return batches

    def _made(
        self, step: int, source: int, task: TokenTask, language: str, places: Sequence[int], first: int, total: int
    ) -> TokenBatch:
        samples = [self._sample(self._sources[source], task, language, place) for place in places]
        ids = tuple(self._sources[source].ids[place] for place in places)
        count = len(places)
        known = {"tasks": (task,) * count, "languages": (language,) * count, "first": first, "total": total}
        return self._conversations.batch(step, samples, ids=ids, **known)

    def _sample(self, selection: Selection, task: TokenTask, language: str, place: int) -> Conversation:
        drawn = _drawn(selection, place)
        caption = drawn.captions[language]
        if task == "text":
            return self._conversations.prompt(caption)
        if task == "edit":
            (before, *_) = selection.load_references(place)
            return self._conversations.prompt(caption, Image.fromarray(before.image))
        from glyphflow.corpus.annotate.known import answer

        told = answer(caption, drawn.image_type, drawn.image_style)
        return self._conversations.about(Image.fromarray(drawn.image), told, language)


def _members(selection: Selection, task: TokenTask) -> list[int]:
    """Renders whose truth serves ``task``: what a target of an edit says is an instruction and no description."""
    return [n for n, row in enumerate(selection.rows) if row.kind == _RENDER and bool(row.references) == (task == "edit")]


def _drawn(selection: Selection, place: int) -> Rendered:
    row = selection.rows[place]
    return selection.draw(selection.corpus.payload(row.shard, row.kind, row.offset, row.size))


def token_plan(
    sources: Sequence[Source],
    root: Path,
    *,
    batch_size: int,
    seed: int,
    tasks: Mapping[str, float],
    languages: Mapping[str, float],
    max_tokens: int,
    heldout_share: float,
) -> FeedPlan:
    """The plan of a :class:`TokenFeed` with the tokenizer and the processor of the pipeline directory ``root``."""
    named = [to_dict(source) for source in sources]
    shares = {"tasks": dict(tasks), "languages": dict(languages), "heldout_share": heldout_share}
    numbers = {"batch_size": batch_size, "seed": seed, "max_tokens": max_tokens}
    return FeedPlan("glyphflow.feed.tokens:open_tokens", {"sources": named, "root": str(root), **numbers, **shares})


def open_tokens(
    sources: Sequence[Mapping[str, Any]], root: str, max_tokens: int, worker: int = 0, **settings: Any
) -> TokenFeed:
    """What a :func:`token_plan` opens."""
    named = [load_config(Source, source) for source in sources]
    opened: list[tuple[str, Any, float]] = [(each.title, open_selection(each, None), each.weight) for each in named]
    return TokenFeed(opened, open_conversations(Path(root), max_tokens), **settings)


def open_conversations(root: Path, max_tokens: int) -> Conversations:
    """The tokenizer and the processor of ``root``; InputError when the tokenizer knows no pictures."""
    tokenizer = open_tokenizer(root / "tokenizer")
    if tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) in (None, tokenizer.unk_token_id):
        raise InputError(f"The tokenizer in {root} has no token {IMAGE_TOKEN}, so nothing can be said about pictures.")
    return Conversations(tokenizer, Preprocessing.from_directory(root / "processor") or Preprocessing(), max_tokens)
