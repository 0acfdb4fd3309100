"""How well a depth map agrees with a measured one, up to an unknown scale and shift (affine-invariant depth).

A prediction is aligned to each picture's ground truth by least squares over the valid pixels, in depth or in disparity (1 /
depth), then cut to the data set's range. The conventions (ranges, crops, masks, order of steps) are those of the protocol that
the published tables of diffusion-based depth use; they are written down here because each of them moves the third digit.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from glyphflow.core.errors import InputError

Crop = Literal["none", "eigen", "garg", "nyu"]
Space = Literal["depth", "disparity"]

SMALLEST_DEPTH = 1e-6
SMALLEST_DISPARITY = 1e-3
DELTA1 = 1.25

_FRACTIONS = {
    "eigen": (0.3324324, 0.91351351, 0.0359477, 0.96405229),
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
}
"""(top, bottom, left, right) of KITTI's evaluation windows as fractions of the picture."""
_NYU = (45, 471, 41, 601)
"""(top, bottom, left, right) of NYUv2's window in pixels of 640 x 480."""


class DepthScore(NamedTuple):
    """AbsRel (mean of |p - g| / g, lower is better) and delta1 (share with max(p/g, g/p) < 1.25) of one picture."""

    abs_rel: float
    delta1: float
    pixels: int


def crop_mask(crop: Crop, height: int, width: int) -> Tensor:
    """(height, width) bool: the window in which a picture is scored."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    if crop == "none":
        return ~mask
    if crop == "nyu":
        if (height, width) != (480, 640):
            raise InputError(
                f"NYUv2's window is defined on 640x480 pixels, not {width}x{height}; give the original depth maps."
            )
        top, bottom, left, right = _NYU
    else:
        f = _FRACTIONS[crop]
        top, bottom, left, right = int(f[0] * height), int(f[1] * height), int(f[2] * width), int(f[3] * width)
    mask[top:bottom, left:right] = True
    return mask


def kitti_crop(x_HW: Tensor) -> Tensor:
    """The lower middle 352 x 1216 pixels of a KITTI picture, the size of its benchmark."""
    height, width = x_HW.shape
    if height < 352 or width < 1216:
        raise InputError(f"KITTI pictures are at least 1216x352 pixels, not {width}x{height}.")
    left = (width - 1216) // 2
    return x_HW[height - 352 :, left : left + 1216]


def fit(prediction_HW: Tensor, truth_HW: Tensor, mask_HW: Tensor) -> tuple[float, float]:
    """(scale, shift) that bring ``prediction`` nearest to ``truth`` in the mean square over ``mask``."""
    p, g = prediction_HW[mask_HW].double(), truth_HW[mask_HW].double()
    if p.numel() < 2:
        raise InputError(f"A depth map with {p.numel()} valid pixels cannot be aligned; it needs at least 2.")
    variance = (p - p.mean()).square().mean()
    if variance == 0:
        return 0.0, float(g.mean())  # a flat prediction says nothing of depth: the best is the mean
    scale = ((p - p.mean()) * (g - g.mean())).mean() / variance
    return float(scale), float(g.mean() - scale * p.mean())


def align(
    prediction_HW: Tensor, truth_HW: Tensor, mask_HW: Tensor, *, space: Space = "depth", max_side: int | None = None
) -> Tensor:
    """``prediction`` as depth, float64, brought to the scale and shift of ``truth`` (metres) over ``mask``.

    In "disparity" the prediction is affine in 1 / depth; what comes out below 1e-3 is cut there before it is inverted. With
    ``max_side`` scale and shift are found on a smaller copy (nearest neighbours), the alignment is applied at full size.
    """
    goal = truth_HW.double()
    valid = mask_HW
    if space == "disparity":
        goal = torch.where(goal > 0, 1.0 / goal.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
        valid = valid & (truth_HW > 0) & (prediction_HW > 0)
    small = [prediction_HW.double(), goal, valid]
    if max_side is not None and max(truth_HW.shape) > max_side:
        small = [_shrink(x, max_side) for x in small]
    scale, shift = fit(*small)
    aligned = prediction_HW.double() * scale + shift
    return 1.0 / aligned.clamp(min=SMALLEST_DISPARITY) if space == "disparity" else aligned


def score_depth(aligned_HW: Tensor, truth_HW: Tensor, mask_HW: Tensor, low: float, high: float) -> DepthScore:
    """Scores over ``mask`` after the aligned prediction is cut to [``low``, ``high``] metres and to at least 1e-6."""
    p = aligned_HW.double().clamp(low, high).clamp(min=SMALLEST_DEPTH)[mask_HW]
    g = truth_HW.double()[mask_HW]
    if p.numel() == 0:
        raise InputError("A depth map without a valid pixel has no score; check its range and units (metres).")
    ratio = torch.maximum(p / g, g / p)
    return DepthScore(float(((p - g).abs() / g).mean()), float((ratio < DELTA1).double().mean()), p.numel())


def _shrink(x_HW: Tensor, side: int) -> Tensor:
    factor = min(side / x_HW.shape[0], side / x_HW.shape[1])
    small = torch.nn.functional.interpolate(x_HW[None, None].double(), scale_factor=factor, mode="nearest")[0, 0]
    return small > 0.5 if x_HW.dtype == torch.bool else small
