"""Editing: one picture (Qwen-Image-Edit), or one to three (Edit-2509 and later), and an instruction."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.generate.batch import finish, noise, schedule, split
from glyphflow.generate.denoise import Job
from glyphflow.generate.images import Picture, area_size, resized, rgb, to_pixels
from glyphflow.generate.inputs import Call
from glyphflow.generate.text import Sides, target_sizes
from glyphflow.models import pack_latents

if TYPE_CHECKING:
    from glyphflow.generate.pipeline import GenerateResult, Pipeline

References = Picture | Sequence[Picture] | Sequence[Sequence[Picture]]
_TRAINED_ON = 3  # references at most
_SEEN_SHARE = 384**2 / 1024**2  # of the native area: how large edit-plus models show a reference to the language model
_REMEMBERED = 16  # reference latents, 0.5 MB each at 1024 x 1024


def edit(pipeline: Pipeline, call: Call, images: References, height: Sides, width: Sides) -> GenerateResult:
    """Pictures made from references and instructions; see :meth:`Pipeline.edit`."""
    pipeline.require("edit", "edit", "edit-plus")
    references = _references(pipeline, images, call.count)
    area = pipeline.facts.native_area
    own = [[area_size(picture.size, area) for picture in pictures] for pictures in references]
    sizes = target_sizes(call.count, height, width, [each[-1] for each in own])
    schedules = {size: schedule(pipeline, call, *size) for size in sizes}
    conditions = pipeline.condition(call, pipeline.kind, seen(pipeline, call, references))
    work = []
    for group in split(call, conditions, [(size, *each) for size, each in zip(sizes, own, strict=True)]):
        first = group.prompts[0]
        size = height, width = sizes[first]
        tokens = [_tokens(pipeline, references[n], own[n]) for n in group.prompts]
        latents = noise(pipeline, call, group, size)
        job = Job(
            latents,
            tuple((1, h // 16, w // 16) for h, w in (size, *own[first])),
            group.conditions,
            schedules[size],
            call.true_cfg_scale,
            references=torch.stack(tokens).repeat_interleave(group.copies, dim=0).to(latents),
        )
        work.append((group, job))
    return finish(pipeline, call, "edit", work)


def seen(pipeline: Pipeline, call: Call, references: list[list[Image.Image]]) -> list[list[Image.Image]] | None:
    """The references as the language model sees them; None when ``call`` brings all embeddings with it.

    Qwen-Image-Edit sees what the VAE sees, later models a copy of about a seventh of the area.
    """
    if not call.needs_encoder:
        return None
    area = round(pipeline.facts.native_area * (1.0 if pipeline.kind == "edit" else _SEEN_SHARE))
    return [[resized(picture, *area_size(picture.size, area)) for picture in pictures] for pictures in references]


def _references(pipeline: Pipeline, images: References, count: int) -> list[list[Image.Image]]:
    """The RGB references of each of ``count`` prompts."""
    given: Sequence[Any] = images if isinstance(images, (list, tuple)) else [images]
    lists: Sequence[Sequence[Picture]] = given
    if not given or not all(isinstance(each, (list, tuple)) for each in given):
        lists = [given] * count
    elif len(given) != count:
        raise InputError(f"There are {count} prompts and {len(given)} lists of pictures; give one list for each prompt.")
    upright = {id(each): rgb(each) for each in {id(each): each for pictures in lists for each in pictures}.values()}
    result = [[upright[id(each)] for each in pictures] for pictures in lists]
    for pictures in result:
        if not pictures:
            raise InputError("There is no picture to edit; give one, or use generate().")
        if pipeline.kind == "edit" and len(pictures) > 1:
            raise InputError(
                f"This model edits one picture and there are {len(pictures)}; use one (for the same edit of many, a line of "
                "--prompts or a list in a list for each), or a model that takes up to three, such as Qwen/Qwen-Image-Edit-2511."
            )
        if len(pictures) > _TRAINED_ON:
            warnings.warn(f"{len(pictures)} references; the released models know {_TRAINED_ON} at most.", stacklevel=4)
    return result


def _tokens(pipeline: Pipeline, pictures: Sequence[Image.Image], sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Clean tokens (R, C) of ``pictures``, each encoded at its size, to the mean of its posterior."""
    tokens = []
    for picture, size in zip(pictures, sizes, strict=True):
        image = resized(picture, *size)
        key = (id(pipeline.vae), size, hashlib.sha256(image.tobytes()).digest())
        if key not in pipeline.remembered:
            z = pipeline.vae.standardise(pipeline.encode(to_pixels([image])).mode())
            pipeline.remembered[key] = pack_latents(z)[0]
            while len(pipeline.remembered) > _REMEMBERED:
                pipeline.remembered.pop(next(iter(pipeline.remembered)))
        tokens.append(pipeline.remembered[key])
    return torch.cat(tokens)
