"""A picture whose outlines, depth or pose another picture gives, and inpainting by a ControlNet that was trained for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.core.hashing import derive_seed
from glyphflow.core.numbers import checked
from glyphflow.flow import model_time
from glyphflow.generate.batch import Group, finish, noise, one_each, schedule, split
from glyphflow.generate.denoise import Control, Job
from glyphflow.generate.images import Picture, binary_mask, resized, to_pixels
from glyphflow.generate.inputs import Call, Conditions, Generators
from glyphflow.generate.restyle import native_sizes, sources
from glyphflow.generate.text import Sides, target_sizes
from glyphflow.models import Posterior, pack_latents

if TYPE_CHECKING:
    from glyphflow.generate.pipeline import GenerateResult, Pipeline
    from glyphflow.models.control import ControlNet

Pictures = Picture | Sequence[Picture]  # one for all prompts, or one for each
Numbers = float | Sequence[float]


@dataclass(frozen=True)
class Window:
    """How strongly a condition steers, and during which part of the steps: from fraction ``start`` to fraction ``end``."""

    scale: float
    start: float
    end: float

    def __post_init__(self) -> None:
        checked(self.scale, "controlnet_conditioning_scale", -100, 100)
        checked(self.start, "control_guidance_start")
        checked(self.end, "control_guidance_end")
        if not 0 <= self.start < self.end <= 1:
            raise InputError(
                f"control_guidance_start is {self.start} and control_guidance_end is {self.end}; they must be fractions of the "
                "steps with 0 <= start < end <= 1."
            )

    def holds(self, step: int, steps: int) -> bool:
        """Whether step number ``step`` of ``steps`` lies inside the window and has anything to add."""
        return self.scale != 0 and step / steps >= self.start and (step + 1) / steps <= self.end


def control(
    pipeline: Pipeline,
    call: Call,
    control_image: Pictures | Sequence[Pictures],
    height: Sides,
    width: Sides,
    control_mask: Pictures | None = None,
    conditioning_scale: Numbers = 1.0,
    start: Numbers = 0.0,
    end: Numbers = 1.0,
) -> GenerateResult:
    """Pictures of ``call``'s prompts under a ControlNet's guidance; see :meth:`Pipeline.control`."""
    pipeline.require("control", "t2i")
    net = _network(pipeline, control_mask is not None)
    windows = _windows(conditioning_scale, start, end)
    conditions: list[Any] = [control_image] if isinstance(conditioning_scale, int | float) else list(control_image)  # type: ignore[arg-type]
    if len(conditions) != len(windows):
        raise InputError(f"There are {len(conditions)} control pictures and {len(windows)} scales; give one scale for each.")
    shown = [sources(condition, call.count, "control_image") for condition in conditions]
    masks = None if control_mask is None else one_each("control_mask", control_mask, call.count)
    sizes = target_sizes(call.count, height, width, native_sizes(pipeline, shown[0]))
    schedules = {size: schedule(pipeline, call, *size) for size in sizes}
    work = []
    for group in split(call, pipeline.condition(call), sizes):
        size = sizes[group.prompts[0]]
        white = None if masks is None else [masks[n] for n in group.prompts]
        tokens = [_condition(pipeline, group, [row[n] for n in group.prompts], white, size) for row in shown]
        latents = noise(pipeline, call, group, size)
        shape = (1, size[0] // 16, size[1] // 16)
        steer = _steer(net, tokens, windows, group.conditions, shape, len(schedules[size]) - 1)
        job = Job(latents, (shape,), group.conditions, schedules[size], call.true_cfg_scale, control=steer)
        work.append((group, job))
    return finish(pipeline, call, "control", work)


def _steer(
    net: ControlNet,
    tokens: Sequence[torch.Tensor],
    windows: Sequence[Window],
    prompts: Conditions,
    shape: tuple[int, int, int],
    steps: int,
) -> Control:
    """What the sampler asks at every step: the residuals for the positive prompt, None outside all windows."""
    mask = prompts.positive_mask
    text = prompts.positive if mask is None else torch.stack(prompts.positive)

    def residuals(latents: torch.Tensor, sigma: torch.Tensor, step: int) -> list[torch.Tensor] | None:
        active = [(t, w.scale) for t, w in zip(tokens, windows, strict=True) if w.holds(step, steps)]
        if not active:
            return None
        time = model_time(sigma, 1, latents.dtype)
        conditions, scales = [t for t, _ in active], [scale for _, scale in active]
        out: list[torch.Tensor] = net(latents, conditions, scales, text, time, [[shape]] * len(latents), mask)
        return out

    return residuals


def _condition(
    pipeline: Pipeline,
    group: Group,
    pictures: Sequence[Image.Image],
    masks: Sequence[Any] | None,
    size: tuple[int, int],
) -> torch.Tensor:
    """Packed control latents (B, N, C) of one picture per prompt, each different one encoded once and drawn for every copy."""
    keys = [(id(picture), None if masks is None else id(masks[n])) for n, picture in enumerate(pictures)]
    numbers = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    first = [keys.index(key) for key in numbers]
    rows = [numbers[key] for key in keys for _ in range(group.copies)]
    pixels = to_pixels([resized(pictures[n], *size) for n in first])
    white: torch.Tensor | None = None
    generator = group.generator
    if masks is not None:
        grey = [np.asarray(resized(binary_mask(masks[n]), *size)) for n in first]
        white = torch.from_numpy(np.stack(grey) >= 128)[:, None]
        pixels = pixels.masked_fill(white, -1.0)
        generator = _apart(generator)
    posterior = pipeline.encode(pixels)
    z = _draw(Posterior(posterior.mean[rows], posterior.logvar[rows]), generator)
    # In float32, as the reference does: standardised in half precision the latents would be others.
    z = pipeline.vae.standardise(z.float()).to(z.dtype)
    if white is not None:
        kept = (~white[rows, :, ::8, ::8]).to(z)
        z = torch.cat([z, kept], dim=1)
    return pack_latents(z).to(group.conditions.positive[0])


def _draw(posterior: Posterior, generator: Generators) -> torch.Tensor:
    """A sample of each row of ``posterior``; a list of generators draws row by row."""
    if not isinstance(generator, Sequence):
        return posterior.sample(generator)
    each = [Posterior(posterior.mean[n : n + 1], posterior.logvar[n : n + 1]) for n in range(len(generator))]
    return torch.cat([row.sample(own) for row, own in zip(each, generator, strict=True)])


def _apart(generator: Generators) -> Generators:
    """Generators for the masked picture's posterior that leave the user's own where they are.

    The reference draws this one from the process's global generator, so that the same seed gives other pictures; here the seed
    decides, and the noise that the user's generator draws afterwards is the reference's.
    """
    if generator is None:
        return None
    if isinstance(generator, torch.Generator):
        return torch.Generator(generator.device).manual_seed(derive_seed("control posterior", generator.initial_seed()))
    return [_apart(one) for one in generator]  # type: ignore[misc]


def _windows(scale: Numbers, start: Numbers, end: Numbers) -> list[Window]:
    scales = [scale] if isinstance(scale, int | float) else list(scale)
    starts = one_each("control_guidance_start", start, len(scales))
    ends = one_each("control_guidance_end", end, len(scales))
    return [Window(*values) for values in zip(scales, starts, ends, strict=True)]


def _network(pipeline: Pipeline, masked: bool) -> ControlNet:
    net = pipeline.controlnet
    if net is None:
        raise InputError("This pipeline has no ControlNet; open it with controlnet=DIRECTORY.")
    if masked and net.config.extra_condition_channels != 4:
        raise InputError("A control_mask was given, but this ControlNet knows no mask; leave it out or open an inpainting one.")
    if not masked and net.config.extra_condition_channels:
        raise InputError("This ControlNet is for inpainting; give the part to repaint as control_mask (white is new).")
    if net.config.width != pipeline.transformer.config.width:
        raise InputError(
            f"The ControlNet has a width of {net.config.width} and the transformer of {pipeline.transformer.config.width}; "
            "they belong to different models."
        )
    return net
