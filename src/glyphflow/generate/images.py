"""Pictures on their way in and out: resize policies, masks, and the forms a result can have."""

from __future__ import annotations

from typing import Any

import torch

from glyphflow.models import tensor_to_images


def as_type(pixels: torch.Tensor, output_type: str) -> Any:
    """Pixels (B, C, H, W) in [-1, 1] as ``output_type``: PIL pictures, an array (B, H, W, C) or a tensor in [0, 1]."""
    if output_type == "pil":
        return tensor_to_images(pixels)
    pixels = (pixels.float() * 0.5 + 0.5).clamp(0, 1)
    return pixels.permute(0, 2, 3, 1).cpu().numpy() if output_type == "np" else pixels
