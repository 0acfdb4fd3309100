"""Several processes on this machine that compute together over gloo, for tests of what runs under torchrun."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PRELOAD = [
    "torch",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "glyphflow.cli.main",
    "glyphflow.train.parallel",
    "glyphflow.train.checkpoint",
    "glyphflow.train.run",
    "glyphflow.generate",
    "glyphflow.corpus",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
    "tiny",
]


def forkserver(preload: tuple[str, ...] = ()) -> Any:
    """The context of processes that one server of this test process forks; it has imported the packages, once.

    ``preload`` counts for the first that asks: nothing is imported into a server that runs.
    """
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, *preload])
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *([before] if before else [])])
    try:
        ensure_running()  # what it cannot find it leaves out, and every process would import it again
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context


def run_ranks(count: int, work: Callable[..., Any], *args: Any, preload: tuple[str, ...] = ()) -> list[Any]:
    """What ``work(*args)`` returns in each of ``count`` processes, in the order of ranks; it must be importable.

    A server process imports the packages once and forks the ranks, which is what makes this take a second.
    """
    with tempfile.TemporaryDirectory() as folder:
        forkserver(preload)
        mp.start_processes(_rank, (count, folder, work, args), count, start_method="forkserver")
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(count)]


def _rank(rank: int, count: int, folder: str, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    torch.save(work(*args), Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
