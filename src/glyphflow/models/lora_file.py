"""LoRA files of every writer, read into the names of our linears, and written as diffusers does.

Four families of keys are in use: ``transformer.X.lora_A.weight`` (diffusers, peft; also with an adapter's name inside),
``diffusion_model.X.lora_down.weight``, ``lora_unet_X`` with underscores for dots (kohya), and X alone. The scale is
alpha / rank in all of them; alpha is a tensor beside the pair, or in the file's metadata, or in peft's adapter_config.json,
or else the rank. LoKr and DoRA are read, too; kinds that are not (LoHa, OFT, full differences) are refused by name.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.files import atomic_path, read_json
from glyphflow.core.hashing import sha256_file
from glyphflow.models.header import read_header, refuse_ending
from glyphflow.models.stored import kind_of

METADATA = "lora_adapter_metadata"
FILE_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
_PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.")
_FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_")
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
    (r"\.oft_|\.oft_blocks$", "OFT"),
    (r"\.(diff|diff_b|set_weight)$", "full weight differences"),
    (r"\.lora_mid", "LoCon with a middle matrix"),
    (r"\.lora_(B|up).*\.bias$", "LoRA with biases"),
    (r"\.(a1|a2|b1|b2)\.weight$|\.glora", "GLoRA"),
)


class LowRank(NamedTuple):
    """``up @ down * scale`` is added to a weight (out, in): ``down`` (r, in), ``up`` (out, r).

    With ``magnitude`` (out,) each row of the sum is then brought to that length (DoRA).
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
    """``kron(left, right) * scale`` is added to a weight (LoKr): ``left`` (a, b), ``right`` (c, d), weight (ac, bd)."""

    left: Tensor
    right: Tensor
    scale: float

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
    groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
    flat = {name.replace(".", "_"): name for name in shapes}
    strange = []
    for key, tensor in tensors.items():
        role, module = _role(key, origin)
        name = _linear(module, shapes, flat)
        if name is None:
            strange.append(module)
        else:
            groups[name][role] = tensor
    if strange:
        kind = kind_of(_without_prefix(module) for module in strange)
        raise InputError(
            f"{origin} does not fit this model: {len(strange)} of its {len(tensors)} keys, such as {strange[0]}, belong to no "
            f"layer, of which {next(iter(shapes), 'none')} is one; it seems to be made for {kind}."
        )
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
    """Write ``lora`` as diffusers does (``transformer.X.lora_A.weight``, alphas in the metadata), atomically.

    Raises InputError for LoKr layers, which that form does not know.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in lora.layers.items():
        if isinstance(layer, Kronecker):
            raise InputError(f"{name} is a LoKr layer, which the form that diffusers reads cannot say; keep its own file.")
        tensors[f"transformer.{name}.lora_A.weight"] = layer.down
        tensors[f"transformer.{name}.lora_B.weight"] = layer.up
        if layer.magnitude is not None:
            tensors[f"transformer.{name}.lora_magnitude_vector"] = layer.magnitude
    plain = {name: layer for name, layer in lora.layers.items() if isinstance(layer, LowRank)}
    settings = {f"transformer.{key}": value for key, value in _settings(plain).items()}
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
    metadata = read_header(path)[0].get("__metadata__", {})
    settings: dict[str, Any] = {}
    if METADATA in metadata:
        stored = json.loads(metadata[METADATA])
        settings = {key.removeprefix("transformer."): value for key, value in stored.items()}
    elif (path.parent / "adapter_config.json").exists() and path.name == FILE_NAMES[1]:
        settings = read_json(path.parent / "adapter_config.json")
        if settings.get("peft_type", "LORA") != "LORA":
            raise InputError(f"{path} is of the kind {settings['peft_type']} of peft, which is not read; LORA is.")
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    return tensors, settings, sha256_file(path)[:16], str(path)


def lora_path(source: Path, weight_name: str | None = None) -> Path:
    """The file that ``source`` means: itself, or ``weight_name`` in a directory, or the only .safetensors file there."""
    if source.is_file():
        return source
    if not source.is_dir():
        raise MissingError(f"There is no LoRA file {source}; check the path.")
    return source / choose_file(sorted(path.name for path in source.glob("*.safetensors")), weight_name, str(source))


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


def _role(key: str, origin: str) -> tuple[str, str]:
    plain = key.replace(".default.", ".").removesuffix(".default")
    for role, pattern in _ROLES:
        if found := pattern.search(plain):
            return role, plain[: found.start()]
    for words, kind in _REFUSED:
        if re.search(words, plain):
            raise InputError(f"{origin} holds {kind} ({key}), which is not read; LoRA, DoRA and LoKr are.")
    raise InputError(f"{key} in {origin} is no key of a LoRA that is known; LoRA, DoRA and LoKr are read.")


def _without_prefix(module: str) -> str:
    for prefix in _PREFIXES:
        module = module.removeprefix(prefix)
    return module


def _linear(module: str, shapes: Mapping[str, Any], flat: Mapping[str, str]) -> str | None:
    name = _without_prefix(module)
    if name in shapes:
        return name
    for prefix in _FLAT_PREFIXES:
        name = name.removeprefix(prefix)
    return flat.get(name)


def _layer(name: str, parts: dict[str, Tensor], settings: Mapping[str, Any], origin: str) -> LowRank | Kronecker:
    alpha = float(parts["alpha"]) if "alpha" in parts else None
    if any(role.startswith("w") for role in parts):
        return _kronecker(name, parts, alpha, origin)
    if not {"down", "up"} <= parts.keys():
        raise InputError(f"{name} of {origin} has {' and '.join(sorted(parts))} only; a LoRA has a down and an up matrix each.")
    down, up = parts["down"].flatten(1), parts["up"].flatten(1)
    if down.shape[0] != up.shape[1]:
        raise InputError(
            f"{name} of {origin} has rank {down.shape[0]} downwards and {up.shape[1]} upwards; the file is damaged."
        )
    magnitude = parts.get("magnitude")
    if magnitude is not None and (magnitude.numel() != up.shape[0] or (magnitude.ndim > 1 and magnitude.shape[0] == 1)):
        raise InputError(
            f"{name} of {origin} has DoRA magnitudes of shape {tuple(magnitude.shape)}; only one for each of the {up.shape[0]} "
            "rows is read."
        )
    return LowRank(down, up, _scale(name, alpha, down.shape[0], settings), None if magnitude is None else magnitude.flatten())


def _scale(name: str, alpha: float | None, rank: int, settings: Mapping[str, Any]) -> float:
    if alpha is None:
        patterns = settings.get("alpha_pattern") or {}
        own = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name))
        alpha = next(own, settings.get("lora_alpha", rank))
    return float(alpha) / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _kronecker(name: str, parts: dict[str, Tensor], alpha: float | None, origin: str) -> Kronecker:
    factors, rank = [], None
    for side in ("w1", "w2"):
        if side in parts:
            factors.append(parts[side])
        elif {f"{side}_a", f"{side}_b"} <= parts.keys():
            factors.append(parts[f"{side}_a"].float() @ parts[f"{side}_b"].float())
            rank = parts[f"{side}_b"].shape[0]
        else:
            raise InputError(f"{name} of {origin} is LoKr without lokr_{side}; the file is damaged.")
    if any(factor.ndim != 2 for factor in factors) or "magnitude" in parts:
        raise InputError(f"{name} of {origin} is LoKr of a convolution or with DoRA, which is not read.")
    return Kronecker(factors[0], factors[1], 1.0 if alpha is None or rank is None else alpha / rank)


def _settings(layers: Mapping[str, LowRank]) -> dict[str, Any]:
    """peft's settings of ``layers``; what is most frequent is the rule and the rest exceptions."""

    def common(values: Iterable[float]) -> Any:
        return Counter(values).most_common(1)[0][0]

    ranks = {name: layer.down.shape[0] for name, layer in layers.items()}
    alphas = {name: layer.scale * ranks[name] for name, layer in layers.items()}
    rank, alpha = common(ranks.values()), common(alphas.values())
    return {
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
        "target_modules": sorted(layers),
        "use_dora": any(layer.magnitude is not None for layer in layers.values()),
    }
