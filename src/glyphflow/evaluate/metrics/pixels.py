"""How near a picture is to another: PSNR and SSIM, batched, on the device that holds the pictures.

Public implementations differ in what they do not say. Here: values lie in [0, 1] (``data_range`` 1), all three colour
channels count alike, every picture has its own number (a benchmark averages those, and never pools the error of several
pictures), and SSIM uses the Gaussian window of its authors (11 x 11, sigma 1.5, K1 = 0.01, K2 = 0.03, population covariance)
only where it fits into the picture. Nothing is shrunk first: some packages halve pictures above 256 pixels and report the
SSIM of the copy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from glyphflow.core.errors import InputError

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03
PSNR_CAP = 100.0
"""dB that :func:`psnr` gives two equal pictures, whose true value is infinite and would take every average with it."""

PSNR_IDENTITY = "psnr/1 (RGB in [0, 1], one value a picture, equal pictures 100 dB)"
SSIM_IDENTITY = "ssim/1 (RGB in [0, 1], Gaussian 11 sigma 1.5, K 0.01 0.03, valid windows, mean over channels)"


def psnr(x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,) float64, of pictures with values in [0, 1]; at most :data:`PSNR_CAP`."""
    check_pair(x_BCHW, y_BCHW)
    error_B = (x_BCHW.double() - y_BCHW.double()).square().mean(dim=(1, 2, 3))
    return (-10.0 * error_B.clamp(min=10.0 ** (-PSNR_CAP / 10.0)).log10()).clamp(max=PSNR_CAP)


def ssim(x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
    """Structural similarity in [-1, 1], (B,) float64, of pictures with values in [0, 1] and sides of at least 11 pixels."""
    check_pair(x_BCHW, y_BCHW)
    if min(x_BCHW.shape[2:]) < WINDOW:
        raise InputError(f"SSIM needs sides of at least {WINDOW} pixels, not {x_BCHW.shape[3]}x{x_BCHW.shape[2]}.")
    x, y = x_BCHW.double(), y_BCHW.double()
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x.square()
    variance_y = _blur(y * y) - mean_y.square()
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


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


def _blur(x_BCHW: Tensor) -> Tensor:
    """Gaussian mean of every whole window, (B, C, H - 10, W - 10); the two axes one after the other."""
    offsets = torch.arange(WINDOW, dtype=x_BCHW.dtype, device=x_BCHW.device) - WINDOW // 2
    kernel = torch.exp(-offsets.square() / (2 * SIGMA**2))
    kernel = kernel / kernel.sum()
    channels = x_BCHW.shape[1]
    rows = F.conv2d(x_BCHW, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(rows, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
