"""One picture by several processes, each with its own device: how they share it, and this process's place among them.

    torchrun --nproc-per-node 4 -m glyphflow generate "a poster" --parallel cfg=2,ulysses=2

Every process is given the same call, embeds the same prompts, draws the same noise and ends with the same picture; only the
MMDiT's work is shared. Results differ from those of a single process by the order of sums at most.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import pick_device
from glyphflow.generate.speed import Speed
from glyphflow.models import MMDiT, MMDiTConfig
from glyphflow.models.lora import LoRA, read_lora
from glyphflow.models.quantize import Quantize

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")


@dataclass(frozen=True)
class Parallel:
    """Of ``cfg`` x ``ulysses`` x ``tensor`` processes that make a picture together, how many share what.

    - ``cfg`` (1 or 2): with 2, one half makes the prompt's pass and the other the negative prompt's. The least to say to each
      other: the first choice where guidance is on.
    - ``ulysses``: the tokens. Needs fast links; worth it from a thousand tokens a process. Weights are whole in each.
    - ``tensor``: the weights of the blocks. Needs the fastest links; the choice where the weights do not fit on one device.

    ``ulysses`` times ``tensor`` must divide the number of attention heads (24 in released models).
    """

    cfg: int = 1
    ulysses: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        if self.cfg not in (1, 2):
            raise InputError(f"cfg is {self.cfg}, but guidance has two passes to share; it can be 1 or 2.")
        if min(self.ulysses, self.tensor) < 1:
            raise InputError(f"{self} asks for fewer than one process; each number is at least 1.")

    def __str__(self) -> str:
        return ",".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))

    @property
    def count(self) -> int:
        """Number of processes."""
        return self.cfg * self.ulysses * self.tensor

    @classmethod
    def parse(cls, text: str) -> Parallel:
        """Read "cfg=2,ulysses=2"; what is not named is 1. Raises InputError for anything else."""
        known = {field.name for field in fields(cls)}
        pairs = [part.strip().partition("=") for part in text.split(",")]
        if not all(name in known and number.isdecimal() for name, _, number in pairs):
            raise InputError(f"parallel is {text!r}; write it like cfg=2,ulysses=2,tensor=1.")
        return cls(**{name: int(number) for name, _, number in pairs})


class Ranks:
    """This process among those that make pictures together.

    ``device`` is this process's own; ``leads`` is true in one process only, which writes files and shows progress.
    """

    def __init__(self, plan: Parallel, device: torch.device, mesh: DeviceMesh) -> None:
        self.plan = plan
        self.device = device
        self.leads = dist.get_rank() == 0
        self._mesh = mesh

    @classmethod
    def start(cls, plan: Parallel | str, device: str | None = None) -> Ranks:
        """Meet the other processes, which torchrun has started; each takes the card of its number on its machine.

        The default random generators of all processes are brought into the state of the first one's seed, so that calls
        without a generator make one picture, too. Raises InputError when there are not as many processes as ``plan`` needs, or
        fewer cards than processes.
        """
        from torch.distributed.device_mesh import init_device_mesh  # takes a while to import

        plan = Parallel.parse(plan) if isinstance(plan, str) else plan
        started = dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))
        if started != plan.count:
            raise InputError(
                f"{plan} is for {plan.count} processes, and {started} {'was' if started == 1 else 'were'} started; start "
                f"{plan.count} with: torchrun --nproc-per-node {plan.count} -m glyphflow generate … --parallel {plan}"
            )
        place = own_device(device)
        if not dist.is_initialized():
            meet(place)
        mesh = init_device_mesh(place.type, (plan.cfg, plan.ulysses, plan.tensor), mesh_dim_names=("cfg", "sp", "tp"))
        seed = torch.tensor([torch.initial_seed() % 2**63], device=place)
        dist.broadcast(seed, src=0)
        torch.manual_seed(int(seed))
        return cls(plan, place, mesh)

    def load(
        self,
        source: str | Path,
        dtype: torch.dtype,
        device: str | torch.device,
        *,
        config: MMDiTConfig | None = None,
        quantize: Quantize | None = None,
    ) -> MMDiT:
        """This process's part of the MMDiT in ``source``; like :meth:`MMDiT.from_pretrained`."""
        from glyphflow.models.parallel import load_parallel

        return load_parallel(source, self._mesh, dtype, device, config=config, quantize=quantize)

    def check(self, speed: Speed) -> None:
        """Raise InputError where blocks are to be compiled whole that speak to other processes in their middle."""
        if speed.compile and self.plan.ulysses * self.plan.tensor > 1:
            raise InputError(f"compile is on with {self.plan}, whose blocks cannot be compiled whole; use fused, or cfg alone.")

    def read_lora(self, source: Path | Mapping[str, Tensor], shapes: Mapping[str, tuple[int, int]]) -> LoRA:
        """This process's part of a LoRA for a model whose linears, here, have ``shapes``; like :func:`read_lora`."""
        from glyphflow.models.parallel import part_of_lora, whole_shape

        group = self._mesh.get_group("tp")
        return part_of_lora(read_lora(source, {name: whole_shape(name, shapes[name], group) for name in shapes}), group)

    def passes(self, passes: Sequence[T], run: Callable[[T], Tensor]) -> list[Tensor]:
        """``run`` of each of guidance's ``passes``, which are two; with ``cfg=2`` this process makes only its side's."""
        group = self._mesh.get_group("cfg")
        if self.plan.cfg == 1:
            return [run(one) for one in passes]
        if len(passes) != 2:
            raise InputError(
                f"{self.plan} shares the two passes of guidance, and without guidance there is one; raise true_cfg_scale above "
                "1, or use cfg=1 and more for ulysses."
            )
        own = run(passes[group.rank()]).contiguous()
        sides = [torch.empty_like(own) for _ in passes]
        dist.all_gather(sides, own, group=group)
        return sides


def own_device(asked: str | None) -> torch.device:
    """The device of this process: the card of its number on its machine, or what ``asked`` says.

    Raises InputError when there are more processes than cards.
    """
    number = int(os.environ.get("LOCAL_RANK", "0"))
    device = pick_device(asked)
    if device.type != "cuda":
        return device
    cards, processes = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.index is not None and processes > 1:
        raise InputError(f"The device is {device} for {processes} processes; say cuda, and each takes a card of its own.")
    if number >= cards:
        raise InputError(f"There are {processes} processes on this machine and {cards} CUDA devices; start one for each.")
    device = device if device.index is not None else torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def meet(device: torch.device) -> None:
    """Make the group of the processes that torchrun started, or of this one alone; it is left when the process ends."""
    backend, card = ("nccl", device) if device.type == "cuda" else ("gloo", None)
    if "RANK" in os.environ:
        dist.init_process_group(backend, device_id=card)
    else:  # alone, without torchrun
        dist.init_process_group(backend, init_method="tcp://127.0.0.1:0", rank=0, world_size=1, device_id=card)
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
