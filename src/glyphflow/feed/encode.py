"""The frozen encoders, and what they make of a record: one at a time, so that a sample never depends on its companions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from glyphflow.core.config import to_dict
from glyphflow.core.errors import GlyphFlowError
from glyphflow.core.hashing import fingerprint, sha256_file
from glyphflow.feed.buckets import bucket_of, bucket_sizes, fit
from glyphflow.feed.cache import EncodedSample, Unreadable, caption_mark
from glyphflow.feed.pixels import to_tensor
from glyphflow.feed.records import Picture, Selection
from glyphflow.feed.texts import COPY, COPY_EMPTY, EDIT_EMPTY, copy_instruction
from glyphflow.models import VAE, VAEConfig, weights_hash
from glyphflow.models.condition import TEMPLATES, ConditionEncoder
from glyphflow.models.templates import PICTURE_TEMPLATES
from glyphflow.models.weights import read_config

PREPROCESSING = 2
"""Raise it when the same weights, picture and caption would give other samples."""

_SEEN_SHARE = 384**2 / 1024**2
"""Of a reference's area: how large the condition encoder sees several references; a single one it sees as the VAE does."""
_REMEMBERED = 256


def encoder_fingerprint(root: Path) -> str:
    """Identity of what the encoders of a pipeline directory make: their files, latent statistics, templates, preprocessing."""
    tokenizer = sorted(path for path in (root / "tokenizer").rglob("*") if path.is_file())
    return fingerprint(
        {
            "vae": weights_hash(root / "vae"),
            "vae_config": to_dict(read_config(root / "vae", VAEConfig)),
            "condition": weights_hash(root / "text_encoder"),
            "tokenizer": [[path.name, sha256_file(path)] for path in tokenizer],
            "processor": [[path.name, sha256_file(path)] for path in sorted((root / "processor").glob("*preprocessor*"))],
            "templates": [TEMPLATES, PICTURE_TEMPLATES],
            "preprocessing": PREPROCESSING,
        }
    )


class Encoders:
    """The two frozen encoders of a pipeline directory.

    Pictures are encoded to the mode (mean) of the posterior, standardised; the released model's posterior is so narrow that a
    sample adds nothing. ``compute_dtype`` is that of the VAE's arithmetic on top of float32 weights.

    Everything goes through the networks alone: kernels are chosen by the size of a batch, so the bits of a sample would depend
    on its companions, and transports would differ. What that costs was measured (benchmarks/feed): nothing on a CPU; on a GPU
    a caption of 200 tokens through 7 B weights is bound by arithmetic at batch 1 already.
    """

    def __init__(self, root: Path, device: torch.device, compute_dtype: torch.dtype) -> None:
        self.root = root
        self.fingerprint = encoder_fingerprint(root)
        self._device = device
        self._compute = compute_dtype
        self._vae = VAE.from_pretrained(root / "vae", torch.float32, device)
        self._condition = ConditionEncoder.from_pretrained(root, torch.float32, device)
        self._said: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def picture(self, picture: Picture) -> torch.Tensor:
        """(H, W, 3) -> standardised latents (C, h, w), bfloat16 on the CPU."""
        pixels = to_tensor(picture[None]).to(self._device)
        with torch.autocast(self._device.type, self._compute, enabled=self._compute != torch.float32):
            mode = self._vae.encode(pixels).mode()
        return self._vae.standardise(mode.float()).to(torch.bfloat16).cpu()[0].clone()

    def text(self, caption: str, pictures: Sequence[Picture] = ()) -> torch.Tensor:
        """Embeddings (L, D) of ``caption``, with ``pictures`` in front, bfloat16 on the CPU; equal captions give one tensor."""
        if pictures:
            template = "edit" if len(pictures) == 1 else "edit-plus"
            shown = [[_seen(picture, len(pictures)) for picture in pictures]]
            return self._condition.encode([caption], template=template, images=shown)[0].to(torch.bfloat16).cpu()
        if caption not in self._said:
            if len(self._said) >= _REMEMBERED:
                self._said.pop(next(iter(self._said)))
            self._said[caption] = self._condition.encode([caption])[0].to(torch.bfloat16).cpu()
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


def encode_loaded(
    record_id: str, pictures: Sequence[Picture], captions: Mapping[str, str], encoders: Encoders, *, copies: bool
) -> EncodedSample:
    """Everything that training may ask of a record (see :func:`load_pictures`): all captions, the empty instruction of an
    edit, and with ``copies`` the instructions of its reconstruction."""
    references = pictures[1:]
    said = dict(captions)
    texts = {variant: encoders.text(caption, references) for variant, caption in captions.items()}
    if references:
        texts[EDIT_EMPTY] = encoders.text("", references)
    if copies:
        said[COPY] = copy_instruction(record_id)
        texts[COPY] = encoders.text(said[COPY], pictures[:1])
        texts[COPY_EMPTY] = encoders.text("", pictures[:1])
    latents = tuple(encoders.picture(picture) for picture in pictures)
    return EncodedSample(record_id, latents, texts, {name: caption_mark(caption) for name, caption in said.items()})


def _seen(picture: Picture, count: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(picture))
    if count == 1:
        return image
    scale = math.sqrt(_SEEN_SHARE)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS)
