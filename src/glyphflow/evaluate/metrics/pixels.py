"""How near a picture is to another: PSNR and SSIM, batched, on the device that holds the pictures.

Public implementations differ in what they do not say. Here: values lie in [0, 1] (``data_range`` 1), all three colour
channels count alike, every picture has its own number (a benchmark averages those, and never pools the error of several
pictures), and SSIM uses the Gaussian window of its authors (11 x 11, sigma 1.5, K1 = 0.01, K2 = 0.03, population covariance)
only where it fits into the picture. Nothing is shrunk first: some packages halve pictures above 256 pixels and report the
SSIM of the copy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glyphflow.core.errors import InputError

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03
STRIP = 2**17  # pixels of a plane that a CPU works on at a time
PSNR_CAP = 100.0
"""dB that :func:`psnr` gives two equal pictures, whose true value is infinite and would take every average with it."""

PSNR_IDENTITY = "psnr/1 (RGB in [0, 1], one value a picture, equal pictures 100 dB)"
OUTSIDE_IDENTITY = "outside/1 (PSNR of the pixels outside a mask, brought to the source's size, equal ones 100 dB)"
SSIM_IDENTITY = "ssim/1 (RGB in [0, 1], Gaussian 11 sigma 1.5, K 0.01 0.03, valid windows, mean over channels)"


def psnr(x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,) float64, of pictures with values in [0, 1]; at most :data:`PSNR_CAP`."""
    check_pair(x_BCHW, y_BCHW)
    return _decibels((x_BCHW.double() - y_BCHW.double()).square().mean(dim=(1, 2, 3)))


def psnr_of(x_BCHW: Tensor, y_BCHW: Tensor, where_BHW: Tensor) -> Tensor:
    """The same over the pixels that ``where_BHW`` (bool) marks alone; there must be one in every picture."""
    check_pair(x_BCHW, y_BCHW)
    if where_BHW.shape != x_BCHW[:, 0].shape or not bool(where_BHW.any(dim=2).any(dim=1).all()):
        raise InputError("A part of a picture is compared where a mask of its size marks it, at one pixel or more.")
    error_BHW = (x_BCHW.double() - y_BCHW.double()).square().mean(dim=1)
    return _decibels((error_BHW * where_BHW).sum(dim=(1, 2)) / where_BHW.sum(dim=(1, 2)))


def _decibels(error_B: Tensor) -> Tensor:
    return (-10.0 * error_B.clamp(min=10.0 ** (-PSNR_CAP / 10.0)).log10()).clamp(max=PSNR_CAP)


def ssim(x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
    """Structural similarity in [-1, 1], (B,) float64, of pictures with values in [0, 1] and sides of at least 11 pixels."""
    check_pair(x_BCHW, y_BCHW)
    if min(x_BCHW.shape[2:]) < WINDOW:
        raise InputError(f"SSIM needs sides of at least {WINDOW} pixels, not {x_BCHW.shape[3]}x{x_BCHW.shape[2]}.")
    x_PHW, y_PHW = x_BCHW.flatten(0, 1), y_BCHW.flatten(0, 1)
    planes, height, width = x_PHW.shape
    windows = height - WINDOW + 1
    # on a CPU a strip of one plane at a time stays in the cache, which is three times as fast as the whole batch at once
    size, strip = (1, max(WINDOW, STRIP // width)) if x_PHW.device.type == "cpu" else (planes, windows)
    totals = []
    for x, y in zip(torch.split(x_PHW, size), torch.split(y_PHW, size), strict=True):
        parts = [slice(top, top + strip + WINDOW - 1) for top in range(0, windows, strip)]
        totals.append(sum(_ssim(x[:, part].double(), y[:, part].double()) for part in parts))
    means_P = torch.cat([torch.as_tensor(total) for total in totals]) / (windows * (width - WINDOW + 1))
    return means_P.view(x_BCHW.shape[:2]).mean(dim=1)


def _ssim(x_PHW: Tensor, y_PHW: Tensor) -> Tensor:
    """The sum of the index over the windows of each plane, (P,)."""
    mean_x, mean_y = _blur(x_PHW), _blur(y_PHW)
    variance_x = _blur(x_PHW * x_PHW) - mean_x.square()
    variance_y = _blur(y_PHW * y_PHW) - mean_y.square()
    covariance = _blur(x_PHW * y_PHW) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).sum(dim=(1, 2))


def check_pair(x_BCHW: Tensor, y_BCHW: Tensor) -> None:
    """Refuse pictures of different sizes or with values outside [0, 1]: both give a number, and it would be wrong."""
    if x_BCHW.shape != y_BCHW.shape or x_BCHW.ndim != 4:
        raise InputError(
            f"Two batches of pictures (B, C, H, W) of one size are compared, not {tuple(x_BCHW.shape)} and "
            f"{tuple(y_BCHW.shape)}; resize or crop one of them first."
        )
    for name, value in (("first", x_BCHW), ("second", y_BCHW)):
        low, high = float(value.min()), float(value.max())
        if low < -1e-4 or high > 1 + 1e-4:
            raise InputError(f"Pictures are compared with values in [0, 1], but the {name} ones span {low:.3g} to {high:.3g}.")


def _blur(x_PHW: Tensor) -> Tensor:
    """Gaussian mean of every whole window, (P, H - 10, W - 10): one axis after the other, as a sum of shifted copies
    (on CPUs several times as fast as a convolution with one kernel a channel)."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    kernel = torch.exp(-offsets.square() / (2 * SIGMA**2))
    weights = (kernel / kernel.sum()).tolist()
    for axis in (1, 2):
        length = x_PHW.shape[axis] - WINDOW + 1
        total = x_PHW.narrow(axis, WINDOW // 2, length) * weights[WINDOW // 2]
        for i in range(WINDOW // 2):  # the window is symmetric
            pair = x_PHW.narrow(axis, i, length) + x_PHW.narrow(axis, WINDOW - 1 - i, length)
            total.add_(pair, alpha=weights[i])
        x_PHW = total
    return x_PHW
