"""The parallel plan of a run: how many processes share a model and a batch, and what is done to the model for it.

    torchrun --nproc-per-node 8 -m glyphflow train RECIPE train.parallel.tp=4

Four axes, the outermost first: ``dp_replicate`` x ``dp_shard`` x ``sp`` x ``tp``. docs/parallel.md is the guide.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import nn
from torch.distributed import ProcessGroup

from glyphflow.core.config import Config
from glyphflow.core.hardware import pick_device

if TYPE_CHECKING:
    from glyphflow.feed.order import Part

Size = Annotated[int, Field(gt=0)]


class ParallelConfig(Config):
    """Processes along each axis of the mesh, and what is recomputed and compiled. The default is right for one process."""

    dp_replicate: Size = 1
    """Copies of the whole state side by side; above 1, gathering stays within a copy (HSDP)."""
    dp_shard: int = Field(default=0, ge=0)
    """Parts that weights, gradients and optimizer are cut into over groups with samples of their own; 0: the rest of the world."""
    sp: Size = 1
    """Processes that share the tokens of a sample (Ulysses); the state is cut over them, too."""
    tp: Size = 1
    """Processes that share the heads of a layer (tensor parallel)."""
    checkpointing: Literal["none", "full"] | Size = "none"
    """Blocks whose activations are computed again in the backward pass: none, all, or every k-th."""
    compile: bool = False
    """Compile each block (one program for all); takes minutes at first."""


class World:
    """This process's place among all processes of a run, and what they do together. Made by :meth:`start`."""

    def __init__(self, config: ParallelConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.rank = 0
        self._compute = torch.float32

    @classmethod
    def start(cls, config: ParallelConfig, device: str | None = None) -> World:
        """Join the processes that torchrun started, or be the only one."""
        return cls(config, pick_device(device))

    @property
    def is_main(self) -> bool:
        """True in the one process that writes logs, recipes and pictures."""
        return self.rank == 0

    @property
    def part(self) -> Part:
        """Which slice of each global batch is this process's; those that share samples (sp, tp) have the same."""
        from glyphflow.feed.order import Part

        return Part(0, 1)

    @property
    def group(self) -> ProcessGroup | None:
        """All processes over the CPU, for checkpoints; None for one process."""
        return None

    def apply(self, model: nn.Module, compute_dtype: torch.dtype) -> nn.Module:
        """Make ``model`` (float32, whole) this process's part of it, to be computed in ``compute_dtype``."""
        self._compute = compute_dtype
        return model

    def computing(self) -> contextlib.AbstractContextManager[object]:
        """What every forward pass, of training and of looking, runs under."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._compute == torch.bfloat16)

    @contextlib.contextmanager
    def whole(self, model: nn.Module) -> Iterator[nn.Module]:
        """``model`` with whole weights in every process, for pipelines, which call more than its forward pass."""
        yield model

    def last_micro(self, model: nn.Module, last: bool) -> None:
        """Say before each backward pass whether it is the last one before the optimizer's step."""

    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> float:
        """Scale gradients down to a norm of ``max_norm`` over all processes; returns the norm before."""
        return float(nn.utils.clip_grad_norm_(parameters, max_norm))

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over all parts of the batch (dp); the keys must be the same everywhere."""
        return dict(values)

    def barrier(self) -> None:
        """Wait until all processes are here."""

    def close(self) -> None:
        """Leave the process group."""
