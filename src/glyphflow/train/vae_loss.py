"""The VAE's loss: reconstruction plus a perceptual distance, whose weight follows their gradients. There is no adversary.

loss = mean over pictures of  R + w P,  + kl x KL        w = balance x |dR/dW| / |dP/dW|, at most ``limit``

R is the mean absolute (or squared) error of the values in [-1, 1], P a distance of the pictures as they are shown, in [0, 1].
W is the kernel of the decoder's last convolution, which both terms act through, and |…| the Euclidean length. So with
``balance`` 1 the perceptual term pulls the last layer exactly as hard as reconstruction does, whatever units the two have and
however far the training is: a fixed weight that is right for blurred pictures is far too large for sharp ones. The default is
0.3, so that reconstruction leads. Weights of this kind are known from VQGAN (Esser et al. 2021), where they tame an adversary;
the report says that its ratio of the two terms changes during the decoder's fine-tuning, that this removes grids from
repetitive textures, and that an adversary no longer helps once reconstruction is good. It says no more, so norm, network and
rule are ours:

- **Absolute error** by default, because squared error prefers blur where a stroke may be here or there. Its gradient has the
  same length in every pixel, however small the error; what shrinks with training is how far pixels of a picture agree, which is
  what the gradient of a *shared* kernel measures and the gradient of the pixels themselves does not.
- **Each picture has a weight of its own**, from its own gradients. A batch's weight would depend on how the batch is cut into
  micro-batches and dealt to processes, and one page of text would decide for the photographs beside it.
- **The limit** (10 unless the recipe says otherwise) matters where the perceptual distance has hardly a gradient: on empty
  crops, where the quotient would blow up the noise of a distance that has nothing to compare.
- **The perceptual distance is passed in.** LPIPS where its weights are at hand (:mod:`glyphflow.evaluate.metrics.lpips`), else
  :func:`edge_distance`, which costs nothing and knows what a reader needs of a glyph: where its edges are.

The weight is not differentiated, so the loss that is reported is no function that is minimised: compare ``heldout_…`` numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glyphflow.evaluate.metrics.pixels import psnr
from glyphflow.feed.batches import PixelBatch
from glyphflow.models import VAE
from glyphflow.train.objectives import sample_generators
from glyphflow.train.recipe import VAEObjective

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""(B, 3, H, W) twice, values in [0, 1] -> distances (B,); differentiable in the first."""

EDGE_SCALES = 3
"""Gradients are compared at full, half and quarter resolution."""


def open_perceptual(objective: VAEObjective, device: torch.device) -> Perceptual:
    """The distance that the recipe names; MissingError where LPIPS is asked for and has no weights here."""
    if objective.perceptual == "edge":
        return edge_distance
    from glyphflow.evaluate.metrics.lpips import LPIPS, installed

    return LPIPS(*(objective.lpips or installed()), device).distance


def vae_loss(
    model: nn.Module,
    batch: PixelBatch,
    rng: torch.Generator,
    *,
    objective: VAEObjective,
    perceptual: Perceptual,
    frozen_encoder: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Encode, decode, compare; see the module.

    A learning encoder's posterior is sampled, each sample with noise of its own; KL (to N(0, 1), nats per latent element) only
    keeps the latents bounded and smooth. A frozen encoder gives its mode, which is what pictures are reconstructed from.
    Metrics: ``reconstruction`` (R), ``perceptual`` (P), ``balance`` (the mean w), ``psnr`` in dB, ``kl`` where there is one.
    """
    vae, pixels = cast(VAE, model), batch.pixels
    kl = torch.zeros((), device=pixels.device)
    if frozen_encoder:
        with torch.no_grad():
            z = vae.encode(pixels).mode()
    else:
        posterior = vae.encode(pixels)
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        noise = [torch.randn(mean.shape[1:], generator=g) for g in sample_generators(rng, batch.first, len(batch.ids))]
        z = mean + torch.stack(noise).to(mean.device) * torch.exp(0.5 * logvar)
        kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
    with _input_of(vae.decoder.conv_out) as seen:
        decoded = vae.decode(z).float()
    with torch.autocast(pixels.device.type, enabled=False):
        loss, metrics = _balanced(decoded, pixels.float(), seen[0].float(), objective, perceptual)
    if not frozen_encoder:
        metrics["kl"] = kl.detach()
    return loss + objective.kl * kl, metrics


def _balanced(
    decoded: Tensor, pixels: Tensor, features: Tensor, objective: VAEObjective, perceptual: Perceptual
) -> tuple[Tensor, dict[str, Tensor]]:
    """R + w P, meaned over the pictures. ``features`` (B, C, H, W) is what the last convolution makes ``decoded`` of.

    Both distances are differentiated once, down to the pixels; the loss that is returned has the joined gradient there.
    """
    x = decoded.detach().requires_grad_()
    error = (x - pixels).abs() if objective.reconstruction == "l1" else (x - pixels).square()
    reconstruction = error.flatten(1).mean(1)
    (pull,) = torch.autograd.grad(reconstruction.sum(), x)
    distance = weight = torch.zeros_like(reconstruction)
    if objective.balance:
        distance = perceptual(shown(x), shown(pixels))
        (push,) = torch.autograd.grad(distance.sum(), x)
        ratio = _last_layer(features, pull) / _last_layer(features, push).clamp_min(1e-12)
        weight = (objective.balance * ratio).clamp(max=objective.limit)
        pull = pull + weight.view(-1, 1, 1, 1) * push
    value = (reconstruction + weight * distance).mean().detach()
    linear = (decoded * pull).sum() / len(pixels)
    metrics = {
        "reconstruction": reconstruction.mean(),
        "perceptual": distance.mean(),
        "balance": weight.mean(),
        "psnr": psnr(shown(x.detach()), shown(pixels)).mean(),
    }
    return value + (linear - linear.detach()), {name: each.detach() for name, each in metrics.items()}


def _last_layer(features_BCHW: Tensor, gradient_B3HW: Tensor) -> Tensor:
    """Length of the gradient of a 3 x 3 kernel, for each picture alone, (B,): from its input and its output's gradient."""
    height, width = features_BCHW.shape[-2:]
    padded = F.pad(features_BCHW, (1, 1, 1, 1))
    squares = torch.zeros(len(features_BCHW), device=features_BCHW.device)
    for row in range(3):
        for column in range(3):
            shifted = padded[:, :, row : row + height, column : column + width]
            squares += torch.einsum("bchw,bkhw->bck", shifted, gradient_B3HW).square().sum((1, 2))
    return squares.sqrt()


def edge_distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of horizontal and vertical gradients, averaged over :data:`EDGE_SCALES` resolutions: (B,).

    Both inputs are (B, C, H, W); the distance has the unit of the values. Gradients are linear, so that of the difference is
    compared.
    """
    difference = found - wanted
    total = torch.zeros(len(found), device=found.device)
    for scale in range(EDGE_SCALES):
        if scale:
            difference = F.avg_pool2d(difference, 2)
        for axis in (-1, -2):
            total = total + difference.diff(dim=axis).abs().flatten(1).mean(1)
    return total / EDGE_SCALES


def shown(x: Tensor) -> Tensor:
    """Values in [-1, 1] -> [0, 1], clipped as pictures are."""
    return (x / 2 + 0.5).clamp(0.0, 1.0)


@contextlib.contextmanager
def _input_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What ``layer`` is given in here, without gradients."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    try:
        yield seen
    finally:
        handle.remove()
