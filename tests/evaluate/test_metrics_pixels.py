"""PSNR, SSIM, LPIPS and depth against independent code, and the ways to use them wrongly that must not give a number."""

from pathlib import Path

import numpy as np
import pytest
import torch

from glyphflow.core.errors import InputError
from glyphflow.evaluate.metrics.depth import align, crop_mask, fit, kitti_crop, score_depth
from glyphflow.evaluate.metrics.lpips import LPIPS
from glyphflow.evaluate.metrics.pixels import PSNR_CAP, psnr, ssim


def pictures(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", [(11, 11), (32, 48), (300, 260), (420, 900)])
def test_psnr_and_ssim_agree_with_skimage(size: tuple[int, int]) -> None:
    """Also above 256 pixels, where some packages shrink the pictures first, and where strips are put together."""
    metrics = pytest.importorskip("skimage.metrics")
    x = pictures(0, 2, 3, *size)
    y = (x + 0.1 * pictures(1, 2, 3, *size)).clamp(0, 1)
    for number in range(2):
        a, b = (t[number].permute(1, 2, 0).numpy() for t in (x, y))
        assert float(psnr(x, y)[number]) == pytest.approx(metrics.peak_signal_noise_ratio(a, b, data_range=1), abs=1e-9)
        wanted = metrics.structural_similarity(
            a, b, data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert float(ssim(x, y)[number]) == pytest.approx(wanted, abs=1e-9)


def test_psnr_by_hand() -> None:
    """A constant difference of 0.1 is an error of 0.01, which is 20 dB; each picture has its own value."""
    x = torch.zeros(2, 3, 4, 4)
    y = torch.stack([torch.full((3, 4, 4), 0.1), torch.zeros(3, 4, 4)])
    assert psnr(x, y).tolist() == pytest.approx([20.0, PSNR_CAP], abs=1e-5)


def test_ssim_by_hand() -> None:
    """Flat pictures of 0.5 and 0.25: structure is 1, luminance (2ab + C1) / (a² + b² + C1)."""
    x, y = torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 16, 16), 0.25)
    assert float(ssim(x, y)) == pytest.approx((2 * 0.125 + 1e-4) / (0.25 + 0.0625 + 1e-4), abs=1e-9)
    assert float(ssim(x, x)) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 17), "one size"),
        (torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), 255.0), r"in \[0, 1\].*255"),
        (torch.full((1, 3, 16, 16), -1.0), torch.zeros(1, 3, 16, 16), r"in \[0, 1\]"),
        (torch.zeros(3, 16, 16), torch.zeros(3, 16, 16), "batches"),
    ],
)
def test_wrong_sizes_and_ranges_are_errors(x: torch.Tensor, y: torch.Tensor, message: str) -> None:
    for metric in (psnr, ssim):
        with pytest.raises(InputError, match=message):
            metric(x, y)


def test_ssim_needs_a_whole_window() -> None:
    with pytest.raises(InputError, match="at least 11"):
        ssim(torch.zeros(1, 3, 10, 16), torch.zeros(1, 3, 10, 16))


CHANNELS = (64, 192, 384, 256, 256)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """AlexNet's shapes with seeded weights, heads that are not negative, as the authors' are."""
    folder, generator = tmp_path_factory.mktemp("lpips"), torch.Generator().manual_seed(5)
    kernels = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    trunk = {}
    for index, (out, into, side) in kernels.items():
        trunk[f"features.{index}.weight"] = torch.randn(out, into, side, side, generator=generator) / (into * side**2) ** 0.5
        trunk[f"features.{index}.bias"] = 0.1 * torch.randn(out, generator=generator)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1, generator=generator) for i, c in enumerate(CHANNELS)}
    torch.save(trunk, folder / "trunk.pth")
    torch.save(heads, folder / "heads.pth")
    return folder / "trunk.pth", folder / "heads.pth"


def test_lpips_against_the_definition(network: tuple[Path, Path]) -> None:
    """Against torch.nn layers put together as the paper has them, with the rescaling to [-1, 1] outside."""
    nn = torch.nn
    trunk, heads = torch.load(network[0]), torch.load(network[1])
    layers = [
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(), nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(),
    ]  # fmt: skip
    alexnet = nn.Sequential(*layers)
    alexnet.load_state_dict({name.removeprefix("features."): value for name, value in trunk.items()})
    x, y = pictures(2, 2, 3, 64, 80).float(), pictures(3, 2, 3, 64, 80).float()
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    wanted, a, b = torch.zeros(2), *((2 * t - 1 - shift[:, None, None]) / scale[:, None, None] for t in (x, y))
    taps = {1: 0, 4: 1, 7: 2, 9: 3, 11: 4}
    with torch.no_grad():
        for number, layer in enumerate(alexnet):
            a, b = layer(a), layer(b)
            if number in taps:
                unit_a, unit_b = (t / (t.norm(dim=1, keepdim=True) + 1e-10) for t in (a, b))
                head = heads[f"lin{taps[number]}.model.1.weight"]
                wanted += ((unit_a - unit_b) ** 2 * head).sum(1).mean((1, 2))
    lpips = LPIPS(*network)
    assert torch.allclose(lpips(x, y), wanted, rtol=1e-5)
    assert torch.allclose(lpips(x, y), lpips(y, x), rtol=1e-5) and lpips(x, x).abs().max() == 0
    near = (x + 0.02 * (y - x)).clamp(0, 1)
    assert (lpips(x, near) < lpips(x, y)).all()
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        lpips(2 * x - 1, 2 * y - 1)


def test_lpips_names_its_files_and_refuses_others(network: tuple[Path, Path], tmp_path: Path) -> None:
    assert LPIPS(*network).identity.startswith("lpips/0.1 alex trunk-")
    with pytest.raises(InputError, match=r"has no features\.0\.weight"):
        LPIPS(network[1], network[0])
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(InputError, match="can be read"):
        LPIPS(tmp_path / "broken.pth", network[1])


def test_alignment_recovers_scale_and_shift() -> None:
    """A prediction that is the truth in other units scores perfectly, in depth and in disparity, also upside down."""
    truth = 1 + 5 * pictures(4, 24, 32)
    mask = truth > 2
    assert fit(2 * truth + 7, truth, mask) == pytest.approx((0.5, -3.5), abs=1e-9)
    for prediction, space in ((2 * truth + 7, "depth"), (-3 * truth + 100, "depth"), (4 / truth + 0.5, "disparity")):
        aligned = align(prediction, truth, mask, space=space)
        score = score_depth(aligned, truth, mask, 1e-3, 10)
        assert score.abs_rel < 1e-9 and score.delta1 == 1.0 and score.pixels == int(mask.sum())


def test_alignment_agrees_with_numpy_and_with_the_smaller_copy() -> None:
    truth, prediction = 1 + pictures(5, 64, 48), pictures(6, 64, 48)
    mask = pictures(7, 64, 48) > 0.3
    table = np.stack([prediction[mask].numpy(), np.ones(int(mask.sum()))], axis=1)
    wanted = np.linalg.lstsq(table, truth[mask].numpy(), rcond=None)[0]
    assert fit(prediction, truth, mask) == pytest.approx(tuple(wanted), abs=1e-9)
    exact = 3 * truth - 1
    assert torch.allclose(align(exact, truth, mask, max_side=32), truth, atol=1e-9)


def test_depth_scores_by_hand() -> None:
    """Errors 0, 0.2, 0.5 and one pixel outside the mask; 1.25 is not below 1.25; the range cuts 50 down to 10."""
    truth = torch.tensor([[1.0, 5.0, 2.0, 4.0], [8.0, 1.0, 1.0, 1.0]])
    aligned = torch.tensor([[1.0, 4.0, 3.0, 99.0], [50.0, 1.0, 1.0, -3.0]])
    mask = torch.tensor([[True, True, True, False], [True, False, False, True]])
    score = score_depth(aligned, truth, mask, 1e-3, 10)
    assert score.abs_rel == pytest.approx((0 + 0.2 + 0.5 + 0.25 + (1 - 1e-3)) / 5)
    assert score.delta1 == pytest.approx(1 / 5)  # 5/4 and 10/8 are exactly 1.25


def test_windows_are_those_of_the_protocol() -> None:
    assert crop_mask("none", 4, 5).all()
    nyu = crop_mask("nyu", 480, 640)
    assert nyu.sum() == (471 - 45) * (601 - 41) and nyu[45, 41] and not nyu[44, 41] and not nyu[471, 41]
    eigen, garg = crop_mask("eigen", 352, 1216), crop_mask("garg", 352, 1216)
    assert eigen.nonzero()[0].tolist() == [117, 43] and eigen.nonzero()[-1].tolist() == [320, 1171]
    assert garg.nonzero()[0].tolist() == [143, 43] and garg.nonzero()[-1].tolist() == [348, 1171]
    x = torch.arange(375 * 1242.0).view(375, 1242)
    assert torch.equal(kitti_crop(x), x[23:, 13:1229])
    with pytest.raises(InputError, match="640x480"):
        crop_mask("nyu", 240, 320)
    with pytest.raises(InputError, match="1216x352"):
        kitti_crop(torch.zeros(300, 1216))


def test_flat_and_empty_maps() -> None:
    truth = 1 + pictures(8, 4, 4)
    assert fit(torch.full((4, 4), 3.0), truth, truth > 0) == (0.0, pytest.approx(float(truth.mean())))
    with pytest.raises(InputError, match="cannot be aligned"):
        fit(truth, truth, torch.zeros(4, 4, dtype=torch.bool))
