"""The frozen encoders of a model directory on one device: the one place that decides their dtype, and what waits elsewhere.

A cache is filled with them, producers encode with them, and previews embed their prompts with them. The condition encoder's
weights are in the run's compute dtype (bfloat16 on a card: 16.6 GB for the released one, twice that in float32); the VAE's are
float32 under autocast, as its weights are few and its activations are what counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

from glyphflow.generate.activations import encoding_bytes
from glyphflow.generate.placement import budget_of
from glyphflow.generate.residency import DECODER, ENCODER, VISION, Residency
from glyphflow.generate.sizes import EncoderConfig, sizes_of
from glyphflow.models import VAE, VAEConfig
from glyphflow.models.condition import ConditionEncoder
from glyphflow.models.weights import read_config

MAX_TOKENS = 1024
"""Tokens of a caption, as the released pipelines take them; a longer one is left out with its record."""
_TEMPLATE_TOKENS = 128  # what the longest chat template adds
_PICTURE_TOKENS = 1444  # 38 x 38, of a picture of a megapixel
_SIDE = 1328  # of the largest pictures that the released model was trained on


class FrozenEncoders:
    """VAE and condition encoder of the model directory ``root`` on ``device``, computing in ``compute``.

    ``memory``: what the card may give, as :class:`glyphflow.generate.Pipeline` takes it: "auto" keeps both there when they fit
    and streams them when not.
    """

    def __init__(self, root: Path, device: torch.device, compute: torch.dtype, memory: str | int = "auto") -> None:
        self.device, self.compute = device, compute
        self._sizes = EncoderConfig.read(root / "text_encoder")
        vae = read_config(root / "vae", VAEConfig)
        budget = budget_of(memory, device, lambda: encoders_bytes(self._sizes, vae, compute))
        at = device if budget is None else torch.device("cpu")
        self.vae = VAE.from_pretrained(root / "vae", torch.float32, at)
        self.condition = ConditionEncoder.from_pretrained(root, compute, at)
        self._residency = Residency({ENCODER: self.condition, DECODER: self.vae}, device, budget)

    @torch.no_grad()
    def modes(self, pixels: torch.Tensor) -> torch.Tensor:
        """Means of the posteriors of ``pixels`` (B, 3, H, W), raw latents."""
        batch, _, height, width = pixels.shape
        config = self.vae.config
        self._residency.use(DECODER, room=lambda: encoding_bytes(config, (batch, height, width), torch.float32))
        with torch.autocast(self.device.type, self.compute, enabled=self.compute != torch.float32):
            return self.vae.encode(pixels.to(self.device)).mode()

    def embed(
        self,
        captions: Sequence[str],
        template: Literal["t2i", "edit", "edit-plus"] = "t2i",
        images: Sequence[Sequence[Image.Image]] | None = None,
    ) -> list[torch.Tensor]:
        """Embeddings of ``captions``, see :meth:`glyphflow.models.ConditionEncoder.encode`."""
        pictures = sum(map(len, images or ()))
        tokens = len(captions) * (MAX_TOKENS + _TEMPLATE_TOKENS) + pictures * _PICTURE_TOKENS
        names = (ENCODER, VISION) if pictures else (ENCODER,)
        self._residency.use(*names, room=lambda: self._sizes.encoding_bytes(tokens, self.compute))
        return self.condition.encode(captions, MAX_TOKENS, template=template, images=images)

    def release(self) -> VAE:
        """Give up the condition encoder; the VAE stays, on the device."""
        self._residency.recall()
        self.condition.to("cpu")
        return self.vae.to(self.device)


def encoders_bytes(encoder: EncoderConfig, vae: VAEConfig, compute: torch.dtype, side: int = _SIDE) -> int:
    """Bytes of both encoders on the device at the highest point, with the work for a picture of ``side`` px and its caption."""
    with torch.device("meta"):
        decoder = VAE(vae)
    weights = encoder.part_sizes(compute).total + encoder.vision_bytes(compute) * bool(encoder.vision_depth)
    text = encoder.encoding_bytes(MAX_TOKENS + _TEMPLATE_TOKENS + _PICTURE_TOKENS, compute)
    return weights + sizes_of(decoder).total + max(text, encoding_bytes(vae, (1, side, side), torch.float32))
