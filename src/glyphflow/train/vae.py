"""What VAE runs look at: held-out reconstruction, preview sheets, and the latent statistics that close a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import nn

from glyphflow.evaluate.metrics import score_text
from glyphflow.evaluate.metrics.pixels import psnr, ssim
from glyphflow.feed.batches import PixelBatch
from glyphflow.feed.records import Picture
from glyphflow.models import VAE
from glyphflow.models.vae import tensor_to_images
from glyphflow.train.vae_loss import Perceptual, shown

Reader = Callable[[Sequence[Picture]], Sequence[str]]
"""Pictures (H, W, 3) -> what is written in each, an empty text where nothing is."""


class Reconstruction:
    """Held-out pictures, each a batch of its own: measured, read and drawn beside what the VAE makes of them.

    ``read`` reads the text of the first ``reading`` pictures, of the originals once.
    """

    def __init__(self, perceptual: Perceptual, read: Reader | None = None, reading: int = 0) -> None:
        self.pictures: Sequence[PixelBatch] = ()
        self._perceptual, self._read, self._reading = perceptual, read, reading
        self._texts: Sequence[str] | None = None

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Means over the pictures, of values in [0, 1] that were clipped as pictures are; nothing without pictures.

        ``heldout_loss``: mean absolute error; ``heldout_perceptual``: the distance of the objective; ``heldout_psnr`` in dB and
        ``heldout_ssim``; ``heldout_ocr``: how far the text that is read in the reconstructions agrees with what is read in the
        originals, 1 - edit distance / longer length over all characters, where text was found.
        """
        if not self.pictures:
            return {}
        sums, drawn = torch.zeros(4, dtype=torch.float64), []
        for number, picture in enumerate(self.pictures):
            found, wanted = (shown(x) for x in (reconstruct(cast(VAE, model), picture.pixels), picture.pixels))
            distance = self._perceptual(found, wanted)
            measures = ((found - wanted).abs().mean(), distance, psnr(found, wanted), ssim(found, wanted))
            sums += torch.tensor([float(value) for value in measures], dtype=torch.float64)
            if self._read and number < self._reading:
                drawn.append(np.asarray(tensor_to_images(found * 2 - 1)[0]))
        names = ("heldout_loss", "heldout_perceptual", "heldout_psnr", "heldout_ssim")
        means = dict(zip(names, (sums / len(self.pictures)).tolist(), strict=True))
        return means | self._agreement(drawn)

    def draw(self, model: nn.Module, count: int = 8) -> Image.Image:
        """A sheet with each of the first pictures beside its reconstruction."""
        pairs = [(p.pixels, reconstruct(cast(VAE, model), p.pixels)) for p in self.pictures[:count]]
        return contact_sheet([tensor_to_images(x)[0] for pair in pairs for x in pair], columns=4)

    def _agreement(self, drawn: Sequence[Picture]) -> dict[str, float]:
        if not self._read or not drawn:
            return {}
        if self._texts is None:
            self._texts = self._read([np.asarray(tensor_to_images(p.pixels)[0]) for p in self.pictures[: self._reading]])
        return ocr_agreement(self._texts, self._read(drawn))


def ocr_agreement(before: Sequence[str], after: Sequence[str]) -> dict[str, float]:
    """``heldout_ocr`` of readings before and after; nothing where nothing was read."""
    counts = [score_text([one], [other]).edit_similarity for one, other in zip(before, after, strict=True)]
    total = sum(count.total for count in counts)
    return {"heldout_ocr": sum(count.hits for count in counts) / total} if total else {}


def reconstruct(vae: VAE, pixels: torch.Tensor) -> torch.Tensor:
    """Pixels through the posterior's mode and back, float32."""
    decoded: torch.Tensor = vae.decode(vae.encode(pixels).mode())
    return decoded.float()


@torch.no_grad()
def latent_statistics(vae: VAE, batches: Iterable[PixelBatch]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each raw latent channel (posterior mode) over ``batches``.

    Written to the configuration as ``latents_mean`` and ``latents_std``, so that standardised latents have mean 0 and standard
    deviation 1 there.
    """
    count, total, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for batch in batches:
        latents = vae.encode(batch.pixels).mode().double().transpose(0, 1).flatten(1).cpu()
        count += latents.shape[1]
        total = total + latents.sum(1)
        squares = squares + latents.square().sum(1)
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(1e-12).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())


def contact_sheet(images: Sequence[Image.Image], columns: int, gap: int = 4) -> Image.Image:
    """Pictures in rows of ``columns`` on white; cells are as large as the largest picture."""
    width, height = max(i.width for i in images) + gap, max(i.height for i in images) + gap
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * width + gap, rows * height + gap), "white")
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        sheet.paste(image, (gap + column * width, gap + row * height))
    return sheet
