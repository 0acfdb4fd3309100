"""How many bytes work takes beside weights: the real code, run on tensors that have a size and no memory.

Two layers of the network are built on PyTorch's meta device, the real loop or decoder is called, and every tensor that is born
and dies meanwhile is counted. So there is no formula that could fall behind the code, and the answer takes milliseconds for the
released sizes, too. What it cannot see: the workspaces that libraries take inside one operation.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from glyphflow.generate.speed import Speed
from glyphflow.models import NANO_MMDIT, NANO_VAE, VAE, MMDiT, MMDiTConfig, VAEConfig
from glyphflow.models.msrope import ImageShape

if TYPE_CHECKING:
    from glyphflow.generate.pipeline import Pipeline

_META = torch.device("meta")
_LAYERS = 2  # one that goes on and the last one, which has no use for its text


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors made inside the ``with``: ``now`` alive, and ``peak``, the most at any time.

    Views share their memory. Tensors from before do not count, nor do copies that a single operation makes inside itself.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {id(tensor.untyped_storage()) for tensor in _tensors((args, kwargs))}
        out = func(*args, **kwargs)
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            if id(storage) not in given and id(storage) not in self._alive:
                self._add(storage)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()

        def gone(_: Any) -> None:
            self.now -= size
            del self._alive[key]

        self._alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


class _FlashAttention(TorchFunctionMode):
    """Attention takes its output and one number per query: on the meta device PyTorch would write out the whole matrix."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        q, _, v = args[:3]
        batch, heads, queries, _ = q.shape
        out = torch.empty(batch, queries, heads, v.shape[-1], dtype=q.dtype, device=q.device).transpose(1, 2)
        torch.empty(batch, heads, queries, dtype=torch.float32, device=q.device)
        return out


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes alive at once in ``work``, which computes on the meta device; what it is given does not count."""
    with torch.inference_mode(), _FlashAttention(), LiveBytes() as live:
        work()
    peak: int = live.peak
    return peak


@dataclass(frozen=True)
class Work:
    """What the loop is asked for.

    ``batch`` pictures of the first of ``shapes`` (frames, height / 16, width / 16), the others being those of references;
    tokens of the longest ``positive`` and, when guided, ``negative`` prompt; ``steps`` of the schedule.
    """

    shapes: tuple[ImageShape, ...]
    batch: int
    positive: int
    negative: int | None
    steps: int


def table_bytes(config: MMDiTConfig, steps: int, dtype: torch.dtype, layers: int | None = None) -> int:
    """Bytes of the modulation table of a schedule: image rows (two with ``zero_cond_t``), text rows and the head's."""
    rows = 6 * (3 if config.zero_cond_t else 2) * (config.num_layers if layers is None else layers) + 2
    return steps * rows * config.width * dtype.itemsize


@functools.lru_cache(maxsize=64)
def sampling_bytes(config: MMDiTConfig, work: Work, dtype: torch.dtype) -> int:
    """Bytes that the loop takes beside weights and the modulation table: its inputs, and one step at its highest point."""
    from glyphflow.generate.denoise import Job, denoise
    from glyphflow.generate.inputs import Conditions

    pipeline = _weightless(config.model_copy(update={"num_layers": _LAYERS}), None, dtype)
    target, *references = [frames * height * width for frames, height, width in work.shapes]
    with _META:
        latents, others = (torch.empty(work.batch, n, config.in_channels, dtype=dtype) for n in (target, sum(references)))
        positive, negative = (
            [torch.empty(length or 0, config.joint_attention_dim, dtype=dtype) for _ in range(work.batch)]
            for length in (work.positive, work.negative)
        )
    guided = work.negative is not None
    job = Job(
        latents=latents,
        shapes=work.shapes,
        conditions=Conditions(positive, negative if guided else None),
        sigmas=torch.tensor([1.0, 0.5, 0.0]),
        scale=4.0 if guided else 1.0,
        references=others if references else None,
    )
    given = sum(tensor.nbytes for tensor in (latents, others, *positive, *negative))
    return given + peak_bytes(lambda: denoise(pipeline, job)) - table_bytes(config, 2, dtype, _LAYERS)


@functools.lru_cache(maxsize=64)
def decoding_bytes(config: VAEConfig, shape: tuple[int, int, int], dtype: torch.dtype, tile: int | None = None) -> int:
    """Bytes that decoding latents of ``shape`` (batch, h, w) takes beside weights, the latents and the pictures included.

    ``tile``: pixels of a tile's side, None for whole pictures.
    """
    batch, height, width = shape
    z = torch.empty(batch, config.z_dim, height, width, dtype=dtype, device=_META)
    pipeline = _weightless(None, config, dtype)
    pipeline.speed = Speed(vae_tile=tile)
    return z.nbytes + peak_bytes(lambda: pipeline.decode(z))


@functools.lru_cache(maxsize=64)
def encoding_bytes(config: VAEConfig, shape: tuple[int, int, int], dtype: torch.dtype, tile: int | None = None) -> int:
    """Bytes that encoding pictures of ``shape`` (batch, height, width) takes beside weights, the pictures included.

    ``tile`` as in :func:`decoding_bytes`.
    """
    batch, height, width = shape
    x = torch.empty(batch, config.input_channels, height, width, dtype=dtype, device=_META)
    pipeline = _weightless(None, config, dtype)
    pipeline.speed = Speed(vae_tile=tile)
    return x.nbytes + peak_bytes(lambda: pipeline.encode(x))


@functools.lru_cache(maxsize=8)
def _weightless(transformer: MMDiTConfig | None, vae: VAEConfig | None, dtype: torch.dtype) -> Pipeline:
    """A pipeline whose tensors have sizes and no memory; networks that are not asked for are small ones."""
    from glyphflow.flow import ScheduleConfig
    from glyphflow.generate.pipeline import Pipeline

    with _META:
        networks = MMDiT(transformer or NANO_MMDIT), VAE(vae or NANO_VAE)
    for network in networks:
        network.to(dtype).eval().requires_grad_(False)
    return Pipeline(*networks, None, ScheduleConfig(), device=_META)
