"""``glyphflow doctor``: what this machine has, what is missing and how to get it, what would be slow."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import typer

from glyphflow.cli.extras import problems, requirements
from glyphflow.core.hardware import install_command

Mark = Literal["ok", "slow", "missing"]

MIN_MEMORY_GIB = 6
MIN_DISK_GIB = 2
EXTRAS = {
    "corpus": "build corpora: fonts, drawing, OCR, tables",
    "curate": "all seven stages: NSFW, watermarks, codes, categories, embeddings, PDF",
    "train": "train and fine-tune",
    "demo": "the demo's pictures and fonts",
    "ray": "run the data engine on several machines",
    "wandb": "send a run's curves to Weights & Biases",
    "dev": "run the tests",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, how it is, and what to do where something is missing."""

    subject: str
    mark: Mark
    text: str


def register(app: typer.Typer) -> None:
    """Add the verb ``doctor``."""

    @app.command()
    def doctor() -> None:
        """Say what this machine has, what is missing and how to get it."""
        for finding in findings():
            typer.echo(f"{_SIGN[finding.mark]} {finding.subject:<16} {finding.text}")


_SIGN = {"ok": "  ok  ", "slow": " slow ", "missing": "  --  "}


def findings() -> Iterator[Finding]:
    """Everything that is worth knowing before a run on this machine, in reading order."""
    yield from _machine()
    yield from _torch()
    yield from _extras()
    yield from _fonts()
    yield _nano_weights()


def _machine() -> Iterator[Finding]:
    import psutil

    import glyphflow

    yield Finding(
        "GlyphFlow", "ok", f"{glyphflow.__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}"
    )
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    yield Finding("processor", "ok" if cores > 1 else "slow", f"{cores} core(s), {psutil.cpu_count()} thread(s)")
    memory = psutil.virtual_memory()
    available, total = memory.available / 2**30, memory.total / 2**30
    advice = "" if available >= MIN_MEMORY_GIB else f"; the demo wants {MIN_MEMORY_GIB} GiB free: close other programs"
    yield Finding("memory", "slow" if advice else "ok", f"{available:.1f} of {total:.1f} GiB free{advice}")
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    advice = "" if free >= MIN_DISK_GIB else f"; the demo wants {MIN_DISK_GIB} GiB: free some, or give --out on another disk"
    yield Finding("disk", "missing" if advice else "ok", f"{free:.1f} GiB free in {Path.cwd()}{advice}")


def _torch() -> Iterator[Finding]:
    import torch

    from glyphflow.core.hardware import multiplies_bfloat16

    yield Finding("PyTorch", "ok", f"{torch.__version__}, {torch.get_num_threads()} thread(s)")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            bf16 = multiplies_bfloat16(torch.device("cuda", index))
            text = f"{card.name}, {card.total_memory / 2**30:.0f} GiB, bfloat16 {'yes' if bf16 else 'no (float16 is used)'}"
            yield Finding(f"cuda:{index}", "ok", text)
        return
    built = f"for CUDA {torch.version.cuda}, and it sees no card or driver" if torch.version.cuda else "without CUDA"
    advice = "nano models run well so; for a card see Choosing the PyTorch build in the README"
    yield Finding("CUDA", "slow", f"this PyTorch is built {built}; {advice}")


def _extras() -> Iterator[Finding]:
    wanted = {extra: requirements(extra) for extra in EXTRAS}
    wrong = problems({one.name: one for each in wanted.values() for one in each}.values())
    for extra, purpose in EXTRAS.items():
        lacking = [f"{one.name}: {wrong[one.name]}" for one in wanted[extra] if one.name in wrong]
        advice = f"; {'; '.join(lacking)}; run: {install_command(extra)}" if lacking else ""
        yield Finding(f"[{extra}]", "missing" if lacking else "ok", purpose + advice)


def _fonts() -> Iterator[Finding]:
    from glyphflow.render.fonts import manifest

    entries = manifest()
    present = [entry for entry in entries if importlib.util.find_spec(entry.package) is not None]
    scripts = Counter(script for entry in present for script in entry.scripts).most_common()
    counts = ", ".join(f"{number} {script}" for script, number in scripts) or "none"
    text = f"{len(present)} of {len(entries)} faces of the manifest ({counts})"
    absent = sorted({entry.pip for entry in entries} - {entry.pip for entry in present})
    if absent:
        text += f"; run: pip install --no-deps {' '.join(absent)}"
    yield Finding("fonts", "missing" if absent else "ok", text)


def _nano_weights() -> Finding:
    from glyphflow.core.errors import GlyphFlowError
    from glyphflow.generate.directory import NANO, directory_hash, locate

    try:
        folder = locate(NANO)
        return Finding("nano weights", "ok", f"{directory_hash(folder)} in {folder}")
    except GlyphFlowError as error:
        return Finding("nano weights", "missing", str(error))
