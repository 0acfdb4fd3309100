"""Text to image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from glyphflow.flow import sigmas
from glyphflow.generate.denoise import Job
from glyphflow.generate.directory import check_size
from glyphflow.generate.inputs import Call, draw_noise, given_latents

if TYPE_CHECKING:
    from glyphflow.generate.pipeline import GenerateResult, Pipeline


def generate(pipeline: Pipeline, call: Call, height: int | None, width: int | None) -> GenerateResult:
    """Pictures of ``call``'s prompts; see :meth:`Pipeline.generate`."""
    height, width = (pipeline.facts.native_side if side is None else side for side in (height, width))
    check_size(height, width)
    tokens = (height // 16) * (width // 16)
    steps = pipeline.facts.default_steps if call.num_inference_steps is None else call.num_inference_steps
    schedule = sigmas(pipeline.schedule, steps, tokens)
    both = pipeline.condition(call)
    channels = pipeline.transformer.config.in_channels
    if call.latents is None:
        latents = draw_noise((both.batch, channels // 4, height, width), call.generator, both.positive[0])
    else:
        latents = given_latents(call.latents, (both.batch, tokens, channels), both.positive[0])
    job = Job(latents, ((1, height // 16, width // 16),), both, schedule, call.true_cfg_scale)
    return pipeline.result(pipeline.sample(job, call, "generate"), height, width, call.output_type)
