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
from torch import Tensor

from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.files import read_json

BASENAME = "diffusion_pytorch_model"
ZERO_COND_MARK = "__index_timestep_zero__"  # an empty tensor by which other programs say zero_cond_t
_PREFIXES = ("model.diffusion_model.", "diffusion_model.")
_FACTORS = ("scale_weight", "weight_scale")
_FOR_OTHERS = ("scale_input", "input_scale", "comfy_quant", "scaled_fp8")  # needed only by products in fp8
_READABLE = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
_KINDS = (
    (r"(^|\.)(lora_|lokr_|hada_|dora_)|lora_unet_", "a LoRA (give it to load_lora_weights)"),
    (r"\.(qweight|wscales|smooth_factor)$", "a Nunchaku (SVDQuant) checkpoint"),
    (r"\.(absmax|quant_map)$", "a bitsandbytes checkpoint"),
    (r"^controlnet_", "a ControlNet"),
    (r"^txt_norm\.weight$", "a Qwen-Image transformer"),
    (r"^(double_blocks|single_blocks|single_transformer_blocks)\.", "a FLUX or HunyuanVideo transformer"),
    (r"^(joint_blocks|pos_embed\.proj)", "a Stable Diffusion 3 transformer"),
    (r"^(input_blocks|down_blocks)\.", "a Stable Diffusion UNet"),
    (r"^blocks\.0\.(self_attn|cross_attn)", "a Wan transformer"),
    (r"^(encoder|decoder|first_stage_model|vae)\.", "a VAE"),
    (r"^(model\.)?(visual|layers|language_model|embed_tokens)\.|^text_model\.", "a text encoder"),
)


class Stored(NamedTuple):
    """One tensor: its file, its name there, and the name of the factor (one number, or one a row) that multiplies it."""

    path: Path
    key: str
    shape: tuple[int, ...]
    offset: int
    factor: str | None = None


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


def open_checkpoint(source: Path) -> Checkpoint:
    """Read the headers of ``source``, a directory or a .safetensors file; no weight is read.

    Raises MissingError when there is no such thing, InputError for a missing, truncated or foreign file, with the bytes that
    were expected and found.
    """
    files = _files(source)
    tensors: dict[str, Stored] = {}
    formats: dict[str, Any] = {}
    for path in files:
        header, start = read_header(path)
        formats |= _formats(header, path)
        for key, entry in header.items():
            if key != "__metadata__":
                shape, offset = tuple(entry["shape"]), start + entry["data_offsets"][0]
                tensors[key] = Stored(path, key, shape, offset)
                formats.setdefault(f"dtype {key}", entry["dtype"])
    return _plain(source, tensors, formats)


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file and the byte where its data begins; raises InputError unless the file is whole."""
    try:
        found = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if start == b"version ":
                raise InputError(f"{path} is a git-lfs pointer of {found} bytes and no weights; run: git lfs pull")
            length = int.from_bytes(start, "little")
            header = json.loads(file.read(length)) if 8 + length <= found else None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as safetensors ({error}); copy or download it again.") from error
    if header is None:
        raise InputError(f"{path} is {found} bytes, less than its header of {8 + length}; copy or download it again.")
    ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    expected = 8 + length + max(ends, default=0)
    if found != expected:
        raise InputError(f"{path} is {found} bytes, but its header describes {expected}; copy or download it again.")
    return header, 8 + length


def read_tensor(file: Any, stored: Stored, dtype: torch.dtype) -> Tensor:
    """The weight ``stored`` of an open ``file`` as ``dtype``; a factor is applied in float32 and rounded once."""
    value: Tensor = file.get_tensor(stored.key)
    if stored.factor is None:
        return value.to(dtype)
    factor = file.get_tensor(stored.factor).float()
    rows = (-1, *(1 for _ in stored.shape[1:]))
    product: Tensor = value.float() * (factor.reshape(rows) if factor.numel() > 1 else factor.reshape(()))
    return product.to(dtype)


def _files(source: Path) -> list[Path]:
    if not source.is_dir():
        if source.suffix != ".safetensors":
            raise InputError(f"{source} is neither a directory nor a .safetensors file; other formats are not read.")
        if not source.exists():
            raise MissingError(f"There is no file {source}; check the path.")
        return [source]
    index, single = source / f"{BASENAME}.safetensors.index.json", source / f"{BASENAME}.safetensors"
    if not index.exists():
        if not single.exists():
            raise InputError(f"{source} holds neither {index.name} nor {single.name}; give a directory of released layout.")
        return [single]
    content = read_json(index)
    files = sorted({source / name for name in content["weight_map"].values()})
    absent = [path for path in files if not path.exists()]
    if absent:
        total = content.get("metadata", {}).get("total_size")
        here = sum(path.stat().st_size for path in files if path.exists())
        sizes = "" if total is None else f": {total} bytes are expected in all and {here} are here"
        raise InputError(
            f"{absent[0].name} of {source} is missing ({len(absent)} of {len(files)} shards){sizes}; copy or download it again."
        )
    return files


def _formats(header: dict[str, Any], path: Path) -> dict[str, Any]:
    """Layer -> how it was quantised, where a file's metadata says so."""
    try:
        return dict(json.loads(header.get("__metadata__", {}).get("_quantization_metadata", "{}")).get("layers", {}))
    except (ValueError, AttributeError) as error:
        raise InputError(f"The _quantization_metadata of {path} cannot be read ({error}).") from error


def _plain(source: Path, tensors: dict[str, Stored], formats: dict[str, Any]) -> Checkpoint:
    """Without prefixes; factors joined to their weights; what serves only other programs left out."""
    for layer, how in formats.items():
        if not layer.startswith("dtype "):
            _check_format(source, layer, how)
    prefix = next((p for p in _PREFIXES if any(key.startswith(p) for key in tensors)), "")
    kept = {key.removeprefix(prefix): stored for key, stored in tensors.items() if key.startswith(prefix)}
    result, marks = {}, set()
    for name, stored in kept.items():
        base, _, leaf = name.rpartition(".")
        if leaf == "comfy_quant":
            _check_format(source, base, _json_tensor(stored))
        if leaf in (*_FACTORS, *_FOR_OTHERS):
            continue
        if name == ZERO_COND_MARK:
            marks.add(name)
            continue
        factor = next((kept[f"{base}.{f}"] for f in _FACTORS if leaf == "weight" and f"{base}.{f}" in kept), None)
        if factor is not None and math.prod(factor.shape) not in (1, stored.shape[0]):
            raise InputError(
                f"{name} in {source} has {math.prod(factor.shape)} factors for {stored.shape[0]} rows; only one for all or one "
                "a row can be read."
            )
        if factor is None and formats[f"dtype {stored.key}"] in ("I8", "U8", "I32"):
            raise InputError(
                f"{name} in {source} holds integers of {kind_of(kept)}, which are not read; use bf16 or fp8 weights."
            )
        result[name] = stored._replace(factor=None if factor is None else factor.key)
    return Checkpoint(source, result, frozenset(marks))


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
