"""Names in LoRA files: what a tensor is to its layer, and which of our linears the layer is.

The same layer X has many names: ``transformer.X`` (diffusers, OneTrainer), ``base_model.model.X`` (peft), ``diffusion_model.X``
(ComfyUI, ai-toolkit), ``pipe.dit.X`` (DiffSynth-Studio), ``lora_unet_X`` and ``lycoris_X`` with underscores for dots (kohya,
LyCORIS), and X alone. A wrapper of PyTorch may have left its word inside.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from glyphflow.core.errors import InputError

_WRAPPERS = ("base_model", "model", "diffusion_model", "transformer", "pipe", "dit", "unet", "module", "net")
_INSIDE = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
_FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lora_dit_", "lycoris_")
_ENCODERS = re.compile(r"^(text_encoders?\d*|lora_te\d*|te\d*|conditioner|cond_stage_model|text_model|llm|language_model)[._]")
_ROLES = (
    ("down", re.compile(r"\.(lora_A|lora_down|lora\.down)(\.[^.]+)?\.weight$")),
    ("up", re.compile(r"\.(lora_B|lora_up|lora\.up)(\.[^.]+)?\.weight$")),
    ("alpha", re.compile(r"\.alpha$")),
    ("magnitude", re.compile(r"\.(lora_magnitude_vector(\.[^.]+)?|dora_scale)$")),
    *((part, re.compile(rf"\.lokr_{part}$")) for part in ("w1", "w2", "w1_a", "w1_b", "w2_a", "w2_b")),
)
_REFUSED = (
    (r"\.hada_", "LoHa"),
    (r"\.lokr_t[12]$", "LoKr with a convolution core"),
    (r"\.b?oft_|\.oft_blocks$", "OFT"),
    (r"\.(diff|diff_b|set_weight|w_norm|b_norm)$", "full weight differences"),
    (r"\.lora_mid", "LoCon with a middle matrix"),
    (r"\.lora_(B|up).*\.bias$", "LoRA with biases"),
    (r"\.(a1|a2|b1|b2)\.weight$|\.glora", "GLoRA"),
    (r"\.vera_lambda|^.*vera_[AB]$", "VeRA"),
    (r"\.ia3_|\.on_input$", "IA3"),
    (r"\.modules_to_save\.|\.original_module\.", "whole layers beside the adapter"),
    (r"\.(scale_weight|weight_scale|weight_scale_inv|scale_input)$", "scaled fp8 weights"),
)


def role_of(key: str, origin: str) -> tuple[str, str]:
    """What the tensor ``key`` is (down, up, alpha, …) and the layer that it belongs to; InputError for what is not read."""
    plain = key.replace(".default.", ".").removesuffix(".default")
    for role, pattern in _ROLES:
        if found := pattern.search(plain):
            return role, plain[: found.start()]
    for words, kind in _REFUSED:
        if re.search(words, plain):
            raise InputError(f"{origin} holds {kind} ({key}), which is not read; LoRA, DoRA and LoKr are.")
    raise InputError(f"{key} in {origin} is no key of a LoRA that is known; LoRA, DoRA and LoKr are read.")


def is_adapter_key(key: str) -> bool:
    """Whether a tensor of this name is a part of an adapter of any kind."""
    plain = key.replace(".default.", ".").removesuffix(".default")
    return any(pattern.search(plain) for _, pattern in _ROLES) or any(re.search(words, plain) for words, _ in _REFUSED)


def linear_of(module: str, shapes: Mapping[str, Any], flat: Mapping[str, str]) -> str | None:
    """The name in ``shapes`` of the layer ``module``; ``flat`` are the names with underscores for dots. None for no layer."""
    name = bare(module)
    return name if name in shapes else flat.get(name)


def bare(module: str) -> str:
    """``module`` without what its writer put before it."""
    name = _INSIDE.sub("", module).lstrip(".")
    while (first := name.partition("."))[0] in _WRAPPERS and first[2]:
        name = first[2]
    for prefix in _FLAT_PREFIXES:
        name = name.removeprefix(prefix)
    return name


def of_text_encoder(module: str) -> bool:
    """Whether ``module`` is a layer of a text encoder by its prefix."""
    return bool(_ENCODERS.match(bare(module)) or _ENCODERS.match(module))
