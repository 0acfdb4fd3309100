"""What several processes say to each other inside a network, with gradients.

Every function does nothing in a group of one. Under no_grad and inference_mode there is no cost beside the communication.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


def enter(x: Tensor, group: ProcessGroup) -> Tensor:
    """``x``, which is the same in all of ``group``, into work that is split; its gradient is the sum of all parts'."""
    if group.size() == 1 or not torch.is_grad_enabled():
        return x
    return cast(Tensor, _Enter.apply(x, group))  # type: ignore[no-untyped-call]


def total(x: Tensor, group: ProcessGroup) -> Tensor:
    """The sum of the ``x`` of all of ``group``, the same in all of them from here on; may overwrite ``x``."""
    return x if group.size() == 1 else cast(Tensor, _Total.apply(x, group))  # type: ignore[no-untyped-call]


def gather(x: Tensor, dim: int, sizes: Sequence[int], group: ProcessGroup, gain: int = 1) -> Tensor:
    """The ``x`` of all of ``group`` one behind the other along ``dim``, where rank r has ``sizes[r]``.

    What follows must be the same work in all of them, so each takes the gradient of its own part from its own, times ``gain``.
    """
    if group.size() == 1:
        return x
    return cast(Tensor, _Gather.apply(x, dim, tuple(sizes), group, gain))  # type: ignore[no-untyped-call]


def exchange(parts: Tensor, send: Sequence[int], receive: Sequence[int], group: ProcessGroup) -> Tensor:
    """``parts`` is flat: ``send[r]`` numbers for each rank r. Returns ``receive[r]`` numbers from each rank r, flat."""
    if group.size() == 1:
        return parts
    return cast(Tensor, _Exchange.apply(parts, tuple(send), tuple(receive), group))  # type: ignore[no-untyped-call]


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad, group=ctx.group)
        return grad, None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        out = x.clone(memory_format=torch.contiguous_format) if ctx.needs_input_grad[0] else x.contiguous()
        dist.all_reduce(out, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, sizes: tuple[int, ...], group: ProcessGroup, gain: int) -> Tensor:
        ctx.mine, ctx.gain = (dim, sum(sizes[: group.rank()]), sizes[group.rank()]), gain
        own = x.movedim(dim, 0)
        row = own.shape[1:]
        # An exchange in which everyone gets everything, because only that takes parts of different sizes on every backend.
        send = own.expand(len(sizes), *own.shape).reshape(-1)
        out = x.new_empty(sum(sizes), *row)
        lengths = [size * row.numel() for size in sizes]
        dist.all_to_all_single(out.view(-1), send, lengths, [own.numel()] * len(sizes), group=group)
        return out.movedim(0, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad.narrow(*ctx.mine) * ctx.gain, None, None, None, None


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: Tensor, send: tuple[int, ...], receive: tuple[int, ...], group: ProcessGroup) -> Tensor:
        ctx.back = receive, send, group
        out = parts.new_empty(sum(receive))
        dist.all_to_all_single(out, parts.contiguous(), list(receive), list(send), group=group)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return exchange(grad, *ctx.back), None, None, None
