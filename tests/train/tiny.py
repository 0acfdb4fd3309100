"""Tiny pictures, models and pipeline directories that the training tests share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from glyphflow.core.files import write_json
from glyphflow.models import VAE, VAEConfig

TINY_VAE = VAEConfig(base_dim=8, z_dim=4, dim_mult=(1, 1, 1, 1), num_res_blocks=1, latents_mean=(0.0,) * 4, latents_std=(1.0,) * 4)


@dataclass(frozen=True)
class TinyRecord:
    id: str
    image: np.ndarray
    captions: dict[str, str]


@dataclass
class TinySelection:
    """``count`` pictures of a number on a coloured ground; each is made when it is loaded."""

    count: int
    size: tuple[int, int] = (64, 64)
    loads: list[int] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        return [f"number-{i:03d}" for i in range(self.count)]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return [self.size if i % 2 == 0 else (self.size[0] * 2, self.size[1]) for i in range(self.count)]

    def __len__(self) -> int:
        return self.count

    def load(self, index: int) -> TinyRecord:
        self.loads.append(index)
        rng = np.random.default_rng(index)
        picture = Image.new("RGB", self.sizes[index], tuple(int(v) for v in rng.integers(0, 256, 3)))
        ImageDraw.Draw(picture).text((8, 16), str(index), fill="white", font_size=32)
        return TinyRecord(self.ids[index], np.asarray(picture), {"en": f'the number "{index}"', "zh": f"数字“{index}”"})


def write_tiny_vae_pipeline(root: Path, seed: int = 0) -> Path:
    """A pipeline directory that has a VAE only: enough to train one."""
    VAE(TINY_VAE).init_weights(torch.Generator().manual_seed(seed)).save_pretrained(root / "vae")
    write_json(root / "model_index.json", {"_class_name": "QwenImagePipeline"})
    return root
