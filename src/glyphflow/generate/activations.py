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
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from glyphflow.models import VAE, MMDiT, MMDiTConfig, VAEConfig
from glyphflow.models.msrope import ImageShape

_META = torch.device("meta")
_LAYERS = 2  # one that goes on and the last one, which has no use for its text


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside the ``with``: ``now`` alive, and ``peak``, the most at any time.

    Views share their memory. Tensors from before do not count, nor do copies that a single operation makes inside itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {
            id(tensor.untyped_storage()): tensor for tensor in _tensors((args, kwargs))
        }  # kept: an id lives with its owner
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
    return live.peak


@dataclass(frozen=True)
class Work:
    """What the loop is asked for: ``batch`` pictures whose ``shapes`` (frames, height / 16, width / 16) are the picture's, then
    its references'; tokens of the longest positive and (guided) negative prompt; steps of the schedule; additional_t_cond."""

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
def sampling_bytes(config: MMDiTConfig, work: Work, dtype: torch.dtype, speed: Any = None) -> int:
    """Bytes that the loop takes beside weights and the modulation table: its inputs, and one step at its highest point."""
    from glyphflow.flow import ScheduleConfig
    from glyphflow.generate.denoise import Job, denoise
    from glyphflow.generate.inputs import Conditions
    from glyphflow.generate.pipeline import Pipeline

    with _META:
        transformer = MMDiT(config.model_copy(update={"num_layers": _LAYERS})).to(dtype).eval().requires_grad_(False)
        vae = VAE(VAEConfig(base_dim=8)).to(dtype).eval()
        options = {} if speed is None else {"speed": speed}
        pipeline = Pipeline(transformer, vae, None, ScheduleConfig(), device=_META, **options)
        target, *references = [f * h * w for f, h, w in work.shapes]
        tokens = [torch.empty(work.batch, n, config.in_channels, dtype=dtype) for n in (target, sum(references))]
        embeds = [
            None if length is None else [torch.empty(length, config.joint_attention_dim, dtype=dtype)] * work.batch
            for length in (work.positive, work.negative)
        ]
        job = Job(
            latents=tokens[0],
            shapes=work.shapes,
            conditions=Conditions(embeds[0] or [], embeds[1]),
            sigmas=torch.tensor([1.0, 0.5, 0.0], device="cpu"),
            scale=4.0 if work.negative is not None else 1.0,
            references=tokens[1] if references else None,
        )
    given = sum(t.nbytes for t in tokens) + sum(rows[0].nbytes * work.batch for rows in embeds if rows)
    return given + peak_bytes(lambda: denoise(pipeline, job)) - table_bytes(config, 2, dtype, _LAYERS)


@functools.lru_cache(maxsize=64)
def decoding_bytes(config: VAEConfig, shape: tuple[int, int, int], dtype: torch.dtype, tile: int | None = None) -> int:
    """Bytes that decoding latents of ``shape`` (batch, h, w) takes beside weights, the latents and the pictures included."""
    return _vae_bytes(config, (shape[0], config.z_dim, *shape[1:]), dtype, "decode", tile)


@functools.lru_cache(maxsize=64)
def encoding_bytes(config: VAEConfig, shape: tuple[int, int, int], dtype: torch.dtype, tile: int | None = None) -> int:
    """Bytes that encoding pictures of ``shape`` (batch, height, width) takes beside weights, the pictures included."""
    return _vae_bytes(config, (shape[0], config.input_channels, *shape[1:]), dtype, "encode", tile)


def _vae_bytes(config: VAEConfig, shape: tuple[int, ...], dtype: torch.dtype, method: str, tile: int | None) -> int:
    with _META:
        vae = VAE(config).to(dtype).eval().requires_grad_(False)
        x = torch.empty(shape, dtype=dtype)
    options = {} if tile is None else {"tile": tile}
    return x.nbytes + peak_bytes(lambda: getattr(vae, method)(x, **options))
