"""Low-rank adapters on the linears of a model: attached as branches, weighted, fused into the weights and taken off again.

The branches of a linear are its child module ``lora``, so that they go wherever the linear goes. A linear with branches changes
its class to one that adds what they say: a compiler notices that, which a forward hook would hide from it. Branches are no part
of the model's state dict: saving the model saves the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glyphflow.core.errors import InputError
from glyphflow.models.lora_file import Kronecker, LoRA, LowRank, read_lora, save_lora
from glyphflow.models.quantize import QuantLinear

__all__ = [
    "LoRA",
    "adapter_branches",
    "attach",
    "collect",
    "detach",
    "fuse",
    "fused",
    "linear_shapes",
    "read_lora",
    "save_lora",
    "set_weights",
    "unfuse",
]

AnyLinear = nn.Linear | QuantLinear


class Branch(nn.Module):
    """What one adapter adds to one linear: ``weight`` times what its file says (0 leaves it out)."""

    gain: Tensor | None

    def __init__(self, adapter: str, layer: LowRank | Kronecker, linear: AnyLinear) -> None:
        super().__init__()
        like = _dense(linear)[:0]
        self.adapter, self.weight, self.scale = adapter, 0.0, layer.scale
        pair = (layer.down, layer.up) if isinstance(layer, LowRank) else (layer.left, layer.right)
        self.kronecker = isinstance(layer, Kronecker)
        self.first, self.second = (nn.Parameter(t.to(like), requires_grad=False) for t in pair)
        magnitude = layer.magnitude
        self.magnitude = None if magnitude is None else nn.Parameter(magnitude.to(like), requires_grad=False)
        self.register_buffer("gain", None, persistent=False)

    @property
    def by_columns(self) -> bool:
        """Whether ``gain`` multiplies what the linear takes, and not what it gives."""
        return self.gain is not None and self.gain.ndim > 1

    def forward(self, x: Tensor, base: Tensor, product: Callable[[Tensor], Tensor]) -> Tensor:
        """x (..., in) and the linear's product without bias (..., out) -> what is added to it, in the dtype of ``base``.

        That is wider than x where a linear hands on more than float16 can hold. ``product`` is the linear without bias.
        """
        if self.by_columns and self.gain is not None:
            gain = self.gain[0]
            return product(x * (gain - 1)) + self._pair(x * gain, base)
        out = self._pair(x, base)
        return out if self.gain is None else (self.gain - 1) * base + self.gain * out

    def _pair(self, x: Tensor, base: Tensor) -> Tensor:
        scale = self.scale * self.weight
        x, first, second = (t.to(base.dtype) for t in (x, self.first, self.second))
        if self.kronecker:
            folded = x.reshape(*x.shape[:-1], first.shape[1], -1)
            out = torch.einsum("cd,...bd,ab->...ac", second, folded, first).flatten(-2)
        else:
            out = F.linear(F.linear(x, first), second)
        return out * scale

    def set_weight(self, weight: float, linear: AnyLinear) -> None:
        """Set the adapter's strength; the lengths of DoRA depend on it."""
        self.weight = weight
        if self.magnitude is not None:
            self.gain = self._gain(_dense(linear)).to(self.magnitude.dtype) if weight else None

    def _gain(self, weight_OI: Tensor) -> Tensor:
        """float32 (out,) or (1, in): what brings the rows or columns of the sum to the length that DoRA says."""
        assert self.magnitude is not None
        columns = self.magnitude.ndim > 1
        lengths = (weight_OI.float() + self.delta()).norm(dim=0 if columns else 1, keepdim=columns)
        gain: Tensor = self.magnitude.float() / lengths.clamp_min(torch.finfo(torch.float32).tiny)
        return gain

    def delta(self) -> Tensor:
        """float32 (out, in): what is added to the weight, before DoRA's lengths."""
        first, second = self.first.float(), self.second.float()
        product: Tensor = torch.kron(first, second) if self.kronecker else second @ first
        product *= self.scale * self.weight
        return product

    def change(self, weight_OI: Tensor) -> Tensor:
        """float32 (out, in): what fusing adds to ``weight_OI``."""
        if self.gain is None:
            return self.delta()
        gain = self._gain(weight_OI)
        change: Tensor = (weight_OI.float() + self.delta()) * (gain if self.by_columns else gain[:, None]) - weight_OI.float()
        return change

    def layer(self) -> LowRank | Kronecker:
        """As it came, in the working dtype."""
        magnitude = None if self.magnitude is None else self.magnitude.data
        return (Kronecker if self.kronecker else LowRank)(self.first.data, self.second.data, self.scale, magnitude)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Nothing: see the module's docstring."""

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Nothing, likewise."""


class Branches(nn.Module):
    """All branches of one linear, in the order in which they were attached."""

    def __init__(self) -> None:
        super().__init__()
        self.all = nn.ModuleList()
        self.original: Tensor | None = None  # the weight before fusing, in the machine's memory

    def __iter__(self) -> Iterator[Branch]:
        return cast(Iterator[Branch], iter(self.all))

    def forward(self, x: Tensor, out: Tensor, bias: Tensor | None, linear: Callable[[Tensor], Tensor]) -> Tensor:
        """The linear's input (..., in) and output (..., out) -> its output with the branches; ``linear`` makes the second."""
        if self.original is not None:
            return out

        def product(x: Tensor) -> Tensor:
            return linear(x) if bias is None else linear(x) - bias

        active = [branch for branch in self if branch.weight]
        base = out - bias if bias is not None and any(branch.gain is not None for branch in active) else out
        for branch in active:
            out = out + branch(x, base, product)
        return out


@cache
def _adapted(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of a linear of class ``kind`` that has branches."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return cast(Tensor, self.lora(x, kind.forward(self, x), self.bias, lambda other: kind.forward(self, other)))

    return type(f"Adapted{kind.__name__}", (kind,), {"forward": forward, "plain": kind})


def _branches_of(linear: Any) -> Branches:
    """The branches of ``linear``, which gets them, and the class that uses them, if it has none."""
    if not hasattr(linear, "lora"):
        linear.lora = Branches()
        linear.__class__ = _adapted(type(linear))  # type: ignore[arg-type]
    return cast(Branches, linear.lora)


def _bare(linear: Any) -> None:
    """Undo :func:`_branches_of`."""
    del linear.lora
    linear.__class__ = linear.plain


def linear_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear of ``model``, by name."""
    return {name: (module.out_features, module.in_features) for name, module in _linears(model)}


@torch.no_grad()
def attach(model: nn.Module, adapter: str, lora: LoRA, weight: float = 1.0) -> None:
    """Put ``lora`` beside the linears of ``model`` under the name ``adapter``; it acts from the next call on.

    Raises InputError when the name is taken or adapters are fused.
    """
    _check_loose(model)
    if adapter in _names(model):
        raise InputError(f"There is an adapter {adapter!r} already; give another name or unload it first.")
    linears = dict(_linears(model))
    for name, layer in lora.layers.items():
        linear = linears[name]
        branches = _branches_of(linear)
        branch = Branch(adapter, layer, linear)
        branch.set_weight(weight, linear)
        branches.all.append(branch)


@torch.no_grad()
def set_weights(model: nn.Module, weights: Mapping[str, float]) -> None:
    """Give the adapters named in ``weights`` these strengths, all others 0.

    Raises InputError for a name that is not attached, or when adapters are fused.
    """
    _check_loose(model)
    strange = sorted(weights.keys() - _names(model))
    if strange:
        raise InputError(f"There is no adapter {strange[0]!r}; loaded are {', '.join(sorted(_names(model))) or 'none'}.")
    for linear, branches in _branched(model):
        for branch in branches:
            branch.set_weight(float(weights.get(branch.adapter, 0.0)), linear)


def detach(model: nn.Module, adapter: str | None = None) -> None:
    """Take ``adapter``, or all of them, off; fused ones come out of the weights first."""
    if adapter is not None and adapter not in _names(model):
        raise InputError(f"There is no adapter {adapter!r}; loaded are {', '.join(sorted(_names(model))) or 'none'}.")
    again = fused(model)
    unfuse(model)
    for linear, branches in list(_branched(model)):
        branches.all = nn.ModuleList(branch for branch in branches if adapter is not None and branch.adapter != adapter)
        if not branches.all:
            _bare(linear)
    if again:
        fuse(model)


@torch.no_grad()
def fuse(model: nn.Module) -> None:
    """Add the branches to the weights, which makes them free to run; the old weights are kept in the machine's memory.

    Raises InputError for quantised linears, whose weights cannot take them.
    """
    pairs = list(_branched(model))
    if any(isinstance(linear, QuantLinear) for linear, _ in pairs):
        raise InputError(
            "Quantised weights cannot take an adapter in; leave it beside them or open the model without quantize."
        )
    for linear, branches in pairs:
        active = [branch for branch in branches if branch.weight]
        if branches.original is None and active:
            weight = cast(nn.Linear, linear).weight
            branches.original = weight.detach().to("cpu", copy=True)
            weight.copy_(weight.float() + sum(branch.change(weight) for branch in active))


@torch.no_grad()
def unfuse(model: nn.Module) -> None:
    """Put back the weights as they were before :func:`fuse`, bit by bit; the branches act again."""
    for linear, branches in _branched(model):
        if branches.original is not None:
            cast(nn.Linear, linear).weight.copy_(branches.original)
            branches.original = None


def fused(model: nn.Module) -> bool:
    """Whether :func:`fuse` is in force."""
    return any(branches.original is not None for _, branches in _branched(model))


def collect(model: nn.Module, adapter: str) -> LoRA:
    """The adapter called ``adapter`` as it is in the model, to save it."""
    layers = {name: branch.layer() for name, branch in adapter_branches(model, adapter).items()}
    if not layers:
        raise InputError(f"There is no adapter {adapter!r}; loaded are {', '.join(sorted(_names(model))) or 'none'}.")
    return LoRA(layers, "")


def adapter_branches(model: nn.Module, adapter: str) -> dict[str, Branch]:
    """The branches of the adapter called ``adapter`` by the names of their linears; empty when there is none."""
    found = ((name, branch) for name, linear in _linears(model) for branch in getattr(linear, "lora", ()))
    return {name: branch for name, branch in found if branch.adapter == adapter}


def _linears(model: nn.Module) -> Iterator[tuple[str, AnyLinear]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | QuantLinear))


def _branched(model: nn.Module) -> Iterator[tuple[AnyLinear, Branches]]:
    return ((linear, cast(Branches, linear.lora)) for _, linear in _linears(model) if hasattr(linear, "lora"))


def _names(model: nn.Module) -> set[str]:
    return {branch.adapter for _, branches in _branched(model) for branch in branches}


def _dense(linear: AnyLinear) -> Tensor:
    return linear.expand() if isinstance(linear, QuantLinear) else linear.weight


def _check_loose(model: nn.Module) -> None:
    if fused(model):
        raise InputError("Adapters are fused into the weights; call unfuse_lora first.")
