"""From a prompt to a picture, over a directory in the released layout."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
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
from glyphflow.flow import ScheduleConfig
from glyphflow.generate import text
from glyphflow.generate.denoise import Job, denoise
from glyphflow.generate.directory import INDEX, ModelFacts, directory_hash, locate
from glyphflow.generate.images import as_type
from glyphflow.generate.inputs import Call, Conditions, Options, conditions
from glyphflow.generate.residency import Residency, fits, stored_bytes
from glyphflow.models import VAE, MMDiT, Posterior, image_to_tensor, tensor_to_images, unpack_latents

if TYPE_CHECKING:
    from typing import Unpack

    from glyphflow.models.condition import ConditionEncoder

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
        self.interrupt = False  # a callback sets it to end the call after this step, with the picture as far as it is
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
        height: int | Sequence[int] | None = None,
        width: int | Sequence[int] | None = None,
        **options: Unpack[Options],
    ) -> GenerateResult:
        """Make pictures from prompts; further keywords are those of :class:`glyphflow.generate.inputs.Options`.

        ``height`` and ``width`` (multiples of 16) default to a square of the model's native area and may be lists, one entry
        per prompt. For equal embeddings and generator the picture is the reference pipeline's.
        """
        return text.generate(self, Call.of(prompt, negative_prompt, options), height, width)

    def reconstruct(self, image: Image.Image | np.ndarray) -> Image.Image:
        """What the VAE keeps of a picture (PIL, or uint8 H x W x 3): encode to the posterior's mean, decode, same size."""
        pixels = image_to_tensor(image.convert("RGB") if isinstance(image, Image.Image) else image)[None]
        height, width = pixels.shape[-2:]
        padding = (0, -width % self.vae.config.spatial_factor, 0, -height % self.vae.config.spatial_factor)
        pixels = torch.nn.functional.pad(pixels, padding, mode="replicate")
        z = self.encode(pixels).mode()
        with torch.inference_mode():
            return tensor_to_images(self.vae.decode(z)[..., :height, :width])[0]

    def condition(self, call: Call, template: str = "t2i", images: Sequence[Sequence[Image.Image]] | None = None) -> Conditions:
        """The embeddings of ``call``, on the device; ``images[i]`` are the pictures that prompt i speaks of."""
        if call.needs_encoder and self.condition_encoder is not None:
            self._residency.use("condition encoder")
        return conditions(self.condition_encoder, call, (self.device, self.dtype), template, images)

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> Posterior:
        """The VAE's posterior of ``pixels`` (B, C, H, W) in [-1, 1], in raw latents, on the device."""
        self._residency.use("VAE")
        return self.vae.encode(pixels.to(self.device, next(self.vae.parameters()).dtype))

    def sample(self, job: Job, call: Call, label: str) -> torch.Tensor:
        """Packed latents (B, N, C) that ``job`` ends in, with a progress line named ``label``."""
        self.interrupt = False
        self._residency.use("transformer")
        with Progress(label, len(job.sigmas) - 1, "step") if call.progress else contextlib.nullcontext() as shown:
            return denoise(self, job, call.callback_on_step_end, shown)

    def result(self, latents: torch.Tensor, height: int, width: int, output_type: str) -> GenerateResult:
        """Packed latents (B, N, C) of pictures of ``height`` x ``width``, decoded and in the form of ``output_type``."""
        if output_type == "latent":
            return GenerateResult(latents)
        return GenerateResult(as_type(self.decode(unpack_latents(latents, height, width)), output_type))

    @torch.inference_mode()
    def decode(self, z_BChw: torch.Tensor) -> torch.Tensor:
        """Standardised latents (B, C, h, w) -> pixels (B, 3, 8h, 8w) in [-1, 1]."""
        self._residency.use("VAE")
        z = z_BChw.to(next(self.vae.parameters()).dtype)
        at_once = max(1, _DECODE_PIXELS // (64 * z.shape[-1] * z.shape[-2]))
        return torch.cat([self.vae.decode(self.vae.unstandardise(part)) for part in torch.split(z, at_once)])
