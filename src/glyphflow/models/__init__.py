"""The networks of Qwen-Image in single-device PyTorch, with the released names, shapes and numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glyphflow.models.mmdit import MMDiT, MMDiTConfig, Modulation, pack_latents, unpack_latents
from glyphflow.models.presets import NANO_MMDIT, NANO_VAE, QWEN_IMAGE_MMDIT, QWEN_IMAGE_VAE
from glyphflow.models.vae import VAE, Posterior, VAEConfig, image_to_tensor, tensor_to_images
from glyphflow.models.weights import load_weights, save_weights, weights_hash

if TYPE_CHECKING:
    from glyphflow.models.condition import ConditionEncoder

__all__ = [
    "NANO_MMDIT",
    "NANO_VAE",
    "QWEN_IMAGE_MMDIT",
    "QWEN_IMAGE_VAE",
    "VAE",
    "ConditionEncoder",
    "MMDiT",
    "MMDiTConfig",
    "Modulation",
    "Posterior",
    "VAEConfig",
    "image_to_tensor",
    "load_weights",
    "pack_latents",
    "save_weights",
    "tensor_to_images",
    "unpack_latents",
    "weights_hash",
]


def __getattr__(name: str) -> Any:
    """``ConditionEncoder`` needs transformers, whose import takes seconds; only its users pay for it."""
    if name == "ConditionEncoder":
        from glyphflow.models.condition import ConditionEncoder

        return ConditionEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
