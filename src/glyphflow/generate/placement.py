"""What is on the device when: one decision from the sizes of the parts, the room their work takes, and the budget.

A *part* is a network that works at some time: the condition encoder's language model, its vision tower, the MMDiT, a
ControlNet, the VAE. It has fixed weights, which are on the device while the part works, and maybe *blocks*, which are called
one after the other: as many of them stay as fit, the others are copied ahead of their call into two buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from glyphflow.core.errors import InputError
from glyphflow.core.hardware import free_bytes, gigabytes, parse_bytes

WORDS = ("auto", "resident", "streamed")
BUFFERS = 2  # one being computed with, one being filled
_MARGIN = 0.05  # of a card's free memory: fragmentation, and what libraries take beside PyTorch


@dataclass(frozen=True)
class PartSizes:
    """Bytes of a part on the device.

    ``fixed`` weights, each of its ``blocks``, and each of the modules that under a budget are there only in ``passing``: they
    compute modulations, once per schedule and before the blocks work.
    """

    fixed: int
    blocks: tuple[int, ...] = ()
    passing: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        """Bytes with every block, without what only passes."""
        return self.fixed + sum(self.blocks)

    @property
    def buffers(self) -> int:
        """Bytes of the buffers when some blocks are streamed."""
        return min(BUFFERS, len(self.blocks)) * max(self.blocks, default=0)

    @property
    def passage(self) -> int:
        """Bytes of the buffers while the passing modules pass; those of the blocks are free then."""
        return min(BUFFERS, len(self.passing)) * max(self.passing, default=0)


@dataclass(frozen=True)
class Placement:
    """What is on the device while some parts work.

    ``resident[name]`` are the indices of the blocks of a working part that stay, ``others_stay`` says whether the parts that
    do not work remain, too. Bytes: ``weights`` that stay, ``buffers`` for streamed blocks, ``room`` for the work itself,
    ``streamed`` what one pass through all blocks copies.
    """

    others_stay: bool
    resident: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    weights: int = 0
    buffers: int = 0
    room: int = 0
    streamed: int = 0

    @property
    def peak(self) -> int:
        """Bytes on the device at the highest point."""
        return self.weights + self.buffers + self.room


def place(parts: Mapping[str, PartSizes], working: Sequence[str], room: int, budget: int | None) -> Placement:
    """Decide for the parts named ``working``, whose work takes ``room`` bytes beside weights.

    ``budget`` None means that everything stays on the device; 0 means as little as possible. Raises InputError when the
    budget is smaller than the fixed weights, two blocks and the room.
    """
    everything = sum(part.total for part in parts.values())
    all_blocks = {name: tuple(range(len(parts[name].blocks))) for name in working}
    if budget is None:
        passing = sum(sum(part.passing) for part in parts.values())
        return Placement(True, all_blocks, everything + passing, room=room)
    whole = sum(_buffers(parts[name], True, room) for name in working)
    if everything + whole + room <= budget:
        return Placement(True, all_blocks, everything, whole, room)
    least = sum(parts[name].fixed + _buffers(parts[name], False, room) for name in working) + room
    if 0 < budget < least:
        raise InputError(_too_small(budget, working, sum(parts[name].fixed for name in working), least, room))
    spare = max(budget - least, 0)
    resident, weights, buffers, streamed = {}, 0, 0, 0
    for name in working:
        part, reserved = parts[name], _buffers(parts[name], False, room)
        stay = _that_fit(part, spare + reserved, room)
        held = sum(part.blocks[index] for index in stay)
        taken = _buffers(part, len(stay) == len(part.blocks), room)
        spare += reserved - taken - held
        resident[name] = stay
        weights += part.fixed + held
        buffers += taken
        streamed += _copied(part, stay)
    return Placement(False, resident, weights, buffers, room, streamed)


def _buffers(part: PartSizes, all_stay: bool, room: int) -> int:
    """Bytes of the buffers of ``part``: for its blocks, or for what passes before there is work, if that takes more."""
    return max(0 if all_stay else part.buffers, part.passage - room)


def _that_fit(part: PartSizes, bytes_left: int, room: int) -> tuple[int, ...]:
    """Indices of the blocks that stay within ``bytes_left``, which must also hold the buffers."""
    if sum(part.blocks) + _buffers(part, True, room) <= bytes_left:
        return tuple(range(len(part.blocks)))
    stay, left = [], bytes_left - _buffers(part, False, room)
    for index in spread(len(part.blocks)):
        left -= part.blocks[index]
        if left < 0:
            break
        stay.append(index)
    return tuple(sorted(stay))


def _copied(part: PartSizes, stay: Sequence[int]) -> int:
    """Bytes that one pass copies: every streamed block but one that has a buffer to itself, which happens among three."""
    gone = [size for index, size in enumerate(part.blocks) if index not in stay]
    return sum(size for number, size in enumerate(gone) if len(gone[number % BUFFERS :: BUFFERS]) > 1)


def _too_small(budget: int, working: Sequence[str], fixed: int, least: int, room: int) -> str:
    blocks = least - fixed - room
    passing = f", {gigabytes(blocks)} for two blocks at a time" if blocks else ""
    return (
        f"memory is {gigabytes(budget)} and the {' with the '.join(working)} needs {gigabytes(least)}: {gigabytes(fixed)} of "
        f"weights that stay{passing} and {gigabytes(room)} to work in; raise memory, or make fewer or smaller pictures at once."
    )


def spread(count: int) -> list[int]:
    """0 ... count - 1 in an order of which every beginning is spread evenly (bits reversed), the first one being 0.

    Streamed blocks then lie evenly between resident ones, whose computing hides the copies, and a change of the number of
    resident blocks by one moves one block.
    """
    bits = max(count - 1, 1).bit_length()
    return sorted(range(count), key=lambda index: int(f"{index:0{bits}b}"[::-1], 2))


def budget_of(memory: str | int, device: torch.device, everything: Callable[[], int]) -> int | None:
    """``memory`` as the ``budget`` of :func:`place`; ``everything()`` is what all parts take at once with their work.

    "resident" is None, "streamed" is 0, "auto" is None where everything fits into the free memory of ``device`` and else that
    memory, a number or "24GB" is itself. Raises InputError for other words, for a budget above what the device has free, and
    for budgets on the CPU, whose memory the weights are in anyway.
    """
    if memory == "resident" or (memory == "auto" and device.type != "cuda"):
        return None
    budget = _bytes_of(memory)
    if device.type != "cuda":
        raise InputError(
            f"memory is {memory!r} and the device is {device}, where the weights are in the machine's memory anyway; leave "
            "memory out, or use a CUDA device."
        )
    free = free_bytes(device)
    if memory == "auto":
        usable = int(free * (1 - _MARGIN))
        return None if everything() <= usable else usable
    if budget > free:
        raise InputError(f"memory is {gigabytes(budget)} and {device} has {gigabytes(free)} free; ask for less, or for 'auto'.")
    return budget


def _bytes_of(memory: str | int) -> int:
    if memory in WORDS:
        return 0
    wrong = f"memory is {memory!r}; it can be {', '.join(map(repr, WORDS))} or an amount such as '24GB'."
    if isinstance(memory, str):
        try:
            memory = parse_bytes(memory)
        except InputError as error:
            raise InputError(wrong) from error
    if isinstance(memory, bool) or not isinstance(memory, int) or memory <= 0:
        raise InputError(wrong)
    return memory
