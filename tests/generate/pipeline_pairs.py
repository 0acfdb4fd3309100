"""Our pipeline and a reference pipeline over the same toy weights, and what their calls are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from glyphflow.generate import Pipeline
from glyphflow.generate.speed import Speed
from tiny import HIDDEN


def reference_pipeline(name: str, directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The diffusers pipeline class ``name`` over ``directory``; edit pipelines come without their picture processor."""
    import diffusers

    base = diffusers.QwenImagePipeline.from_pretrained(directory, dtype=dtype)
    extra = {"processor": None} if "Edit" in name else {}
    pipeline = getattr(diffusers, name)(**base.components, **extra)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def our_pipeline(directory: Path, kind: str = "t2i", dtype: torch.dtype = torch.float32) -> Pipeline:
    """Our pipeline over ``directory``, as a model of ``kind``; in bfloat16 with the reference's operations, one by one."""
    speed = Speed.reference() if dtype == torch.bfloat16 else None
    pipeline = Pipeline.from_pretrained(directory, dtype=dtype, device="cpu", speed=speed)
    pipeline.kind = kind  # type: ignore[assignment]
    return pipeline


def embeds(batch: int = 1, length: int = 9, seed: int = 5) -> torch.Tensor:
    """Prompt embeddings."""
    return torch.randn(batch, length, HIDDEN, generator=torch.Generator().manual_seed(seed))


def texts(guided: bool, batch: int = 1) -> dict[str, Any]:
    """Embeddings for both sides of a call, with guidance or without."""
    call: dict[str, Any] = {"prompt_embeds": embeds(batch), "true_cfg_scale": 1.0}
    if guided:
        call |= {"negative_prompt_embeds": embeds(batch, 4, 6), "true_cfg_scale": 3.0}
    return call


def in_dtype(call: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """``call`` with its tensors in ``dtype``."""
    return {name: value.to(dtype) if isinstance(value, torch.Tensor) else value for name, value in call.items()}


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """A soft colourful picture."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def assert_same_pictures(ours: Any, theirs: Any, bound: float = 1e-5) -> None:
    """Arrays or tensors of the same shape, nowhere further apart than ``bound``."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= bound
