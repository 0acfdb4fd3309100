"""The loop from noise to latents, the same for every way of making a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from glyphflow.core.errors import InputError
from glyphflow.core.progress import Progress
from glyphflow.flow import euler_step, model_time, true_cfg
from glyphflow.generate.finite import finite
from glyphflow.generate.inputs import Callback, Conditions
from glyphflow.generate.speed import FirstBlockCache
from glyphflow.models import Modulation
from glyphflow.models.msrope import ImageShape

if TYPE_CHECKING:
    from glyphflow.generate.pipeline import Pipeline

Blend = Callable[[torch.Tensor, int], torch.Tensor]
Control = Callable[[torch.Tensor, torch.Tensor, int], list[torch.Tensor] | None]


@dataclass(frozen=True)
class Job:
    """Everything that the loop needs, for pictures of one size.

    latents: (B, N, C) packed start. references: (B, R, C) clean tokens that stand behind them at every step. shapes: (frames,
    height / 16, width / 16) of the pictures being made, then of the references. sigmas: (S + 1,) fp32 from the start to 0.
    scale: true guidance, in force where ``conditions`` have a negative side; normalise: rescale each token to the length the
    positive prompt gave it. blend(latents, step): what the latents become after step ``step``. control(latents, sigma, step):
    ControlNet residuals of this step, made with the positive prompt and used for both. additional_t_cond: (B,) int, for
    models with ``use_additional_t_cond``.
    """

    latents: torch.Tensor
    shapes: tuple[ImageShape, ...]
    conditions: Conditions
    sigmas: torch.Tensor
    scale: float = 1.0
    normalise: bool = True
    references: torch.Tensor | None = None
    blend: Blend | None = None
    control: Control | None = None
    additional_t_cond: torch.Tensor | None = None


@torch.inference_mode()
def denoise(pipeline: Pipeline, job: Job, callback: Callback | None = None, shown: Progress | None = None) -> torch.Tensor:
    """Walk ``job.sigmas``: packed latents (B, N, C) at the last of them. ``pipeline.interrupt`` ends the walk early."""
    latents, sigmas = job.latents, job.sigmas.to(job.latents.device)
    predict = _Predictor(pipeline, job, sigmas)
    sound: list[torch.Tensor | None] = []
    for step in range(len(sigmas) - 1):
        sigma = sigmas[step]
        v, uncond = predict(latents, step)
        if uncond is not None:
            v = true_cfg(v, uncond, job.scale) if job.normalise else uncond + job.scale * (v - uncond)
        latents = euler_step(latents, v, sigma, sigmas[step + 1])
        if job.blend is not None:
            latents = job.blend(latents, step)
        # The step before is looked at while this one computes, so that a card never waits for the question.
        _require_sound(sound, len(sigmas) - 1)
        sound.append(finite(latents))
        if callback is not None:
            given = {"latents": latents, "prompt_embeds": predict.prompt_embeds}
            changed = callback(pipeline, step, 1000 * sigma, given) or {}
            latents = changed.get("latents", latents)
            predict.replace(changed.get("prompt_embeds"))
        if shown is not None:
            shown.advance()
        if pipeline.interrupt:
            break
    _require_sound(sound, len(sigmas) - 1)
    return latents


def _require_sound(sound: list[torch.Tensor | None], steps: int) -> None:
    """Refuse to go on from latents that are not finite: all that could come of them is a black picture."""
    if sound and sound[-1] is not None and not bool(sound[-1]):
        raise InputError(
            f"The latents are not finite (nan or inf) after step {len(sound)} of {steps}, so no picture can come of them; the "
            "weights, an adapter or its strength do not suit the model, or the dtype is too narrow (try float32)."
        )


@dataclass(frozen=True)
class _Pass:
    """One call of the network per step: the texts of its pictures, and how often the latents stand in it."""

    texts: list[torch.Tensor] | torch.Tensor
    mask: torch.Tensor | None
    copies: int
    cache: FirstBlockCache | None


class _Predictor:
    """The velocities of a step, for the prompt and, under guidance, for the negative prompt.

    Both go through the network as one pass, each picture with its own text and nothing of another's; or as two, as the
    reference does, where the switch is off or masks with holes forbid it.
    """

    def __init__(self, pipeline: Pipeline, job: Job, sigmas: torch.Tensor) -> None:
        self._pipeline, self._job, self._sigmas = pipeline, job, sigmas
        self._conditions = job.conditions
        dtype = job.latents.dtype
        self._times = torch.cat([model_time(sigma, 1, dtype) for sigma in sigmas[:-1]])
        extra = job.additional_t_cond
        self._more = {} if extra is None else {"additional_t_cond": extra[:1]}  # one of the two, for every picture
        self._table: Modulation | None = None
        if pipeline.speed.modulation_table:
            self._table = pipeline.residency.modulation(pipeline.transformer, self._times, **self._more)
        self._passes = self._plan()

    @property
    def prompt_embeds(self) -> torch.Tensor:
        """The prompts' embeddings as one tensor (B, L, D), zeros behind the shorter ones."""
        return _stack(self._conditions.positive)

    def replace(self, prompt_embeds: torch.Tensor | None) -> None:
        """Go on with other prompt embeddings (B, L, D); None: with the same."""
        if prompt_embeds is None:
            return
        lengths = [len(row) for row in self._conditions.positive]
        if prompt_embeds.shape[1] != max(lengths):  # not the old ones changed, but others
            lengths = [prompt_embeds.shape[1]] * len(lengths)
        rows = [row[:length] for row, length in zip(prompt_embeds, lengths, strict=True)]
        self._conditions = dataclasses.replace(self._conditions, positive=rows)
        self._passes = self._plan()

    def __call__(self, latents: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        job = self._job
        if self._table is not None:
            rows = self._table.row(step)
        else:  # one sigma for every picture and for both passes
            rows = self._pipeline.transformer.modulation(self._times[step : step + 1], **self._more)
        residuals = None if job.control is None else job.control(latents, self._sigmas[step], step)
        tokens = latents if job.references is None else torch.cat([latents, job.references], dim=1)

        def run(one: _Pass) -> torch.Tensor:
            return self._run(one, tokens, rows, residuals, step)

        ranks = self._pipeline.ranks
        velocities = list(map(run, self._passes)) if ranks is None else ranks.passes(self._passes, run)
        if self._conditions.negative is None:
            return velocities[0], None
        positive, negative = velocities if len(velocities) == 2 else velocities[0].chunk(2)
        return positive, negative

    def _run(
        self, one: _Pass, tokens: torch.Tensor, rows: Modulation, residuals: list[torch.Tensor] | None, step: int
    ) -> torch.Tensor:
        if residuals is not None and one.copies > 1:
            residuals = [torch.cat([residual] * one.copies) for residual in residuals]
        batch = one.copies * len(tokens)
        out: torch.Tensor = self._pipeline.transformer(
            torch.cat([tokens] * one.copies) if one.copies > 1 else tokens,
            one.texts,
            self._times[step : step + 1],
            [list(self._job.shapes)] * batch,
            one.mask,
            controlnet_block_samples=residuals,
            modulation=rows,
            target_tokens=self._job.latents.shape[1],
            step_cache=one.cache,
        )
        return out

    def _plan(self) -> list[_Pass]:
        known, speed = self._conditions, self._pipeline.speed
        sides = [(known.positive, known.positive_mask)]
        if known.negative is not None:
            sides.append((known.negative, known.negative_mask))
        masked = any(mask is not None for _, mask in sides)

        def cache() -> FirstBlockCache | None:
            return None if speed.step_cache is None else FirstBlockCache(speed.step_cache)

        ranks = self._pipeline.ranks
        apart = ranks is not None and ranks.plan.cfg > 1  # each side is another process's
        if speed.packed_cfg and not masked and not apart:
            return [_Pass([text for texts, _ in sides for text in texts], None, len(sides), cache())]
        return [_Pass(texts if mask is None else _stack(texts), mask, 1, cache()) for texts, mask in sides]


def _stack(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
