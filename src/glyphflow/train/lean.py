"""Optimizers for little memory: AdamW with moments of 8 bits, and Adafactor with factored ones.

Both update one parameter at a time (:meth:`LeanOptimizer.update`), so that a gradient can be applied and freed while the
backward pass still runs, and both keep weights of bfloat16 right: a step there is mostly smaller than the distance to the next
number and would be lost, so the sum is rounded up or down by chance, and right on average. That chance is a function of the
step and of the parameter's place, not of a generator's past: a run that continues from a checkpoint gets the same bits.

Why not torchao's ``AdamW8bit``: it rounds moments to the nearest level, and a second moment that shrinks by 0.1 % a step
beside one that does not stays on its level for ever (a test shows both); it compiles a program for every shape; its blocks run
across rows, so that its state fits only the layout that it was made on; and its chance comes from the global generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from glyphflow.train.pieces import local

BLOCK = 256
"""Neighbours in a row that share a scale."""
Group = dict[str, Any]
State = dict[str, Tensor]
CHUNK = 1 << 22
"""Elements that are updated together, to bound what is computed in float32 beside the state."""


class _Levels(NamedTuple):
    """Numbers in [-1, 1] or [0, 1] by level: (level / most) ** power. Levels are dense at 0, as moments are."""

    most: int
    power: int
    dtype: torch.dtype
    least: int
    """Positive numbers get at least this level: a second moment of 0 would divide a step by 0."""

    def encode(self, x: Tensor, chance: Tensor) -> Tensor:
        """``x`` with the mean kept: up to the next level with the probability that its distance from the lower one says."""
        scaled = x.abs().mul_(self.most**self.power)
        low = scaled.sqrt()
        low = (low.sqrt_() if self.power == 4 else low).floor_()
        floor = low.pow(self.power)
        share = (scaled - floor) / ((low + 1).pow(self.power) - floor)
        level = low.add_(share > chance).clamp_(max=self.most)
        if self.least:
            level = torch.where(x > 0, level.clamp_(min=self.least), level)
        return level.mul_(x.sign()).to(self.dtype)

    def decode(self, level: Tensor) -> Tensor:
        """float32 numbers of levels."""
        x = level.float().div_(self.most)
        return x.pow(self.power - 1).abs_().mul_(x)


MEAN = _Levels(127, 2, torch.int8, 0)
SQUARE = _Levels(255, 4, torch.uint8, 1)


def pack(x_RC: Tensor, levels: _Levels, chance_RC: Tensor) -> tuple[Tensor, Tensor]:
    """float32 (rows, columns) -> levels of that shape, and float32 scales (rows, ceil(columns / BLOCK))."""
    blocks = _blocks(x_RC)
    scale = blocks.abs().amax(dim=-1)
    unit = blocks / scale.clamp_min(torch.finfo(torch.float32).tiny)[..., None]
    coded = levels.encode(unit, _blocks(chance_RC))
    return coded.flatten(1)[:, : x_RC.shape[1]], scale


def unpack(coded_RC: Tensor, scale: Tensor, levels: _Levels) -> Tensor:
    """Inverse of :func:`pack`: float32 (rows, columns)."""
    x = levels.decode(coded_RC)
    columns = x.shape[1]
    return (_blocks(x) * scale[..., None]).flatten(1)[:, :columns]


def _blocks(x_RC: Tensor) -> Tensor:
    """(rows, blocks, BLOCK), the last block filled with zeros; rows shorter than a block are one."""
    columns = x_RC.shape[1]
    size = min(BLOCK, columns)
    padded = F.pad(x_RC, (0, -columns % size)) if columns % size else x_RC
    return padded.view(len(padded), -1, size)


def round_by_chance(x: Tensor, dtype: torch.dtype, generator: torch.Generator | None) -> Tensor:
    """float32 ``x`` as ``dtype``; as bfloat16 rounded up or down with the probability of the nearer one, right on average."""
    if dtype != torch.bfloat16:
        return x.to(dtype)
    noise = torch.randint(0, 1 << 16, x.shape, generator=generator, device=x.device, dtype=torch.int32)
    return ((x.view(torch.int32) + noise) & -(1 << 16)).view(torch.float32).to(torch.bfloat16)


class LeanOptimizer(torch.optim.Optimizer):
    """What both have in common: one parameter at a time, and seeded chance."""

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        self._place = {p: n for n, p in enumerate(p for group in self.param_groups for p in group["params"])}
        self._group = {p: group for group in self.param_groups for p in group["params"]}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, local(parameter), local(parameter.grad))

    @torch.no_grad()
    def update(self, parameter: Tensor, weight: Tensor, grad: Tensor) -> None:
        """Change ``weight``, the value of ``parameter`` here or in a copy on another device, by its gradient."""
        state = self.state[parameter]
        if not state:
            state.update(self.empty_state(weight))
        state["step"] += 1
        step = int(state["step"])
        generator = torch.Generator(weight.device).manual_seed(step << 24 | self._place[parameter])
        self.apply(self._group[parameter], state, step, weight.detach(), grad, generator)

    def empty_state(self, weight: Tensor) -> dict[str, Tensor]:
        """The state of a parameter of the form of ``weight`` before its first step; a checkpoint is read into it."""
        raise NotImplementedError

    def apply(
        self, group: Group, state: State, step: int, weight: Tensor, grad: Tensor, chance: torch.Generator | None
    ) -> None:
        """Step number ``step`` (from 1) of ``weight``, with the numbers of ``group``; changes it and ``state``."""
        raise NotImplementedError


class AdamW8bit(LeanOptimizer):
    """AdamW with both moments in 8 bits and a float32 scale for BLOCK of them: 2.03 bytes a parameter instead of 8.

    Parameters with a single axis (norms, biases) keep float32 moments. Every row has its own blocks: any cut of a matrix into
    rows, or into columns in multiples of BLOCK, cuts ``exp_avg`` and ``exp_avg_scale`` alike.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def empty_state(self, weight: Tensor) -> dict[str, Tensor]:
        weight = local(weight)
        names, state = ("exp_avg", "exp_avg_sq"), {"step": torch.zeros((), dtype=torch.float32)}
        if not _is_matrix(weight):
            return state | {name: torch.zeros_like(weight, dtype=torch.float32) for name in names}
        rows, columns = _matrix(weight).shape
        for name, levels in zip(names, (MEAN, SQUARE), strict=True):
            state[name] = torch.zeros_like(weight, dtype=levels.dtype)
            state[f"{name}_scale"] = torch.zeros(rows, -(-columns // BLOCK), device=weight.device)
        return state

    def apply(
        self, group: Group, state: State, step: int, weight: Tensor, grad: Tensor, chance: torch.Generator | None
    ) -> None:
        (beta1, beta2), lr = group["betas"], group["lr"]

        def change(weight: Tensor, grad: Tensor, mean: Tensor, square: Tensor) -> None:
            """One AdamW step on float32 moments, which are changed in place."""
            grad = grad.float()
            mean.lerp_(grad, 1 - beta1)
            square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            length = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
            moved = weight.float() * (1 - lr * group["weight_decay"]) - lr / (1 - beta1**step) * (mean / length)
            weight.copy_(round_by_chance(moved, weight.dtype, chance))

        if "exp_avg_scale" not in state:
            change(weight, grad, state["exp_avg"], state["exp_avg_sq"])
            return
        tensors = [_matrix(t) for t in (weight, grad.contiguous(), state["exp_avg"], state["exp_avg_sq"])]
        scales = state["exp_avg_scale"], state["exp_avg_sq_scale"]
        for part in _chunks(tensors[0]):
            weight_RC, grad_RC, *coded = (t[part] for t in tensors)
            moments = [unpack(c, s[part], levels) for c, s, levels in zip(coded, scales, (MEAN, SQUARE), strict=True)]
            change(weight_RC, grad_RC, *moments)
            for moment, code, scale, levels in zip(moments, coded, scales, (MEAN, SQUARE), strict=True):
                noise = torch.rand(moment.shape, generator=chance, device=moment.device)
                packed, scale[part] = pack(moment, levels, noise)
                code.copy_(packed)


class Adafactor(LeanOptimizer):
    """Adafactor (Shazeer and Stern, 2018) without momentum: a matrix keeps the mean square of its rows and of its columns.

    The learning rate is that of AdamW: a step is ``lr`` x the gradient over its expected size, and its root mean square is
    clipped at ``clip``. (``torch.optim.Adafactor`` multiplies by the size of the weights as well, so that an lr of a recipe
    would mean something else, and it updates bfloat16 weights by rounding to the nearest.) For weights that are whole in one
    process.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, decay: float = -0.8, clip: float = 1.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "clip": clip, "weight_decay": weight_decay})

    def empty_state(self, weight: Tensor) -> dict[str, Tensor]:
        state = {"step": torch.zeros((), dtype=torch.float32)}
        if not _is_matrix(weight):
            return state | {"square": torch.zeros_like(weight, dtype=torch.float32)}
        rows, columns = _matrix(weight).shape
        return state | {
            "row": torch.zeros(rows, 1, device=weight.device),
            "column": torch.zeros(1, columns, device=weight.device),
        }

    def apply(
        self, group: Group, state: State, step: int, weight: Tensor, grad: Tensor, chance: torch.Generator | None
    ) -> None:
        new, lr = step ** group["decay"], group["lr"]
        tiny = torch.finfo(torch.float32).eps ** 2
        if "square" in state:
            weight_RC, grad_RC = weight.reshape(1, -1), grad.reshape(1, -1)
            state["square"].lerp_(grad.float().square(), new)
            expected = [state["square"].reshape(1, -1).clamp(min=tiny).rsqrt_()]
        else:
            weight_RC, grad_RC = _matrix(weight), grad.reshape(weight.shape[0], -1)
            row, column = state["row"], state["column"]
            row_now, column_now = _mean_squares(grad_RC)
            row.lerp_(row_now, new)
            column.lerp_(column_now, new)
            mean = row.mean().clamp(min=tiny)
            expected = [(row / mean).clamp(min=tiny).rsqrt_(), column.clamp(min=tiny).rsqrt_()]

        def direction(part: slice) -> Tensor:
            found = grad_RC[part].float() * expected[0][part]
            return found if len(expected) == 1 else found.mul_(expected[1])

        total = torch.stack([direction(part).square_().sum() for part in _chunks(weight_RC)]).sum()
        size = (total / weight_RC.numel()).sqrt_()
        length = lr / torch.clamp(size / group["clip"], min=1.0)
        for part in _chunks(weight_RC):
            moved = weight_RC[part].float() * (1 - lr * group["weight_decay"]) - direction(part).mul_(length)
            weight_RC[part] = round_by_chance(moved, weight.dtype, chance)


def _mean_squares(grad_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Mean square of each row (rows, 1) and of each column (1, columns) in float32."""
    rows, columns = [], torch.zeros(1, grad_RC.shape[1], device=grad_RC.device)
    for part in _chunks(grad_RC):
        square = grad_RC[part].float().square()
        rows.append(square.mean(dim=1, keepdim=True))
        columns += square.sum(dim=0, keepdim=True)
    return torch.cat(rows), columns / len(grad_RC)


def _is_matrix(weight: Tensor) -> bool:
    return weight.squeeze().ndim >= 2


def _matrix(weight: Tensor) -> Tensor:
    return weight if weight.ndim == 2 else weight.view(weight.shape[0], -1)


def _chunks(matrix_RC: Tensor) -> list[slice]:
    """Rows that are treated together."""
    rows = max(1, CHUNK // max(matrix_RC.shape[1], 1))
    return [slice(first, first + rows) for first in range(0, matrix_RC.shape[0], rows)]
