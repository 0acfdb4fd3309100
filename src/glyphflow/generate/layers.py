"""A picture taken apart into transparent layers, with a Qwen-Image-Layered model.

The model makes layers + 1 pictures at once, each a frame of its own: first the whole picture, which is thrown away, then the
layers from the bottom up. The picture to take apart stands behind them as a reference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.core.numbers import whole
from glyphflow.flow import choose_schedule, sigmas
from glyphflow.generate.batch import Group, one_each, split, steps_of
from glyphflow.generate.denoise import Job
from glyphflow.generate.images import Picture, area_size, as_type, resized, rgba, to_pixels
from glyphflow.generate.inputs import Call, draw_noise, given_latents
from glyphflow.models import pack_latents, unpack_latents

if TYPE_CHECKING:
    from glyphflow.generate.pipeline import GenerateResult, Pipeline

MOST_LAYERS = 100
_BASE_TOKENS = 256  # of a picture of 256 x 256: where the shift of the layered schedule is 1


def layers(
    pipeline: Pipeline,
    call: Call,
    image: Picture | Sequence[Picture],
    layers: int,
    resolution: int,
    cfg_normalize: bool,
    language: str,
) -> GenerateResult:
    """The layers of each picture; see :meth:`Pipeline.layers`."""
    from glyphflow.generate.pipeline import GenerateResult

    _check(pipeline, layers, resolution)
    count = len(image) if isinstance(image, (list, tuple)) else call.count
    given: list[Any] = one_each("image", image, count)
    pictures = [rgba(each) for each in given]
    sizes = [area_size(picture.size, resolution * resolution) for picture in pictures]
    pictures = [resized(picture, *size) for picture, size in zip(pictures, sizes, strict=True)]
    call = _described(pipeline, call, pictures, language)
    schedules = {size: _schedule(pipeline, call, size) for size in sizes}
    conditions = pipeline.condition(call)
    results: list[tuple[int, object]] = []
    for group in split(call, conditions, sizes):
        size = height, width = sizes[group.prompts[0]]
        latents, references = _start(pipeline, call, group, [pictures[n] for n in group.prompts], layers + 1)
        shape = (1, height // 16, width // 16)
        additional = torch.zeros(group.batch, dtype=torch.long, device=latents.device)
        job = Job(
            latents,
            (shape,) * (layers + 2),
            group.conditions,
            schedules[size],
            call.true_cfg_scale,
            normalise=cfg_normalize,
            references=references,
            additional_t_cond=additional if pipeline.transformer.config.use_additional_t_cond else None,
        )
        done = pipeline.sample(job, call, "layers")
        results += zip(group.pictures, _finish(pipeline, done, size, layers, call.output_type), strict=True)
        if pipeline.interrupt:
            break
    return GenerateResult([result for _, result in sorted(results, key=lambda pair: pair[0])])


def _start(
    pipeline: Pipeline, call: Call, group: Group, pictures: Sequence[Image.Image], frames: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of all frames (B, frames N, C), and the clean tokens (B, N, C) of the pictures, one per prompt."""
    width, height = pictures[0].size
    channels, like = pipeline.transformer.config.in_channels, group.conditions.positive[0]
    z = pipeline.vae.standardise(pipeline.encode(to_pixels(pictures)).mode())
    references = pack_latents(z).to(like).repeat_interleave(group.copies, dim=0)
    if call.latents is not None:
        return given_latents(call.latents, (group.batch, frames * references.shape[1], channels), like), references
    noise = draw_noise((group.batch, channels // 4, height, width), group.generator, like, frames=frames)
    return noise, references


def _finish(
    pipeline: Pipeline, latents: torch.Tensor, size: tuple[int, int], layers: int, output_type: str
) -> Sequence[object]:
    """Latents (B, (layers + 1) N, C) -> for each picture its layers, without the first frame, in the form asked."""
    if output_type == "latent":
        return list(latents)
    batch, tokens, features = latents.shape
    frames = latents.reshape(batch, layers + 1, tokens // (layers + 1), features)[:, 1:]
    z = unpack_latents(frames.flatten(0, 1), *size)
    shown = as_type(pipeline.decode(z), output_type)
    return [shown[n * layers : (n + 1) * layers] for n in range(len(latents))]


def _schedule(pipeline: Pipeline, call: Call, size: tuple[int, int]) -> torch.Tensor:
    """The shift grows with the side of the picture and not with the number of layers; a schedule of the call has its own."""
    tokens = (size[0] // 16) * (size[1] // 16)
    given, steps = call.sigmas, steps_of(pipeline, call)
    mu = (tokens / _BASE_TOKENS) ** 0.5 if call.schedule is None else None
    return sigmas(choose_schedule(call.schedule, pipeline.schedule), steps, tokens, mu=mu, unshifted=given)


def _described(pipeline: Pipeline, call: Call, pictures: Sequence[Image.Image], language: str) -> Call:
    """``call`` with one prompt per picture; where it has none, the language model says what it sees."""
    if call.prompt_embeds is not None:
        if call.count != len(pictures):
            raise InputError(f"There are {len(pictures)} pictures and {call.count} prompt_embeds; give one row per picture.")
        return call
    known: dict[bytes, str] = {}
    prompt: Any = call.prompt  # a text is itself a sequence of texts to the type checker
    texts: list[str] = []
    for text, picture in zip(one_each("prompt", prompt, len(pictures)), pictures, strict=True):
        if text is None or not text.strip():
            key = picture.tobytes()
            if key not in known:
                known[key] = pipeline.caption(picture, language)
            text = known[key]
        texts.append(text)
    return dataclasses.replace(call, prompt=texts)


def _check(pipeline: Pipeline, layers: int, resolution: int) -> None:
    pipeline.require("layers", "layered")
    if pipeline.vae.config.input_channels != 4:
        raise InputError(
            f"The VAE of this model has {pipeline.vae.config.input_channels} channels and layers need 4 (RGBA); use the VAE "
            "of a Qwen-Image-Layered model."
        )
    whole(layers, "layers", 1, MOST_LAYERS)
    whole(resolution, "resolution", 1, 8192, "it must be a multiple of 32, and released models know 640 and 1024")
    if resolution % 32:
        raise InputError(f"resolution is {resolution}; it must be a multiple of 32, and released models know 640 and 1024.")
