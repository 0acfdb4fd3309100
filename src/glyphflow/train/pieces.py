"""Which part of which whole tensor this process holds, whatever cut it: tensor parallelism, FSDP, both, or nothing.

Checkpoints are written in these terms, so that they hold whole tensors under the released names on every layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from glyphflow.models.parallel import ParallelMMDiT, released_name, split_axis


class Piece(NamedTuple):
    """``data`` is this process's part of a tensor of shape ``whole``, and begins there at ``offset``."""

    data: Tensor
    offset: tuple[int, ...]
    whole: tuple[int, ...]

    @classmethod
    def of(cls, whole: Tensor) -> Piece:
        """A tensor that is not cut."""
        return cls(whole, (0,) * whole.ndim, tuple(whole.shape))

    def like(self, data: Tensor) -> Piece:
        """Another tensor that is cut like this one."""
        return self._replace(data=data)

    def beside(self, data: Tensor) -> Piece | None:
        """The piece that ``data`` is, which is kept beside this one, such as a scale for each row or block of a row.

        None where that cannot be said, because the cut goes through something that ``data`` has one value for.
        """
        axes = self._axes_beside(data.shape, whole=False)
        return None if axes is None else Piece(data, tuple(first for first, _, _ in axes), tuple(of for _, _, of in axes))

    def room_beside(self, whole: Sequence[int], dtype: torch.dtype) -> Piece | None:
        """Room for the piece of a tensor of shape ``whole`` that is kept beside this one; None as in :meth:`beside`."""
        axes = self._axes_beside(whole, whole=True)
        if axes is None:
            return None
        data = torch.empty([rows for _, rows, _ in axes], dtype=dtype, device=self.data.device)
        return Piece(data, tuple(first for first, _, _ in axes), tuple(whole))

    def _axes_beside(self, shape: Sequence[int], whole: bool) -> list[tuple[int, int, int]] | None:
        """(first, rows, of) along each axis of something of ``shape``, which is its own or the whole's."""
        axes = []
        for axis, size in enumerate(shape):
            first, rows, of = (
                (self.offset[axis], self.data.shape[axis], self.whole[axis]) if axis < self.data.ndim else (0, 1, 1)
            )
            if rows == of or size == rows == 0:
                axes.append((0 if rows == of else first, size, size))
                continue
            every = (of if whole else rows) / max(size, 1)  # entries here that one there stands for
            if any(number % every for number in (first, rows, of)):
                return None
            axes.append((int(first / every), int(rows / every), int(of / every)))
        return axes


def local(tensor: Tensor) -> Tensor:
    """This process's part of ``tensor``, without gradient; shares its memory."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def pieces(model: nn.Module) -> dict[str, Piece]:
    """Every parameter of ``model`` by its own name: what this process holds of it."""
    return {name: _piece(model, name, parameter) for name, parameter in model.named_parameters()}


@torch.no_grad()
def fill(model: nn.Module, device: torch.device, read: Callable[[str, tuple[slice, ...]], Tensor]) -> None:
    """Give parameters that have no memory (meta) theirs on ``device``, and the values ``read(whole name, window of it)``.

    They come one after the other, so this process never has more than its pieces and one that is on its way.
    """
    names = whole_names(model)
    for name, piece in pieces(model).items():
        if not piece.data.is_meta:
            continue
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        parameter = getattr(module, leaf)
        window = tuple(slice(first, first + rows) for first, rows in zip(piece.offset, piece.data.shape, strict=True))
        data = torch.empty(piece.data.shape, dtype=parameter.dtype, device=device).copy_(read(names[name], window))
        if isinstance(parameter, DTensor):
            mesh, placements = parameter.device_mesh, parameter.placements
            shape, stride = parameter.shape, parameter.stride()
            data = DTensor.from_local(data, mesh, placements, run_check=False, shape=shape, stride=stride)
        setattr(module, leaf, nn.Parameter(data, parameter.requires_grad))


def whole_names(model: nn.Module) -> dict[str, str]:
    """Own name of a parameter -> its name in the released layout."""
    return {name: released_name(name) for name, _ in model.named_parameters()}


def _piece(model: nn.Module, name: str, parameter: Tensor) -> Piece:
    offset, whole = [0] * parameter.ndim, list(parameter.shape)
    if isinstance(parameter, DTensor):
        for dim, placement in enumerate(parameter.placements):
            if isinstance(placement, Shard):
                ranks, rank = parameter.device_mesh.size(dim), parameter.device_mesh.get_local_rank(dim)
                rows = whole[placement.dim]
                offset[placement.dim] = min(rows, -(-rows // ranks) * rank)  # as torch.chunk deals them
    if isinstance(model, ParallelMMDiT) and (axis := split_axis(name)) is not None:
        group = model.tensor
        offset[axis] += group.rank() * whole[axis]
        whole[axis] *= group.size()
    return Piece(local(parameter), tuple(offset), tuple(whole))
