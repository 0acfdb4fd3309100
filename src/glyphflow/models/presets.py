"""Sizes by name: the released Qwen-Image networks and the nano ones (same classes, laptop size)."""

from __future__ import annotations

from glyphflow.models.mmdit import MMDiTConfig
from glyphflow.models.vae import VAEConfig

QWEN_IMAGE_MMDIT = MMDiTConfig()
QWEN_IMAGE_VAE = VAEConfig()

NANO_MMDIT = MMDiTConfig(
    num_layers=6,
    attention_head_dim=64,
    num_attention_heads=4,
    joint_attention_dim=256,
    axes_dims_rope=(8, 28, 28),
)
NANO_VAE = VAEConfig(base_dim=24, num_res_blocks=1)
