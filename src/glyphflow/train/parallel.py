"""The parallel plan of a run: how many processes share a model and a batch, and what is done to the model for it.

    torchrun --nproc-per-node 8 -m glyphflow train RECIPE train.parallel.tp=4

Four axes, the outermost first: ``dp_replicate`` x ``dp_shard`` x ``sp`` x ``tp``. Processes of one machine are neighbours along
the last ones, which talk most. docs/parallel.md is the guide.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.utils.checkpoint import checkpoint

from glyphflow.core.config import Config
from glyphflow.core.errors import ConfigError
from glyphflow.models import MMDiT
from glyphflow.models.kernels import TRACEABLE
from glyphflow.models.lora import Branches
from glyphflow.train.pieces import local, pieces

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from glyphflow.feed.order import Part

Size = Annotated[int, Field(gt=0)]


class ParallelConfig(Config):
    """Processes along each axis of the mesh, and what is recomputed and compiled. The default is right for one process."""

    dp_replicate: Size = 1
    """Copies of the whole state side by side; above 1, gathering stays within a copy (HSDP)."""
    dp_shard: int = Field(default=0, ge=0)
    """Processes, or groups of them, that cut one state among them and have samples of their own; 0: the rest of the world."""
    sp: Size = 1
    """Processes that share the tokens of a sample (Ulysses); the state is cut among them, too."""
    tp: Size = 1
    """Processes that share the heads of a layer (tensor parallel)."""
    checkpointing: Literal["none", "full"] | Size = "none"
    """Blocks whose activations are computed again in the backward pass: none, all, or every k-th."""
    compile: bool = False
    """Compile the blocks, one program for all; the first steps take minutes."""

    def sizes(self, world: int) -> tuple[int, int, int, int]:
        """Processes along the four axes when there are ``world``. Raises ConfigError when they cannot be arranged so."""
        others = self.dp_replicate * self.sp * self.tp
        shard = self.dp_shard or world // others
        if not shard or others * shard != world:
            asked = f"dp_replicate {self.dp_replicate} x dp_shard {self.dp_shard or '(the rest)'} x sp {self.sp} x tp {self.tp}"
            remedy = f"a multiple of {others}" if not self.dp_shard else f"{others * self.dp_shard}"
            raise ConfigError(
                f"train.parallel asks for {asked}, and {world} process{'es were' if world > 1 else ' was'} started; start "
                f"{remedy} with torchrun, or change train.parallel."
            )
        return self.dp_replicate, shard, self.sp, self.tp


class World:
    """This process's place among all processes of a run, and what they do together. Made by :meth:`start`.

    A loss is the mean over this process's part of the batch; parts are equally large, so the mean of all processes' gradients
    is the gradient of the mean over the batch, whatever the axes: over tp it is the same everywhere, over sp it is to be averaged
    (models/parallel.py), over dp it is a mean anyway.
    """

    def __init__(self, config: ParallelConfig, device: torch.device, world: int) -> None:
        self.config, self.device, self.size = config, device, world
        self.sizes = config.sizes(world)
        self.rank = dist.get_rank() if world > 1 else 0
        self.group: ProcessGroup | None = dist.new_group(backend="gloo") if world > 1 else None
        """All processes over the CPU, for checkpoints; None when there is one."""
        self._autocast: torch.dtype | None = None
        if dist.is_initialized():
            self._make_meshes()

    @classmethod
    def start(cls, config: ParallelConfig, device: str | None = None) -> World:
        """Join the processes that torchrun started (nccl on cards, gloo on the CPU), or be the only one.

        Raises ConfigError when ``config`` does not fit their number, InputError when there are more of them than cards.
        """
        from glyphflow.generate.parallel import meet, own_device

        world = dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))
        config.sizes(world)  # refused before anybody waits for anybody
        place = own_device(device)
        if not dist.is_initialized() and (world > 1 or place.type == "cuda"):
            meet(place)
        return cls(config, place, world)

    def _make_meshes(self) -> None:
        from torch.distributed.device_mesh import init_device_mesh  # takes a while to import

        replicate, shard, sp, tp = self.sizes
        kind = self.device.type
        self._mesh = init_device_mesh(kind, self.sizes, mesh_dim_names=("dp_replicate", "dp_shard", "sp", "tp"))
        state = init_device_mesh(kind, (replicate, shard * sp, tp), mesh_dim_names=("dp_replicate", "state", "tp"))
        self._state_mesh: DeviceMesh = state["dp_replicate", "state"] if replicate > 1 else state["state"]
        """What shares one state: those of one sp group have the same weights, so they cut them among them, too."""

    @property
    def is_main(self) -> bool:
        """True in the one process that writes logs, recipes and pictures."""
        return self.rank == 0

    @property
    def part(self) -> Part:
        """Which slice of each global batch is this process's; those that share samples (sp, tp) have the same."""
        from glyphflow.feed.order import Part

        replicate, shard, sp, tp = self.sizes
        return Part(self.rank // (sp * tp), replicate * shard)

    def apply(self, model: nn.Module, compute_dtype: torch.dtype) -> nn.Module:
        """Make ``model`` (float32, whole) this process's part of it, to be computed in ``compute_dtype``; returns it.

        In this order: split by heads and tokens, recomputation, compiling, sharding. Optimizer and moving average come
        after it. Networks other than the MMDiT have no plan: they are sharded as a whole. Raises ConfigError for what cannot be.
        """
        self._refuse(model)
        low = compute_dtype if compute_dtype != torch.float32 else None
        replicate, shard, sp, tp = self.sizes
        if isinstance(model, MMDiT):
            if sp * tp > 1:
                from glyphflow.models.parallel import parallelise

                model = parallelise(model, self._mesh)
            recompute(model, self.config.checkpointing)
            if self.config.compile:
                compile_blocks(model)
        # On the CPU products are autocast over float32 weights in one process, for the reasons in shard_model; a card alone
        # goes the way of many.
        self._autocast = low if self.device.type == "cpu" or not isinstance(model, MMDiT) else None
        if dist.is_initialized() and (self.size > 1 or self._autocast is None):
            shard_model(model, self._state_mesh, None if self._autocast else low)
        return model

    def computing(self) -> contextlib.AbstractContextManager[object]:
        """What every forward pass runs under, of training and of looking."""
        if self._autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self._autocast)

    @contextlib.contextmanager
    def whole(self, model: nn.Module) -> Iterator[nn.Module]:
        """``model`` with gathered weights, for pipelines, which call more of it than its forward pass.

        All processes must do the same with it. What tensor parallelism has cut stays so.
        """
        sharded = [module for module in model.modules() if _is_sharded(module)]
        for module in sharded:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        try:
            yield model
        finally:
            for module in sharded:
                module.set_reshard_after_forward(True, recurse=False)
                module.reshard()

    def last_micro(self, model: nn.Module, last: bool) -> None:
        """Say before each backward pass whether it is the last one before the optimizer's step.

        Gradients are scattered after each one, for whole ones have no room; copies of the state meet after the last.
        """
        if self.sizes[0] > 1 and _is_sharded(model):
            model.set_requires_all_reduce(last)

    @torch.no_grad()
    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> float:
        """Scale gradients down to a norm of ``max_norm`` over all processes; returns the norm before."""
        known = list(parameters)
        grads = [local(p.grad) for p in known if p.grad is not None]
        cut = [p.grad is not None and self._is_split(p) for p in known]
        norm = self._norm([g for g, p in zip(grads, (p for p in known if p.grad is not None), strict=True)])
        return norm
