"""The parallel plan of a run: how many processes share a model and a batch, and what is done to the model for it.

    torchrun --nproc-per-node 8 -m glyphflow train RECIPE train.parallel.tp=4

Four axes, the outermost first: ``dp_replicate`` x ``dp_shard`` x ``sp`` x ``tp``. Processes of one machine are neighbours along
the last ones, which talk most. docs/parallel.md is the guide.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal, cast

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
from glyphflow.models.parallel import parallelise, split_axis
from glyphflow.models.quantize import QuantLinear
from glyphflow.train.pieces import fill, local

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule

    from glyphflow.feed.order import Part

Weights = Callable[[str, tuple[slice, ...]], Tensor]
"""(released name, window) -> that part of a weight."""
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

    A loss is the mean over this process's part of the batch. Parts are equally large, so the mean of the gradients over dp is
    the gradient of the mean over the batch; over sp they are to be averaged, too, and over tp they are complete
    (models/parallel.py). That is the division which fully_shard does by itself.
    """

    def __init__(self, config: ParallelConfig, device: torch.device, world: int) -> None:
        self.config, self.device, self.size = config, device, world
        self.sizes = config.sizes(world)
        self.rank = dist.get_rank() if world > 1 else 0
        self.group: ProcessGroup | None = dist.new_group(backend="gloo") if world > 1 else None
        """All processes over the CPU, for checkpoints alone, whose thread speaks in it at any time; None when there is one."""
        self._host = dist.new_group(backend="gloo") if world > 1 else None
        self._autocast: torch.dtype | None = None
        self._cut: set[nn.Parameter] = set()  # by tensor parallelism
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

    def apply(self, model: nn.Module, compute_dtype: torch.dtype, weights: Weights | None = None) -> nn.Module:
        """Make ``model`` (float32, whole) this process's part of it, to be computed in ``compute_dtype``; returns it.

        Where there are several processes it may be without memory (meta): each then reads its own pieces of ``weights``, and
        none ever has the whole.

        In this order: split by heads and tokens, recomputation, compiling, sharding. Optimizer and moving average are made
        after it. Networks other than the MMDiT have no plan and are sharded as a whole. Raises ConfigError for what cannot be.
        """
        self._refuse(model)
        low = compute_dtype if compute_dtype != torch.float32 else None
        sp, tp = self.sizes[2:]
        if isinstance(model, MMDiT):
            if sp * tp > 1:
                model = parallelise(model, self._mesh)
            recompute(model, self.config.checkpointing)
            if self.config.compile:
                compile_blocks(model)
        # A card goes the way of many cards also when it is alone: bfloat16 weights exist a block at a time. On the CPU products
        # are autocast over float32 weights, and one process does not shard: 0.84 s a step of 33 M parameters, sharded by one
        # 1.10 s. Frozen weights keep the types they came in and are autocast over on a card, too.
        alike = isinstance(model, MMDiT) and all(p.requires_grad for p in model.parameters())
        self._autocast = None if alike and self.device.type == "cuda" else low
        if self.size > 1 or (alike and self.device.type == "cuda"):
            shard_model(model, self._state_mesh, None if self._autocast else low)
        if weights is not None:
            fill(model, self.device, weights)
        if tp > 1:
            self._cut = {p for name, p in model.named_parameters() if split_axis(name) is not None}
        return model

    def compute_in(self, dtype: torch.dtype) -> None:
        """Of a model that is not laid out by :meth:`apply`: what it is computed in."""
        self._autocast = dtype if dtype != torch.float32 else None

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
        sharded = _sharded(model)
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
        if self.sizes[0] > 1:
            for module in _sharded(model):
                module.set_requires_all_reduce(last, recurse=False)

    @torch.no_grad()
    def clip(self, parameters: Iterable[nn.Parameter], max_norm: float) -> float:
        """Scale gradients down to a norm of ``max_norm`` over all processes; returns the norm before."""
        known = [p for p in parameters if p.grad is not None]
        grads = [local(cast(Tensor, p.grad)) for p in known]
        norms = torch.stack(torch._foreach_norm(grads)).double() if grads else torch.zeros(0, dtype=torch.float64)
        squares = norms.to(self.device).square()
        cut = torch.tensor([p in self._cut for p in known], device=self.device)
        sums = torch.stack([(squares * cut).sum(), (squares * ~cut).sum()])
        if dist.is_initialized() and self.size > 1:
            dist.all_reduce(sums, group=self._state_mesh.get_group("state"))
            dist.all_reduce(sums[:1], group=self._mesh.get_group("tp"))  # the others are the same in all of tp
        norm = float(sums.sum().sqrt())
        if norm > max_norm:
            torch._foreach_mul_(grads, max_norm / norm)
        return norm

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over all parts of the batch (dp); the keys must be the same everywhere."""
        if self.size == 1:
            return dict(values)
        speaks = self.rank % (self.sizes[2] * self.sizes[3]) == 0  # one process for each part
        numbers = torch.tensor([value if speaks else 0.0 for value in values.values()], dtype=torch.float64)
        dist.all_reduce(numbers, group=self._host)
        return dict(zip(values, numbers.tolist(), strict=True))

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self._host is not None:
            dist.barrier(self._host)

    def close(self) -> None:
        """Leave the other processes, once all are here."""
        if dist.is_initialized():
            self.barrier()
            dist.destroy_process_group()

    def _refuse(self, model: nn.Module) -> None:
        """Raise ConfigError for what this model cannot have."""
        config, (_, _, sp, tp) = self.config, self.sizes
        if not isinstance(model, MMDiT):
            asked = [name for name, on in (("sp", sp > 1), ("tp", tp > 1), ("compile", config.compile)) if on]
            asked += ["checkpointing"] if config.checkpointing != "none" else []
            if asked:
                raise ConfigError(
                    f"train.parallel.{asked[0]} is set, and a {type(model).__name__} has no plan for it; remove it."
                )
            return
        heads = model.config.num_attention_heads
        if heads % (sp * tp):
            raise ConfigError(
                f"The model has {heads} attention heads, which sp {sp} x tp {tp} = {sp * tp} processes cannot share equally; "
                f"choose train.parallel.sp and tp whose product divides {heads}."
            )
        if tp > 1 and any(isinstance(module, Branches) for module in model.modules()):
            raise ConfigError(
                f"train.lora with tp {tp} would need the adapter's gradients summed inside of it; use dp_shard or sp instead."
            )
        if self.size > 1 and any(isinstance(module, QuantLinear) for module in model.modules()):
            raise ConfigError(
                f"train.base keeps weights in few bits, which {self.size} processes cannot share; remove it, or start one."
            )


def recompute(model: MMDiT, blocks: Literal["none", "full"] | int) -> None:
    """Keep no activations of all or every k-th of the blocks; each computes again when its gradient is asked for."""
    every = {"none": 0, "full": 1}.get(cast(str, blocks), cast(int, blocks))
    for index, block in enumerate(model.transformer_blocks):
        if every and index % every == every - 1:
            # The forward pass and not the module, whose parameters keep their names. A block draws no random numbers.
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def compile_blocks(model: MMDiT) -> None:
    """Compile the blocks, one program for them all and for any number of tokens."""
    model.use_kernels(TRACEABLE)
    for block in model.transformer_blocks:
        block.forward = torch.compile(block.forward, dynamic=True)


def shard_model(model: nn.Module, mesh: DeviceMesh, low: torch.dtype | None) -> None:
    """Cut every parameter into rows over ``mesh``: blocks are gathered one by one, in ``low`` (None: as they are stored).

    Gradients are reduced in float32, and what an optimizer sees is float32. Nothing stays gathered behind a forward pass, so
    that parameters are in one state whenever anybody looks at them.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    # It warns of changing an output in place, which nothing here does to a block's.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    # Inputs are cast at the door only: inside there are rotation tables, which need their float32.
    inside = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32, cast_forward_inputs=False)
    door = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32, cast_forward_inputs=True)
    for block in model.transformer_blocks if isinstance(model, MMDiT) else ():
        fully_shard(block, mesh=mesh, mp_policy=inside, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, mp_policy=door, reshard_after_forward=True)
    for name in ("encode", "decode"):
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)


def _sharded(model: nn.Module) -> list[FSDPModule]:
    """What :func:`shard_model` gathers one by one, the root first; nothing where it was not called."""
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]
