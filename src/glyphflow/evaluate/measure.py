"""Judging by arithmetic: the questions of kind "pixels", which need no model (but LPIPS's, when its files are given).

========== ============================================ ==============================================================
measure    files                                        value
========== ============================================ ==============================================================
similarity a picture, the true one; with ``resize`` the psnr (dB), ssim, lpips (when there is a network for it)
           first is brought to the second one's size
depth      predicted depth, measured depth, optionally  abs_rel, delta1 for the alignments "depth" and "disparity", and
           a mask of valid pixels (.npy)                the number of valid pixels
black      a picture                                    black: whether every pixel is (0, 0, 0)
outside    a picture, its source, a mask (white where    psnr (dB) of picture and source outside the mask; the picture
           the two may differ)                          is brought to the source's size
colours    a picture                                    ground, ink: names of the palette; ground_rgb, ink_rgb
========== ============================================ ==============================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from glyphflow.core.errors import InputError
from glyphflow.evaluate.case import Case, Verdict, failed
from glyphflow.evaluate.folder import load_picture
from glyphflow.evaluate.metrics import depth as maps
from glyphflow.evaluate.metrics.colours import COLOURS_IDENTITY, name_colours
from glyphflow.evaluate.metrics.lpips import LPIPS
from glyphflow.evaluate.metrics.pixels import OUTSIDE_IDENTITY, PSNR_IDENTITY, SSIM_IDENTITY, psnr, psnr_of, ssim
from glyphflow.evaluate.question import resize


class PixelJudge:
    """Answers questions of kind "pixels". Pictures of one size are measured together on ``device``."""

    kinds = frozenset({"pixels"})

    def __init__(self, lpips: LPIPS | None = None, device: torch.device | str = "cpu") -> None:
        self._lpips, self._device = lpips, torch.device(device)

    @property
    def identity(self) -> str:
        """Names the formulas and the network's files."""
        formulas = ["pixels/1", PSNR_IDENTITY, SSIM_IDENTITY, OUTSIDE_IDENTITY, COLOURS_IDENTITY]
        return " ".join([*formulas, *([self._lpips.identity] if self._lpips else [])])

    def __call__(self, cases: Sequence[Case]) -> list[Verdict]:
        """A verdict for each case; files that do not fit together are an "error" with its sentence."""
        verdicts: list[Verdict | None] = [None] * len(cases)
        pairs: dict[tuple[int, ...], list[tuple[int, Tensor, Tensor]]] = {}
        for place, case in enumerate(cases):
            try:
                files = [Path(name) for name in case.request["files"]]
                if case.request["measure"] == "similarity":
                    x, y = (load_picture(path) for path in files)
                    if case.request.get("resize"):
                        x = resize(x, y.shape[1], y.shape[0])
                    if x.shape != y.shape:
                        raise InputError(
                            f"{files[0]} is {x.shape[1]}x{x.shape[0]} pixels and {files[1]} is {y.shape[1]}x{y.shape[0]}; "
                            "pictures are compared at one size, resize one of them first."
                        )
                    pairs.setdefault(x.shape, []).append((place, self._tensor(x), self._tensor(y)))
                else:
                    verdicts[place] = Verdict("ok", self._alone(case, files), {}, self.identity)
            except InputError as error:
                verdicts[place] = failed(self.identity, "error", str(error))
        for members in pairs.values():
            self._similarity(members, verdicts)
        return [verdict for verdict in verdicts if verdict is not None]

    def _similarity(self, members: Sequence[tuple[int, Tensor, Tensor]], verdicts: list[Verdict | None]) -> None:
        x, y = torch.stack([one for _, one, _ in members]), torch.stack([other for _, _, other in members])
        try:
            values = {"psnr": psnr(x, y).tolist(), "ssim": ssim(x, y).tolist()}
            if self._lpips is not None:
                values["lpips"] = self._lpips(x, y).tolist()
        except InputError as error:
            for place, _, _ in members:
                verdicts[place] = failed(self.identity, "error", str(error))
            return
        for number, (place, _, _) in enumerate(members):
            verdicts[place] = Verdict("ok", {name: row[number] for name, row in values.items()}, {}, self.identity)

    def _alone(self, case: Case, files: Sequence[Path]) -> dict[str, Any]:
        if case.request["measure"] == "black":
            return {"black": not load_picture(files[0]).any()}
        if case.request["measure"] == "depth":
            return measure_depth(files, case.request)
        if case.request["measure"] == "colours":
            return name_colours(load_picture(files[0]))
        if case.request["measure"] == "outside":
            return self._outside(files)
        told = "there are similarity, depth, black, outside and colours"
        raise InputError(f"There is no measure {case.request['measure']!r}; {told}.")

    def _outside(self, files: Sequence[Path]) -> dict[str, Any]:
        picture, source, mask = (load_picture(path) for path in files)
        picture = resize(picture, source.shape[1], source.shape[0])
        where = torch.from_numpy(mask[..., 0] < 128).to(self._device)
        return {"psnr": float(psnr_of(self._tensor(picture)[None], self._tensor(source)[None], where[None]))}

    def _tensor(self, image: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(image.copy()).to(self._device).permute(2, 0, 1).double() / 255


def measure_depth(files: Sequence[Path], protocol: dict[str, Any] | Any) -> dict[str, Any]:
    """Depth scores of one picture under both alignments; ``protocol`` holds low, high, crop, kitti, unit, max_side.

    A picture of depth is brought to the measured map's size (bilinear): image models choose their own. An array must fit.
    """
    truth = torch.from_numpy(read_depth(files[1], float(protocol["unit"]), tuple(protocol["raw_shape"] or ())))
    prediction = torch.from_numpy(read_prediction(files[0]))
    if files[0].suffix != ".npy" and prediction.shape != truth.shape:
        prediction = F.interpolate(prediction[None, None], tuple(truth.shape), mode="bilinear", antialias=True)[0, 0]
    if protocol["kitti"]:
        truth = maps.kitti_crop(truth)
        prediction = prediction if prediction.shape == truth.shape else maps.kitti_crop(prediction)
    if prediction.shape != truth.shape:
        raise InputError(
            f"{files[0]} is {prediction.shape[1]}x{prediction.shape[0]} and {files[1]} is {truth.shape[1]}x{truth.shape[0]}; "
            "a prediction must have the size of the measured map."
        )
    low, high = float(protocol["low"]), float(protocol["high"]) if protocol["high"] is not None else float("inf")
    if len(files) > 2:
        mask = torch.from_numpy(np.load(files[2]).squeeze().astype(bool)) & (truth > 0)
    else:
        mask = (truth > low) & (truth < high)
    mask = mask & maps.crop_mask(protocol["crop"], *truth.shape)
    result: dict[str, Any] = {}
    for space in ("depth", "disparity"):
        aligned = maps.align(prediction, truth, mask, space=space, max_side=protocol["max_side"])
        score = maps.score_depth(aligned, truth, mask, low, high)
        result |= {f"abs_rel_{space}": score.abs_rel, f"delta1_{space}": score.delta1, "pixels": score.pixels}
    return result


def read_depth(path: Path, unit: float, raw_shape: Sequence[int] = ()) -> NDArray[np.float64]:
    """A measured map in metres, (H, W): .npy (metres), a 16-bit picture (times ``unit``), or, with ``raw_shape``, bare float32.

    Zero, negative and infinite values mean "not measured" and become 0.
    """
    try:
        if path.suffix == ".npy":
            found = np.load(path).squeeze().astype(np.float64)
        elif raw_shape:
            found = np.fromfile(path, dtype="<f4").reshape(raw_shape).astype(np.float64)
        else:
            found = _numbers(path) * unit
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a depth map that can be read ({error}).") from error
    if found.ndim != 2:
        raise InputError(f"{path} has the shape {found.shape}; a depth map has two axes.")
    return np.where(np.isfinite(found) & (found > 0), found, 0.0)


def read_prediction(path: Path) -> NDArray[np.float64]:
    """A predicted map, (H, W), up to scale and shift: an array (.npy), or a picture, of which the mean of RGB counts."""
    if path.suffix == ".npy":
        found = np.load(path).squeeze().astype(np.float64)
        if found.ndim != 2 or not np.isfinite(found).all():
            raise InputError(f"{path} must hold one finite number a pixel, not the shape {found.shape}.")
        return np.asarray(found)
    values = _numbers(path)
    return values if values.ndim == 2 else values.mean(axis=2)


def _numbers(path: Path) -> NDArray[np.float64]:
    """The numbers in the picture at ``path`` as stored, (H, W), or (H, W, 3) where they are colours; nothing is scaled."""
    from glyphflow.core.pictures import open_picture

    try:
        with open_picture(path) as image:
            return np.asarray(image if image.mode.startswith(("I", "F", "L")) else image.convert("RGB")).astype(np.float64)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} is not a picture that can be read ({error}).") from error
