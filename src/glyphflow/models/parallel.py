"""One MMDiT over several devices, applied from outside to the single-device network.

Tensor parallel ("tp") splits the weights by whole heads, as TENSOR_PLAN says: each process computes with its heads and its part
of each MLP, and two sums per block and stream put them together. Ulysses ("sp") splits the tokens: each process has an equal
part of the picture, of the references and of every text, does everything with those alone, and only inside attention trades
them for all tokens of some of the heads. Both give the single device's result but for the order of sums.

    mesh = init_device_mesh("cuda", (2, 4), mesh_dim_names=("sp", "tp"))
    parallelise(model, mesh)                      # or load_parallel(directory, mesh): no process ever holds the whole

Gradients: weights that are split have their own part's, all others the same in all of "tp"; over "sp" they are to be averaged,
like those of data parallel, when every process computes the same loss of the whole velocity.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from glyphflow.core.errors import InputError
from glyphflow.models.attention import JointAttention, Layout, RMSNorm
from glyphflow.models.block import MLP, Block
from glyphflow.models.collectives import enter, gather, total
from glyphflow.models.lora_file import LoRA, LowRank
from glyphflow.models.mmdit import MMDiT, MMDiTConfig, Modulation, StepCache, segments_of
from glyphflow.models.msrope import ImageShape
from glyphflow.models.quantize import GROUP, Quantize, QuantLinear
from glyphflow.models.ulysses import LocalLayout, Share, SharedCache, heads_to_tokens, tokens_to_heads

Split = Literal["columns", "rows"]

TENSOR_PLAN: dict[str, Split] = {
    "attn.to_q": "columns",  # whole heads; the norms of queries and keys work per head and stay whole
    "attn.to_k": "columns",
    "attn.to_v": "columns",
    "attn.add_q_proj": "columns",
    "attn.add_k_proj": "columns",
    "attn.add_v_proj": "columns",
    "attn.to_out.0": "rows",  # the sum over processes follows, then the bias
    "attn.to_add_out": "rows",
    "img_mlp.net.0.proj": "columns",
    "img_mlp.net.2": "rows",
    "txt_mlp.net.0.proj": "columns",
    "txt_mlp.net.2": "rows",
    "img_mod.1": "columns",  # gathered at once, for the streams are whole in every process
    "txt_mod.1": "columns",
}
"""The linears of a block that are split, and how: "columns" have a part of the outputs, "rows" of the inputs."""


_MOVED_BIASES = {
    ".attn.image_bias": ".attn.to_out.0.bias",
    ".attn.text_bias": ".attn.to_add_out.bias",
    "_mlp.bias": "_mlp.net.2.bias",
}
"""Where the biases went that are added behind a sum over processes: the end of a name -> that of the released one."""


def split_of(name: str) -> Split | None:
    """How the plan splits the linear ``name`` (``transformer_blocks.7.attn.to_q``); None: it stays whole."""
    inside = re.fullmatch(r"transformer_blocks\.\d+\.(.+)", name)
    return None if inside is None else TENSOR_PLAN.get(inside[1])


def split_axis(name: str) -> int | None:
    """The axis of the parameter ``name`` that tensor parallelism cuts; None: every process has it whole."""
    path, _, leaf = name.rpartition(".")
    split = split_of(path)
    if split is None or (split == "rows" and leaf == "bias"):
        return None
    return 0 if split == "columns" else 1


def released_name(name: str) -> str:
    """The released name of the parameter ``name`` of a model that :func:`parallelise` may have changed."""
    for moved, home in _MOVED_BIASES.items():
        if name.startswith("transformer_blocks.") and name.endswith(moved):
            return name.removesuffix(moved) + home
    return name


def check_heads(config: MMDiTConfig, sequence: int, tensor: int) -> None:
    """Raise InputError unless each of ``sequence`` x ``tensor`` processes can have equally many heads."""
    heads = config.num_attention_heads
    if heads % (sequence * tensor):
        raise InputError(
            f"The model has {heads} attention heads, which ulysses={sequence} times tensor={tensor} = {sequence * tensor} "
            f"processes cannot share equally; choose numbers whose product divides {heads}."
        )


def parallelise(model: MMDiT, mesh: DeviceMesh) -> MMDiT:
    """Make ``model``, which every process of ``mesh`` has whole, compute as this process's part; returns it.

    ``mesh`` has the axes "sp" and "tp"; others are ignored. Before activation checkpointing, compiling and sharding. Raises
    InputError when there are not enough heads.
    """
    check_heads(model.config, mesh.get_group("sp").size(), mesh.get_group("tp").size())
    for name in [name for name, _ in model.named_parameters()]:
        keep_part(model, name, mesh.get_group("tp"))
    return _install(model, mesh)


def load_parallel(
    source: str | Path,
    mesh: DeviceMesh,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    *,
    config: MMDiTConfig | None = None,
    quantize: Quantize | None = None,
) -> MMDiT:
    """:meth:`MMDiT.from_pretrained`, of which each process keeps only its part.

    Each tensor is cut before the next is read: at the highest point there are this process's part and one whole tensor.
    """

    def placed(model: nn.Module, name: str) -> None:
        check_heads(cast(MMDiT, model).config, mesh.get_group("sp").size(), mesh.get_group("tp").size())
        keep_part(cast(MMDiT, model), name, mesh.get_group("tp"))

    model = MMDiT.from_pretrained(source, dtype, device, config=config, quantize=quantize, placed=placed)
    return _install(model, mesh)


@torch.no_grad()
def keep_part(model: nn.Module, name: str, group: ProcessGroup) -> None:
    """Of the parameter ``name`` keep what this process of ``group`` computes with; parameters outside the plan stay whole."""
    path, _, leaf = name.rpartition(".")
    axis = split_axis(name)
    if axis is None or group.size() == 1:
        return
    linear = cast(nn.Linear | QuantLinear, model.get_submodule(path))
    if isinstance(linear, QuantLinear) and linear.kind == "int4" and axis and linear.in_features // group.size() % GROUP:
        raise InputError(
            f"{path} has {linear.in_features} inputs in int4 groups of {GROUP}, which tensor={group.size()} would cut apart; "
            'use fewer processes or quantize="int8".'
        )
    for key in ("bias",) if leaf == "bias" else ("weight", "packed", "scale", "offset"):
        whole = getattr(linear, key, None)
        if whole is not None and whole.shape[axis] > 1:
            setattr(linear, key, nn.Parameter(_part(whole, axis, group), requires_grad=whole.requires_grad))
    if leaf != "bias" and axis == 0:
        linear.out_features //= group.size()
    elif leaf != "bias":
        linear.in_features //= group.size()


def whole_shape(name: str, part: tuple[int, int], group: ProcessGroup) -> tuple[int, int]:
    """(out, in) of the linear ``name`` before it was split, of which this process has ``part``."""
    split = split_of(name)
    return part[0] * (group.size() if split == "columns" else 1), part[1] * (group.size() if split == "rows" else 1)


def part_of_lora(lora: LoRA, group: ProcessGroup) -> LoRA:
    """What this process adds to its parts of the weights, split as they are.

    Raises InputError for DoRA beside "rows" or with lengths along the input, which no process knows, and for LoKr beside any
    weight that is split.
    """
    ranks = group.size()
    layers = dict(lora.layers)
    for name, layer in lora.layers.items():
        split = split_of(name)
        if split is None or ranks == 1:
            continue
        by_columns = layer.magnitude is not None and layer.magnitude.ndim > 1
        if not isinstance(layer, LowRank) or by_columns or (split == "rows" and layer.magnitude is not None):
            kind = "DoRA" if isinstance(layer, LowRank) else "LoKr"
            raise InputError(f"The adapter has {kind} for {name}, which tensor={ranks} splits; use ulysses or cfg instead.")
        if split == "rows":
            layers[name] = layer._replace(down=_part(layer.down, 1, group))
        else:
            magnitude = None if layer.magnitude is None else _part(layer.magnitude, 0, group)
            layers[name] = layer._replace(up=_part(layer.up, 0, group), magnitude=magnitude)
    return LoRA(layers, lora.identity)


class ParallelMMDiT(MMDiT):
    """An MMDiT that computes its part of the work of a mesh; :func:`parallelise` makes it of an MMDiT."""

    sequence: ProcessGroup
    tensor: ProcessGroup

    def blocks(
        self,
        image: Tensor,
        text: Tensor,
        time: Tensor | None,
        layout: Layout,
        shapes: tuple[ImageShape, ...],
        target: int,
        modulation: Modulation | None = None,
        controlnet_block_samples: Sequence[Tensor] | None = None,
        step_cache: StepCache | None = None,
    ) -> Tensor:
        """As in :class:`MMDiT`: whole streams in, whole stream out; between them each process has its share of the tokens."""
        if self.sequence.size() == 1:
            return super().blocks(image, text, time, layout, shapes, target, modulation, controlnet_block_samples, step_cache)
        segments = segments_of(shapes, rows=2 if self.config.zero_cond_t else 1)
        share = Share(layout, segments, target, text.shape[1], self.sequence)
        residuals = controlnet_block_samples
        out = super().blocks(
            share.image(image),
            share.text(text),
            time,
            share.layout,
            share.shapes,
            share.target,
            modulation,
            None if residuals is None else [share.image(residual) for residual in residuals],
            None if step_cache is None else SharedCache(step_cache, share, target),
        )
        return share.whole_target(out)

    def save_pretrained(self, directory: str | Path, max_shard_bytes: int = 0) -> None:
        """Refused where the weights are split."""
        if self.tensor.size() > 1:
            raise InputError(f"These weights are split over {self.tensor.size()} processes; save the model before it is split.")
        super().save_pretrained(directory, *([max_shard_bytes] if max_shard_bytes else []))


def _install(model: MMDiT, mesh: DeviceMesh) -> MMDiT:
    sequence, tensor = mesh.get_group("sp"), mesh.get_group("tp")
    model.__class__ = ParallelMMDiT
    parallel = cast(ParallelMMDiT, model)
    parallel.sequence, parallel.tensor = sequence, tensor
    for block in cast(Sequence[Block], model.transformer_blocks):
        SplitAttention.make(block.attn, sequence, tensor)
        for mlp in (block.img_mlp, block.txt_mlp):
            SplitMLP.make(mlp, tensor)
        for modulation in (block.img_mod, block.txt_mod):
            modulation.register_forward_pre_hook(functools.partial(_enter_modulation, tensor))
            modulation.register_forward_hook(functools.partial(_gather_modulation, tensor))
    return model


def _enter_modulation(group: ProcessGroup, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (enter(args[0], group),)


def _gather_modulation(group: ProcessGroup, module: nn.Module, args: Any, out: Tensor) -> Tensor:
    return gather(out, out.ndim - 1, [out.shape[-1]] * group.size(), group)


class SplitMLP(MLP):
    """An MLP of which this process has a part of the inner features."""

    tensor: ProcessGroup
    bias: nn.Parameter | None

    @staticmethod
    def make(mlp: MLP, tensor: ProcessGroup) -> None:
        """Turn ``mlp``, whose linears are cut, into one. The bias behind the sum leaves its linear, to be added once."""
        mlp.__class__ = SplitMLP
        split = cast(SplitMLP, mlp)
        split.tensor, split.bias = tensor, _taken_bias(mlp.net[2], tensor)

    def forward(self, x: Tensor) -> Tensor:
        return _summed(super().forward(enter(x, self.tensor)), self.bias, self.tensor)


class SplitAttention(JointAttention):
    """Attention of this process's heads (tensor parallel) and of what it trades tokens for (Ulysses)."""

    sequence: ProcessGroup
    tensor: ProcessGroup
    image_bias: nn.Parameter | None
    text_bias: nn.Parameter | None

    @staticmethod
    def make(attention: JointAttention, sequence: ProcessGroup, tensor: ProcessGroup) -> None:
        """Turn ``attention``, whose linears are cut, into one. Biases behind sums leave their linears, to be added once."""
        attention.__class__ = SplitAttention
        split = cast(SplitAttention, attention)
        split.sequence, split.tensor = sequence, tensor
        split.image_bias, split.text_bias = _taken_bias(attention.to_out[0], tensor), _taken_bias(attention.to_add_out, tensor)

    def forward(self, image_BND: Tensor, text_BLD: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        image, text = super().forward(enter(image_BND, self.tensor), enter(text_BLD, self.tensor), layout)
        return _summed(image, self.image_bias, self.tensor), _summed(text, self.text_bias, self.tensor)

    def image_only(self, image_BND: Tensor, text_BLD: Tensor, layout: Layout, target: int) -> Tensor:
        if isinstance(layout, LocalLayout):
            layout = layout.for_target()
        out = super().image_only(enter(image_BND, self.tensor), enter(text_BLD, self.tensor), layout, target)
        return _summed(out, self.image_bias, self.tensor)

    def _turned(self, x_BSD: Tensor, norm: RMSNorm, rotation: Tensor) -> Tensor:
        if x_BSD.shape[1] == 0:  # more processes than tokens
            return self._heads(x_BSD)
        # Each process sees its heads alone: the gradient of a weight that all heads share is the sum of theirs.
        return self.kernels.norm_rotate(self._heads(x_BSD), enter(norm.weight, self.tensor), norm.eps, rotation)

    def _meet(self, q: list[Tensor], k: list[Tensor], v: list[Tensor], layout: Layout) -> list[Tensor]:
        if not isinstance(layout, LocalLayout):
            return super()._meet(q, k, v, layout)
        count = len(q)
        lengths = [*layout.queries, *layout.keys, *layout.keys]
        whole = tokens_to_heads([*q, *k, *v], lengths, self.sequence)
        met = super()._meet(whole[:count], whole[count : 2 * count], whole[2 * count :], layout)
        return heads_to_tokens(met, layout.queries, self.sequence)


def _part(whole: Tensor, axis: int, group: ProcessGroup) -> Tensor:
    return whole.tensor_split(group.size(), axis)[group.rank()].clone(memory_format=torch.contiguous_format)


def _taken_bias(linear: nn.Module, group: ProcessGroup) -> nn.Parameter | None:
    if group.size() == 1:  # a linear rounds once behind its bias, a sum before and behind it
        return None
    bias: nn.Parameter | None = cast(nn.Linear, linear).bias
    linear.register_parameter("bias", None)
    return bias


def _summed(part: Tensor, bias: Tensor | None, group: ProcessGroup) -> Tensor:
    whole = total(part, group)
    return whole if bias is None else whole + bias
