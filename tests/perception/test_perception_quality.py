"""Full-size detail, blind quality and the hand-made aesthetics on ladders of known damage."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures_of_things import as_jpeg, blurred, noisy, photo
from PIL import Image
from tiny_encoders import siglip

from glyphflow.core.errors import InputError, MissingError
from glyphflow.perception import quality
from glyphflow.perception.aesthetics import Hand, Head, _linear_layers, by_hand
from glyphflow.perception.alignment import DualEncoder
from glyphflow.perception.detail import measure_detail

PHOTOS = ("astronaut", "chelsea", "camera")


def rises(values: list[float]) -> bool:
    return all(before < after for before, after in itertools.pairwise(values))


@pytest.mark.parametrize("name", PHOTOS)
def test_blockiness_rises_as_jpeg_quality_falls_wherever_the_grid_begins(name: str) -> None:
    ladder = [as_jpeg(photo(name), level) for level in (95, 80, 60, 40, 20, 10)]
    assert rises([measure_detail(image).blockiness for image in ladder])
    assert measure_detail(ladder[-2][3:, 5:]).blockiness == pytest.approx(measure_detail(ladder[-2]).blockiness, rel=0.1)
    assert measure_detail(photo(name)).blockiness < 0.3


@pytest.mark.parametrize("name", PHOTOS)
def test_sharpness_falls_with_blur_and_one_sharp_part_is_enough(name: str) -> None:
    sharp, soft = photo(name), blurred(photo(name), 4)
    ladder = [sharp, *(blurred(sharp, radius) for radius in (1, 2, 4))]
    assert rises([-measure_detail(image).sharpness for image in ladder])
    assert measure_detail(soft).sharp_share == 0
    portrait = soft.copy()
    height, width = portrait.shape[:2]
    portrait[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = sharp[
        height // 4 : 3 * height // 4, width // 4 : 3 * width // 4
    ]
    assert measure_detail(portrait).sharpness > 0.2 * measure_detail(sharp).sharpness


@pytest.mark.parametrize("deviation", [2.0, 5.0, 15.0])
def test_noise_is_the_deviation_of_the_grain(deviation: float) -> None:
    slope = np.linspace(60, 180, 512)[None, :, None] + np.zeros((384, 512, 3))
    assert measure_detail(noisy(slope.astype(np.uint8), deviation)).noise == pytest.approx(deviation, rel=0.08)


def test_clipped_light_is_counted() -> None:
    image = np.full((200, 400, 3), 128, np.uint8)
    image[:, :100] = 255
    image[:, 100:120] = 0
    found = measure_detail(image)
    assert (found.bright_clipped, found.dark_clipped) == (pytest.approx(0.25), pytest.approx(0.05))


def test_any_size_has_detail() -> None:
    for shape in ((1, 1), (5, 7), (3, 900), (127, 129)):
        values = dataclasses.astuple(measure_detail(np.zeros((*shape, 3), np.uint8)))
        assert all(math.isfinite(value) for value in values)


@pytest.mark.parametrize(
    ("exponent", "sample"),
    [(2.0, lambda rng: rng.normal(0, 1.7, 400_000)), (1.0, lambda rng: rng.laplace(0, 1.2, 400_000))],
)
def test_the_shape_of_known_distributions_is_found(exponent: float, sample) -> None:  # type: ignore[no-untyped-def]
    values = sample(np.random.default_rng(1)).astype(np.float32)
    shape, mean, left, right = quality._fit(values)
    assert shape == pytest.approx(exponent, rel=0.02)
    assert left == pytest.approx(values.std(), rel=0.01)
    assert right == pytest.approx(values.std(), rel=0.01)
    assert abs(mean) < 0.02


def test_a_lopsided_distribution_has_two_deviations() -> None:
    values = np.random.default_rng(2).normal(0, 1, 400_000).astype(np.float32)
    values[values > 0] *= 3
    _, mean, left, right = quality._fit(values)
    assert (left, right) == (pytest.approx(1, rel=0.01), pytest.approx(3, rel=0.01))
    assert mean > 1


@pytest.mark.parametrize("name", PHOTOS)
def test_unnaturalness_rises_with_every_kind_of_damage(name: str) -> None:
    natural = quality.Natural()

    def distance(image: np.ndarray) -> float:
        found = quality.features(image)
        assert found is not None
        return natural.distance(found)

    image = photo(name)
    assert 1 < distance(image) < 8
    assert rises([distance(image), *(distance(blurred(image, radius)) for radius in (1, 2))])
    assert rises([distance(image), *(distance(noisy(image, deviation)) for deviation in (10, 20, 40))])
    assert rises([distance(as_jpeg(image, level)) for level in (60, 20, 5)])
    small = Image.fromarray(image).resize((image.shape[1] // 4, image.shape[0] // 4))
    assert distance(np.asarray(small.resize((image.shape[1], image.shape[0])))) > 10


def test_pictures_without_statistics_have_no_quality() -> None:
    assert quality.features(np.full((200, 200, 3), 90, np.uint8)) is None
    assert quality.features(photo("coffee")[:31]) is None


def test_a_fit_gives_the_distance_of_its_own_gaussian() -> None:
    rng = np.random.default_rng(0)
    rows = np.exp(rng.normal(0, 0.3, (4000, 36)))
    told = quality.fit_natural(rows)
    distances = [quality.Natural(told).distance(row) for row in rows[:500]]
    assert np.mean(np.square(distances)) == pytest.approx(36, rel=0.1)  # of 36 numbers as far away as they are on average


def test_a_support_vector_regression_is_read_and_computed(tmp_path: Path) -> None:
    lines = ["svm_type epsilon_svr", "kernel_type rbf", "gamma 0.5", "nr_class 2", "total_sv 2", "rho -1.5", "SV",
             "2 1:1 3:-1", "-0.5 2:0.25"]  # fmt: skip
    (tmp_path / "svm.txt").write_text("\n".join(lines) + "\n")
    gamma, rho, weights, support = quality.read_regression(tmp_path / "svm.txt")
    assert (gamma, rho) == (0.5, -1.5)
    assert weights.tolist() == [2, -0.5]
    assert support.tolist() == [[1, 0, -1], [0, 0.25, 0]]
    (tmp_path / "svm.txt").write_text("svm_type c_svc\nkernel_type rbf\nSV\n")
    with pytest.raises(InputError, match="RBF"):
        quality.read_regression(tmp_path / "svm.txt")


def test_brisque_scores_as_its_package_says_or_tells_how_to_get_it() -> None:
    try:
        brisque = quality.Brisque()
    except MissingError as error:
        assert "pip install --no-deps brisque" in str(error)
        return
    # What the package's own code gave for these pictures (0.2.0, numpy 2.3).
    for name, told in (("astronaut", 10.7949), ("coffee", 3.0479)):
        found = quality.features(photo(name))
        assert found is not None
        assert brisque.score(found) == pytest.approx(told, abs=0.02)


def test_hand_measures_of_pictures_with_known_colour_and_light() -> None:
    gray = np.zeros((300, 400, 3), np.uint8)
    gray[:, 200:] = 200
    found = by_hand(gray)
    assert found.colourfulness == pytest.approx(0, abs=1e-5)
    assert found.contrast == pytest.approx(100 / 255, rel=1e-3)
    red_and_blue = np.zeros((300, 400, 3), np.uint8)
    red_and_blue[:, :200, 0] = red_and_blue[:, 200:, 2] = 255
    # Hasler and Suesstrunk: rg is 255 or 0, yb is 127.5 or -255.
    spread, away = math.hypot(127.5, 191.25), math.hypot(127.5, -63.75)
    assert by_hand(red_and_blue).colourfulness == pytest.approx(spread + 0.3 * away, rel=1e-4)


def test_composition_prefers_a_subject_at_a_crossing_to_one_in_a_corner() -> None:
    def with_subject(x: float, y: float) -> float:
        image = np.full((300, 300, 3), 120, np.uint8)
        top, left = round(300 * y) - 35, round(300 * x) - 35
        image[max(0, top) : top + 70, max(0, left) : left + 70] = (220, 30, 30)
        return by_hand(image).composition

    assert with_subject(1 / 3, 1 / 3) > 0.9
    assert with_subject(0.5, 0.5) > 0.9
    assert with_subject(0.06, 0.06) < 0.1
    assert by_hand(np.full((300, 300, 3), 120, np.uint8)).composition == 0


def test_the_hand_score_is_the_stated_formula() -> None:
    assert Hand(80, 0.25, 3, 1).score == pytest.approx(10)
    assert Hand(40, 0.5, 1.5, 0).score == pytest.approx(10 * (0.3 * 0.5 + 0.2 + 0.3 * 0.5))
    assert by_hand(photo("astronaut")).score > by_hand(blurred(photo("astronaut"), 6)).score


def test_a_learned_head_is_read_as_a_chain_of_linear_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    chain = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Dropout(0.2), torch.nn.Linear(4, 1)).eval()
    torch.save({f"layers.{name}": value for name, value in chain.state_dict().items()}, tmp_path / "head.pth")
    layers = _linear_layers(tmp_path / "head.pth")
    vectors = torch.randn(3, 8)
    expected, found = chain(vectors), vectors
    for weight, bias in layers:
        found = found @ weight.T + bias
    torch.testing.assert_close(found, expected)
    torch.save({"layers.0.weight": torch.zeros(4, 8), "layers.0.bias": torch.zeros(4)}, tmp_path / "head.pth")
    with pytest.raises(InputError, match="one number"):
        _linear_layers(tmp_path / "head.pth")
    (tmp_path / "head.pth").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        _linear_layers(tmp_path / "head.pth")


def test_a_head_scores_what_its_encoder_sees(tmp_path: Path) -> None:
    siglip(tmp_path / "encoder")
    encoder = DualEncoder(tmp_path / "encoder")
    torch.manual_seed(3)
    torch.save(torch.nn.Linear(32, 1).state_dict(), tmp_path / "head.pth")
    told = torch.load(tmp_path / "head.pth", weights_only=True)
    images = [photo("coffee"), photo("rocket")]
    expected = torch.from_numpy(encoder.pictures(images)) @ told["weight"][0] + told["bias"]
    head = Head(tmp_path / "head.pth", tmp_path / "encoder")
    assert head.scores([head.prepare(image) for image in images]) == pytest.approx(expected.tolist(), abs=1e-6)
    torch.save(torch.nn.Linear(768, 1).state_dict(), tmp_path / "large.pth")
    wrong = Head(tmp_path / "large.pth", tmp_path / "encoder")
    with pytest.raises(InputError, match="768 numbers, the encoder gives 32"):
        wrong.scores([wrong.prepare(images[0])])
