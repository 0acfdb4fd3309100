"""What the measuring scripts share: who measured, and sides that take turns."""

from __future__ import annotations

import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Clock = Callable[[], float]


def processor() -> str:
    """The name of the CPU, as well as the system knows it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def machine(*packages: str, device: str = "cpu") -> str:
    """One line: the device, its threads, Python, PyTorch and the versions of ``packages``."""
    where = torch.cuda.get_device_name() if device == "cuda" else f"{processor()}, {torch.get_num_threads()} threads"
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", *packages))
    return f"{where}; Python {platform.python_version()}, {versions}"


def take_turns(works: Mapping[str, Callable[[], object]], rounds: int, clock: Clock = time.perf_counter) -> dict[str, float]:
    """Median seconds of each of ``works``, which run once to warm up and then ``rounds`` times in turn."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            start = clock()
            work()
            _finish()
            if turn:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)
