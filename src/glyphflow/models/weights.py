"""Weights on disk: config.json and (sharded) safetensors in the layout that diffusers reads and writes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from glyphflow.core.config import Config, load_config, to_dict
from glyphflow.core.errors import InputError
from glyphflow.core.files import atomic_path, read_json, write_json
from glyphflow.core.hashing import fingerprint, sha256_file

BASENAME = "diffusion_pytorch_model"
MAX_SHARD_BYTES = 5 * 10**9
C = TypeVar("C", bound=Config)


def read_config(directory: Path, cls: type[C]) -> C:
    """``directory``/config.json as ``cls``.

    Released files carry keys of their writers (``_class_name``, fields that nothing reads any more): names with a leading
    underscore are skipped silently, other unknown ones with a warning, since a new key may mean a new computation.
    """
    path = directory / "config.json"
    data = read_json(path)
    known = {key: value for key, value in data.items() if key in cls.model_fields}
    strange = sorted(key for key in data if key not in known and not key.startswith("_"))
    if strange:
        warnings.warn(f"{path}: {cls.__name__} does not know {', '.join(strange)}; ignored.", stacklevel=2)
    return load_config(cls, known)


def released_config(class_name: str, config: Config) -> dict[str, Any]:
    """The content of config.json under which diffusers finds its class ``class_name``."""
    return {"_class_name": class_name, "_diffusers_version": "0.42.1", **to_dict(config)}


def load_weights(module: nn.Module, directory: Path, dtype: torch.dtype, device: torch.device) -> None:
    """Fill ``module`` from the safetensors of ``directory``, one tensor at a time, so that weights never exist twice.

    Parameters on the meta device are created as ``dtype`` on ``device``; existing ones are overwritten in place and keep their
    own. Raises InputError (before anything is changed) when names or shapes differ, naming the first and both values.
    """
    place = _locate(directory)
    targets = module.state_dict(keep_vars=True)
    _check_names(directory, set(targets), set(place))
    try:
        for path, names in _by_file(place):
            with safe_open(path, framework="pt", device="cpu") as file:
                for name in names:
                    stored, wanted = tuple(file.get_slice(name).get_shape()), tuple(targets[name].shape)
                    if stored != wanted:
                        raise InputError(
                            f"{name} in {path} has shape {stored}, but config.json describes {wanted}; weights and config "
                            "belong to different models."
                        )
        for path, names in _by_file(place):
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name in names:
                    _place(module, name, targets[name], file.get_tensor(name), dtype)
    except (SafetensorError, OSError) as error:
        raise InputError(f"The weights in {directory} cannot be read ({error}); copy or download them again.") from error


@torch.no_grad()
def _place(module: nn.Module, name: str, target: Tensor, value: Tensor, dtype: torch.dtype) -> None:
    if not target.is_meta:
        target.copy_(value)
        return
    parent, _, leaf = name.rpartition(".")
    value = value.to(dtype)
    is_parameter = isinstance(target, nn.Parameter)
    setattr(module.get_submodule(parent), leaf, nn.Parameter(value, target.requires_grad) if is_parameter else value)


def save_weights(module: nn.Module, directory: Path, config: dict[str, Any], max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write config.json and the weights, in shards of at most ``max_shard_bytes`` (at least one tensor each).

    Every file appears whole or not at all; weights of an earlier save that are no longer part of it are removed last.
    """
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
    """16 hexadecimal characters that identify all safetensors below ``directory``: their relative paths and contents."""
    files = sorted(Path(directory).rglob("*.safetensors"))
    if not files:
        raise InputError(f"{directory} holds no .safetensors file; give a directory of weights.")
    return fingerprint([[path.relative_to(directory).as_posix(), sha256_file(path)] for path in files])


def _locate(directory: Path) -> dict[str, Path]:
    """Parameter name -> the file that holds it."""
    index = directory / f"{BASENAME}.safetensors.index.json"
    if index.exists():
        return {name: directory / file for name, file in read_json(index)["weight_map"].items()}
    single = directory / f"{BASENAME}.safetensors"
    if not single.exists():
        raise InputError(f"{directory} holds neither {index.name} nor {single.name}; give a directory of released layout.")
    try:
        with safe_open(single, framework="pt") as file:
            return dict.fromkeys(file.keys(), single)
    except SafetensorError as error:
        raise InputError(f"The weights in {directory} cannot be read ({error}); copy or download them again.") from error


def _check_names(directory: Path, wanted: set[str], stored: set[str]) -> None:
    missing, unexpected = sorted(wanted - stored), sorted(stored - wanted)
    if missing or unexpected:
        raise InputError(
            f"The weights in {directory} do not fit config.json: {len(missing)} tensors are missing "
            f"({', '.join(missing[:2]) or 'none'}) and {len(unexpected)} are not part of the model "
            f"({', '.join(unexpected[:2]) or 'none'}); use the weights that belong to this config.json."
        )


def _by_file(place: dict[str, Path]) -> Iterator[tuple[Path, list[str]]]:
    for path in sorted(set(place.values())):
        yield path, [name for name, where in place.items() if where == path]


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
