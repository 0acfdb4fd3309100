"""LoRA files of every writer, read into the names of our linears, and written as diffusers does.

Names are those of :mod:`glyphflow.models.lora_keys`. The scale is alpha / rank in all of them; alpha is a tensor beside the
pair, or in the file's metadata, or in peft's adapter_config.json, or else the rank. LoKr and DoRA are read, too; kinds that are
not (LoHa, OFT, full differences) are refused by name, and so are values that are not finite.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.files import atomic_path, read_json_object
from glyphflow.core.hashing import sha256_file
from glyphflow.models.header import PICKLES, read_header, refuse_ending
from glyphflow.models.lora_keys import bare, is_adapter_key, linear_of, of_text_encoder, role_of
from glyphflow.models.stored import kind_of, require_finite

METADATA = "lora_adapter_metadata"
FILE_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_CHANGE_THE_MODEL = ("pissa", "olora", "loftq", "corda", "lora_ga", "milora")
"""peft's initialisations that take something out of the weights before training; the pair alone is half of what they mean."""


class LowRank(NamedTuple):
    """``up @ down * scale`` is added to a weight (out, in): ``down`` (r, in), ``up`` (out, r).

    With ``magnitude`` (out,) each row of the sum is then brought to that length (DoRA), with (1, in) each column (the way of
    LyCORIS and OneTrainer).
    """

    down: Tensor
    up: Tensor
    scale: float
    magnitude: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the weight it belongs to."""
        return self.up.shape[0], self.down.shape[1]


class Kronecker(NamedTuple):
    """``kron(left, right) * scale`` is added to a weight (LoKr): ``left`` (a, b), ``right`` (c, d), weight (ac, bd).

    ``magnitude`` as in :class:`LowRank`.
    """

    left: Tensor
    right: Tensor
    scale: float
    magnitude: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the weight it belongs to."""
        return self.left.shape[0] * self.right.shape[0], self.left.shape[1] * self.right.shape[1]


@dataclass(frozen=True)
class LoRA:
    """An adapter: what is added to each linear, by the linear's name, and 16 hexadecimal characters that identify it."""

    layers: dict[str, LowRank | Kronecker]
    identity: str


def read_lora(source: Path | Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> LoRA:
    """Read ``source``, a file, a directory that holds one, or tensors by name.

    ``shapes`` are the (out, in) of the model's linears by name. Raises InputError when a key belongs to none of them, a size
    disagrees, or the file is of a kind that is not read: an adapter is never applied in part.
    """
    tensors, settings, identity, origin = _open(source)
    if tensors and not any(map(is_adapter_key, tensors)) and (kind := kind_of(tensors)) != kind_of(()):
        raise InputError(
            f"{origin} holds {kind} and no LoRA ({min(tensors)} is no key of one that is known); whole weights are given as "
            "transformer."
        )
    groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
    flat = {name.replace(".", "_"): name for name in shapes}
    strange = []
    for key, tensor in tensors.items():
        role, module = role_of(key, origin)
        name = linear_of(module, shapes, flat)
        if name is None:
            strange.append(module)
        elif role in groups[name]:
            raise InputError(f"{origin} says {role} of {name} twice, the second time as {key}; give a file with one adapter.")
        else:
            _check_values(key, tensor, role, origin)
            groups[name][role] = tensor
    if strange:
        raise _of_another_model(strange, len(tensors), shapes, origin)
    if not groups:
        raise InputError(f"{origin} holds no LoRA weights; give a LoRA file.")
    layers = {name: _layer(name, parts, settings, origin) for name, parts in groups.items()}
    for name, layer in layers.items():
        if layer.shape != tuple(shapes[name]):
            raise InputError(
                f"{name} of {origin} is made for a weight of {layer.shape}, but the model's is {tuple(shapes[name])}; use a "
                "LoRA of the same model."
            )
    return LoRA(layers, identity)


def save_lora(path: Path, lora: LoRA) -> None:
    """Write ``lora`` as diffusers does (``transformer.X.lora_A.weight``), atomically.

    The scale is multiplied into lora_B and alpha is the rank: programs that read alpha from the metadata and those that look
    for a tensor or take 1 then agree. Raises InputError for LoKr layers and for magnitudes along the input, which that form
    does not know.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in lora.layers.items():
        if isinstance(layer, Kronecker):
            raise InputError(f"{name} is a LoKr layer, which the form that diffusers reads cannot say; keep its own file.")
        tensors[f"transformer.{name}.lora_A.weight"] = layer.down
        tensors[f"transformer.{name}.lora_B.weight"] = (layer.up.float() * layer.scale).to(layer.up.dtype)
        if layer.magnitude is not None:
            if layer.magnitude.ndim > 1:
                raise InputError(f"{name} has DoRA magnitudes along its input, which diffusers cannot say; keep its own file.")
            tensors[f"transformer.{name}.lora_magnitude_vector"] = layer.magnitude
    plain = {name: layer for name, layer in lora.layers.items() if isinstance(layer, LowRank)}
    settings = {f"transformer.{key}": value for key, value in _settings(plain).items()} if plain else {}
    metadata = {"format": "pt", METADATA: json.dumps(settings, sort_keys=True)}
    with atomic_path(path) as temporary:
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary, metadata)


def _open(source: Path | Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any], str, str]:
    """Tensors, peft's settings, identity and a name for messages."""
    if isinstance(source, Mapping):
        digest = hashlib.sha256()
        for key in sorted(source):
            digest.update(
                key.encode() + source[key].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            )
        return dict(source), {}, digest.hexdigest()[:16], "The given state dict"
    path = lora_path(source)
    refuse_ending(path, f"{path} is not a .safetensors file")
    settings = _peft_settings(path, read_header(path)[0].get("__metadata__", {}))
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}); copy or download it again.") from error
    return tensors, settings, sha256_file(path)[:16], str(path)


def _peft_settings(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the file ``path`` itself, or peft's adapter_config.json beside it, says about the adapter."""
    beside = path.parent / "adapter_config.json"
    if METADATA in metadata:
        try:
            stored = dict(json.loads(metadata[METADATA]))
        except (ValueError, TypeError) as error:
            raise InputError(f"The {METADATA} of {path} cannot be read ({error}); save the adapter again.") from error
        settings = {key.removeprefix("transformer."): value for key, value in stored.items()}
    elif beside.exists() and path.name == FILE_NAMES[1]:
        settings = read_json_object(beside)
    else:
        return {}
    if (kind := settings.get("peft_type") or "LORA") != "LORA":
        raise InputError(f"{path} is of the kind {kind} of peft, which is not read; LORA is.")
    start = str(settings.get("init_lora_weights")).lower()
    if start.startswith(_CHANGE_THE_MODEL):
        raise InputError(
            f"{path} was trained from init_lora_weights = {start!r}, which changes the model's own weights, too; convert it to "
            "a plain LoRA (peft: path_initial_model_for_weight_conversion)."
        )
    return settings


def lora_path(source: Path, weight_name: str | None = None) -> Path:
    """The file that ``source`` means: itself, or ``weight_name`` in a directory, or the only .safetensors file there."""
    if source.is_file():
        return source
    if not source.is_dir():
        raise MissingError(f"There is no LoRA file {source}; check the path.")
    names = sorted(path.name for path in source.glob("*.safetensors"))
    pickles = sorted(path for path in source.iterdir() if path.suffix.lower() in PICKLES)
    if pickles and not names:
        refuse_ending(pickles[0], f"{pickles[0]} is not a .safetensors file")
    return source / choose_file(names, weight_name, str(source))


def choose_file(names: list[str], weight_name: str | None, origin: str) -> str:
    """``weight_name`` if it is among ``names``, or the one name that can be meant; raises InputError naming the choice."""
    if weight_name is not None:
        if weight_name not in names:
            raise InputError(f"{origin} has no file {weight_name}; it has {', '.join(names[:8]) or 'no .safetensors file'}.")
        return weight_name
    usual = [name for name in FILE_NAMES if name in names] or names
    if len(usual) != 1:
        choice = f" ({', '.join(names[:8])}); choose one, such as {origin}/{names[0]}." if names else "; give a LoRA's."
        raise InputError(f"{origin} holds {len(names)} .safetensors files{choice}")
    return usual[0]


def _check_values(key: str, tensor: Tensor, role: str, origin: str) -> None:
    """Raise InputError for values that mean nothing: not finite, whole numbers but for an alpha, several alphas."""
    if role == "alpha":
        if tensor.numel() != 1:
            raise InputError(f"{key} in {origin} has {tensor.numel()} values, and an alpha is one; the file is damaged.")
    elif not tensor.is_floating_point():
        raise InputError(f"{key} in {origin} holds {tensor.dtype}, and only floating-point numbers are read; use a bf16 file.")
    elif not tensor.numel():
        raise InputError(f"{key} in {origin} is empty, of shape {tuple(tensor.shape)}; the file is damaged.")
    require_finite(tensor, key, origin)


def _of_another_model(strange: list[str], count: int, shapes: Mapping[str, Any], origin: str) -> InputError:
    """What to say about a file with layers ``strange``, which this model has not."""
    encoders = [module for module in strange if of_text_encoder(module)]
    if len(encoders) == len(strange):
        return InputError(
            f"{origin} adapts a text encoder ({len(encoders)} of its {count} keys, such as {encoders[0]}), and only the "
            "transformer's layers can be adapted here; use a LoRA of the transformer alone."
        )
    others = [module for module in strange if module not in encoders]
    kind = kind_of(bare(module) for module in others)
    return InputError(
        f"{origin} does not fit this model: {len(strange)} of its {count} keys, such as {others[0]}, belong to no layer, of "
        f"which {next(iter(shapes), 'none')} is one; it seems to be made for {kind}."
    )


def _layer(name: str, parts: dict[str, Tensor], settings: Mapping[str, Any], origin: str) -> LowRank | Kronecker:
    alpha = float(parts["alpha"]) if "alpha" in parts else None
    if any(role.startswith("w") for role in parts):
        layer: LowRank | Kronecker = _kronecker(name, parts, alpha, origin)
    else:
        layer = _low_rank(name, parts, alpha, settings, origin)
    if "magnitude" not in parts:
        return layer
    return layer._replace(magnitude=_magnitude(name, parts["magnitude"], layer.shape, origin))


def _low_rank(name: str, parts: dict[str, Tensor], alpha: float | None, settings: Mapping[str, Any], origin: str) -> LowRank:
    if not {"down", "up"} <= parts.keys():
        raise InputError(f"{name} of {origin} has {' and '.join(sorted(parts))} only; a LoRA has a down and an up matrix each.")
    pair = parts["down"], parts["up"]
    for tensor in pair:
        if tensor.ndim < 2 or math.prod(tensor.shape[2:]) != 1:
            raise InputError(f"{name} of {origin} has a part of shape {tuple(tensor.shape)}, and a linear layer's is a matrix.")
    down, up = (tensor.flatten(1) for tensor in pair)
    if down.shape[0] != up.shape[1]:
        raise InputError(
            f"{name} of {origin} has rank {down.shape[0]} downwards and {up.shape[1]} upwards; the file is damaged."
        )
    return LowRank(down, up, _scale(name, alpha, down.shape[0], settings, origin))


def _magnitude(name: str, magnitude: Tensor, shape: tuple[int, int], origin: str) -> Tensor:
    """DoRA's lengths as (out,) for rows or (1, in) for columns, which a file says by the shape."""
    rows, columns = shape
    if magnitude.shape[0:1] == (rows,) and magnitude.numel() == rows:
        return magnitude.flatten()
    if magnitude.numel() == columns and (magnitude.ndim == 1 or magnitude.shape[0:2] == (1, columns)):
        return magnitude.reshape(1, columns)
    raise InputError(
        f"{name} of {origin} has DoRA magnitudes of shape {tuple(magnitude.shape)}; one for each of the {rows} rows or each of "
        f"the {columns} columns is read."
    )


def _scale(name: str, alpha: float | None, rank: int, settings: Mapping[str, Any], origin: str) -> float:
    if alpha is None:
        patterns = settings.get("alpha_pattern") or {}
        try:
            own = [value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)]
            told = own[0] if own else settings.get("lora_alpha")
            alpha = rank if told is None else float(told)
        except (AttributeError, TypeError, ValueError, re.error) as error:
            raise InputError(
                f"The settings of {origin} say no alpha that can be read ({error}); save the adapter again."
            ) from error
    if not math.isfinite(alpha):
        raise InputError(f"The alpha of {name} in {origin} is {alpha:g}, which is no number; the file is damaged.")
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _kronecker(name: str, parts: dict[str, Tensor], alpha: float | None, origin: str) -> Kronecker:
    factors, rank = [], None
    for side in ("w1", "w2"):
        if side in parts:
            factors.append(parts[side])
        elif {f"{side}_a", f"{side}_b"} <= parts.keys():
            first, second = parts[f"{side}_a"].float(), parts[f"{side}_b"].float()
            if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[0]:
                raise InputError(
                    f"lokr_{side} of {name} in {origin} has parts of {tuple(first.shape)} and {tuple(second.shape)}, which do "
                    "not fit each other; the file is damaged."
                )
            factors.append(first @ second)
            rank = second.shape[0]
        else:
            raise InputError(f"{name} of {origin} is LoKr without lokr_{side}; the file is damaged.")
    if any(factor.ndim != 2 for factor in factors):
        raise InputError(f"{name} of {origin} is LoKr of a convolution, which is not read.")
    return Kronecker(factors[0], factors[1], 1.0 if alpha is None or rank is None else alpha / rank)


def _settings(layers: Mapping[str, LowRank]) -> dict[str, Any]:
    """peft's settings of ``layers``, whose alphas are their ranks; the most frequent rank is the rule, the rest exceptions."""
    ranks = {name: layer.down.shape[0] for name, layer in layers.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    others = {name: value for name, value in ranks.items() if value != rank}
    return {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(layers),
        "use_dora": any(layer.magnitude is not None for layer in layers.values()),
    }
