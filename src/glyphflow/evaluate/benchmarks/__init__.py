"""The benchmarks by name. Prompts whose licence allows it ship; everything else is read from a folder that the user names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from glyphflow.core.errors import InputError
from glyphflow.evaluate.benchmark import Benchmark, Excerpt
from glyphflow.evaluate.benchmarks.chinese_word import ChineseWord
from glyphflow.evaluate.benchmarks.cvtg import CVTG2K
from glyphflow.evaluate.benchmarks.depth_sets import SETS, Depth
from glyphflow.evaluate.benchmarks.dpg import DPG
from glyphflow.evaluate.benchmarks.gedit import GEdit
from glyphflow.evaluate.benchmarks.geneval import GenEval
from glyphflow.evaluate.benchmarks.imgedit import ImgEdit
from glyphflow.evaluate.benchmarks.long_text import LongText
from glyphflow.evaluate.benchmarks.nano import NanoSubjects, NanoText
from glyphflow.evaluate.benchmarks.nano_demo import NanoDemo
from glyphflow.evaluate.benchmarks.nano_edits import NanoEdits
from glyphflow.evaluate.benchmarks.nano_vae import NanoVAE
from glyphflow.evaluate.benchmarks.oneig import OneIG
from glyphflow.evaluate.benchmarks.reconstruction import Reconstruction
from glyphflow.evaluate.benchmarks.shared import shipped
from glyphflow.evaluate.benchmarks.texts import TextBenchmark
from glyphflow.evaluate.benchmarks.tiif import TIIF
from glyphflow.evaluate.benchmarks.views import NovelViews

_SHIPPED: dict[str, Callable[[], Benchmark]] = {
    "nano16": lambda: TextBenchmark(shipped("nano16.jsonl")),
    "nano64": lambda: TextBenchmark(shipped("nano64.jsonl")),
    "nano-text": NanoText,
    "nano-subjects": NanoSubjects,
    "nano-edits": NanoEdits,
    "nano-vae": NanoVAE,
    "nano-demo": NanoDemo,
    "chineseword": ChineseWord,
    "chineseword-300": lambda: ChineseWord(100),
    "longtext-en": lambda: LongText("en"),
    "longtext-zh": lambda: LongText("zh"),
    "cvtg-2k": CVTG2K,
    "geneval": GenEval,
}

_BROUGHT: dict[str, Callable[[Path | None], Benchmark]] = {
    "dpg": DPG,
    "oneig-en": lambda data: OneIG("en", data),
    "oneig-zh": lambda data: OneIG("zh", data),
    "tiif": TIIF,
    "gedit-en": lambda data: GEdit("en", data),
    "gedit-cn": lambda data: GEdit("cn", data),
    "imgedit": ImgEdit,
    "gso": NovelViews,
    **{f"depth-{name}": partial(Depth, name) for name in SETS},
    "depth-kitti-garg": lambda data: Depth("kitti", data, garg=True),
    "vae": Reconstruction,
    "vae-text": lambda data: Reconstruction(data, text=True),
}


def names() -> dict[str, bool]:
    """Every benchmark's name, and whether it needs data that the user brings."""
    return {**dict.fromkeys(_SHIPPED, False), **dict.fromkeys(_BROUGHT, True)}


def load_benchmark(name: str | Path, data: Path | None = None, limit: int | None = None) -> Benchmark:
    """A benchmark by name, or a ``.jsonl`` file of prompts with texts (see :mod:`.texts`) by path.

    ``data`` is the folder of a benchmark whose data may not be shipped; docs/evaluation.md shows the layout of each. With
    ``limit`` it is an :class:`Excerpt` of so many samples. An unknown name, a missing folder and a file that is not as it
    should be are an :class:`InputError`.
    """
    whole = _load(name, data)
    return whole if limit is None else Excerpt(whole, limit)


def _load(name: str | Path, data: Path | None) -> Benchmark:
    if str(name) in _SHIPPED:
        if data is not None:
            raise InputError(f"{name} ships with its prompts and takes no data folder, but {data} was given; leave it out.")
        return _SHIPPED[str(name)]()
    if str(name) in _BROUGHT:
        return _BROUGHT[str(name)](data)
    if Path(name).is_file():
        return TextBenchmark(Path(name))
    raise InputError(f"There is no benchmark {str(name)!r}; there are {', '.join(names())}, or give a file of prompts.")
