"""What this machine has, and what is missing on it."""

from __future__ import annotations

import importlib
import importlib.util
import re
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
    """bfloat16 on CUDA cards that compute in it, float16 on older ones, float32 on the CPU."""
    import torch

    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float16


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` has instructions that multiply bfloat16 matrices: most cards, few CPUs (AVX-512 BF16 or AMX).

    Elsewhere PyTorch rounds element by element: on two cores with AVX2 alone, 0.9 instead of 137 GFLOP/s in float32.
    """
    import torch

    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        return False  # what the processor has counts only where PyTorch uses it (ATEN_CPU_CAPABILITY may say less)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


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
        there = importlib.util.find_spec(module.partition(".")[0]) is not None
        why = f"cannot be imported ({' '.join(str(error).split())})" if there else "is not installed"
        raise MissingError(f"{module} is needed for this and {why}; run: {install_command(extra)}") from error


def install_command(extra: str) -> str:
    """What brings ``extra`` in the repository, as the README has it: the package is installed from there, by no name."""
    return f'pip install -c constraints.txt ".[{extra}]"'


def parse_bytes(text: str) -> int:
    """An amount such as "24GB" (10^9 bytes each), "16GiB" (2^30) or "800 MB" in bytes; digits alone are bytes.

    Raises InputError for anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)(b?)\s*", text.lower())
    if match is None or (match[3] and not match[2]) or (not match[4] and "." in match[1] and not match[2]):
        raise InputError(f"{text!r} is not an amount of memory; write it like 24GB or 16GiB.")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** "_kmgt".index(match[2] or "_"))


def gigabytes(count: int) -> str:
    """A number of bytes as people write it: "24.00 GB" (10^9 bytes), or "12.3 MB" below 0.1 GB."""
    return f"{count / 1e9:.2f} GB" if abs(count) >= 10**8 else f"{count / 1e6:.1f} MB"


def free_bytes(device: torch.device) -> int:
    """Bytes that this process can still take on a CUDA ``device``: what is free there and what PyTorch holds unused."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
