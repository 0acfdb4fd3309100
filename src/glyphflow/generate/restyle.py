"""A picture as the start of another: image to image, and inpainting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image

from glyphflow.generate.batch import Group, finish, noise, one_each, schedule, split
from glyphflow.generate.denoise import Job
from glyphflow.generate.images import Picture, area_size, resized, rgb, to_pixels
from glyphflow.generate.inputs import Call, Generators
from glyphflow.generate.text import Sides, target_sizes
from glyphflow.models import VAE, Posterior, pack_latents

if TYPE_CHECKING:
    from glyphflow.generate.pipeline import GenerateResult, Pipeline


def restyle(
    pipeline: Pipeline, call: Call, image: Picture | Sequence[Picture], strength: float, height: Sides, width: Sides
) -> GenerateResult:
    """Pictures that begin as a noisy ``image``; see :meth:`Pipeline.restyle`."""
    pipeline.require("restyle", "t2i", "edit", "edit-plus")
    pictures = sources(image, call.count)
    sizes = target_sizes(call.count, height, width, native_sizes(pipeline, pictures))
    schedules = {size: schedule(pipeline, call, *size, strength) for size in sizes}
    work = []
    for group in split(call, pipeline.condition(call), sizes):
        size = height, width = sizes[group.prompts[0]]
        start = begin(pipeline, call, group, _resized([pictures[n] for n in group.prompts], size), schedules[size][0])
        shapes = ((1, height // 16, width // 16),)
        work.append((group, Job(start.latents, shapes, group.conditions, schedules[size], call.true_cfg_scale)))
    return finish(pipeline, call, "restyle", work)


def sources(image: Picture | Sequence[Picture], count: int, name: str = "image") -> list[Image.Image]:
    """One RGB picture per prompt; one object where a picture serves several prompts, so that it is encoded once."""
    given: list[Picture] = one_each(name, image, count)
    upright = {id(each): rgb(each) for each in given}
    return [upright[id(each)] for each in given]


def native_sizes(pipeline: Pipeline, pictures: Sequence[Image.Image]) -> list[tuple[int, int]]:
    """(height, width) of the model's native area in each picture's own ratio."""
    return [area_size(picture.size, pipeline.facts.native_area) for picture in pictures]


@dataclass(frozen=True)
class Start:
    """Where a picture begins: packed ``image`` and ``noise``, and ``latents`` between them, each (B, N, C)."""

    image: torch.Tensor
    noise: torch.Tensor
    latents: torch.Tensor


def begin(
    pipeline: Pipeline,
    call: Call,
    group: Group,
    images: Sequence[Image.Image],
    sigma: torch.Tensor,
    draw_again: bool = False,
) -> Start:
    """Encode ``images`` (one per prompt of ``group``, of one size) and mix each with noise to ``sigma``.

    Random numbers in the reference's order: the posteriors', then the noise's, with ``draw_again`` as many as for the
    posteriors once more. One generator draws once per different picture; of a list of generators each draws for its own
    picture, so that a picture does not depend on its batch.
    """
    numbers = {key: n for n, key in enumerate(dict.fromkeys(map(id, images)))}
    different = {id(image): image for image in images}.values()
    posterior = pipeline.encode(to_pixels(list(different)))
    of_picture = [numbers[id(image)] for image in images for _ in range(group.copies)]
    raw = _sample(posterior, of_picture, group.generator)
    image = pack_latents(_standardised(pipeline.vae, raw)).to(group.conditions.positive[0].dtype)
    random = noise(pipeline, call, group, (images[0].height, images[0].width))
    if draw_again:
        _sample(posterior, of_picture, group.generator)
    return Start(image, random, mix(image, random, sigma))


def mix(image: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The point of the path at ``sigma``, which is rounded to the latents' dtype first, as in the reference."""
    sigma = sigma.to(noise)
    return sigma * noise + (1 - sigma) * image


def _standardised(vae: VAE, raw: torch.Tensor) -> torch.Tensor:
    """As :meth:`VAE.standardise`, by the rounded 1 / std: in half precision the reference has this other rounding here."""
    mean, std = (torch.tensor(values).to(raw)[:, None, None] for values in (vae.config.latents_mean, vae.config.latents_std))
    return (raw - mean) * (1.0 / std)


def _resized(pictures: Sequence[Image.Image], size: tuple[int, int]) -> list[Image.Image]:
    """``pictures`` in ``size``, one object for each different one."""
    known = {id(picture): resized(picture, *size) for picture in pictures}
    return [known[id(picture)] for picture in pictures]


def _sample(posterior: Posterior, of_picture: list[int], generator: Generators) -> torch.Tensor:
    if not isinstance(generator, Sequence):
        return posterior.sample(generator)[of_picture]
    rows = [Posterior(posterior.mean[n : n + 1], posterior.logvar[n : n + 1]) for n in of_picture]
    return torch.cat([row.sample(own) for row, own in zip(rows, generator, strict=True)])
