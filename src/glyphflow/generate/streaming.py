"""Lending weights to the device: whole modules for a while, and blocks just ahead of their call.

The weights themselves stay where they were loaded, in the machine's memory, and are never changed: the device gets copies, and
taking them back only drops the copies. While a module is lent, its parameters are the copies.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from glyphflow.generate.placement import BUFFERS

_ALIGNMENT = 512  # bytes; what CUDA kernels like, and the granularity of its allocator
_WEIGHTS = ("_parameters", "_buffers")


class _Slot(NamedTuple):
    """Where a module keeps one tensor, and that tensor in the machine's memory."""

    table: dict[str, Tensor | None]
    name: str
    host: Tensor


class Weights:
    """The parameters and buffers of ``modules``, those of the modules in ``apart`` excepted."""

    def __init__(self, modules: Sequence[nn.Module], apart: Collection[nn.Module] = ()) -> None:
        self._slots = [
            _Slot(table, name, tensor)
            for module in modules
            for inner in _inside(module, set(apart))
            for table in (getattr(inner, kind) for kind in _WEIGHTS)
            for name, tensor in table.items()
            if tensor is not None
        ]

    @property
    def nbytes(self) -> int:
        """Bytes that a copy takes."""
        return sum(_aligned(leaf.nbytes) for slot in self._slots for leaf in _leaves(slot.host))

    def pin(self) -> None:
        """Move the weights into one piece of page-locked memory, from which copies run beside the computation."""
        leaves = [leaf for slot in self._slots for leaf in _leaves(slot.host)]
        if all(leaf.is_pinned() for leaf in leaves):
            return
        memory = torch.empty(self.nbytes, dtype=torch.uint8, pin_memory=True)
        pinned = self.copy_to(memory)
        self._slots = [slot._replace(host=tensor) for slot, tensor in zip(self._slots, pinned, strict=True)]
        self.attach(pinned)

    def copy_to(self, memory: Tensor) -> list[Tensor]:
        """Copies of all tensors inside ``memory``, a flat uint8 tensor of at least ``nbytes``."""
        offset, copies = 0, []

        def copy(leaf: Tensor) -> Tensor:
            nonlocal offset
            room = memory[offset : offset + leaf.nbytes].view(leaf.dtype)
            offset += _aligned(leaf.nbytes)
            there = torch.as_strided(room, leaf.shape, _strides(leaf))
            return there.copy_(leaf, non_blocking=True)

        for slot in self._slots:
            tensor = _map_leaves(copy, slot.host)
            copies.append(nn.Parameter(tensor, requires_grad=False) if isinstance(slot.host, nn.Parameter) else tensor)
        return copies

    def attach(self, tensors: list[Tensor]) -> None:
        """Make ``tensors``, from :meth:`copy_to`, the weights that the modules compute with."""
        for slot, tensor in zip(self._slots, tensors, strict=True):
            slot.table[slot.name] = tensor

    def detach(self) -> None:
        """Let the modules have their own weights again."""
        for slot in self._slots:
            slot.table[slot.name] = slot.host

    def take(self, tensors: list[Tensor]) -> None:
        """Copy ``tensors``, from :meth:`copy_to` and changed since, back into the weights."""
        for slot, tensor in zip(self._slots, tensors, strict=True):
            slot.host.detach().copy_(tensor.detach(), non_blocking=True)

    @property
    def slots(self) -> Sequence[tuple[dict[str, Tensor | None], str, Tensor]]:
        """The table that holds a tensor, its name there and the tensor itself, in the order of :meth:`copy_to`."""
        return self._slots


class Loan:
    """Weights that are on the device as a whole until :meth:`end`."""

    def __init__(self, weights: Weights, device: torch.device) -> None:
        self._weights = weights
        self._copies = weights.copy_to(torch.empty(weights.nbytes, dtype=torch.uint8, device=device))
        weights.attach(self._copies)

    def end(self) -> None:
        """Take the weights back and free their copies."""
        self._weights.detach()
        self._copies = []


class Stream:
    """Modules that are called in order, of which some stay on the device and the others come just ahead of their call.

    Each streamed module is copied once per pass into one of two buffers: while one is computed with, the next streamed one is
    copied on a CUDA stream of its own (elsewhere the copy is made at once). Hooks do this, so the caller only calls. Calls out
    of order, and passes that end early, cost copies and change no result. ``once`` is for modules that are called in one pass
    only now and then: their memory is not pinned, and the buffers are given back behind the last of them.
    """

    def __init__(
        self, modules: Sequence[nn.Module], device: torch.device, apart: Collection[nn.Module] = (), once: bool = False
    ) -> None:
        self.copied = 0  # bytes, since the beginning
        self._device = device
        self._once = once
        self._weights = [Weights([module], apart) for module in modules]
        self._loans: dict[int, Loan] = {}
        self._streamed: list[int] = []
        self._buffers: Buffers | None = None
        self._hooks = []
        for index, module in enumerate(modules):
            self._hooks.append(module.register_forward_pre_hook(lambda *_, index=index: self._before(index)))
            self._hooks.append(module.register_forward_hook(lambda *_, index=index: self._after(index), always_call=True))
        self.keep(())

    @property
    def resident(self) -> tuple[int, ...]:
        """Indices of the modules that stay."""
        return tuple(sorted(self._loans))

    def keep(self, resident: Collection[int]) -> None:
        """Let exactly the modules ``resident`` stay."""
        streamed = [index for index in range(len(self._weights)) if index not in resident]
        if streamed != self._streamed:
            self.free_buffers()
            self._streamed = streamed
        for index in set(self._loans) - set(resident):
            self._loans.pop(index).end()
        for index in sorted(set(resident) - set(self._loans)):
            self._loans[index] = Loan(self._weights[index], self._device)
        if not self._once and self._device.type == "cuda":
            for index in streamed:
                self._weights[index].pin()

    def free_buffers(self) -> None:
        """Give the buffers back; the next call of a streamed module takes new ones."""
        if self._buffers is not None:
            self._buffers.close()
            self._buffers = None

    def close(self) -> None:
        """Take every module back."""
        for hook in self._hooks:
            hook.remove()
        self.free_buffers()
        for index in self.resident:
            self._loans.pop(index).end()

    def _before(self, index: int) -> None:
        if not self._streamed:
            return
        with torch.inference_mode(False), torch.no_grad():
            if self._buffers is None:
                self._buffers = Buffers([self._weights[i] for i in self._streamed], self._device)
            at = bisect.bisect_left(self._streamed, index)
            if index not in self._loans:
                self.copied += self._buffers.fetch(at)
                self._buffers.attach(at)
                at += 1
            if at < len(self._streamed):
                self.copied += self._buffers.fetch(at)

    def _after(self, index: int) -> None:
        if self._buffers is not None and index not in self._loans:
            self._buffers.detach(bisect.bisect_left(self._streamed, index))
            if self._once and index == self._streamed[-1]:
                self.free_buffers()


class Buffers:
    """Two pieces of device memory through which the streamed weights pass; number n uses buffer n % 2."""

    def __init__(self, weights: Sequence[Weights], device: torch.device) -> None:
        size = max(each.nbytes for each in weights)
        self._weights = weights
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._slots = [_Buffer(size, device, self._side) for _ in range(min(BUFFERS, len(weights)))]

    def fetch(self, number: int) -> int:
        """Begin to copy weights ``number`` unless they are there already; returns the bytes that are copied."""
        slot = self._slots[number % len(self._slots)]
        if slot.holds == number:
            return 0
        self._vacate(slot)
        if self._side is None:
            slot.copies = self._weights[number].copy_to(slot.memory)
        else:
            with torch.cuda.stream(self._side):
                self._side.wait_event(slot.used)
                slot.copies = self._weights[number].copy_to(slot.memory)
                slot.filled.record(self._side)
        slot.holds = number
        return self._weights[number].nbytes

    def attach(self, number: int) -> list[Tensor]:
        """Make the modules compute with the copy, as soon as it is complete; returns it."""
        slot = self._slots[number % len(self._slots)]
        if self._side is not None:
            torch.cuda.current_stream(self._side.device).wait_event(slot.filled)
        self._weights[number].attach(slot.copies)
        return slot.copies

    def detach(self, number: int) -> None:
        """The module has been called: its buffer may be filled again when the device has got so far."""
        if self._side is not None:
            self._slots[number % len(self._slots)].used.record(torch.cuda.current_stream(self._side.device))
        self._weights[number].detach()

    def return_changed(self, number: int) -> int:
        """Like :meth:`detach`, and the changed copy becomes the weights; returns the bytes that are copied."""
        slot = self._slots[number % len(self._slots)]
        if self._side is None:
            self._weights[number].take(slot.copies)
        else:
            # On the stream of the copies: the next one to the device comes behind this one.
            self._side.wait_stream(torch.cuda.current_stream(self._side.device))
            with torch.cuda.stream(self._side):
                self._weights[number].take(slot.copies)
                slot.used.record(self._side)
        self._weights[number].detach()
        return self._weights[number].nbytes

    def settle(self) -> None:
        """Wait until all copies are complete."""
        if self._side is not None:
            self._side.synchronize()

    def close(self) -> None:
        """Take all weights back and free the memory."""
        self.settle()
        for slot in self._slots:
            self._vacate(slot)
        self._slots = []

    def _vacate(self, slot: _Buffer) -> None:
        if slot.holds is not None:
            self._weights[slot.holds].detach()  # an exception may have left them attached
        slot.holds, slot.copies = None, []


class _Buffer:
    """One piece of device memory, what it holds, and on CUDA when it was filled and last used."""

    def __init__(self, size: int, device: torch.device, side: torch.cuda.Stream | None) -> None:
        self.memory = torch.empty(size, dtype=torch.uint8, device=device)
        self.holds: int | None = None
        self.copies: list[Tensor] = []
        if side is not None:
            self.memory.record_stream(side)  # a copy that still runs there keeps others off the memory when it is freed
            self.filled, self.used = torch.cuda.Event(), torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.used.record(torch.cuda.current_stream(device))  # the memory may still be in use by what had it before


def _inside(module: nn.Module, apart: set[nn.Module]) -> Iterator[nn.Module]:
    """``module`` and all modules in it, without those of ``apart`` and what is in them."""
    if module in apart:
        return
    yield module
    for child in module.children():
        yield from _inside(child, apart)


def _leaves(tensor: Tensor) -> list[Tensor]:
    """The plain tensors that ``tensor`` is made of: itself, or the parts of a quantised weight."""
    found: list[Tensor] = []

    def note(leaf: Tensor) -> Tensor:
        found.append(leaf)
        return leaf

    _map_leaves(note, tensor)
    return found


def _map_leaves(change: Callable[[Tensor], Tensor], tensor: Any) -> Tensor:
    """``tensor`` with ``change`` applied to each plain tensor in it; wrappers say themselves what they are made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return change(tensor)
    names, context = tensor.__tensor_flatten__()
    parts = {name: _map_leaves(change, getattr(tensor, name)) for name in names}
    rebuilt: Tensor = type(tensor).__tensor_unflatten__(parts, context, tensor.shape, tensor.stride())
    return rebuilt


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """Strides of a copy of ``tensor``: its own where it has no gaps (channels_last weights stay so)."""
    return tensor.stride() if tensor.is_contiguous() else torch.empty_like(tensor, device="meta").stride()


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT
