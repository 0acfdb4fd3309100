"""From a prompt to a picture, over a directory in the released layout."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.core.files import write_json
from glyphflow.core.hardware import default_dtype, pick_device
from glyphflow.core.progress import Progress
from glyphflow.flow import ScheduleConfig
from glyphflow.generate import control, edit, inpaint, restyle, rooms, text
from glyphflow.generate import layers as _layers
from glyphflow.generate.adapters import Adapter, Adapters
from glyphflow.generate.batch import defaults, few_steps_warning
from glyphflow.generate.denoise import Job, denoise
from glyphflow.generate.directory import (
    Kind,
    ModelFacts,
    directory_hash,
    index,
    locate,
    locate_controlnet,
    read_kind,
    read_small_files,
    require_kind,
)
from glyphflow.generate.half import PartDtypes, keep_finite
from glyphflow.generate.images import Picture, as_type, finite_pixels, rgb, rgba, to_pixels
from glyphflow.generate.inputs import Call, Conditions, Options, conditions
from glyphflow.generate.parallel import Parallel, Ranks
from glyphflow.generate.residency import Residency
from glyphflow.generate.speed import Speed
from glyphflow.models import VAE, MMDiT, MMDiTConfig, Posterior, tensor_to_images, unpack_latents
from glyphflow.models.control import ControlNet
from glyphflow.models.quantize import Quantize, quantised_as
from glyphflow.models.weights import read_config, weights_hash

if TYPE_CHECKING:
    from typing import Unpack

    from glyphflow.models.condition import ConditionEncoder

_DECODE_PIXELS = 1024 * 1024  # decoded at once; more gains nothing and takes memory


@dataclass(frozen=True)
class GenerateResult:
    """What :meth:`Pipeline.generate` made.

    ``images`` is a list of PIL pictures, or by ``output_type``: "np" a float32 array (B, H, W, 3) in [0, 1], "pt" a tensor
    (B, 3, H, W) in [0, 1], "latent" packed standardised latents (B, H/16 * W/16, 64). Pictures of several sizes are a list
    of such without the B.
    """

    images: Any


class Pipeline(Adapters):
    """The three models and the schedule of one model directory, ready to make pictures.

    ``condition_encoder`` may be None where prompts arrive as embeddings (previews of a training run). ``directory`` is where
    the weights were read from, if they were. Networks that somebody else laid out stay as they are: without ``speed`` their
    kernels and forward passes are left alone, and without ``device`` and ``budget`` none of them is moved.
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
        budget: int | None = None,
        controlnet: ControlNet | None = None,
        kind: Kind = "t2i",
        transformer_source: Path | None = None,
        controlnet_source: Path | None = None,
        speed: Speed | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.transformer = transformer
        self.adapters: dict[str, Adapter] = {}
        self.vae = vae
        self.condition_encoder = condition_encoder
        self.controlnet = controlnet
        self.schedule = schedule
        self.facts = facts or ModelFacts()
        self.kind = kind
        self.device = device or next(transformer.parameters()).device
        self.ranks = ranks
        self._directory = directory
        self.transformer_source = transformer_source
        self.controlnet_source = controlnet_source
        self._weights_hash: str | None = None
        self.remembered: dict[object, torch.Tensor] = {}  # latents of references that were edited before
        self.interrupt = False  # a callback sets it to end the call after this step, with the picture as far as it is
        for network in (transformer, controlnet):
            if network is not None:
                keep_finite(network)
        parts = {"condition encoder": condition_encoder, "transformer": transformer, "ControlNet": controlnet, "VAE": vae}
        self.residency = Residency({} if device is None and budget is None else parts, self.device, budget)
        self._speed = Speed()
        if speed is not None:
            self.speed = speed

    @classmethod
    def from_pretrained(
        cls,
        directory_or_repo: str | Path | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        memory: str | int = "auto",
        transformer: str | Path | None = None,
        controlnet: str | Path | None = None,
        quantize: Quantize | None = None,
        speed: Speed | None = None,
        parallel: Parallel | str | None = None,
    ) -> Pipeline:
        """Open a directory of the released layout, a hub name, or (None) the nano weights shipped with the package.

        ``transformer`` is a single .safetensors file (also in fp8) or another transformer directory to take instead of the one
        there; ``controlnet`` is the directory or hub name of a ControlNet for :meth:`control`. ``quantize`` "int8" or "int4"
        keeps the blocks' weights in so many bits, which changes pictures. ``speed`` is a :class:`glyphflow.generate.Speed`.
        ``dtype`` and ``device`` default to the best of this machine. ``parallel``, a :class:`glyphflow.generate.Parallel` or
        "cfg=2,ulysses=2", shares each picture with the other processes that torchrun started.
        With ``memory="auto"`` all models stay on the device when they fit, else text encoder, MMDiT and VAE take turns there;
        "resident" insists. Raises :class:`MissingError` when there is no such model, :class:`InputError` when its files
        contradict each other or the device is too small.
        """
        from glyphflow.models.condition import ConditionEncoder  # transformers takes seconds to import

        root = locate(directory_or_repo)
        name = None if device is None else str(device)
        ranks = None if parallel is None else Ranks.start(parallel, name)
        place = pick_device(name) if ranks is None else ranks.device
        dtype = dtype or default_dtype(place)
        dtypes = PartDtypes.of(dtype)
        budget = rooms.budget(memory, root, place, dtype, quantize)
        at = place if budget is None else torch.device("cpu")
        source = None if transformer is None else Path(transformer).expanduser()
        beside = None if controlnet is None else locate_controlnet(controlnet)
        known = None if source is None or source.is_dir() else read_config(root / "transformer", MMDiTConfig)
        load = MMDiT.from_pretrained if ranks is None else ranks.load
        schedule, facts = read_small_files(root, source)
        return cls(
            load(source or root / "transformer", dtypes.transformer, at, config=known, quantize=quantize),
            VAE.from_pretrained(root / "vae", dtypes.vae, at),
            ConditionEncoder.from_pretrained(root, dtypes.condition_encoder, at),
            schedule,
            facts,
            directory=root,
            device=place,
            budget=budget,
            kind=read_kind(root),
            transformer_source=source,
            controlnet_source=beside,
            controlnet=None if beside is None else ControlNet.from_pretrained(beside, dtype, at),
            speed=speed or Speed(),
            ranks=ranks,
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
        write_json(root / "glyphflow.json", self.facts.model_dump())
        tokenizer = type(self.condition_encoder.tokenizer).__name__
        write_json(root / "model_index.json", index(self.kind, tokenizer, (root / "processor").is_dir()))

    @property
    def weights_hash(self) -> str:
        """16 hexadecimal characters that identify the three models' files; needs a pipeline that was read from a directory."""
        if self._directory is None:
            raise InputError(
                "This pipeline was put together in memory and has no files to identify it by; save it and open it."
            )
        if self._weights_hash is None:
            self._weights_hash = directory_hash(self._directory, self.transformer_source)
        return self._weights_hash

    @property
    def controlnet_hash(self) -> str | None:
        """16 hexadecimal characters that identify the ControlNet's files; None where it was read from none."""
        return None if self.controlnet_source is None else weights_hash(self.controlnet_source)

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files, where several make the same picture together."""
        return self.ranks is None or self.ranks.leads

    @property
    def speed(self) -> Speed:
        """How the loop saves time; set it to another :class:`Speed` at any time."""
        return self._speed

    @speed.setter
    def speed(self, speed: Speed) -> None:
        if self.ranks is not None:
            self.ranks.check(speed)
        speed.apply(self.transformer, self.device)
        self._speed = speed

    @property
    def approximations(self) -> tuple[str, ...]:
        """What makes pictures of this pipeline others than the exact computation's, in words."""
        kind = quantised_as(self.transformer)
        return self.speed.approximations if kind is None else (f"{kind} weights", *self.speed.approximations)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the MMDiT, and so of embeddings and latents."""
        return next(self.transformer.parameters()).dtype

    def generate(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        *,
        height: text.Sides = None,
        width: text.Sides = None,
        **options: Unpack[Options],
    ) -> GenerateResult:
        """Make pictures from prompts; further keywords are those of :class:`glyphflow.generate.inputs.Options`.

        ``height`` and ``width`` (multiples of 16) default to a square of the model's native area and may be lists, one entry
        per prompt. For equal embeddings and generator the picture is the reference pipeline's.
        """
        return text.generate(self, self._call(prompt, negative_prompt, options), height, width)

    def control(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        *,
        control_image: control.Pictures | Sequence[control.Pictures],
        control_mask: control.Pictures | None = None,
        controlnet_conditioning_scale: control.Numbers = 1.0,
        control_guidance_start: control.Numbers = 0.0,
        control_guidance_end: control.Numbers = 1.0,
        height: text.Sides = None,
        width: text.Sides = None,
        **options: Unpack[Options],
    ) -> GenerateResult:
        """Make pictures whose outlines, depth or pose ``control_image`` gives, with the ControlNet of :meth:`from_pretrained`.

        One control picture serves all prompts, a list has one for each; with a list of scales, ``control_image`` is a list of
        as many conditions of the same picture, whose effects add up. ``control_mask`` (white is painted anew) is for
        ControlNets trained for inpainting. The ControlNet works from fraction ``control_guidance_start`` of the steps to
        ``control_guidance_end``. ``height`` and ``width`` default to the control picture's ratio at the model's native area.
        For equal embeddings and generator the picture is the reference pipeline's.
        """
        return control.control(
            self,
            self._call(prompt, negative_prompt, options),
            control_image,
            height,
            width,
            control_mask,
            controlnet_conditioning_scale,
            control_guidance_start,
            control_guidance_end,
        )

    def restyle(
        self,
        image: Picture | Sequence[Picture],
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        *,
        strength: float = 0.6,
        height: text.Sides = None,
        width: text.Sides = None,
        **options: Unpack[Options],
    ) -> GenerateResult:
        """Make pictures that begin as ``image`` with noise on it: image to image.

        ``strength`` in (0, 1] is how far back to noise: the last part of the steps, by that share, is walked. One picture
        serves all prompts, a list has one for each. The size defaults to the picture's ratio at the model's native area.
        """
        return restyle.restyle(self, self._call(prompt, negative_prompt, options), image, strength, height, width)

    def inpaint(
        self,
        image: Picture | Sequence[Picture],
        mask_image: Picture | Sequence[Picture],
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        *,
        strength: float = 0.6,
        height: text.Sides = None,
        width: text.Sides = None,
        padding_mask_crop: int | None = None,
        **options: Unpack[Options],
    ) -> GenerateResult:
        """Paint anew where ``mask_image`` is white and keep ``image`` elsewhere; an edit model also looks at ``image``.

        Pictures, masks, ``strength`` and size as in :meth:`restyle`. With ``padding_mask_crop`` only the surroundings of the
        mask, so many pixels wide, are made at the model's size and pasted into ``image``, which keeps its size and every
        pixel outside the mask.
        """
        call = self._call(prompt, negative_prompt, options)
        return inpaint.inpaint(self, call, image, mask_image, strength, height, width, padding_mask_crop)

    def edit(
        self,
        images: edit.References,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        *,
        height: text.Sides = None,
        width: text.Sides = None,
        **options: Unpack[Options],
    ) -> GenerateResult:
        """Make pictures from references and instructions, with an edit model.

        ``images`` is a picture, a list of the pictures that every prompt is about (an edit-plus model takes one to three), or
        a list with one such list for each prompt. The size defaults to the last picture's ratio at the model's native area.
        """
        return edit.edit(self, self._call(prompt, negative_prompt, options), images, height, width)

    def layers(
        self,
        image: Picture | Sequence[Picture],
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        *,
        layers: int = 4,
        resolution: int = 640,
        cfg_normalize: bool = False,
        use_en_prompt: bool = False,
        **options: Unpack[Options],
    ) -> GenerateResult:
        """Take pictures apart: ``images[i]`` are the ``layers`` RGBA layers of picture i, bottom first.

        The prompt describes the whole picture; where it is empty the language model describes it, in Chinese or, with
        ``use_en_prompt``, in English. Layers have the picture's ratio and about ``resolution`` squared pixels (released models
        know 640 and 1024). ``cfg_normalize`` rescales tokens under guidance, as the other pipelines do; it and
        ``use_en_prompt`` are off as in the reference pipeline and on in the model's card. One picture per prompt, or one of the
        two for all. :func:`glyphflow.generate.write_layers` writes PSD and ZIP files.
        """
        call = self._call(prompt, negative_prompt, options)
        language = "en" if use_en_prompt else "zh"
        return _layers.layers(self, call, image, layers, resolution, cfg_normalize, language)

    def caption(self, image: Picture, language: str = "en") -> str:
        """What the language model sees in ``image``, in English ("en") or Chinese ("zh")."""
        if self.condition_encoder is None:
            raise InputError("This pipeline has no condition encoder, so it cannot describe a picture; give a prompt.")
        self.residency.use("condition encoder", "vision tower", room=lambda: rooms.to_caption(self))
        return self.condition_encoder.caption(rgb(image), language)

    def reconstruct(self, image: Picture) -> Image.Image:
        """What the VAE keeps of a picture (PIL, or uint8 H x W x C): encode to the posterior's mean, decode, same size."""
        pixels = to_pixels([rgba(image) if self.vae.config.input_channels == 4 else rgb(image)])
        height, width = pixels.shape[-2:]
        padding = (0, -width % self.vae.config.spatial_factor, 0, -height % self.vae.config.spatial_factor)
        z = self.encode(torch.nn.functional.pad(pixels, padding, mode="replicate")).mode()
        with torch.inference_mode():
            decoded = finite_pixels(self.vae.decode(z, self.speed.vae_tile)[..., :height, :width])
            return tensor_to_images(decoded)[0]

    def require(self, verb: str, *kinds: Kind) -> None:
        """Refuse to ``verb`` with a model of another kind than ``kinds``."""
        require_kind(self.kind, verb, kinds)

    def _call(self, prompt: str | Sequence[str] | None, negative_prompt: str | Sequence[str] | None, options: Options) -> Call:
        scale = defaults(self, options.get("schedule"))[1]
        call = Call.of(prompt, negative_prompt, {"true_cfg_scale": scale, **options}, self.facts.default_negative_prompt)
        if (wrong := few_steps_warning(self, call)) is not None:
            warnings.warn(wrong, stacklevel=3)  # whoever called the pipeline
        return call

    def condition(self, call: Call, template: str = "t2i", images: Sequence[Sequence[Image.Image]] | None = None) -> Conditions:
        """The embeddings of ``call``, on the device; ``images[i]`` are the pictures that prompt i speaks of."""

        def wake() -> None:
            working = ["condition encoder"] if images is None else ["condition encoder", "vision tower"]
            self.residency.use(*working, room=lambda: rooms.to_condition(self, call, images))

        return conditions(self.condition_encoder, call, (self.device, self.dtype), template, images, wake)

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> Posterior:
        """The VAE's posterior of ``pixels`` (B, C, H, W) in [-1, 1], in raw latents, on the device."""
        self.residency.use("VAE", room=lambda: rooms.to_encode(self, pixels))
        pixels = self.speed.picture(pixels.to(self.device, next(self.vae.parameters()).dtype))
        return self.vae.encode(pixels, self.speed.vae_tile)

    def sample(self, job: Job, call: Call, label: str) -> torch.Tensor:
        """Packed latents (B, N, C) that ``job`` ends in, with a progress line named ``label`` unless ``call`` names it."""
        self.interrupt = False
        working = ["transformer"] if job.control is None else ["transformer", "ControlNet"]
        self.residency.use(*working, room=lambda: rooms.to_sample(self, job))
        name = call.progress if isinstance(call.progress, str) else label
        with Progress(name, len(job.sigmas) - 1, "step") if call.progress and self.leads else contextlib.nullcontext() as shown:
            return denoise(self, job, call.callback_on_step_end, shown)

    def result(self, latents: torch.Tensor, height: int, width: int, output_type: str) -> GenerateResult:
        """Packed latents (B, N, C) of pictures of ``height`` x ``width``, decoded and in the form of ``output_type``."""
        if output_type == "latent":
            return GenerateResult(latents)
        return GenerateResult(as_type(self.decode(unpack_latents(latents, height, width)), output_type))

    @torch.inference_mode()
    def decode(self, z_BChw: torch.Tensor) -> torch.Tensor:
        """Standardised latents (B, C, h, w) -> pixels (B, 3, 8h, 8w) in [-1, 1]."""
        self.residency.use("VAE", room=lambda: rooms.to_decode(self, z_BChw))
        z = self.vae.unstandardise(z_BChw.to(next(self.vae.parameters()).dtype))
        at_once = max(1, _DECODE_PIXELS // (64 * z.shape[-1] * z.shape[-2]))
        parts = [self.vae.decode(self.speed.picture(part), self.speed.vae_tile) for part in torch.split(z, at_once)]
        return finite_pixels(parts[0] if len(parts) == 1 else torch.cat(parts))
