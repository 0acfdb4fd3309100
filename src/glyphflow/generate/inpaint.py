"""Inpainting: a new picture where the mask is white, the given one elsewhere.

With an edit model the given picture is, besides, what the model edits: its latents stand behind the new ones as references.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.core.numbers import whole
from glyphflow.generate.batch import Group, finish, one_each, schedule, split
from glyphflow.generate.denoise import Blend, Job
from glyphflow.generate.edit import seen
from glyphflow.generate.images import Picture, binary_mask, filled, mask_region, mask_tokens, pasted, resized
from glyphflow.generate.inputs import Call
from glyphflow.generate.restyle import Start, begin, mix, native_sizes, sources
from glyphflow.generate.text import Sides, target_sizes

if TYPE_CHECKING:
    from glyphflow.generate.pipeline import GenerateResult, Pipeline

Region = tuple[int, int, int, int]


@dataclass(frozen=True)
class Canvas:
    """What is painted on: picture and mask in the target size, and the region they were cut out of, if they were."""

    image: Image.Image
    mask: Image.Image
    region: Region | None


def inpaint(
    pipeline: Pipeline,
    call: Call,
    image: Picture | Sequence[Picture],
    mask_image: Picture | Sequence[Picture],
    strength: float,
    height: Sides,
    width: Sides,
    padding_mask_crop: int | None,
) -> GenerateResult:
    """Pictures of ``call``'s prompts inside the masks; see :meth:`Pipeline.inpaint`."""
    if padding_mask_crop is not None:
        whole(padding_mask_crop, "padding_mask_crop", 0, 100_000, "so many pixels around the mask are made, too")
    if padding_mask_crop is not None and call.output_type != "pil":
        raise InputError(f"padding_mask_crop pastes into the given picture; use output_type 'pil', not {call.output_type!r}.")
    pipeline.require("inpaint", "t2i", "edit", "edit-plus")
    pictures = sources(image, call.count)
    masks = _masks(mask_image, pictures)
    sizes = target_sizes(call.count, height, width, native_sizes(pipeline, pictures))
    schedules = {size: schedule(pipeline, call, *size, strength) for size in sizes}
    canvases = _canvases(pictures, masks, sizes, padding_mask_crop)
    editing = pipeline.kind != "t2i"
    if editing:
        conditions = pipeline.condition(call, pipeline.kind, seen(pipeline, call, [[picture] for picture in pictures]))
    else:
        conditions = pipeline.condition(call)
    work = []
    for group in split(call, conditions, sizes):
        size = height, width = sizes[group.prompts[0]]
        own = [canvases[n] for n in group.prompts]
        # The reference encodes the masked picture, too, and never uses it: only its random numbers matter.
        start = begin(pipeline, call, group, [canvas.image for canvas in own], schedules[size][0], draw_again=True)
        shape = (1, height // 16, width // 16)
        job = Job(
            start.latents,
            (shape, shape) if editing else (shape,),
            group.conditions,
            schedules[size],
            call.true_cfg_scale,
            references=start.image if editing else None,
            blend=_blend(start, _mask_rows(own, group, start), schedules[size]),
        )
        work.append((group, job))
    result = finish(pipeline, call, "inpaint", work)
    if padding_mask_crop is None:
        return result
    for n, painted in enumerate(result.images):
        prompt = n // call.num_images_per_prompt
        region = canvases[prompt].region
        if region is not None:
            result.images[n] = pasted(painted, pictures[prompt], masks[prompt], region)
    return result


def _masks(mask_image: Picture | Sequence[Picture], pictures: list[Image.Image]) -> list[Image.Image]:
    """A grey mask of each picture, in its size."""
    given: list[Picture] = one_each("mask_image", mask_image, len(pictures))
    masks = [binary_mask(mask) for mask in given]
    return [resized(mask, picture.height, picture.width) for mask, picture in zip(masks, pictures, strict=True)]


def _canvases(
    pictures: list[Image.Image], masks: list[Image.Image], sizes: list[tuple[int, int]], padding: int | None
) -> list[Canvas]:
    """A canvas per prompt, one object where picture, mask and size are the same."""
    known: dict[tuple[int, bytes, tuple[int, int]], Canvas] = {}
    canvases = []
    for picture, mask, size in zip(pictures, masks, sizes, strict=True):
        key = (id(picture), mask.tobytes(), size)
        if key not in known:
            if padding is None:
                known[key] = Canvas(resized(picture, *size), resized(mask, *size), None)
            else:
                region = mask_region(mask, padding, *size)
                known[key] = Canvas(filled(picture.crop(region), *size), filled(mask.crop(region), *size), region)
        canvases.append(known[key])
    return canvases


def _blend(start: Start, mask: torch.Tensor, sigmas: torch.Tensor) -> Blend:
    """Outside ``mask`` (B, N, C) the latents are put back after each step: the given picture at the noise of the next one."""

    def blend(latents: torch.Tensor, step: int) -> torch.Tensor:
        given = mix(start.image, start.noise, sigmas[step + 1]) if step + 2 < len(sigmas) else start.image
        return torch.where(mask, latents, given)

    return blend


def _mask_rows(canvases: list[Canvas], group: Group, start: Start) -> torch.Tensor:
    rows = torch.stack([mask_tokens(canvas.mask, start.image.shape[-1] // 4) for canvas in canvases])
    return rows.repeat_interleave(group.copies, dim=0).to(start.image.device)
