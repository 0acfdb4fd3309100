"""How many bytes the parts of a model take, from their configurations alone: no weight is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.files import read_json_object
from glyphflow.generate.half import PartDtypes
from glyphflow.generate.placement import PartSizes
from glyphflow.generate.streaming import Weights
from glyphflow.models import QWEN_IMAGE_MMDIT, QWEN_IMAGE_VAE, VAE, MMDiT, MMDiTConfig, VAEConfig
from glyphflow.models.block import Block
from glyphflow.models.quantize import Quantize, quantise_as_placed
from glyphflow.models.weights import read_config

_META = torch.device("meta")


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the condition encoder; the defaults are Qwen2.5-VL-7B's. ``vision_depth`` 0 means no vision tower."""

    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    vocab_size: int = 152064
    vision_depth: int = 32
    vision_hidden_size: int = 1280
    vision_intermediate_size: int = 3420
    vision_patch: int = 2 * 14 * 14 * 3

    @classmethod
    def read(cls, directory: Path) -> EncoderConfig:
        """From a released ``text_encoder`` directory; old and new nesting of its config.json."""
        path = directory / "config.json"
        if not path.exists():
            raise MissingError(f"{directory} has no config.json; give a model directory in the released layout.")
        content = read_json_object(path)
        text, vision = content.get("text_config", content), content.get("vision_config") or {}
        if not isinstance(text, dict) or not isinstance(vision, dict):
            raise InputError(f"{path} has a text_config or vision_config without sizes; copy or download it again.")
        sizes: dict[str, Any] = {name: text[name] for name in cls.text_fields() if name in text}
        if vision:
            sizes |= {
                f"vision_{name}": vision[name] for name in ("depth", "hidden_size", "intermediate_size") if name in vision
            }
        return cls(**sizes)

    @classmethod
    def text_fields(cls) -> list[str]:
        """Names of the sizes of the language model."""
        return [field.name for field in fields(cls) if not field.name.startswith("vision")]

    def part_sizes(self, dtype: torch.dtype) -> PartSizes:
        """Bytes of the language model, whose layers are its blocks."""
        width, inner = self.hidden_size, self.intermediate_size
        keys = width // self.num_attention_heads * self.num_key_value_heads
        layer = 2 * width * width + width + 2 * (width + 1) * keys + 3 * width * inner + 2 * width
        fixed = (self.vocab_size + 1) * width
        return PartSizes(fixed * dtype.itemsize, (layer * dtype.itemsize,) * self.num_hidden_layers)

    def vision_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of the vision tower, which puts 2 x 2 patches together at its end."""
        width, inner, merged = self.vision_hidden_size, self.vision_intermediate_size, 4 * self.vision_hidden_size
        layer = 2 * width + 4 * (width + 1) * width + 3 * width * inner + 2 * inner + width
        merger = width + (merged + 1) * merged + (merged + 1) * self.hidden_size
        return (self.vision_patch * width + self.vision_depth * layer + merger) * dtype.itemsize

    def encoding_bytes(self, tokens: int, dtype: torch.dtype) -> int:
        """Bytes that ``tokens`` of text take at the highest point, inside an MLP, with the keys and values of all layers.

        The residual stream and its normed form, and four tensors of the inner width: gate, its activation, the other half,
        their product; written out because the network itself is not ours.
        """
        keys = self.hidden_size // self.num_attention_heads * self.num_key_value_heads
        return tokens * (4 * self.hidden_size + 4 * self.intermediate_size + 2 * self.num_hidden_layers * keys) * dtype.itemsize


@dataclass(frozen=True)
class ModelConfig:
    """The configurations of a model's three networks; the defaults are the released model's."""

    transformer: MMDiTConfig = QWEN_IMAGE_MMDIT
    vae: VAEConfig = QWEN_IMAGE_VAE
    encoder: EncoderConfig = EncoderConfig()

    @classmethod
    def read(cls, root: Path) -> ModelConfig:
        """From a model directory in the released layout."""
        transformer = read_config(root / "transformer", MMDiTConfig)
        return cls(transformer, read_config(root / "vae", VAEConfig), EncoderConfig.read(root / "text_encoder"))

    def part_sizes(self, dtype: torch.dtype, quantize: Quantize | None = None) -> dict[str, PartSizes]:
        """Bytes of every part by the name it has in a pipeline's residency, with the transformer's blocks in ``quantize``."""
        dtypes = PartDtypes.of(dtype)
        with _META:
            transformer, vae = MMDiT(self.transformer).to(dtypes.transformer), VAE(self.vae).to(dtypes.vae)
        if quantize is not None:
            placed = quantise_as_placed(quantize)
            for name in [name for name, _ in transformer.named_parameters()]:
                placed(transformer, name)
        sizes = {"condition encoder": self.encoder.part_sizes(dtypes.condition_encoder)}
        if self.encoder.vision_depth:
            sizes["vision tower"] = PartSizes(self.encoder.vision_bytes(dtypes.condition_encoder))
        sizes["transformer"] = sizes_of(transformer, list(transformer.transformer_blocks), modulations(transformer))
        return sizes | {"VAE": sizes_of(vae)}


def sizes_of(module: nn.Module, blocks: Sequence[nn.Module] = (), passing: Sequence[nn.Module] = ()) -> PartSizes:
    """Bytes of ``module``, of the ``blocks`` and the only ``passing`` modules in it."""
    fixed = Weights([module], apart=[*blocks, *passing]).nbytes
    each = tuple(Weights([block], apart=passing).nbytes for block in blocks)
    return PartSizes(fixed, each, tuple(Weights([module]).nbytes for module in passing))


def modulations(transformer: MMDiT) -> list[nn.Module]:
    """The modules that only compute modulations, in the order in which they are called."""
    blocks = [cast(Block, block) for block in transformer.transformer_blocks]
    rows = chain.from_iterable((block.img_mod, block.txt_mod) for block in blocks)
    return [transformer.time_text_embed, *rows, transformer.norm_out.linear]
