"""Training the condition encoder: a Qwen2.5-VL that learns to say what rendered pictures show, in both languages.

Token embeddings stay as they are. In the nano model they are drawings of the characters (:mod:`glyphflow.train.nano`), and the
output layer is tied to them: to read is then to find the character that looks like what the vision tower sees, and what the
MMDiT is told about a character still begins with how it looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glyphflow.corpus.annotate.prompts import quotations, read_answer
from glyphflow.feed.records import open_selection
from glyphflow.feed.tokens import TokenBatch, token_plan
from glyphflow.feed.transport import open_transport
from glyphflow.generate.directory import locate
from glyphflow.models import ConditionEncoder
from glyphflow.train.history import History
from glyphflow.train.loop import Loop
from glyphflow.train.parallel import World
from glyphflow.train.recipe import CaptionerRecipe
from glyphflow.train.resuming import check_recipe
from glyphflow.train.run import Say, joined, save_recipe, silent, told

_MOST_WORDS = 512  # tokens of a reply that is compared with the truth


class Captioner(nn.Module):
    """A whole Qwen2.5-VL (``transformers``) whose forward pass gives losses; ``language`` is the model to save."""

    def __init__(self, language: Any) -> None:
        super().__init__()
        self.language = language.float()
        self.requires_grad_(True)
        language.get_input_embeddings().weight.requires_grad_(False)

    def forward(self, batch: TokenBatch) -> Tensor:
        """Minus log likelihood of each answer token in nats, (answers,) float32, row by row.

        Rows are padded behind their ends and attention is causal, so no mask is needed. Logits are computed where something is
        asked only: the vocabulary is the largest matrix of a small model.
        """
        seen = {"pixel_values": batch.patches, "image_grid_thw": batch.grids} if len(batch.patches) else {}
        states = self.language.model(
            input_ids=batch.input_ids, position_ids=batch.positions.transpose(0, 1), use_cache=False, **seen
        ).last_hidden_state
        asked = batch.answers[:, 1:]
        logits = self.language.lm_head(states[:, :-1][asked]).float()
        return F.cross_entropy(logits, batch.input_ids[:, 1:][asked], reduction="none")


def next_token(model: nn.Module, batch: TokenBatch, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over samples of each answer's mean minus log likelihood a token.

    Every answer weighs the same, however long: rows are what micro-batches and processes share equally.
    """
    counts = batch.answers[:, 1:].sum(1)
    losses = model(batch)
    rows = torch.repeat_interleave(torch.arange(len(counts), device=losses.device), counts)
    sums = torch.zeros(len(counts), device=losses.device).index_add(0, rows, losses)
    return (sums / counts.clamp_min(1)).mean(), {}


def open_captioner(root: Path) -> Captioner:
    """The condition encoder of a pipeline directory, float32 on the CPU, to be trained."""
    return Captioner(ConditionEncoder.from_pretrained(root, torch.float32).model)


def samples(batch: TokenBatch) -> int:
    """How many samples the loss of a batch is the mean of."""
    return len(batch.ids)


def train_captioner(recipe: CaptionerRecipe, *, say: Say = silent) -> int:
    """Train the condition encoder of ``recipe.train.init_from``, in ``recipe.out``; continues what is there.

    ``say`` is told what is different where the run goes on. Returns the step that it is at.
    """
    with joined(recipe.out, recipe.train) as world:
        for source in recipe.feed.sources:
            open_selection(source, None)
        news = told(check_recipe(recipe), say, world)
        world.barrier()
        save_recipe(recipe, world)
        root, feed, settings = locate(recipe.train.init_from), recipe.feed, recipe.train
        encoder = ConditionEncoder.from_pretrained(root, torch.float32)
        model = Captioner(encoder.model).to(world.device)
        plan = token_plan(
            feed.sources,
            root,
            batch_size=feed.batch_size,
            seed=recipe.seed,
            tasks=feed.tasks,
            languages=feed.languages,
            max_tokens=feed.max_tokens,
            heldout_share=feed.heldout_share,
        )
        heldout = [batch.to(world.device) for batch in plan.open().heldout(settings.heldout_samples)]
        return Loop(
            world.apply(model, settings.computed_in(world.device)),
            next_token,
            lambda start: open_transport(
                settings.transport or "local",
                plan,
                start=start,
                part=world.part,
                device=world.device,
                depth=1 + settings.accumulate,
                producers=settings.producers or 1,
                address=settings.ray,
            ),
            settings,
            recipe.out,
            seed=recipe.seed,
            world=world,
            weight=samples,
            history=History([], news=news),
            size=lambda batch: batch.tokens,
            heldout=heldout_captions(heldout, encoder.tokenizer, recipe.read_samples, world) if heldout else None,
        ).run()


def heldout_captions(
    batches: Sequence[TokenBatch], tokenizer: Any, read: int, world: World | None = None
) -> Callable[[nn.Module], dict[str, float]]:
    """Measure minus log likelihood a token, overall and by task, and read about ``read`` pictures.

    ``heldout_valid`` is the share of pictures about which the model says JSON that the annotator can use; ``heldout_read`` that
    in whose caption each quoted text is what is written, letter by letter.
    """

    @torch.no_grad()
    def measure(model: nn.Module) -> dict[str, float]:
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for batch in batches:
            losses, task = model(batch), batch.tasks[0]
            sums[task] = sums.get(task, 0.0) + float(losses.sum())
            counts[task] = counts.get(task, 0) + len(losses)
        found = {"heldout_loss": sum(sums.values()) / sum(counts.values())}
        found |= {f"heldout_loss_{task}": sums[task] / counts[task] for task in sums}
        return found | _reading(model, [batch for batch in batches if batch.tasks[0] == "json"], tokenizer, read, world)

    return measure


def _reading(
    model: nn.Module, batches: Sequence[TokenBatch], tokenizer: Any, read: int, world: World | None
) -> dict[str, float]:
    """How many of about ``read`` pictures the model can describe and read, evenly from ``batches``."""
    if not batches or not read:
        return {}
    each = -(-read // len(batches))
    valid = right = total = written = 0
    for batch in batches:
        some = batch.split(len(batch.ids))[:each]
        for reply, one in zip(replies(model, some, tokenizer, world), some, strict=True):
            truth = tokenizer.decode(one.input_ids[one.answers].tolist(), skip_special_tokens=True)
            wanted = quotations(read_answer(truth, one.languages[0])["Caption"])
            try:
                said = quotations(read_answer(reply, one.languages[0])["Caption"])
            except ValueError:
                said = None
            total, valid = total + 1, valid + (said is not None)
            written, right = written + bool(wanted), right + (bool(wanted) and said == wanted)
    return {"heldout_valid": valid / total} | ({"heldout_read": right / written} if written else {})


def replies(model: nn.Module, asked: Sequence[TokenBatch], tokenizer: Any, world: World | None = None) -> list[str]:
    """What the model says to each question (a batch of one row), the likeliest token each time."""
    language = cast(Captioner, model).language
    found: list[str] = []
    for one in asked:
        given = int(one.answers[0].int().argmax())
        ids = one.input_ids[:, :given]
        shown = (ids == language.config.image_token_id).int()
        seen = {"pixel_values": one.patches, "image_grid_thw": one.grids, "mm_token_type_ids": shown}
        with world.whole(model) if world else torch.no_grad():
            written = language.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=min(_MOST_WORDS, 2 * int(one.answers.sum())),
                do_sample=False,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                **seen,
                **dict.fromkeys(("temperature", "top_p", "top_k")),
            )
        found.append(tokenizer.decode(written[0, given:].tolist(), skip_special_tokens=True))
    return found
