"""The loop from noise to latents, the same for every way of making a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from glyphflow.core.progress import Progress
from glyphflow.flow import euler_step, model_time, true_cfg
from glyphflow.generate.inputs import Callback, Conditions
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
    positive, positive_mask = _stack(job.conditions.positive, job.conditions.positive_mask)
    negative, negative_mask = None, None
    if job.conditions.negative is not None:
        negative, negative_mask = _stack(job.conditions.negative, job.conditions.negative_mask)
    shapes = [list(job.shapes)] * len(latents)
    for step in range(len(sigmas) - 1):
        sigma = sigmas[step]
        time = model_time(sigma, len(latents), latents.dtype)
        rows = pipeline.transformer.modulation(time[:1])  # the same for every picture and for both passes
        residuals = None if job.control is None else job.control(latents, sigma, step)
        tokens = latents if job.references is None else torch.cat([latents, job.references], dim=1)

        def velocity(text: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
            out: torch.Tensor = pipeline.transformer(
                tokens,  # noqa: B023 - called in this step only
                text,
                time,  # noqa: B023
                shapes,
                mask,
                controlnet_block_samples=residuals,  # noqa: B023
                modulation=rows,  # noqa: B023
            )
            return out[:, : latents.shape[1]]  # noqa: B023

        v = velocity(positive, positive_mask)
        if negative is not None:
            v = true_cfg(v, velocity(negative, negative_mask), job.scale)
        latents = euler_step(latents, v, sigma, sigmas[step + 1])
        if job.blend is not None:
            latents = job.blend(latents, step)
        if callback is not None:
            changed = callback(pipeline, step, 1000 * sigma, {"latents": latents, "prompt_embeds": positive}) or {}
            latents, positive = changed.get("latents", latents), changed.get("prompt_embeds", positive)
        if shown is not None:
            shown.advance()
        if pipeline.interrupt:
            break
    return latents


def _stack(rows: list[torch.Tensor], mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    from glyphflow.models.condition import ConditionEncoder

    return ConditionEncoder.pad(rows) if mask is None else (torch.stack(rows), mask)
