"""The frozen encoders, and what they make of a record: one at a time, so that a sample never depends on its companions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open

from glyphflow.core.config import to_dict
from glyphflow.core.errors import GlyphFlowError, InputError
from glyphflow.core.hashing import fingerprint, sha256_bytes, sha256_file
from glyphflow.feed.buckets import bucket_of, bucket_sizes, fit
from glyphflow.feed.cache import EncodedSample, Unreadable, caption_mark
from glyphflow.feed.frozen import FrozenEncoders
from glyphflow.feed.pixels import to_tensor
from glyphflow.feed.records import Picture, Selection
from glyphflow.feed.texts import COPY, COPY_EMPTY, EDIT_EMPTY, copy_instruction
from glyphflow.models import VAEConfig, weights_hash
from glyphflow.models.condition import TEMPLATES, ConditionEncoder, TooLong
from glyphflow.models.stored import open_checkpoint, read_tensor
from glyphflow.models.templates import PICTURE_TEMPLATES
from glyphflow.models.weights import read_config

PREPROCESSING = 2
"""Raise it when the same weights, picture and caption would give other samples."""

_SEEN_SHARE = 384**2 / 1024**2
"""Of a reference's area: how large the condition encoder sees several references; a single one it sees as the VAE does."""
LONG_CAPTION = "its caption has"
"""How the reason begins for which a record is looked at again: a caption can be corrected."""
AT_ONCE = 8
"""Pictures of one size that go through the VAE together."""
_PIXELS_TOGETHER = 512 * 512
"""Larger pictures go alone: one fills a device, and several take gigabytes."""
_REMEMBERED = 256


def encoder_fingerprint(root: Path) -> str:
    """Identity of what the encoders of a pipeline directory make: weights, latent statistics, templates, preprocessing.

    The VAE's decoder is no part of it: latents stay good while the decoder alone is tuned.
    """
    tokenizer = sorted(path for path in (root / "tokenizer").rglob("*") if path.is_file())
    return fingerprint(
        {
            "vae": _hash_of_vae_encoder(root / "vae"),
            "vae_config": to_dict(read_config(root / "vae", VAEConfig)),
            "condition": weights_hash(root / "text_encoder"),
            "tokenizer": [[path.name, sha256_file(path)] for path in tokenizer],
            "processor": [[path.name, sha256_file(path)] for path in sorted((root / "processor").glob("*preprocessor*"))],
            "templates": [TEMPLATES, PICTURE_TEMPLATES],
            "preprocessing": PREPROCESSING,
        }
    )


def _hash_of_vae_encoder(directory: Path) -> str:
    """Names the weights that latents are made by: names, types, shapes and bits."""
    found = []
    for name, stored in sorted(open_checkpoint(directory).tensors.items()):
        if name.startswith(("encoder.", "quant_conv.")):
            with safe_open(stored.path, framework="pt") as file:
                tensor = file.get_tensor(stored.key) if stored.factor is None else read_tensor(file, stored, torch.float32)
            bits = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
            found.append([name, str(tensor.dtype), list(tensor.shape), sha256_bytes(bits)])
    return fingerprint(found)


class Encoders:
    """The two frozen encoders of a pipeline directory.

    Pictures are encoded to the mode (mean) of the posterior, standardised; the released model's posterior is so narrow that a
    sample adds nothing. ``compute_dtype`` and ``memory``: see :class:`glyphflow.feed.frozen.FrozenEncoders`.

    The bits of a sample never depend on its companions, or transports would differ. Kernels are chosen by the size of a batch,
    so captions go through the network one at a time: together, a third of them came out with other bits on a CPU
    (benchmarks/feed/encoding.py). Pictures of one size go through :data:`AT_ONCE` at a time where that gives the bits of each
    alone; whether it does depends on the machine and is tried once for each size.
    """

    def __init__(self, root: Path, device: torch.device, compute_dtype: torch.dtype, memory: str | int = "auto") -> None:
        self.root = root
        self.fingerprint = encoder_fingerprint(root)
        self._frozen = FrozenEncoders(root, device, compute_dtype, memory)
        self._said: dict[str, torch.Tensor] = {}
        self._together: dict[tuple[int, ...], bool] = {}

    @property
    def condition(self) -> ConditionEncoder:
        """What embeds captions, in the dtype that :class:`FrozenEncoders` chose."""
        return self._frozen.condition

    def pictures(self, pictures: Sequence[Picture]) -> list[torch.Tensor]:
        """(H, W, 3) each, of any sizes -> standardised latents (C, h, w), bfloat16 on the CPU."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for number, picture in enumerate(pictures):
            by_shape.setdefault(picture.shape, []).append(number)
        found: dict[int, torch.Tensor] = {}
        for shape, numbers in by_shape.items():
            while numbers:
                some, numbers = numbers[:AT_ONCE], numbers[AT_ONCE:]
                pixels = to_tensor(np.stack([pictures[number] for number in some]))
                full = len(some) == AT_ONCE and shape[0] * shape[1] <= _PIXELS_TOGETHER
                if full and shape not in self._together:
                    self._together[shape] = torch.equal(self._frozen.modes(pixels), self._alone(pixels))
                whole = full and self._together[shape]
                modes = self._frozen.modes(pixels) if whole else self._alone(pixels)
                latents = self._frozen.vae.standardise(modes.float()).to(torch.bfloat16).cpu()
                found |= {number: latent.clone() for number, latent in zip(some, latents, strict=True)}
        return [found[number] for number in range(len(pictures))]

    def _alone(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._frozen.modes(pixels[n : n + 1]) for n in range(len(pixels))])

    def text(self, caption: str, pictures: Sequence[Picture] = ()) -> torch.Tensor:
        """Embeddings (L, D) of ``caption``, with ``pictures`` in front, bfloat16 on the CPU; equal captions give one tensor."""
        if pictures:
            template: Literal["edit", "edit-plus"] = "edit" if len(pictures) == 1 else "edit-plus"
            shown = [[_seen(picture, len(pictures)) for picture in pictures]]
            return self._frozen.embed([caption], template, shown)[0].to(torch.bfloat16).cpu()
        if caption not in self._said:
            if len(self._said) >= _REMEMBERED:
                self._said.pop(next(iter(self._said)))
            self._said[caption] = self._frozen.embed([caption])[0].to(torch.bfloat16).cpu()
        return self._said[caption]


def load_pictures(selection: Selection, index: int, area: int) -> tuple[list[Picture], Mapping[str, str]]:
    """Target and references of a record, each brought to its own bucket of ``area``, and the record's captions.

    Raises :class:`Unreadable` when one of them cannot be read.
    """
    buckets = bucket_sizes(area)
    try:
        record = selection.load(index)
        load_references = getattr(selection, "load_references", None)
        pictures = [record.image, *(one.image for one in (load_references(index) if load_references else ()))]
    except GlyphFlowError as error:
        raise Unreadable(str(error)) from error
    return [fit(one, bucket_of((one.shape[1], one.shape[0]), buckets)) for one in pictures], record.captions


@dataclass(frozen=True)
class Loaded:
    """A record before encoding, see :func:`load_pictures`."""

    id: str
    pictures: Sequence[Picture]
    captions: Mapping[str, str]


def encode_loaded(records: Sequence[Loaded], encoders: Encoders, *, copies: bool) -> list[EncodedSample | Unreadable]:
    """Everything that training may ask of records: all captions, the empty instruction of an edit, and with ``copies`` the
    instructions of its reconstruction. In place of a record whose text the encoder refuses stands the reason."""
    latents = iter(encoders.pictures([picture for record in records for picture in record.pictures]))
    found: list[EncodedSample | Unreadable] = []
    for record in records:
        pictures = tuple(next(latents) for _ in record.pictures)
        try:
            texts, said = _texts(record.id, record.pictures, record.captions, encoders, copies)
        except TooLong as error:
            found.append(too_long(error))
            continue
        except InputError as error:
            found.append(Unreadable(str(error)))
            continue
        marks = {name: caption_mark(caption) for name, caption in said.items()}
        found.append(EncodedSample(record.id, pictures, texts, marks))
    return found


def _texts(
    record_id: str, pictures: Sequence[Picture], captions: Mapping[str, str], encoders: Encoders, copies: bool
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Name -> embeddings, and name -> caption."""
    references = pictures[1:]
    said = dict(captions)
    texts = {variant: encoders.text(caption, references) for variant, caption in captions.items()}
    if references:
        texts[EDIT_EMPTY] = encoders.text("", references)
    if copies:
        said[COPY] = copy_instruction(record_id)
        texts[COPY] = encoders.text(said[COPY], pictures[:1])
        texts[COPY_EMPTY] = encoders.text("", pictures[:1])
    return texts, said


def too_long(error: TooLong) -> Unreadable:
    """Why a record with a caption beyond the encoder's limit is left out, in the words of who wrote the caption."""
    return Unreadable(f"{LONG_CAPTION} {error.tokens} tokens and the encoder takes {error.limit}; shorten it")


def _seen(picture: Picture, count: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(picture))
    if count == 1:
        return image
    scale = math.sqrt(_SEEN_SHARE)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS)
