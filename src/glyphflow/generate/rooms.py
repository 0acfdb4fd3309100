"""The bytes that each kind of work of a pipeline takes beside weights, and the budget that ``memory=`` means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from glyphflow.generate.activations import Work, decoding_bytes, encoding_bytes, sampling_bytes, table_bytes
from glyphflow.generate.directory import ModelFacts
from glyphflow.generate.half import PartDtypes
from glyphflow.generate.placement import budget_of
from glyphflow.generate.sizes import EncoderConfig, ModelConfig
from glyphflow.models import MMDiTConfig
from glyphflow.models.quantize import Quantize, expanding_bytes, quantised_as

if TYPE_CHECKING:
    from PIL import Image

    from glyphflow.generate.denoise import Job
    from glyphflow.generate.inputs import Call
    from glyphflow.generate.pipeline import Pipeline
    from glyphflow.models.condition import ConditionEncoder

_TEMPLATE_TOKENS = 128  # what the longest chat template adds to a prompt, and more
PICTURE_TOKENS = 1444  # 38 x 38, of a picture of a megapixel
_TEXT_TOKENS = 256  # of a prompt that is not known yet


def budget(
    memory: str | int, root: Path, device: torch.device, dtype: torch.dtype, quantize: Quantize | None = None
) -> int | None:
    """The bytes that weights and work of the model in ``root`` may take on ``device``; None: all of it stays there."""

    def everything() -> int:
        config, side = ModelConfig.read(root), ModelFacts.read(root).native_side
        work = Work(((1, side // 16, side // 16),), 1, _TEXT_TOKENS, _TEXT_TOKENS, 50)
        decoding = decoding_bytes(config.vae, (1, side // 8, side // 8), PartDtypes.of(dtype).vae)
        room = max(of_sampling(config.transformer, work, dtype, quantize), decoding)
        return room + sum(part.total + sum(part.passing) for part in config.part_sizes(dtype, quantize).values())

    return budget_of(memory, device, everything)


def of_sampling(config: MMDiTConfig, work: Work, dtype: torch.dtype, quantize: Quantize | None = None) -> int:
    """Bytes of the loop and the modulation table."""
    loop = sampling_bytes(config, work, dtype) + expanding_bytes(config.width, dtype, quantize)
    return loop + table_bytes(config, work.steps, dtype)


def to_sample(pipeline: Pipeline, job: Job) -> int:
    """Bytes that the loop takes for ``job``."""
    conditions = job.conditions
    longest = [None if rows is None else max(map(len, rows)) for rows in (conditions.positive, conditions.negative)]
    work = Work(job.shapes, len(job.latents), longest[0] or 0, longest[1], len(job.sigmas) - 1)
    config = pipeline.transformer.config
    kind = quantised_as(pipeline.transformer)
    return of_sampling(config, work, job.latents.dtype, kind) + _kept_bytes(pipeline, job, config.width)


def _kept_bytes(pipeline: Pipeline, job: Job, width: int) -> int:
    """Bytes of streams that are kept beside a step: a ControlNet's residuals, one a block, and two in a step cache."""
    control = None if job.control is None else pipeline.controlnet
    kept = 0 if control is None else len(control.transformer_blocks)
    kept += 0 if pipeline.speed.step_cache is None else 2
    tokens = sum(math.prod(shape) for shape in job.shapes)
    passes = 1 if job.conditions.negative is None else 2
    return kept * passes * len(job.latents) * tokens * width * job.latents.element_size()


def to_decode(pipeline: Pipeline, z_BChw: Tensor) -> int:
    """Bytes that decoding latents takes."""
    batch, _, height, width = z_BChw.shape
    dtype = next(pipeline.vae.parameters()).dtype
    return decoding_bytes(pipeline.vae.config, (batch, height, width), dtype, pipeline.speed.vae_tile)


def to_encode(pipeline: Pipeline, pixels_BCHW: Tensor) -> int:
    """Bytes that encoding pictures takes."""
    batch, _, height, width = pixels_BCHW.shape
    dtype = next(pipeline.vae.parameters()).dtype
    return encoding_bytes(pipeline.vae.config, (batch, height, width), dtype, pipeline.speed.vae_tile)


def to_condition(pipeline: Pipeline, call: Call, images: Sequence[Sequence[Image.Image]] | None) -> int:
    """Bytes that embedding the prompts of ``call`` takes."""
    encoder = pipeline.condition_encoder
    assert encoder is not None
    texts = [text for given in (call.prompt, call.negative_prompt or "") if given is not None for text in _texts(given)]
    longest = max(len(ids) for ids in encoder.tokenizer(texts)["input_ids"]) + _TEMPLATE_TOKENS
    pictures = max((len(row) for row in images or ()), default=0)
    return _config(encoder).encoding_bytes(min(len(texts), 16) * (longest + pictures * PICTURE_TOKENS), encoder.dtype)


def to_caption(pipeline: Pipeline) -> int:
    """Bytes that describing a picture takes: its tokens and the words about it, and the head that chooses words."""
    encoder = pipeline.condition_encoder
    assert encoder is not None
    tokens = 2 * PICTURE_TOKENS
    head = sum(p.nbytes for p in encoder.model.lm_head.parameters()) if hasattr(encoder.model, "lm_head") else 0
    return _config(encoder).encoding_bytes(tokens, encoder.dtype) + head


def _config(encoder: ConditionEncoder) -> EncoderConfig:
    language = getattr(encoder.model, "model", encoder.model).language_model.config
    return EncoderConfig(**{name: getattr(language, name) for name in EncoderConfig.text_fields()})


def _texts(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)
