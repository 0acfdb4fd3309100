"""From a prompt to a picture, over a directory in the released layout."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.core.files import write_json
from glyphflow.core.hardware import default_dtype, pick_device
from glyphflow.core.progress import Progress
from glyphflow.flow import ScheduleConfig, euler_step, model_time, sigmas, true_cfg
from glyphflow.generate.directory import INDEX, ModelFacts, check_size, directory_hash, locate
from glyphflow.generate.inputs import Conditions, Generators, conditions, draw_noise, given_latents
from glyphflow.generate.residency import Residency, fits, stored_bytes
from glyphflow.models import VAE, MMDiT, image_to_tensor, tensor_to_images, unpack_latents

if TYPE_CHECKING:
    from glyphflow.models.condition import ConditionEncoder

Callback = Callable[["Pipeline", int, torch.Tensor, dict[str, Any]], dict[str, Any] | None]
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
_DECODE_PIXELS = 1024 * 1024  # decoded at once; more gains nothing and takes memory


@dataclass(frozen=True)
class GenerateResult:
    """What :meth:`Pipeline.generate` made.

    ``images`` is a list of PIL pictures, or by ``output_type``: "np" a float32 array (B, H, W, 3) in [0, 1], "pt" a tensor
    (B, 3, H, W) in [0, 1], "latent" packed standardised latents (B, H/16 * W/16, 64).
    """

    images: Any


class Pipeline:
    """The three models and the schedule of one model directory, ready to make pictures.

    ``condition_encoder`` may be None where prompts arrive as embeddings (previews of a training run). ``directory`` is where
    the weights were read from, if they were.
    """

    def __init__(
        self,
        transformer: MMDiT,
        vae: VAE,
        condition_encoder: ConditionEncoder | None,
        schedule: ScheduleConfig,
        facts: ModelFacts | None = None,
        *,
        directory: Path | None = None,
        device: torch.device | None = None,
        together: bool = True,
    ) -> None:
        self.transformer = transformer
        self.vae = vae
        self.condition_encoder = condition_encoder
        self.schedule = schedule
        self.facts = facts or ModelFacts()
        self.device = device or next(transformer.parameters()).device
        self._directory = directory
        self._weights_hash: str | None = None
        parts = {"condition encoder": condition_encoder, "transformer": transformer, "VAE": vae}
        self._residency = Residency(parts, self.device, together)

    @classmethod
    def from_pretrained(
        cls,
        directory_or_repo: str | Path | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        memory: str = "auto",
    ) -> Pipeline:
        """Open a directory of the released layout, a hub name, or (None) the nano weights shipped with the package.

        ``dtype`` and ``device`` default to the best of this machine. With ``memory="auto"`` all models stay on the device when
        they fit, else text encoder, MMDiT and VAE take turns there; "resident" insists. Raises :class:`MissingError` when
        there is no such model, :class:`InputError` when its files contradict each other or the device is too small.
        """
        from glyphflow.models.condition import ConditionEncoder  # transformers takes seconds to import

        root = locate(directory_or_repo)
        place = pick_device(None if device is None else str(device))
        dtype = dtype or default_dtype(place)
        sizes = {part: stored_bytes(root / part, dtype) for part in ("text_encoder", "transformer", "vae")}
        together = fits(sizes, place, memory)
        at = place if together else torch.device("cpu")
        return cls(
            MMDiT.from_pretrained(root / "transformer", dtype, at),
            VAE.from_pretrained(root / "vae", dtype, at),
            ConditionEncoder.from_pretrained(root, dtype, at),
            ScheduleConfig.from_json(root / "scheduler" / "scheduler_config.json"),
            ModelFacts.read(root),
            directory=root,
            device=place,
            together=together,
        )

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the whole pipeline to ``directory`` in the released layout, with ``glyphflow.json``."""
        root = Path(directory)
        if self.condition_encoder is None:
            raise InputError("This pipeline has no condition encoder, so it is not a whole model; open it from a directory.")
        self.transformer.save_pretrained(root / "transformer")
        self.vae.save_pretrained(root / "vae")
        self.condition_encoder.save_pretrained(root)
        self.schedule.to_json(root / "scheduler" / "scheduler_config.json")
        tokenizer = ["transformers", type(self.condition_encoder.tokenizer).__name__]
        write_json(root / "glyphflow.json", self.facts.model_dump())
        write_json(root / "model_index.json", INDEX | {"tokenizer": tokenizer})

    @property
    def weights_hash(self) -> str:
        """16 hexadecimal characters that identify the three models' files; needs a pipeline that was read from a directory."""
        if self._directory is None:
            raise InputError(
                "This pipeline was put together in memory and has no files to identify it by; save it and open it."
            )
        if self._weights_hash is None:
            self._weights_hash = directory_hash(self._directory)
        return self._weights_hash

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the MMDiT, and so of embeddings and latents."""
        return next(self.transformer.parameters()).dtype

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        *,
        true_cfg_scale: float = 4.0,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        prompt_embeds_mask: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds_mask: torch.Tensor | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
        max_sequence_length: int = 1024,
        progress: bool = True,
    ) -> GenerateResult:
        """Make ``num_images_per_prompt`` pictures for each prompt; a prompt's pictures stand next to each other.

        True classifier-free guidance is on at ``true_cfg_scale`` 4.0 with an empty negative prompt; 1 or less turns it off
        and halves the work. ``height`` and ``width`` (multiples of 16) default to a square of the model's native area,
        ``num_inference_steps`` to what the model directory says, else 50. ``generator`` is one (it draws for the whole batch)
        or a list of one per picture; a CPU generator gives the same noise on any device. ``latents`` (B, tokens, 64) replace
        the noise; ``prompt_embeds`` (B, L, D) with their mask replace prompts. ``callback_on_step_end(pipeline, step, t,
        {"latents", "prompt_embeds"})`` runs after each step and may return replacements; t runs from 1000 to 0. A prompt of
        more than ``max_sequence_length`` tokens is refused.

        For equal embeddings and generator the picture is the reference pipeline's.
        """
        if output_type not in OUTPUT_TYPES:
            raise InputError(f"output_type is {output_type!r}; it can be {', '.join(OUTPUT_TYPES)}.")
        height, width = (self.facts.native_side if side is None else side for side in (height, width))
        check_size(height, width)
        tokens = (height // 16) * (width // 16)
        steps = self.facts.default_steps if num_inference_steps is None else num_inference_steps
        schedule = sigmas(self.schedule, steps, tokens)
        guided = true_cfg_scale > 1
        if self.condition_encoder is not None and (prompt_embeds is None or (guided and negative_prompt_embeds is None)):
            self._residency.use("condition encoder")
        both = conditions(
            self.condition_encoder,
            prompt,
            negative_prompt,
            (prompt_embeds, prompt_embeds_mask),
            (negative_prompt_embeds, negative_prompt_embeds_mask),
            guided=guided,
            copies=num_images_per_prompt,
            limit=max_sequence_length,
            place=(self.device, self.dtype),
        )
        if latents is None:
            latents = draw_noise(
                (both.batch, self.transformer.config.in_channels // 4, height, width), generator, both.positive
            )
        else:
            latents = given_latents(latents, (both.batch, tokens, self.transformer.config.in_channels), both.positive)
        self._residency.use("transformer")
        grid = (1, height // 16, width // 16)
        with Progress("generate", len(schedule) - 1, "step") if progress else contextlib.nullcontext() as shown:
            latents = self._denoise(latents, both, schedule, grid, true_cfg_scale, callback_on_step_end, shown)
        if output_type == "latent":
            return GenerateResult(latents)
        return GenerateResult(_as_type(self._decode(unpack_latents(latents, height, width)), output_type))

    def reconstruct(self, image: Image.Image | np.ndarray) -> Image.Image:
        """What the VAE keeps of a picture (PIL, or uint8 H x W x 3): encode to the posterior's mean, decode, same size."""
        pixels = image_to_tensor(image.convert("RGB") if isinstance(image, Image.Image) else image)[None]
        height, width = pixels.shape[-2:]
        padding = (0, -width % self.vae.config.spatial_factor, 0, -height % self.vae.config.spatial_factor)
        pixels = torch.nn.functional.pad(pixels, padding, mode="replicate")
        self._residency.use("VAE")
        with torch.inference_mode():
            z = self.vae.encode(pixels.to(self.device, next(self.vae.parameters()).dtype)).mode()
            return tensor_to_images(self.vae.decode(z)[..., :height, :width])[0]

    @torch.inference_mode()
    def _denoise(
        self,
        latents: torch.Tensor,
        both: Conditions,
        schedule: torch.Tensor,
        grid: tuple[int, int, int],
        scale: float,
        callback: Callback | None,
        shown: Progress | None,
    ) -> torch.Tensor:
        schedule = schedule.to(latents.device)
        shapes = [[grid]] * len(latents)
        positive, negative = both.positive, both.negative
        for step in range(len(schedule) - 1):
            sigma = schedule[step]
            time = model_time(sigma, len(latents), latents.dtype)
            rows = self.transformer.modulation(time[:1])  # the same for every picture and for both passes
            v = self.transformer(latents, positive, time, shapes, both.positive_mask, modulation=rows)
            if negative is not None:
                uncond = self.transformer(latents, negative, time, shapes, both.negative_mask, modulation=rows)
                v = true_cfg(v, uncond, scale)
            latents = euler_step(latents, v, sigma, schedule[step + 1])
            if callback is not None:
                changed = callback(self, step, 1000 * sigma, {"latents": latents, "prompt_embeds": positive}) or {}
                latents, positive = changed.get("latents", latents), changed.get("prompt_embeds", positive)
            if shown is not None:
                shown.advance()
        return latents

    @torch.inference_mode()
    def _decode(self, z_BChw: torch.Tensor) -> torch.Tensor:
        self._residency.use("VAE")
        z = z_BChw.to(next(self.vae.parameters()).dtype)
        at_once = max(1, _DECODE_PIXELS // (64 * z.shape[-1] * z.shape[-2]))
        return torch.cat([self.vae.decode(self.vae.unstandardise(part)) for part in torch.split(z, at_once)])


def _as_type(pixels: torch.Tensor, output_type: str) -> Any:
    if output_type == "pil":
        return tensor_to_images(pixels)
    pixels = (pixels.float() * 0.5 + 0.5).clamp(0, 1)
    return pixels.permute(0, 2, 3, 1).cpu().numpy() if output_type == "np" else pixels
