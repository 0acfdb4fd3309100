"""Weights on disk: config.json and (sharded) safetensors in the layout that diffusers reads and writes."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from glyphflow.core.config import Config, load_config, to_dict
from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import atomic_path, read_json_object, write_json
from glyphflow.core.hashing import fingerprint, sha256_file
from glyphflow.models.quantize import QuantLinear
from glyphflow.models.stored import BASENAME, Checkpoint, open_checkpoint, read_tensor, require_finite

MAX_SHARD_BYTES = 5 * 10**9
_IDLE = frozenset({"pooled_projection_dim", "quantization_config"})  # in released files, and read by nothing
_CHECKED_VIEWS = 1 << 22  # values; larger tensors that are views of the file are read when they are first used
C = TypeVar("C", bound=Config)
M = TypeVar("M", bound=nn.Module)


def read_config(directory: Path, cls: type[C], classes: tuple[str, ...] = ()) -> C:
    """``directory``/config.json as ``cls``.

    Released files carry keys of their writers (``_class_name``, fields that nothing reads any more): names with a leading
    underscore and those of _IDLE are skipped silently, other unknown ones with a warning, since a new key may mean a new
    computation. Raises InputError where the file names a class that is not of ``classes``, or weights in a form of others.
    """
    path = directory / "config.json"
    data = read_class(directory, classes)
    if how := data.get("quantization_config"):
        raise InputError(f"{path} says that its weights are {quantised_by(how)}, which is not read; use bf16 or fp8 weights.")
    known = {key: value for key, value in data.items() if key in cls.model_fields}
    strange = sorted(key for key in data if key not in known and key not in _IDLE and not key.startswith("_"))
    if strange:
        warnings.warn(f"{path}: {cls.__name__} does not know {', '.join(strange)}; ignored.", stacklevel=2)
    try:
        return load_config(cls, known)
    except (ConfigError, InputError) as error:
        raise InputError(f"{path} cannot be used: {error}") from error


def read_class(directory: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    """The content of ``directory``/config.json; InputError where it names a class that is not of ``classes`` (none: any)."""
    path = directory / "config.json"
    data = read_json_object(path)
    name = data.get("_class_name")
    if classes and name is not None and name not in classes:
        raise InputError(f"{path} is of the class {name}, and {' or '.join(classes)} is needed; give the directory of one.")
    return data


def quantised_by(how: Any) -> str:
    """What a config's ``quantization_config`` says, in words."""
    method = how.get("quant_method") if isinstance(how, dict) else how
    return f"quantised by {method or 'an unnamed method'}"


def released_config(class_name: str, config: Config) -> dict[str, Any]:
    """The content of config.json under which diffusers finds its class ``class_name``."""
    return {"_class_name": class_name, "_diffusers_version": "0.42.1", **to_dict(config)}


def build(
    make: Callable[[C], M],
    config: C,
    source: str | Path,
    dtype: torch.dtype,
    device: str | torch.device,
    placed: Callable[[nn.Module, str], None] | None = None,
) -> M:
    """The network ``make(config)`` with the weights of ``source``, on ``device``; gradients are off until asked for."""
    with torch.device("meta"):
        model = make(config)
    load_weights(model, Path(source), dtype, torch.device(device), placed)
    return model.eval().requires_grad_(False)


def load_weights(
    module: nn.Module,
    source: Path,
    dtype: torch.dtype,
    device: torch.device,
    placed: Callable[[nn.Module, str], None] | None = None,
) -> None:
    """Fill ``module`` from ``source``, a directory or a .safetensors file, tensor by tensor: weights never exist twice.

    Parameters on the meta device are created as ``dtype`` on ``device``; existing ones are overwritten in place and keep their
    own. ``placed(module, name)`` is called after each tensor and may put something smaller in its place. On the CPU a tensor
    that is stored as ``dtype`` is a view of the file, read when it is first used. Raises InputError (before anything is
    changed) when names or shapes differ, naming the first and both values, and for weights that are not finite: all of them
    on a card, those of the usual small sizes on the CPU, where to look at the large ones would read the whole file.
    """
    checkpoint = open_checkpoint(source)
    targets = module.state_dict(keep_vars=True)
    check_fit(checkpoint, {name: tuple(target.shape) for name, target in targets.items()})
    order = sorted(checkpoint.tensors.items(), key=lambda item: (item[1].path, item[1].offset))
    try:
        for path, entries in itertools.groupby(order, key=lambda item: item[1].path):
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name, stored in entries:
                    target = targets.pop(name)
                    value = read_tensor(file, stored, dtype if target.is_meta else target.dtype)
                    if value.is_cuda or value.numel() <= _CHECKED_VIEWS:
                        require_finite(value, stored.key, stored.path)
                    _place(module, name, target, value)
                    if placed is not None:
                        placed(module, name)
    except (SafetensorError, OSError) as error:
        raise InputError(f"The weights in {source} cannot be read ({error}); copy or download them again.") from error


def check_module(module: nn.Module, source: str) -> None:
    """Raise InputError where a weight of ``module``, which was read from ``source``, is not finite; sizes as for loading."""
    for name, value in module.state_dict().items():
        if not value.is_meta and (value.is_cuda or value.numel() <= _CHECKED_VIEWS):
            require_finite(value, name, source)


def open_parts(source: Path, wanted: Mapping[str, tuple[int, ...]]) -> Callable[[str, tuple[slice, ...]], Tensor]:
    """How parts of the weights in ``source``, which have the names and shapes ``wanted``, are read: ``read(name, window)``.

    No more of a tensor is in memory than the window; one that is stored with factors is whole for a moment. The type is the
    stored one, float32 with factors. Raises InputError as :func:`load_weights`.
    """
    checkpoint = open_checkpoint(source)
    check_fit(checkpoint, wanted)

    def read(name: str, window: tuple[slice, ...]) -> Tensor:
        stored = checkpoint.tensors[name]
        try:
            with safe_open(stored.path, framework="pt") as file:
                if stored.factor is None:
                    part: Tensor = file.get_tensor(stored.key)[window]
                    require_finite(part, stored.key, stored.path)
                    return part
                return read_tensor(file, stored, torch.float32)[window]
        except (SafetensorError, OSError) as error:
            raise InputError(f"The weights in {source} cannot be read ({error}); copy or download them again.") from error

    return read


def check_fit(checkpoint: Checkpoint, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise InputError unless ``checkpoint`` holds exactly the names and shapes of ``wanted``."""
    source = checkpoint.source
    missing, unexpected = sorted(wanted.keys() - checkpoint.tensors.keys()), sorted(checkpoint.tensors.keys() - wanted.keys())
    if missing or unexpected:
        raise InputError(
            f"The weights in {source} do not fit the model: {len(missing)} tensors are missing "
            f"({', '.join(missing[:2]) or 'none'}) and {len(unexpected)} are not part of it "
            f"({', '.join(unexpected[:2]) or 'none'}); this looks like {checkpoint.kind}, so use the weights that belong to "
            "this config.json."
        )
    for name, stored in checkpoint.tensors.items():
        if stored.shape != wanted[name]:
            raise InputError(
                f"{name} in {stored.path} has shape {stored.shape}, but config.json describes {wanted[name]}; weights and "
                "config belong to different models."
            )


@torch.no_grad()
def _place(module: nn.Module, name: str, target: Tensor, value: Tensor) -> None:
    if not target.is_meta:
        target.copy_(value)
        return
    parent, _, leaf = name.rpartition(".")
    is_parameter = isinstance(target, nn.Parameter)
    setattr(module.get_submodule(parent), leaf, nn.Parameter(value, target.requires_grad) if is_parameter else value)


def save_weights(module: nn.Module, directory: Path, config: dict[str, Any], max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write config.json and the weights, in shards of at most ``max_shard_bytes`` (at least one tensor each).

    Every file appears whole or not at all; weights of an earlier save that are no longer part of it are removed last. Raises
    InputError for quantised weights, of which the layout knows nothing.
    """
    if any(isinstance(part, QuantLinear) for part in module.modules()):
        raise InputError("Quantised weights have no place in the released layout; open the model without quantize to save it.")
    shards = _shards(module.state_dict(), max_shard_bytes)
    names = [_shard_name(index, len(shards)) for index in range(len(shards))]
    for name, tensors in zip(names, shards, strict=True):
        with atomic_path(directory / name) as temporary:
            save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary, {"format": "pt"})
    written = set(names)
    if len(shards) > 1:
        index = f"{BASENAME}.safetensors.index.json"
        total = sum(value.nbytes for tensors in shards for value in tensors.values())
        weight_map = {key: name for name, tensors in zip(names, shards, strict=True) for key in tensors}
        write_json(directory / index, {"metadata": {"total_size": total}, "weight_map": weight_map})
        written.add(index)
    write_json(directory / "config.json", config)
    for old in directory.glob(f"{BASENAME}*.safetensors*"):
        if old.name not in written:
            old.unlink()


def weights_hash(directory: Path) -> str:
    """16 hexadecimal characters that identify all safetensors below ``directory`` (or one file): relative paths, contents."""
    files = [directory] if directory.is_file() else sorted(directory.rglob("*.safetensors"))
    if not files:
        raise InputError(f"{directory} holds no .safetensors file; give a directory of weights.")
    return fingerprint([[path.relative_to(directory).as_posix(), sha256_file(path)] for path in files])


def _shards(state: dict[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in state.items():
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def _shard_name(index: int, count: int) -> str:
    return f"{BASENAME}.safetensors" if count == 1 else f"{BASENAME}-{index + 1:05d}-of-{count:05d}.safetensors"
