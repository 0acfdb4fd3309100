"""Clips through the VAE, a few frames at a time: what its causal convolutions remember between the groups.

The encoder takes frame 0, then groups of 4, each of which becomes one latent frame; the decoder takes one latent frame at a
time. The result is that of a convolution over the whole clip with two zero frames before the first. Layers that halve or double
the number of frames leave the first frame alone, so T latent frames are 4 T - 3 frames.

Shapes in names: B clips, C channels, T frames, H and W pixels or latent positions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Past:
    """The last frames that each causal convolution has seen of ``clips`` clips; new for every clip, filled group by group."""

    def __init__(self, clips: int) -> None:
        self._clips = clips
        self._frames: dict[nn.Module, Tensor] = {}

    def fold(self, x_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B * T, C, H, W), the form in which layers see a clip."""
        return x_BCTHW.transpose(1, 2).flatten(0, 1)

    def unfold(self, x: Tensor) -> Tensor:
        """Inverse of :meth:`fold`."""
        return x.reshape(self._clips, -1, *x.shape[1:]).transpose(1, 2)

    def extend(self, conv: nn.Module, x: Tensor) -> Tensor | None:
        """x with the two frames before it in front, (B, C, 2 + T, H, W); None for a first frame, which is a picture."""
        clip = self.unfold(x)
        before = self._frames.get(conv)
        first = before is None
        if before is None:
            before = _zeros(clip)
        whole = torch.cat([before, clip], dim=2)
        self._frames[conv] = whole[:, :, -2:].clone()
        return None if first and clip.shape[2] == 1 else whole

    def halve(self, conv: nn.Module, x: Tensor) -> Tensor:
        """Every second frame by a causal convolution of stride 2 in time; the first frame of a clip passes unchanged."""
        clip = self.unfold(x)
        before = self._frames.get(conv)
        self._frames[conv] = clip[:, :, -1:].clone()
        if before is None:
            return x
        weight, bias = conv.weight, conv.bias
        assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
        return self.fold(F.conv3d(torch.cat([before, clip], dim=2), weight, bias, stride=(2, 1, 1)))

    def double(self, conv: nn.Module, x: Tensor) -> Tensor:
        """Two frames out of each by a causal convolution to twice the channels; the first frame of a clip passes unchanged."""
        if conv not in self._frames:
            # As if it had been zero: the released network was trained without it.
            self._frames[conv] = _zeros(self.unfold(x))
            return x
        y: Tensor = conv(x, self)
        return y.reshape(-1, *x.shape[1:])


def run_clip(network: Callable[[Tensor, Past | None], Tensor], x_BCTHW: Tensor, group: int) -> Tensor:
    """Frame 0, then groups of ``group`` frames through ``network`` (which sees them folded), put together again.

    Frames after the last whole group are left out, as in the released network.
    """
    groups = (x_BCTHW.shape[2] - 1) // group
    if groups == 0:
        return network(x_BCTHW[:, :, 0], None)[:, :, None]
    past = Past(x_BCTHW.shape[0])
    parts = torch.split(x_BCTHW[:, :, : 1 + groups * group], [1] + [group] * groups, dim=2)
    return torch.cat([past.unfold(network(past.fold(part), past)) for part in parts], dim=2)


def _zeros(clip: Tensor) -> Tensor:
    batch, channels, _, height, width = clip.shape
    return clip.new_zeros(batch, channels, 2, height, width)
