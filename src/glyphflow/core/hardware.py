"""What this machine has, and what is missing on it."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from glyphflow.core.errors import InputError, MissingError

if TYPE_CHECKING:
    import torch


def pick_device(name: str | None = None) -> torch.device:
    """``name`` as a device, or the best one here: CUDA, then the CPU."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"{name!r} is not a device; use cpu, cuda or cuda:0.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{name!r} was asked for, but this PyTorch ({torch.__version__}) sees no CUDA device; use cpu.")
    return device


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on CUDA cards that have it, float16 on older ones, float32 on the CPU."""
    import torch

    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def peak_memory_bytes() -> int:
    """Highest resident memory of this process so far, in bytes (current memory where the system keeps no peak)."""
    if sys.platform == "win32":  # pragma: no cover
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) * 1024


def require(module: str, extra: str) -> ModuleType:
    """Import ``module`` or say which extra of this package brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingError(
            f'{module} is needed for this and is not installed; run: pip install "glyphflow[{extra}]"'
        ) from error
