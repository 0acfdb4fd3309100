"""Puts the weights of the part that works next on the device, and takes the others back when there is no room for all.

Without a budget everything is moved to the device once and stays. With one, the weights stay in the machine's memory and the
device gets copies (:mod:`glyphflow.generate.streaming`), as many as :func:`glyphflow.generate.placement.place` decides. The
weights that only compute modulations, a third of the released MMDiT, then never stay: they pass once per schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from glyphflow.generate.placement import PartSizes, Placement, place
from glyphflow.generate.sizes import modulations, sizes_of
from glyphflow.generate.streaming import Loan, Stream, Weights
from glyphflow.models import MMDiT, Modulation

if TYPE_CHECKING:
    from glyphflow.models.condition import ConditionEncoder

ENCODER, VISION, TRANSFORMER, CONTROLNET, DECODER = "condition encoder", "vision tower", "transformer", "ControlNet", "VAE"


class Residency:
    """Who of ``parts`` is on ``device``; ``budget`` bytes are what weights and work may take there (None: no limit).

    Parts are networks by name, None ones are left out; a condition encoder becomes two, its language model under its own name
    and its vision tower as "vision tower". A budget of 0 means: as little as possible. On the CPU a budget is obeyed all the
    same, with real copies: so that what a card will do can be watched and counted where there is none.
    """

    def __init__(
        self, parts: Mapping[str, nn.Module | ConditionEncoder | None], device: torch.device, budget: int | None = None
    ) -> None:
        self.device = device
        self.budget = budget
        self.placement: Placement | None = None
        self._lodgers: dict[str, _Lodger] = {}
        self._table: tuple[object, Modulation] | None = None
        for name, part in parts.items():
            if part is not None and budget is None:
                part.to(device)
            elif part is not None:
                self._lodgers |= _lodgers(name, part)

    def use(self, *names: str, room: Callable[[], int] = lambda: 0) -> None:
        """Let the parts ``names`` be on the device, which are about to do work that takes ``room()`` bytes beside weights.

        Names of parts that are not there (a pipeline without encoder) are passed over. Raises InputError when the budget is
        too small.
        """
        if self.budget is None:
            return
        sizes = {name: lodger.sizes for name, lodger in self._lodgers.items()}
        self.placement = place(sizes, [name for name in names if name in sizes], room(), self.budget)
        with torch.inference_mode(False), torch.no_grad():  # what is moved inside may be trained on later
            if not self.placement.others_stay:
                for name in sizes.keys() - set(names):
                    self._lodgers[name].leave()
            for name, resident in self.placement.resident.items():
                self._lodgers[name].enter(self.device, resident)

    def modulation(self, transformer: MMDiT, times: Tensor, **more: Any) -> Modulation:
        """``transformer.modulation(times, **more)``; under a budget the last table is kept in the machine's memory."""
        if self.budget is None:
            return transformer.modulation(times, **more)
        key = (times.dtype, times.tolist(), [(k, v.tolist() if isinstance(v, Tensor) else v) for k, v in more.items()])
        if self._table is None or self._table[0] != key:
            self._table = None
            for lodger in self._lodgers.values():
                lodger.free_buffers()  # the weights that pass now need others
            self._table = (key, _to(transformer.modulation(times, **more), torch.device("cpu")))
        return _to(self._table[1], self.device)

    def recall(self, *names: str) -> None:
        """Take parts (all when none is named) off the device; call it before their weights are changed in any way."""
        self._table = None
        for name in names or tuple(self._lodgers):
            if name in self._lodgers:
                self._lodgers[name].leave()
                self._lodgers[name].forget()

    @property
    def copied(self) -> int:
        """Bytes of blocks that have been streamed to the device so far."""
        return sum(lodger.copied for lodger in self._lodgers.values())


class _Lodger:
    """A part that comes and goes: fixed weights, blocks that stay or are streamed, and weights that only pass (``once``)."""

    def __init__(self, module: nn.Module, blocks: Sequence[nn.Module] = (), once: Sequence[nn.Module] = ()) -> None:
        self._copied = 0
        self._module, self._blocks, self._once = module, blocks, once
        self._sizes: PartSizes | None = None
        self._fixed: Loan | None = None
        self._stream: Stream | None = None
        self._passing: Stream | None = None

    @property
    def sizes(self) -> PartSizes:
        """Bytes on the device, without what only passes."""
        if self._sizes is None:
            self._sizes = sizes_of(self._module, self._blocks, self._once)
        return self._sizes

    def enter(self, device: torch.device, resident: Sequence[int]) -> None:
        """Be on the device, with the blocks ``resident`` staying there."""
        if self._fixed is None:
            self._fixed = Loan(Weights([self._module], apart=[*self._blocks, *self._once]), device)
        if self._blocks:
            self._stream = self._stream or Stream(self._blocks, device, apart=self._once)
            self._stream.keep(resident)
        if self._once and self._passing is None:
            self._passing = Stream(self._once, device, once=True)

    def leave(self) -> None:
        """Be off the device and free its memory."""
        for stream in (self._stream, self._passing):
            if stream is not None:
                stream.close()
        self._copied = self.copied
        self._stream = self._passing = None
        if self._fixed is not None:
            self._fixed.end()
            self._fixed = None

    def free_buffers(self) -> None:
        """Give up the memory through which blocks are streamed, until they are called again."""
        if self._stream is not None:
            self._stream.free_buffers()

    @property
    def copied(self) -> int:
        """Bytes of blocks that were streamed so far."""
        return self._copied + (self._stream.copied if self._stream is not None else 0)

    def forget(self) -> None:
        """Measure again: the weights are about to change."""
        self._sizes = None


def _lodgers(name: str, part: nn.Module | ConditionEncoder) -> dict[str, _Lodger]:
    if isinstance(part, MMDiT):
        return {name: _Lodger(part, list(part.transformer_blocks), modulations(part))}
    if isinstance(part, nn.Module):
        return {name: _Lodger(part, list(getattr(part, "transformer_blocks", ())))}
    core = getattr(part.model, "model", part.model)  # a condition encoder; its lm_head stays where it is
    parts = {name: _Lodger(core.language_model, list(core.language_model.layers))}
    return parts if core.visual is None else parts | {VISION: _Lodger(core.visual)}


def _to(table: Modulation, device: torch.device) -> Modulation:
    image, text = (tuple(rows.to(device) for rows in part) for part in (table.image, table.text))
    return Modulation(image, text, table.head.to(device))
