"""The captioner, from a corpus of renders to an encoder that embeds and annotates, on the loop of all other recipes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from glyphflow.cli.main import app
from glyphflow.core.errors import ConfigError
from glyphflow.corpus import Corpus
from glyphflow.corpus.annotate import annotate
from glyphflow.corpus.annotate.prompts import request_text
from glyphflow.corpus.annotate.qwen import QwenVL
from glyphflow.corpus.decide.curate import curate
from glyphflow.corpus.operators.measure import measure
from glyphflow.corpus.recipe import RenderSet, Rule, Stage
from glyphflow.corpus.specs import add_specs
from glyphflow.feed.tokens import TokenFeed, open_tokens
from glyphflow.models import ConditionEncoder
from glyphflow.models.vision import Preprocessing
from glyphflow.train.captioner import Captioner, heldout_captions, next_token, open_captioner, replies
from glyphflow.train.metrics import read_metrics
from glyphflow.train.recipe import CaptionerRecipe, read_recipe
from tiny import tiny_pipeline

pytest.importorskip("manimgx_fonts_cjk")

PLAIN = {"background": "plain", "max_lines": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy pipeline whose condition encoder takes pictures of 56 x 56 pixels."""
    place = tiny_pipeline(tmp_path_factory.mktemp("start") / "model")
    encoder = ConditionEncoder.from_pretrained(place, torch.float32)
    encoder.preprocessing = Preprocessing(min_pixels=28 * 28, max_pixels=56 * 56)
    encoder.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Corpus.create(tmp_path_factory.mktemp("renders") / "corpus")
    for one in (
        RenderSet(name="words", template="word", count=24, width=56, height=56, params=PLAIN),
        RenderSet(name="edits", template="edit_recolour", count=4, width=56, height=56),
    ):
        add_specs(made, one.name, one.specs())
    return made.directory


@pytest.fixture(scope="module")
def feed(corpus: Path, root: Path) -> TokenFeed:
    tasks, languages = {"json": 1.0, "text": 1.0, "edit": 1.0}, {"en": 1.0, "zh": 1.0}
    return open_tokens(
        [{"corpus": str(corpus)}], str(root), 4096, tasks=tasks, languages=languages, batch_size=2, seed=0, heldout_share=0.1
    )


def train(corpus: Path, root: Path, out: Path, *changes: str) -> str:
    feed = ("batch_size=2", "max_tokens=4096", "heldout_share=0.1", f"sources=[{{corpus: {corpus}}}]")
    loop = ("steps=4", "lr=1e-2", "warmup_steps=0", "schedule=constant", "checkpoint_every=2", "heldout_samples=4")
    place = (f"init_from={root}", "transport=files", "compute_dtype=float32", "device=cpu")
    changed = [f"out={out}", "read_samples=1", *(f"feed.{one}" for one in feed), *(f"train.{one}" for one in (*loop, *place))]
    result = CliRunner().invoke(app, ["train", "nano-captioner", *changed, *changes])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_the_loss_is_that_of_the_model_over_each_answer_alone(feed: TokenFeed, root: Path) -> None:
    """Unpadded, one row at a time, with logits over everything and the reference's own positions."""
    model = open_captioner(root)
    for task in ("json", "text", "edit"):
        batch = next(batch for batch in map(feed.batch, range(6)) if batch.tasks[0] == task)
        wanted = []
        for row in batch.split(2):
            length = int(row.answers[0].nonzero().max()) + 1
            ids, asked = row.input_ids[:, :length], row.answers[0, :length]
            seen = {"pixel_values": row.patches, "image_grid_thw": row.grids} if len(row.patches) else {}
            types = (ids == model.language.config.image_token_id).int()
            with torch.no_grad():
                logits = model.language(input_ids=ids, mm_token_type_ids=types, **seen).logits[0]
            places = asked.nonzero()[:, 0]
            wanted.append(-logits.log_softmax(-1)[places - 1, ids[0, places]].mean())
        found, _ = next_token(model, batch, torch.Generator())
        assert float(found.detach()) == pytest.approx(float(torch.stack(wanted).mean()), rel=1e-5)
        halves = [next_token(model, half, torch.Generator())[0] for half in batch.split(2)]
        assert float(sum(halves).detach()) / 2 == pytest.approx(float(found.detach()), rel=1e-5)


def test_embeddings_stay_and_everything_else_learns(feed: TokenFeed, root: Path) -> None:
    model = open_captioner(root)
    still = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert still == ["language.model.language_model.embed_tokens.weight"]
    batch = next(batch for batch in map(feed.batch, range(6)) if batch.tasks[0] == "json")
    next_token(model, batch, torch.Generator())[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad and p.ndim > 1)


def test_what_is_read_is_what_the_annotator_hears(feed: TokenFeed, root: Path, corpus: Path) -> None:
    """Replies against those of the annotator's own model, which opens the directory by itself."""
    model = open_captioner(root)
    batch = next(batch for batch in feed.heldout(50) if batch.tasks[0] == "json")
    (one, *_) = batch.split(len(batch.ids))
    limit = min(512, 2 * int(one.answers.sum()))
    tokenizer = ConditionEncoder.from_pretrained(root, torch.float32).tokenizer
    selection = Corpus.open(corpus).records(None)
    picture = np.asarray(selection.load(selection.ids.index(one.ids[0])).image)
    shown = {"type": "image_url", "image_url": {"url": "sha256:a"}}
    turn = {"role": "user", "content": [shown, {"type": "text", "text": request_text(one.languages[0])}]}
    told = QwenVL(root, "cpu").send({"messages": [turn], "max_tokens": limit}, {"sha256:a": picture})
    assert replies(model, [one], tokenizer)[0].strip() == told.text

    measured = heldout_captions(feed.heldout(6), tokenizer, 1)(model)
    assert measured["heldout_valid"] == 0.0 and measured["heldout_read"] == 0.0  # random weights
    assert {"heldout_loss", "heldout_loss_json", "heldout_loss_text"} <= measured.keys()


@pytest.mark.slow
def test_from_a_corpus_to_an_encoder_that_embeds_and_annotates(root: Path, corpus: Path, tmp_path: Path) -> None:
    """Also: a run that stopped half-way ends with the same bits as one that did not."""
    whole, broken, out = tmp_path / "whole", tmp_path / "broken", tmp_path / "model"
    assert "Trained to step 4" in train(corpus, root, whole)
    train(corpus, root, broken, "train.steps=2")
    train(corpus, root, broken)
    lines = [line for line in read_metrics(whole) if "heldout_loss" in line]
    assert lines and "heldout_valid" in lines[-1]

    for run, place in ((whole, out), (broken, tmp_path / "other")):
        result = CliRunner().invoke(app, ["export", str(run), str(place), "--dtype", "float32"])
        assert result.exit_code == 0, result.output
    mine, other = (load_file(place / "text_encoder" / "model.safetensors") for place in (out, tmp_path / "other"))
    assert mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)
    begun = load_file(root / "text_encoder" / "model.safetensors")
    changed = {name for name in begun if name in mine and not torch.equal(begun[name].float(), mine[name])}
    assert "model.embed_tokens.weight" not in changed and any("visual" in name for name in changed)
    assert (out / "processor" / "preprocessor_config.json").exists() and (out / "tokenizer" / "tokenizer.json").exists()

    encoder, before = (ConditionEncoder.from_pretrained(place, torch.float32) for place in (out, root))
    image = [Image.new("RGB", (56, 56), "red")]
    for prompt, how in (('a sign "Hi"', {}), ("make it blue", {"template": "edit", "images": [image]})):
        (found,), (was,) = encoder.encode([prompt], **how), before.encode([prompt], **how)
        assert found.shape == was.shape and found.isfinite().all() and not torch.allclose(found, was)

    made = Corpus.open(corpus)
    measure(made)
    rule = Rule(filter="Key", column="index.key", equals="0", reason="")
    curate(made, [Stage(name="F1", title="one", rules=(rule,))], "one")
    options = {"using": f"qwen:{out}", "renders": "model", "variants": ["recaption"], "languages": ["en"], "reading": False}
    done = annotate(made, "one", {**options, "attempts": 1, "max_tokens": 16})
    assert done.rows >= 1
    said = [json.loads(line) for path in (made.directory / "replies").iterdir() for line in path.read_text().splitlines()]
    assert said and {line["status"] for line in said} <= {"ok", "refused"}


def test_a_run_of_another_kind_of_question_is_refused(root: Path, corpus: Path, tmp_path: Path) -> None:
    recipe = read_recipe("nano-captioner", [f"out={tmp_path}"])
    assert isinstance(recipe, CaptionerRecipe) and recipe.feed.tasks["json"] > 0
    with pytest.raises(ConfigError, match="read"):
        read_recipe("nano-captioner", ["feed.tasks={read: 1.0}"])
    result = CliRunner().invoke(app, ["encode", "nano-captioner"])
    assert result.exit_code != 0 and "of kind captioner" in str(result.exception or result.output)


def test_a_captioner_is_the_model_itself(root: Path) -> None:
    """What is trained is what is saved: nothing is copied."""
    encoder = ConditionEncoder.from_pretrained(root, torch.float32)
    model = Captioner(encoder.model)
    assert {id(p) for p in model.parameters()} == {id(p) for p in encoder.model.parameters()}
