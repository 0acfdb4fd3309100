"""The configuration of a transformer that comes as one file: sizes are read off its shapes, the rest must be told."""

from __future__ import annotations

import warnings
from typing import Any

from glyphflow.core.errors import InputError
from glyphflow.models.stored import ZERO_COND_MARK, Checkpoint

_PATCH = 2
_LAYERED = "time_text_embed.addition_t_embedding.weight"
_TELLING = ("img_in.weight", "txt_in.weight", "proj_out.weight", "transformer_blocks.0.attn.norm_q.weight")


def transformer_fields(checkpoint: Checkpoint, known: dict[str, Any] | None = None) -> dict[str, Any]:
    """Fields of the MMDiT's configuration for ``checkpoint``.

    ``known`` are those of the model directory that the file is used in; they decide what shapes do not show (``zero_cond_t``,
    the split of positions over axes) and must agree with what shapes do show. Without them the released split is taken, and a
    warning says what was assumed. Raises InputError for a file that is no Qwen-Image transformer, or another size of one.
    """
    absent = [name for name in _TELLING if name not in checkpoint.tensors]
    if absent:
        raise InputError(
            f"{checkpoint.source} has no {absent[0]}, so it is no Qwen-Image transformer; it is {checkpoint.kind}."
        )
    shown = _shown(checkpoint)
    if known is not None:
        for name, value in shown.items():
            if known[name] != value:
                raise InputError(
                    f"{checkpoint.source} has {name} = {value}, but the model directory describes {known[name]}; use a file of "
                    "the same model."
                )
        return known | ({"zero_cond_t": True} if ZERO_COND_MARK in checkpoint.marks else {})
    width = shown["attention_head_dim"]
    if width % 32:
        raise InputError(f"{checkpoint.source} has heads of {width} features, whose axes are unknown; give its configuration.")
    if ZERO_COND_MARK not in checkpoint.marks and not shown["use_additional_t_cond"]:
        warnings.warn(
            f"{checkpoint.source} does not say whether references have their own timestep (Qwen-Image-Edit-2511 needs "
            "zero_cond_t = true, without which its edits are worse); false is assumed. Give its configuration, or open it with "
            "its model directory.",
            stacklevel=3,
        )
    return shown | {
        "axes_dims_rope": (width // 8, width * 7 // 16, width * 7 // 16),
        "use_layer3d_rope": shown["use_additional_t_cond"],
        "zero_cond_t": ZERO_COND_MARK in checkpoint.marks,
    }


def _shown(checkpoint: Checkpoint) -> dict[str, Any]:
    shape = {name: stored.shape for name, stored in checkpoint.tensors.items()}
    width, in_channels = shape["img_in.weight"]
    head = shape["transformer_blocks.0.attn.norm_q.weight"][0]
    blocks = {int(name.split(".")[1]) for name in shape if name.startswith("transformer_blocks.")}
    return {
        "in_channels": in_channels,
        "out_channels": shape["proj_out.weight"][0] // _PATCH**2,
        "num_layers": max(blocks) + 1,
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shape["txt_in.weight"][1],
        "use_additional_t_cond": _LAYERED in shape,
    }
