"""How a pipeline may save time, switch by switch: the exact tier, and the one approximation of the loop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glyphflow.core.errors import InputError
from glyphflow.core.numbers import whole
from glyphflow.models import MMDiT
from glyphflow.models.kernels import EAGER, fused


@dataclass(frozen=True)
class Speed:
    """What the loop does otherwise than the reference.

    Exact tier: the mathematics is the reference's and only roundings move (benchmarks/generate/RESULTS.md has the measured
    bound of each switch).

    - ``modulation_table``: modulation rows of the whole schedule in one product per block, not one per step and pass;
    - ``packed_cfg``: both passes of guidance in one, prompts without padding or mask, each block called once per step;
    - ``fused``: the operations between matrix products compiled into one each; None: where it gains, on CUDA;
    - ``compile``: whole blocks compiled, one program for all blocks and sizes. Takes a minute at first;
    - ``channels_last``: the VAE works on pictures whose channels lie side by side in memory.

    Approximate tier, named in the picture's metadata:

    - ``step_cache``: skip all blocks but the first at steps where its output has changed by less than this share since the
      last full step (0.05 is careful, 0.2 is bold);
    - ``vae_tile``: the VAE takes pictures in overlapping tiles of so many pixels a side (a multiple of 8), for pictures whose
      decoding does not fit into memory. It saves memory, not time.
    """

    modulation_table: bool = True
    packed_cfg: bool = True
    fused: bool | None = None
    compile: bool = False
    channels_last: bool = True
    step_cache: float | None = None
    vae_tile: int | None = None

    def __post_init__(self) -> None:
        if self.step_cache is not None and not 0 < self.step_cache < 1:
            raise InputError(f"step_cache is {self.step_cache}; it is a share between 0 and 1, such as 0.1.")
        if self.vae_tile is not None:
            whole(self.vae_tile, "vae_tile", 64, 16384, "a side of a tile in pixels, a multiple of 8")
        if self.vae_tile is not None and self.vae_tile % 8:
            raise InputError(f"vae_tile is {self.vae_tile}; it must be a multiple of 8.")
        if self.fused and self.compile:
            raise InputError("fused and compile are both on; compiled blocks are fused already, so choose one.")

    @classmethod
    def reference(cls) -> Speed:
        """The operations of the reference, one by one: its picture to the bit wherever its roundings are known."""
        return cls(modulation_table=False, packed_cfg=False, fused=False, channels_last=False)

    @property
    def approximations(self) -> tuple[str, ...]:
        """What of this makes another picture than the exact computation's, in words."""
        cache = () if self.step_cache is None else (f"step cache {self.step_cache:g}",)
        return cache if self.vae_tile is None else (*cache, f"VAE tiles of {self.vae_tile}")

    def picture(self, x_BCHW: Tensor) -> Tensor:
        """``x`` (pixels or latents) in the memory format that the VAE shall work in."""
        return x_BCHW.contiguous(memory_format=torch.channels_last) if self.channels_last else x_BCHW

    def apply(self, transformer: MMDiT, device: torch.device) -> None:
        """Set up the blocks of ``transformer``, which works on ``device``."""
        if self.compile:
            transformer.compile_blocks()
            return
        transformer.forget_compiled()
        gains = device.type == "cuda" if self.fused is None else self.fused
        transformer.use_kernels(fused() if gains else EAGER)


class FirstBlockCache:
    """Reuses what the blocks behind the first added to the image stream, while the first block's output stays nearly the same.

    ``threshold`` is the mean absolute change of that output since the last full step, as a share of its mean absolute value.
    A :class:`glyphflow.models.mmdit.StepCache`; one for each schedule that is walked. ``skipped`` counts.
    """

    def __init__(self, threshold: float) -> None:
        self.skipped = 0
        self._threshold = threshold
        self._first: Tensor | None = None
        self._added: Tensor | None = None

    def recall(self, first: Tensor, tokens: int) -> Tensor | None:
        """See :class:`glyphflow.models.mmdit.StepCache`."""
        if self._first is None or self._added is None:
            return None
        change = (first - self._first).abs().mean() / self._first.abs().mean()
        if float(change) >= self._threshold:
            return None
        self.skipped += 1
        return first[:, :tokens] + self._added

    def remember(self, first: Tensor, last: Tensor) -> None:
        """See :class:`glyphflow.models.mmdit.StepCache`."""
        self._first, self._added = first, last - first[:, : last.shape[1]]
