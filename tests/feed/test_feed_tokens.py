"""Conversations about renders: what is given, what is asked, and that a step is always the same batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glyphflow.core.errors import ConfigError
from glyphflow.corpus import Corpus
from glyphflow.corpus.annotate.known import answer
from glyphflow.corpus.annotate.prompts import read_answer, request_text
from glyphflow.corpus.recipe import RenderSet
from glyphflow.corpus.specs import add_specs
from glyphflow.feed.order import Part, is_heldout
from glyphflow.feed.tokens import Conversations, TokenBatch, TokenFeed, open_tokens
from glyphflow.models import ConditionEncoder
from glyphflow.models.templates import T2I_TEMPLATE
from glyphflow.models.vision import Preprocessing
from glyphflow.train.tokenizer import build_tokenizer, save_tokenizer
from tiny import tiny_text_encoder

pytest.importorskip("manimgx_fonts_cjk")

HOW = Preprocessing(min_pixels=28 * 28, max_pixels=28 * 28 * 9)
SETTINGS = {"batch_size": 4, "seed": 3, "languages": {"en": 1.0, "zh": 1.0}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer and a processor, as a pipeline directory has them."""
    place = tmp_path_factory.mktemp("start")
    save_tokenizer(build_tokenizer(["white text on a dark blue background"] * 4, merges=60), place / "tokenizer")
    HOW.save(place / "processor")
    return place


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Corpus.create(tmp_path_factory.mktemp("renders") / "corpus")
    params = {"background": "plain", "max_lines": 1}
    for one in (
        RenderSet(name="words", template="word", count=20, width=56, height=56, params=params),
        RenderSet(name="edits", template="edit_recolour", count=8, width=56, height=56),
    ):
        add_specs(made, one.name, one.specs())
    return made.directory


@pytest.fixture(scope="module")
def feed(corpus: Path, root: Path) -> TokenFeed:
    return opened(corpus, root, {"json": 2.0, "text": 1.0, "edit": 1.0})


def opened(corpus: Path, root: Path, tasks: dict[str, float]) -> TokenFeed:
    return open_tokens([{"corpus": str(corpus)}], str(root), 2048, tasks=tasks, heldout_share=0.2, **SETTINGS)


def equal(one: TokenBatch, other: TokenBatch) -> bool:
    names = ("input_ids", "answers", "positions", "patches", "grids")
    return one.ids == other.ids and all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


def said(conversations: Conversations, batch: TokenBatch, row: int) -> str:
    text: str = conversations.tokenizer.decode(batch.input_ids[row][batch.answers[row]].tolist())
    return text


def test_shares_of_tasks_and_languages_are_kept(feed: TokenFeed) -> None:
    met = [(batch.tasks[0], batch.languages[0]) for batch in map(feed.batch, range(16))]
    assert {key: met.count(key) for key in set(met)} == {
        **{("json", language): 4 for language in ("en", "zh")},
        **{(task, language): 2 for task in ("text", "edit") for language in ("en", "zh")},
    }


def test_the_answer_is_the_reports_json_and_the_request_the_annotators(feed: TokenFeed, corpus: Path) -> None:
    conversations = feed._conversations
    selection = Corpus.open(corpus).records(None)
    captions = {record: selection.load(n).captions for n, record in enumerate(selection.ids)}
    for batch in [batch for batch in map(feed.batch, range(8)) if batch.tasks[0] == "json"]:
        language = batch.languages[0]
        for row, record in enumerate(batch.ids):
            told = said(conversations, batch, row)
            assert told.endswith("<|im_end|>")
            found = read_answer(told.removesuffix("<|im_end|>"), language)
            assert found["Caption"] == captions[record][language]
            assert json.loads(told.removesuffix("<|im_end|>")).keys() == {
                *("Caption", "Image Type", "Image Style", "Watermark List", "Abnormal Element")
            }
            given = batch.input_ids[row][: int(batch.answers[row].int().argmax())].tolist()
            asked = conversations.tokenizer.decode(given)
            assert request_text(language) in asked and asked.endswith("<|im_start|>assistant\n")
            assert asked.count("<|image_pad|>") == 4  # 56 x 56 pixels


def test_instructions_are_asked_for_behind_the_picture_before(feed: TokenFeed, corpus: Path) -> None:
    batch = next(batch for batch in map(feed.batch, range(16)) if batch.tasks[0] == "edit")
    selection = Corpus.open(corpus).records(None)
    place = selection.ids.index(batch.ids[0])
    told = selection.load(place).captions[batch.languages[0]]
    assert said(feed._conversations, batch, 0) == f"{told}<|im_end|>"
    (before,) = selection.load_references(place)
    patches = HOW.patches(HOW.picture(Image.fromarray(before.image)))
    assert torch.equal(batch.patches[: len(patches)], patches)


def test_a_caption_stands_where_the_encoder_embeds_it(feed: TokenFeed) -> None:
    """The tokens of the answer are those behind the encoder's prefix, which the MMDiT attends to."""
    conversations = feed._conversations
    caption = 'a poster that says "Hi 你" and more'
    found = conversations.prompt(caption)
    encoder = ConditionEncoder(tiny_text_encoder(len(conversations.tokenizer)), conversations.tokenizer)
    whole = conversations.tokenizer(T2I_TEMPLATE.format(caption))["input_ids"]
    assert found.given == encoder.prefix_tokens()
    assert found.ids == whole[: len(found.ids)]
    assert conversations.tokenizer.decode(found.ids[found.given :]) == f"{caption}<|im_end|>"
    assert len(encoder.encode([caption])[0]) == len(whole) - found.given


@pytest.mark.parametrize("caption", ['the text "A B" on red', "写着“你好”的海报", 'a\\b "c"', "two\nlines", '"', ""])
def test_json_is_spelled_only_where_the_caption_quotes(feed: TokenFeed, caption: str) -> None:
    conversations = feed._conversations
    told = answer(caption, "poster", "flat")
    ids = conversations.json_ids(told)
    assert conversations.tokenizer.decode(ids) == json.dumps(told, ensure_ascii=False)
    if caption.startswith("the text"):
        pieces = [conversations.tokenizer.decode([one]) for one in ids]
        start = pieces.index("A")
        assert pieces[start - 2 : start + 5] == ["\\", '"', "A", " ", "B", "\\", '"']


def test_a_step_is_the_same_in_another_process_and_in_parts(feed: TokenFeed, corpus: Path, root: Path) -> None:
    again = opened(corpus, root, {"json": 2.0, "text": 1.0, "edit": 1.0})
    for step in (7, 0):
        whole = feed.batch(step)
        assert equal(whole, again.batch(step))
        halves = [again.batch(step, Part(rank, 2)) for rank in range(2)]
        assert tuple(record for half in halves for record in half.ids) == whole.ids
        assert [half.first for half in halves] == [0, 2] and {half.total for half in halves} == {4}
        for mine, half in zip(whole.split(2), halves, strict=True):
            assert torch.equal(mine.patches, half.patches) and mine.first == half.first
            length = half.input_ids.shape[1]
            assert torch.equal(mine.input_ids[:, :length], half.input_ids)
            assert not mine.input_ids[:, length:].any()


def test_held_out_records_are_never_trained_on(feed: TokenFeed) -> None:
    seen = {record for step in range(40) for record in feed.batch(step).ids}
    held = {record for batch in feed.heldout(100) for record in batch.ids}
    assert held and not seen & held
    assert all(is_heldout(record, 0.2) for record in held)
    tasks = {(batch.tasks[0], batch.languages[0]) for batch in feed.heldout(100)}
    assert {("json", "en"), ("json", "zh")} <= tasks
    assert feed.heldout(0) == []


def test_positions_and_pictures_are_those_of_the_vision_tower(feed: TokenFeed) -> None:
    batch = next(batch for batch in map(feed.batch, range(4)) if batch.tasks[0] == "json")
    pad = feed._conversations.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    start = int((batch.input_ids[0] == pad).int().argmax())
    assert batch.positions[0, :, start : start + 4].tolist() == [
        [start] * 4,
        [start, start, start + 1, start + 1],
        [start, start + 1, start, start + 1],
    ]
    assert batch.positions[0, :, start + 4].tolist() == [start + 2] * 3
    assert batch.grids.tolist() == [[1, 4, 4]] * 4 and len(batch.patches) == 64
    assert np.isfinite(batch.patches.numpy()).all()


def test_what_cannot_be_is_told(corpus: Path, root: Path, tmp_path: Path) -> None:
    bare = Corpus.create(tmp_path / "words")
    add_specs(bare, "words", RenderSet(name="words", template="word", count=2, width=56, height=56).specs())
    with pytest.raises(ConfigError, match="no edit pairs"):
        opened(bare.directory, root, {"edit": 1.0})
    with pytest.raises(ConfigError, match="max_tokens is 20"):
        open_tokens([{"corpus": str(corpus)}], str(root), 20, tasks={"json": 1.0}, **SETTINGS).batch(0)
    with pytest.raises(ConfigError, match="cannot be cut into 3"):
        opened(corpus, root, {"text": 1.0}).batch(0).split(3)
