"""What a checkpoint holds, from the headers of its safetensors alone: names, shapes, factors, and whose weights they are.

A checkpoint is a directory in the released layout (one file, or shards with an index) or a single file. Single files of other
programs carry a prefix before every name, and fp8 weights come with a factor beside them; both are undone here, so that the
rest of the package sees one set of names. A prefix also tells the transformer from the VAE and the text encoder in a file that
holds all three.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from glyphflow.core.errors import InputError
from glyphflow.models.header import read_header, refuse_ending, weight_files

BASENAME = "diffusion_pytorch_model"
MODEL_BASENAME = "model"
ZERO_COND_MARK = "__index_timestep_zero__"  # an empty tensor by which other programs say zero_cond_t
_PREFIXES = ("model.diffusion_model.", "diffusion_model.")
_FACTORS = ("scale_weight", "weight_scale")
_FOR_OTHERS = ("scale_input", "input_scale", "comfy_quant", "scaled_fp8")  # needed only by products in fp8
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_READABLE = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
_KINDS = (
    (r"(^|\.)(lora_|lokr_|hada_|dora_)|lora_unet_", "a LoRA (give it to load_lora_weights)"),
    (r"\.(qweight|wscales|smooth_factor)$", "a Nunchaku (SVDQuant) checkpoint"),
    (r"\.(absmax|quant_map)$", "a bitsandbytes checkpoint"),
    (r"^controlnet_", "a ControlNet"),
    (r"^txt_norm\.weight$", "a Qwen-Image transformer"),
    (r"^(double|single)_stream_blocks[._]", "a HiDream transformer"),
    (r"^(double_blocks|single_blocks|single_transformer_blocks)[._]", "a FLUX or HunyuanVideo transformer"),
    (r"^(joint_blocks[._]|pos_embed\.proj)", "a Stable Diffusion 3 transformer"),
    (r"^(input|output|down|up)_blocks[._]|^(middle|mid)_block[._]", "a Stable Diffusion UNet (SDXL or earlier)"),
    (r"^blocks[._]\d+[._](self_attn|cross_attn|attn1|attn2|ffn)", "a Wan transformer"),
    (r"^(noise_refiner|context_refiner)|^layers[._]\d+[._](attention|feed_forward|adaLN)", "a Lumina or Z-Image transformer"),
    (r"^transformer_blocks[._]\d+[._]attn[12][._]", "an LTX-Video or PixArt transformer"),
    (r"^(encoder|decoder|first_stage_model|vae)\.", "a VAE"),
    (r"^(model\.)?(visual|layers|language_model|embed_tokens)\.|^text_model\.", "a text encoder"),
    (r"^transformer_blocks[._]\d+[._](img|txt)_(mlp|mod)|[._]add_q_proj", "a Qwen-Image transformer of another size"),
)


class Stored(NamedTuple):
    """One tensor: its file, its name there, and the factor (one number, or one a row) that multiplies it."""

    path: Path
    key: str
    shape: tuple[int, ...]
    offset: int
    dtype: str
    factor: Stored | None = None


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by the names of the released layout, and ``marks``: names that carry no weights."""

    source: Path
    tensors: dict[str, Stored]
    marks: frozenset[str]

    @property
    def kind(self) -> str:
        """Whose weights these are, in words."""
        return kind_of(self.tensors)


def kind_of(names: Iterable[str]) -> str:
    """Whose weights have these names, in words; names of nobody known are said as they are."""
    names = sorted(names)
    for pattern, words in _KINDS:
        if any(re.search(pattern, name) for name in names):
            return words
    return f"something unknown (names begin with {', '.join(names[:2]) or 'nothing'})"


def open_checkpoint(source: Path, basename: str = BASENAME) -> Checkpoint:
    """Read the headers of ``source``, a directory or a .safetensors file; no weight is read.

    ``basename`` is what a directory's files are called: diffusers' name, or MODEL_BASENAME as transformers has it.

    Raises MissingError when there is no such thing, InputError for a missing, truncated or foreign file, with the bytes that
    were expected and found.
    """
    files, index = _files(source, basename)
    tensors: dict[str, Stored] = {}
    for path in files:
        header, start = read_header(path)
        for layer, how in _formats(header, path).items():
            _check_format(source, layer, how)
        for key, entry in header.items():
            if key != "__metadata__" and index.get(key, path.name) == path.name:
                shape, offset = tuple(entry["shape"]), start + entry["data_offsets"][0]
                tensors[key] = Stored(path, key, shape, offset, entry["dtype"])
    if absent := sorted(index.keys() - tensors.keys()):
        raise InputError(
            f"The index of {source} says that {absent[0]} is in {index[absent[0]]}, which does not hold it ({len(absent)} of "
            f"{len(index)} tensors); copy or download the index and its shards again."
        )
    return _plain(source, tensors)


def read_tensor(file: Any, stored: Stored, dtype: torch.dtype) -> Tensor:
    """The weight ``stored`` of an open ``file`` as ``dtype``; a factor is applied in float32 and rounded once.

    Raises InputError for a factor, or a product of it, that is not finite.
    """
    value: Tensor = file.get_tensor(stored.key)
    if stored.factor is None:
        return value.to(dtype)
    factor = _factor(file, stored).float().to(value.device)
    rows = (-1, *(1 for _ in stored.shape[1:]))
    product = (value.float() * (factor.reshape(rows) if factor.numel() > 1 else factor.reshape(()))).to(dtype)
    require_finite(product, stored.key, stored.path)
    return product


def require_finite(value: Tensor, name: str, source: Path | str) -> None:
    """Raise InputError unless all of ``value``, the tensor ``name`` of ``source``, are numbers."""
    if not value.is_floating_point():
        return
    value = value.float() if value.dtype.itemsize == 1 else value  # fp8 has no arithmetic
    if value.numel() and not torch.isfinite(value).all():
        count = int((~torch.isfinite(value)).sum())
        raise InputError(
            f"{name} in {source} has {count} of {value.numel()} values that are not finite (nan or inf); they "
            "are damaged or come from a training that had failed: copy or download them again."
        )


def _factor(file: Any, stored: Stored) -> Tensor:
    assert stored.factor is not None
    factor: Tensor
    if stored.factor.path == stored.path:
        factor = file.get_tensor(stored.factor.key)
    else:
        with safe_open(stored.factor.path, framework="pt") as other:
            factor = other.get_tensor(stored.factor.key)
    return factor


def _files(source: Path, basename: str) -> tuple[list[Path], dict[str, str]]:
    if source.is_dir():
        return weight_files(source, basename)
    refuse_ending(source, f"{source} is neither a directory nor a .safetensors file")
    return [source], {}


def _formats(header: dict[str, Any], path: Path) -> dict[str, Any]:
    """Layer -> how it was quantised, where a file's metadata says so."""
    try:
        return dict(json.loads(header.get("__metadata__", {}).get("_quantization_metadata", "{}")).get("layers", {}))
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"The _quantization_metadata of {path} cannot be read ({error}).") from error


def _plain(source: Path, tensors: dict[str, Stored]) -> Checkpoint:
    """Without prefixes; factors joined to their weights; what serves only other programs left out."""
    prefix = next((p for p in _PREFIXES if any(key.startswith(p) for key in tensors)), "")
    kept = {key.removeprefix(prefix): stored for key, stored in tensors.items() if key.startswith(prefix)}
    result, marks, used = {}, set(), set()
    for name, stored in kept.items():
        base, _, leaf = name.rpartition(".")
        if leaf == "comfy_quant":
            _check_format(source, base, _json_tensor(stored))
        if leaf in (*_FACTORS, *_FOR_OTHERS):
            continue
        if name == ZERO_COND_MARK:
            marks.add(name)
            continue
        factor = next((f"{base}.{f}" for f in _FACTORS if leaf == "weight" and f"{base}.{f}" in kept), None)
        _check_numbers(source, name, stored, kept, factor)
        used.add(factor)
        result[name] = stored._replace(factor=None if factor is None else kept[factor])
    alone = sorted(name for name in kept if name.rpartition(".")[2] in _FACTORS and name not in used)
    if alone:
        raise InputError(
            f"{source} has the factor {alone[0]} and not the weight that it belongs to; {len(alone)} factors are of no use, so "
            "the file is damaged or of a form that is not read."
        )
    return Checkpoint(source, result, frozenset(marks))


def _check_numbers(source: Path, name: str, stored: Stored, kept: dict[str, Stored], factor: str | None) -> None:
    """Raise InputError for a weight whose numbers mean something that is not known here."""
    count = 1 if factor is None else math.prod(kept[factor].shape)
    if count not in (1, stored.shape[0] if stored.shape else 1):
        raise InputError(
            f"{name} in {source} has {count} factors for {stored.shape[0]} rows; only one for all or one a row can be read."
        )
    if stored.dtype in _FLOATS or (stored.dtype == "I8" and factor is not None):
        return
    if stored.dtype.startswith(("I", "U", "BOOL")):
        raise InputError(f"{name} in {source} holds integers of {kind_of(kept)}, which are not read; use bf16 or fp8 weights.")
    raise InputError(f"{name} in {source} is of the type {stored.dtype}, which is not read; use bf16 or fp8 weights.")


def _check_format(source: Path, layer: str, how: Any) -> None:
    name = how.get("format") if isinstance(how, dict) else how
    if name not in _READABLE or (isinstance(how, dict) and how.get("convrot")):
        extra = " with rotation" if name in _READABLE else ""
        raise InputError(f"{layer} in {source} is quantised as {name}{extra}, which is not read; {', '.join(_READABLE)} are.")


def _json_tensor(stored: Stored) -> Any:
    with stored.path.open("rb") as file:
        file.seek(stored.offset)
        content = file.read(math.prod(stored.shape))
    try:
        return json.loads(content)
    except ValueError as error:
        raise InputError(f"{stored.key} in {stored.path} is not JSON ({error}).") from error
