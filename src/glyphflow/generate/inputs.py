"""What a call of the pipeline is given, checked and brought into the form that the sampler needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from glyphflow.core.errors import InputError
from glyphflow.models import pack_latents

if TYPE_CHECKING:
    from glyphflow.models.condition import ConditionEncoder

T = TypeVar("T", torch.Tensor, torch.Tensor | None)
Generators = torch.Generator | Sequence[torch.Generator] | None
Embeds = tuple[torch.Tensor | None, torch.Tensor | None]  # (B, L, D) and the mask (B, L) of real tokens


@dataclass(frozen=True)
class Conditions:
    """Embeddings (B, L, D) and masks (B, L) for both passes, one row per picture; ``negative`` is None without guidance."""

    positive: torch.Tensor
    positive_mask: torch.Tensor | None
    negative: torch.Tensor | None
    negative_mask: torch.Tensor | None

    @property
    def batch(self) -> int:
        """Number of pictures."""
        return len(self.positive)


def conditions(
    encoder: ConditionEncoder | None,
    prompt: str | Sequence[str] | None,
    negative_prompt: str | Sequence[str] | None,
    embeds: Embeds,
    negative_embeds: Embeds,
    *,
    guided: bool,
    copies: int,
    limit: int,
    place: tuple[torch.device, torch.dtype],
) -> Conditions:
    """Prompts or embeddings for both passes, each prompt ``copies`` times, on ``place``.

    A single negative prompt serves every prompt; None means the empty one. Contradictions raise :class:`InputError`.
    """
    if copies < 1:
        raise InputError(f"num_images_per_prompt is {copies}; it must be at least 1.")
    positive, mask = _side(encoder, "prompt", prompt, embeds, limit, place)
    count = len(positive)
    negative: torch.Tensor | None = None
    negative_mask: torch.Tensor | None = None
    if guided:
        if negative_prompt is None and negative_embeds[0] is None:
            negative_prompt = ""
        if isinstance(negative_prompt, str):
            negative_prompt = [negative_prompt] * count
        negative, negative_mask = _side(encoder, "negative_prompt", negative_prompt, negative_embeds, limit, place)
        if len(negative) != count:
            raise InputError(f"There are {count} prompts and {len(negative)} negative prompts; give one for all or one each.")
        negative, negative_mask = _copies(negative, copies), _copies(negative_mask, copies)
    return Conditions(_copies(positive, copies), _copies(mask, copies), negative, negative_mask)


def draw_noise(shape: tuple[int, int, int, int], generator: Generators, like: torch.Tensor) -> torch.Tensor:
    """Packed noise for pictures of ``shape`` (batch, latent channels, height, width in pixels), dtype and device of ``like``.

    Drawn as the reference draws it, (B, 1, C, H/8, W/8) in the working dtype on the generator's own device, so that a seed
    means the same picture; a list of generators draws picture by picture.
    """
    batch, channels, height, width = shape
    if isinstance(generator, torch.Generator) or generator is None:
        latents = _randn((batch, 1, channels, height // 8, width // 8), generator, like)
    else:
        if len(generator) != batch:
            raise InputError(f"There are {len(generator)} generators and {batch} pictures; give one for all or one for each.")
        latents = torch.cat([_randn((1, 1, channels, height // 8, width // 8), one, like) for one in generator])
    return pack_latents(latents[:, 0])


def given_latents(latents: torch.Tensor, shape: tuple[int, int, int], like: torch.Tensor) -> torch.Tensor:
    """The user's packed ``latents`` on the device and in the dtype of ``like``; another shape raises :class:`InputError`."""
    if tuple(latents.shape) != shape:
        raise InputError(
            f"latents have the shape {tuple(latents.shape)} and these pictures need {shape} (pictures, tokens of 16 x 16 "
            "pixels, features)."
        )
    return latents.to(like.device, like.dtype)


def _side(
    encoder: ConditionEncoder | None,
    name: str,
    prompt: str | Sequence[str] | None,
    embeds: Embeds,
    limit: int,
    place: tuple[torch.device, torch.dtype],
) -> tuple[torch.Tensor, torch.Tensor | None]:
    values, mask = embeds
    if (prompt is None) == (values is None):
        raise InputError(f"Give either {name} or {name}_embeds, {'not both' if prompt is not None else 'one of the two'}.")
    if values is None:
        texts = [prompt] if isinstance(prompt, str) else list(prompt or ())
        if not texts or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{name} must be a text or a list of at least one text, not {prompt!r}.")
        if encoder is None:
            raise InputError(f"This pipeline has no condition encoder, so it takes {name}_embeds and no {name}.")
        values, mask = encoder.pad(encoder.encode(texts, limit))
    elif values.ndim != 3:
        raise InputError(f"{name}_embeds have the shape {tuple(values.shape)}; they must be (prompts, tokens, features).")
    if mask is not None and mask.shape != values.shape[:2]:
        raise InputError(
            f"{name}_embeds_mask is {tuple(mask.shape)} and the embeddings are {tuple(values.shape[:2])}; one entry per token."
        )
    if mask is not None and bool(mask.all()):
        mask = None
    device, dtype = place
    return values.to(device, dtype), None if mask is None else mask.to(device).bool()


def _copies(tensor: T, copies: int) -> T:
    return tensor if tensor is None or copies == 1 else tensor.repeat_interleave(copies, dim=0)


def _randn(shape: tuple[int, ...], generator: torch.Generator | None, like: torch.Tensor) -> torch.Tensor:
    device = like.device if generator is None else generator.device
    if device.type == "cuda" and like.device.type == "cpu":
        raise InputError("The generator is on a CUDA device and the pipeline on the CPU; make it with torch.Generator('cpu').")
    return torch.randn(shape, generator=generator, device=device, dtype=like.dtype).to(like.device)
