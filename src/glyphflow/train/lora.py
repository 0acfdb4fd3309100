"""Training low-rank adapters: which linears get one, what it starts as, and the file that it becomes."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from glyphflow.core.config import Config
from glyphflow.core.errors import ConfigError
from glyphflow.core.hashing import derive_seed
from glyphflow.models.lora import adapter_branches, attach, linear_shapes
from glyphflow.models.lora_file import LoRA, LowRank, save_lora

GROUPS = {
    "attention": ("transformer_blocks.*.attn.*",),
    "mlp": ("transformer_blocks.*.img_mlp.*", "transformer_blocks.*.txt_mlp.*"),
    "modulation": ("transformer_blocks.*.img_mod.*", "transformer_blocks.*.txt_mod.*"),
}
"""Words for the linears of a block; what a word or pattern of ``targets`` means."""
FILE = "pytorch_lora_weights.safetensors"
"""What diffusers looks for in a directory."""
_NAME = "trained"


class LoRAConfig(Config):
    """``up @ down * alpha / rank`` is added to each of the linears ``targets``."""

    rank: Annotated[int, Field(gt=0)] = 16
    alpha: Annotated[float, Field(gt=0)] | None = None
    """None: the rank, so that the scale is 1."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("attention", "mlp")
    """attention, mlp, modulation, or patterns of names such as ``transformer_blocks.*.attn.to_q``. Modulations cost a fifth as
    many parameters as the rest and say little about a subject: leave them, and a small card need not hold their weights."""

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


def inject_lora(model: nn.Module, config: LoRAConfig, seed: int) -> TrainedLoRA:
    """Freeze ``model``, attach a new adapter to it and return that; its tensors are float32 on the weights' devices.

    ``down`` starts as Kaiming-uniform noise (what peft takes), drawn for each linear from ``seed`` and its name, and ``up`` as
    0: the model begins as it was. Raises ConfigError when a target is nothing of the model.
    """
    shapes = linear_shapes(model)
    layers: dict[str, LowRank] = {}
    model.requires_grad_(False)
    for name in targets(config, shapes):
        out, into = shapes[name]
        generator = torch.Generator().manual_seed(derive_seed(seed, "lora", name))
        down = nn.init.kaiming_uniform_(torch.empty(config.rank, into), a=math.sqrt(5), generator=generator)
        layers[name] = LowRank(down, torch.zeros(out, config.rank), config.scale)
    attach(model, _NAME, LoRA({**layers}, ""))
    for name, branch in adapter_branches(model, _NAME).items():
        # The masters are float32 whatever the weights are: small steps would be lost in less.
        place = "cpu" if branch.first.is_meta else branch.first.device  # weights without memory get theirs when they are cut
        branch.first, branch.second = (nn.Parameter(t.to(place)) for t in layers[name][:2])
    return TrainedLoRA(model)


def targets(config: LoRAConfig, names: Mapping[str, object]) -> list[str]:
    """Those of the linears ``names`` that ``config`` means, in the model's order."""
    wanted = [(word, GROUPS.get(word, (word,))) for word in config.targets]
    for word, patterns in wanted:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns):
            raise ConfigError(
                f"lora.targets has {word!r}, which is none of the model's linears; use {', '.join(GROUPS)}, or a pattern of "
                f"names like {next(iter(names), 'to_q')}."
            )
    meant = [pattern for _, patterns in wanted for pattern in patterns]
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in meant)]


class TrainedLoRA(nn.Module):
    """The trained tensors of the adapter that :func:`inject_lora` put into ``model``, and nothing else of it.

    Optimizer, average and checkpoints of a LoRA run take this in the model's place: the same Parameter objects, called
    ``<linear>.lora_A.weight`` and ``<linear>.lora_B.weight``. Make a new one where the model's parameters were replaced.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        found = adapter_branches(model, _NAME)
        if not found:
            raise ConfigError("The model has no adapter in training; call inject_lora first.")
        self.scale = next(iter(found.values())).scale
        for name, branch in found.items():
            _put(self, f"{name}.lora_A", branch.first)
            _put(self, f"{name}.lora_B", branch.second)

    def save(self, path: Path, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Write the adapter as diffusers and peft read it, in float32; or ``tensors`` by the names of these, an average say.

        ``path`` is a file, or a directory that gets the usual name. Every process of a sharded run calls this.
        """
        values = dict(self.named_parameters()) if tensors is None else tensors
        save_trained(path, values, self.scale)


def save_trained(path: Path, tensors: Mapping[str, Tensor], scale: float) -> None:
    """Write ``tensors``, named as in :class:`TrainedLoRA`, as one LoRA file."""
    names = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    pairs = {name: [_whole(tensors[f"{name}.lora_{side}.weight"]) for side in "AB"] for name in names}
    layers = {name: LowRank(down, up, scale) for name, (down, up) in pairs.items()}
    save_lora(path if path.suffix == ".safetensors" else path / FILE, LoRA({**layers}, ""))


def _put(root: nn.Module, path: str, parameter: nn.Parameter) -> None:
    """Register ``parameter`` as ``path``.weight; names with dots are only possible as modules in modules."""
    module = root
    for part in path.split("."):
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    module.weight = parameter


def _whole(tensor: Tensor) -> Tensor:
    """``tensor`` from all processes that hold a part of it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
