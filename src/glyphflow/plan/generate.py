"""What making pictures will keep on the device, stream and need, by the same decisions that the pipeline takes.

Nothing is estimated twice: parts are measured by :mod:`glyphflow.generate.sizes`, work by running the real code on tensors
without memory (:mod:`glyphflow.generate.activations`), and the budget is divided by :func:`glyphflow.generate.placement.place`.
What libraries take inside an operation (workspaces) and CUDA itself (about half a gigabyte) come on top.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from glyphflow.core.errors import InputError
from glyphflow.generate.activations import Work, decoding_bytes, encoding_bytes, table_bytes
from glyphflow.generate.directory import check_size
from glyphflow.generate.half import PartDtypes
from glyphflow.generate.placement import PartSizes, Placement, place
from glyphflow.generate.residency import DECODER, ENCODER, TRANSFORMER, VISION
from glyphflow.generate.rooms import PICTURE_TOKENS, of_sampling
from glyphflow.generate.sizes import ModelConfig
from glyphflow.models import QWEN_IMAGE_MMDIT
from glyphflow.models.quantize import Quantize

PRESETS = {
    "qwen-image": ModelConfig(),
    "qwen-image-edit-2511": ModelConfig(QWEN_IMAGE_MMDIT.model_copy(update={"zero_cond_t": True})),
}
"""Released layouts that can be planned for without their weights at hand; Qwen-Image-Edit and -2509 are as Qwen-Image."""

_CELL = 32  # sides of references are multiples of it


@dataclass(frozen=True)
class Request:
    """One call of the pipeline: ``batch`` pictures at once, each after ``references`` pictures of ``reference_area`` pixels.

    ``text_tokens`` are those of a prompt as the MMDiT sees it, the closing ones included; the negative prompt is the empty one.
    """

    width: int
    height: int
    batch: int = 1
    references: int = 0
    guided: bool = True
    steps: int = 50
    text_tokens: int = 256
    reference_area: int = 1024 * 1024

    def __post_init__(self) -> None:
        check_size(self.height, self.width)
        for name, least in (("batch", 1), ("references", 0), ("steps", 1), ("text_tokens", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}.")

    @property
    def reference_size(self) -> tuple[int, int]:
        """Height and width in pixels that a reference of the picture's own ratio is resized to."""
        ratio = self.width / self.height
        width = math.sqrt(self.reference_area * ratio)
        return max(_CELL, round(width / ratio / _CELL) * _CELL), max(_CELL, round(width / _CELL) * _CELL)

    @property
    def work(self) -> Work:
        """What the loop is asked for."""
        height, width = self.reference_size
        shapes = ((1, self.height // 16, self.width // 16),) + ((1, height // 16, width // 16),) * self.references
        negative = _EMPTY_PROMPT if self.guided else None
        return Work(shapes, self.batch, self.text_tokens, negative, self.steps)


_EMPTY_PROMPT = 5  # tokens that close the template


@dataclass(frozen=True)
class Phase:
    """One part of the call: its ``name``, what is on the device, and how much of ``placement.room`` is the modulation table."""

    name: str
    placement: Placement
    table: int = 0

    @property
    def buffers(self) -> int:
        """Bytes that hold weights on their way, and the modulation table."""
        return self.placement.buffers + self.table

    @property
    def activations(self) -> int:
        """Bytes of everything that is computed."""
        return self.placement.room - self.table


@dataclass(frozen=True)
class GenerationPlan:
    """What a call will do; sizes are bytes."""

    request: Request
    budget: int | None
    parts: Mapping[str, PartSizes]
    phases: tuple[Phase, ...]

    @property
    def peak(self) -> Phase:
        """The phase that takes most."""
        return max(self.phases, key=lambda phase: phase.placement.peak)

    @property
    def per_step(self) -> int:
        """Copied to the device at every step: guided or not, each block once."""
        return self.phase("denoise").placement.streamed

    @property
    def per_schedule(self) -> int:
        """Copied once for every new schedule: the weights that compute modulations."""
        return 0 if self.budget is None else sum(self.parts[TRANSFORMER].passing)

    @property
    def per_call(self) -> int:
        """Copied to the device at every call because parts take turns, without what steps and schedules copy."""
        turns = (phase.placement for phase in self.phases if not phase.placement.others_stay)
        return sum(p.weights for p in turns) + self.phase("read the prompt").placement.streamed

    def phase(self, name: str) -> Phase:
        """The phase called ``name``."""
        return next(phase for phase in self.phases if phase.name == name)


def plan_generation(
    config: ModelConfig,
    request: Request,
    budget: int | None,
    dtype: torch.dtype = torch.bfloat16,
    quantize: Quantize | None = None,
) -> GenerationPlan:
    """The plan for ``request``; ``budget`` None keeps everything on the device, 0 as little as possible.

    ``quantize`` is the form of the transformer's blocks.

    Raises InputError, with both numbers, for a budget that is too small.
    """
    parts, dtypes = config.part_sizes(dtype, quantize), PartDtypes.of(dtype)
    phases = []

    def add(name: str, working: tuple[str, ...], room: int, table: int = 0) -> None:
        phases.append(Phase(name, place(parts, [part for part in working if part in parts], room, budget), table))

    if request.references:
        height, width = request.reference_size
        add("encode references", (DECODER,), encoding_bytes(config.vae, (1, height, width), dtypes.vae))
    texts = request.batch if request.references else min(1 + request.guided, 16)
    tokens = texts * (request.text_tokens + request.references * PICTURE_TOKENS)
    eyes = (VISION,) if request.references else ()
    add("read the prompt", (ENCODER, *eyes), config.encoder.encoding_bytes(tokens, dtypes.condition_encoder))
    table = table_bytes(config.transformer, request.steps, dtype)
    add("denoise", (TRANSFORMER,), of_sampling(config.transformer, request.work, dtype, quantize), table)
    latents = (request.batch, request.height // 8, request.width // 8)
    add("decode", (DECODER,), decoding_bytes(config.vae, latents, dtypes.vae))
    return GenerationPlan(request, budget, parts, tuple(phases))
