"""What a call of the pipeline is given, checked and brought into the form that the sampler needs."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.core.numbers import checked, whole
from glyphflow.flow import ScheduleConfig
from glyphflow.generate.finite import require_finite
from glyphflow.models import pack_latents

if TYPE_CHECKING:
    from glyphflow.generate.pipeline import Pipeline
    from glyphflow.models.condition import ConditionEncoder

Generators = torch.Generator | Sequence[torch.Generator] | None
Callback = Callable[["Pipeline", int, torch.Tensor, dict[str, Any]], dict[str, Any] | None]
Rows = tuple[list[torch.Tensor], torch.Tensor | None]  # (L_i, D) per picture, and a mask only where it has holes
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
MOST_STEPS, MOST_GUIDANCE, MOST_TOKENS = 1000, 100, 1024


class Options(TypedDict, total=False):
    """Keywords that every way of making pictures takes.

    - ``true_cfg_scale``: true classifier-free guidance against the negative prompt, which is a blank (" ") when not given, as
      in the released example code; 1 or less turns it off and halves the work. Default is what the model directory says, else
      4.0; 1 with a few-step schedule.
    - ``num_inference_steps``: default is what the model directory says, else 50; 8 with a few-step schedule.
    - ``sigmas``: the evenly spaced sigmas before the shift, one per step, falling from 1; default 1, 1 - 1/N, ... 1/N.
    - ``schedule``: another shift than the model's: "lightning" for 4- and 8-step distillations, or a ``ScheduleConfig``.
    - ``guidance_scale``: for models distilled from guidance, of which there are none; ignored with a warning.
    - ``num_images_per_prompt`` (1): a prompt's pictures stand next to each other.
    - ``generator``: one (it draws for the whole batch) or a list of one per picture; a CPU generator gives the same noise on
      any device.
    - ``latents`` (B, tokens, 64): replace the noise.
    - ``prompt_embeds`` (B, L, D), ``prompt_embeds_mask`` (B, L), ``negative_prompt_embeds``, ``negative_prompt_embeds_mask``:
      replace prompts.
    - ``output_type`` ("pil"): see :class:`glyphflow.generate.pipeline.GenerateResult`.
    - ``callback_on_step_end(pipeline, step, t, {"latents", "prompt_embeds"})``: runs after each step and may return
      replacements; t runs from 1000 to 0.
    - ``max_sequence_length`` (1024): a prompt of more tokens is refused.
    - ``progress`` (True): show a progress line; a text is its label.
    """

    true_cfg_scale: float
    num_inference_steps: int | None
    sigmas: Sequence[float] | None
    guidance_scale: float | None
    schedule: str | ScheduleConfig | None
    num_images_per_prompt: int
    generator: Generators
    latents: torch.Tensor | None
    prompt_embeds: torch.Tensor | None
    prompt_embeds_mask: torch.Tensor | None
    negative_prompt_embeds: torch.Tensor | None
    negative_prompt_embeds_mask: torch.Tensor | None
    output_type: str
    callback_on_step_end: Callback | None
    max_sequence_length: int
    progress: bool | str


@dataclass(frozen=True)
class Call:
    """The prompts of one call and its :class:`Options`, each with its default."""

    prompt: str | Sequence[str] | None = None
    negative_prompt: str | Sequence[str] | None = None
    true_cfg_scale: float = 4.0
    num_inference_steps: int | None = None
    sigmas: Sequence[float] | None = None
    guidance_scale: float | None = None
    schedule: str | ScheduleConfig | None = None
    num_images_per_prompt: int = 1
    generator: Generators = None
    latents: torch.Tensor | None = None
    prompt_embeds: torch.Tensor | None = None
    prompt_embeds_mask: torch.Tensor | None = None
    negative_prompt_embeds: torch.Tensor | None = None
    negative_prompt_embeds_mask: torch.Tensor | None = None
    output_type: str = "pil"
    callback_on_step_end: Callback | None = None
    max_sequence_length: int = MOST_TOKENS
    progress: bool | str = True
    default_negative_prompt: str = ""

    @classmethod
    def of(
        cls,
        prompt: str | Sequence[str] | None,
        negative_prompt: str | Sequence[str] | None,
        options: Options,
        default_negative_prompt: str = "",
    ) -> Call:
        """The call with ``options``; a keyword that is none of them raises :class:`InputError` with the nearest one."""
        for name in options:
            if name not in Options.__annotations__:
                near = difflib.get_close_matches(name, Options.__annotations__, 1)
                hint = f"did you mean {near[0]}" if near else f"known are {', '.join(Options.__annotations__)}"
                raise InputError(f"There is no option {name}; {hint}.")
        return cls(prompt, negative_prompt, **options, default_negative_prompt=default_negative_prompt)

    def __post_init__(self) -> None:
        if self.guidance_scale is not None:
            warnings.warn(
                f"guidance_scale = {self.guidance_scale} is ignored, because no model here is distilled; use true_cfg_scale.",
                stacklevel=6,  # whoever called the pipeline
            )
        if self.sigmas is not None and self.num_inference_steps not in (None, len(self.sigmas)):
            raise InputError(
                f"num_inference_steps is {self.num_inference_steps} and there are {len(self.sigmas)} sigmas; give only one."
            )
        if self.output_type not in OUTPUT_TYPES:
            raise InputError(f"output_type is {self.output_type!r}; it can be {', '.join(OUTPUT_TYPES)}.")
        checked(self.true_cfg_scale, "true_cfg_scale", 0, MOST_GUIDANCE, "1 or less turns guidance off")
        for one in self.generator if isinstance(self.generator, Sequence) else [self.generator]:
            if one is not None and not isinstance(one, torch.Generator):
                raise InputError(f"generator is {one!r}; give a torch.Generator, such as torch.Generator().manual_seed(7).")
        if self.num_inference_steps is not None:
            whole(self.num_inference_steps, "num_inference_steps", 1, MOST_STEPS)
        whole(self.num_images_per_prompt, "num_images_per_prompt", 1, 10_000)
        whole(self.max_sequence_length, "max_sequence_length", 1, 2**31)
        if not self.guided and (self.negative_prompt_embeds is not None or _says_something(self.negative_prompt)):
            warnings.warn(
                f"The negative prompt has no effect, because a true CFG scale of {self.true_cfg_scale:g} turns guidance off; "
                "raise it above 1 or leave the negative prompt out.",
                stacklevel=6,
            )

    @property
    def count(self) -> int:
        """Number of prompts."""
        if self.prompt_embeds is not None:
            return len(self.prompt_embeds)
        return 1 if self.prompt is None or isinstance(self.prompt, str) else len(self.prompt)

    @property
    def guided(self) -> bool:
        """Whether true classifier-free guidance is on."""
        return self.true_cfg_scale > 1

    @property
    def needs_encoder(self) -> bool:
        """Whether any prompt has to be embedded."""
        return self.prompt_embeds is None or (self.guided and self.negative_prompt_embeds is None)


@dataclass(frozen=True)
class Conditions:
    """Prompt embeddings for both passes, one (L_i, D) tensor per picture, without padding; ``negative`` is None unguided.

    A mask (B, L) is there only where the user's own mask has holes: all rows then have its length, because a token's position
    counts the masked ones before it.
    """

    positive: list[torch.Tensor]
    negative: list[torch.Tensor] | None = None
    positive_mask: torch.Tensor | None = None
    negative_mask: torch.Tensor | None = None

    @property
    def batch(self) -> int:
        """Number of pictures."""
        return len(self.positive)

    def pick(self, pictures: Sequence[int]) -> Conditions:
        """Those of the pictures with these numbers."""
        index = list(pictures)
        sides = ([rows[n] for n in index] if rows is not None else None for rows in (self.positive, self.negative))
        masks = (mask[index] if mask is not None else None for mask in (self.positive_mask, self.negative_mask))
        positive, negative = sides
        return Conditions(positive or [], negative, *masks)


def conditions(
    encoder: ConditionEncoder | None,
    call: Call,
    place: tuple[torch.device, torch.dtype],
    template: str = "t2i",
    images: Sequence[Sequence[Image.Image]] | None = None,
    wake: Callable[[], None] = lambda: None,
) -> Conditions:
    """Prompts or embeddings for both passes, each prompt ``num_images_per_prompt`` times, on ``place``.

    ``images[i]`` are the pictures that prompt i speaks of; the negative prompts see them, too. A single negative prompt serves
    every prompt; None means the model's default. ``wake`` is called before the encoder's networks run, which prompts that it
    remembers do not need. Contradictions raise :class:`InputError`.
    """
    how = (encoder, call.max_sequence_length, place, template, images, wake)
    positive, mask = _side("prompt", call.prompt, (call.prompt_embeds, call.prompt_embeds_mask), *how)
    positive, mask = _copies(positive, mask, call.num_images_per_prompt)
    if not call.guided:
        return Conditions(positive, None, mask)
    count = len(positive) // call.num_images_per_prompt
    texts, embeds = call.negative_prompt, call.negative_prompt_embeds
    if embeds is None and (texts is None or isinstance(texts, str)):
        texts = [call.default_negative_prompt if texts is None else texts] * count
    negative, negative_mask = _side("negative_prompt", texts, (embeds, call.negative_prompt_embeds_mask), *how)
    if len(negative) != count:
        raise InputError(f"There are {count} prompts and {len(negative)} negative prompts; give one for all or one each.")
    negative, negative_mask = _copies(negative, negative_mask, call.num_images_per_prompt)
    return Conditions(positive, negative, mask, negative_mask)


def draw_noise(shape: tuple[int, int, int, int], generator: Generators, like: torch.Tensor, *, frames: int = 1) -> torch.Tensor:
    """Packed noise for pictures of ``shape`` (batch, latent channels, height, width in pixels), dtype and device of ``like``.

    Drawn as the reference draws it, (B, frames, C, H/8, W/8) in the working dtype on the generator's own device, so that a seed
    means the same picture; a list of generators draws picture by picture. The tokens of a picture's frames follow each other.
    """
    batch, channels, height, width = shape
    one = (frames, channels, height // 8, width // 8)
    if isinstance(generator, torch.Generator) or generator is None:
        latents = _randn((batch, *one), generator, like)
    else:
        if len(generator) != batch:
            raise InputError(f"There are {len(generator)} generators and {batch} pictures; give one for all or one for each.")
        latents = torch.cat([_randn((1, *one), own, like) for own in generator])
    return pack_latents(latents.flatten(0, 1)).reshape(batch, -1, 4 * channels)


def given_latents(latents: torch.Tensor, shape: tuple[int, int, int], like: torch.Tensor) -> torch.Tensor:
    """The user's packed ``latents`` on the device and in the dtype of ``like``; another shape raises :class:`InputError`."""
    if tuple(latents.shape) != shape:
        raise InputError(
            f"latents have the shape {tuple(latents.shape)} and these pictures need {shape} (pictures, tokens of 16 x 16 "
            "pixels, features)."
        )
    require_finite(latents, "The latents that were given are not finite (they hold nan or inf); give others.")
    return latents.to(like.device, like.dtype)


def check_text(text: str, name: str) -> None:
    """Refuse ``text`` with half a character in it (a byte that was no UTF-8, or half an emoji), which no tokenizer takes."""
    half = next((character for character in text if "\ud800" <= character <= "\udfff"), None)
    if half is not None:
        raise InputError(
            f"{name} holds U+{ord(half):04X}, which is half of a character; it was read in the wrong encoding: give UTF-8."
        )


def _side(
    name: str,
    prompt: str | Sequence[str] | None,
    embeds: tuple[torch.Tensor | None, torch.Tensor | None],
    encoder: ConditionEncoder | None,
    limit: int,
    place: tuple[torch.device, torch.dtype],
    template: str,
    images: Sequence[Sequence[Image.Image]] | None,
    wake: Callable[[], None],
) -> Rows:
    values, mask = embeds
    if (prompt is None) == (values is None):
        raise InputError(f"Give either {name} or {name}_embeds, {'not both' if prompt is not None else 'one of the two'}.")
    if values is not None:
        return _given(name, values, mask, place)
    texts = [prompt] if isinstance(prompt, str) else list(prompt or ())
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{name} must be a text or a list of at least one text, not {prompt!r}.")
    for text in texts:
        check_text(text, name)
    if encoder is None:
        raise InputError(f"This pipeline has no condition encoder, so it takes {name}_embeds and no {name}.")
    if not encoder.remembers(texts, template=template, images=images):
        wake()
    rows = [row.to(*place) for row in encoder.encode(texts, limit, template=template, images=images)]
    for row in rows:
        require_finite(
            row,
            f"The embedding of the {name} is not finite (nan or inf), so no picture can come of it; the condition encoder's "
            "weights are damaged, or its dtype is too narrow (try float32).",
        )
    return rows, None


def _given(name: str, values: torch.Tensor, mask: torch.Tensor | None, place: tuple[torch.device, torch.dtype]) -> Rows:
    """The user's embeddings, cut where their mask ends; a mask with holes is kept."""
    if values.ndim != 3:
        raise InputError(f"{name}_embeds have the shape {tuple(values.shape)}; they must be (prompts, tokens, features).")
    if mask is not None and mask.shape != values.shape[:2]:
        raise InputError(
            f"{name}_embeds_mask is {tuple(mask.shape)} and the embeddings are {tuple(values.shape[:2])}; one entry per token."
        )
    require_finite(values, f"The {name}_embeds hold numbers that are not finite (nan or inf); give others.")
    rows = list(values.to(*place))
    if mask is None:
        return rows, None
    mask = mask.to(place[0]).bool()
    lengths = mask.sum(dim=1).tolist()
    if min(lengths) and all(bool(row[:length].all()) for row, length in zip(mask, lengths, strict=True)):
        return [row[:length] for row, length in zip(rows, lengths, strict=True)], None
    return rows, mask


def _says_something(prompt: str | Sequence[str] | None) -> bool:
    return any(text.strip() for text in ([prompt] if isinstance(prompt, str) else prompt or ()) if isinstance(text, str))


def _copies(rows: list[torch.Tensor], mask: torch.Tensor | None, copies: int) -> Rows:
    repeated = [row for row in rows for _ in range(copies)]
    return repeated, None if mask is None else mask.repeat_interleave(copies, dim=0)


def _randn(shape: tuple[int, ...], generator: torch.Generator | None, like: torch.Tensor) -> torch.Tensor:
    device = like.device if generator is None else generator.device
    if device.type == "cuda" and like.device.type == "cpu":
        raise InputError("The generator is on a CUDA device and the pipeline on the CPU; make it with torch.Generator('cpu').")
    return torch.randn(shape, generator=generator, device=device, dtype=like.dtype).to(like.device)
