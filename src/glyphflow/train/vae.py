"""VAE runs: held-out reconstruction, preview sheets, and the latent statistics that close a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from PIL import Image
from torch import nn

from glyphflow.feed.pixels import PixelBatch
from glyphflow.models import VAE
from glyphflow.models.vae import tensor_to_images
from glyphflow.train.objectives import edge_loss, psnr


def heldout_reconstruction(pictures: Sequence[PixelBatch]) -> Callable[[nn.Module], dict[str, float]]:
    """Measure L1, gradient error and PSNR of whole pictures through the posterior's mode."""

    def measure(model: nn.Module) -> dict[str, float]:
        found = {"heldout_l1": 0.0, "heldout_edge": 0.0, "heldout_psnr": 0.0}
        for picture in pictures:
            decoded = reconstruct(cast(VAE, model), picture.pixels)
            found["heldout_l1"] += float((decoded - picture.pixels).abs().mean())
            found["heldout_edge"] += float(edge_loss(decoded, picture.pixels))
            found["heldout_psnr"] += float(psnr(decoded, picture.pixels))
        return {name: total / len(pictures) for name, total in found.items()}

    return measure


def preview_reconstruction(pictures: Sequence[PixelBatch]) -> Callable[[nn.Module], Image.Image]:
    """A sheet with each picture above its reconstruction."""

    def draw(model: nn.Module) -> Image.Image:
        pairs = [
            (tensor_to_images(p.pixels)[0], tensor_to_images(reconstruct(cast(VAE, model), p.pixels))[0]) for p in pictures
        ]
        return contact_sheet([image for pair in pairs for image in pair], columns=2)

    return draw


def reconstruct(vae: VAE, pixels: torch.Tensor) -> torch.Tensor:
    """Pixels through the posterior's mode and back, float32."""
    decoded: torch.Tensor = vae.decode(vae.encode(pixels).mode())
    return decoded.float()


@torch.no_grad()
def latent_statistics(vae: VAE, batches: Iterable[PixelBatch]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each raw latent channel (posterior mode) over ``batches``.

    Written to the configuration as ``latents_mean`` and ``latents_std``, so that standardised latents are about N(0, 1).
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
