"""Training on a card that does not hold the weights: blocks and modulations wait in main memory and pass through.

    with LowMemory(model, device, offload=40, modulation="host") as low: ...

**Blocks.** Each block off the card is copied there ahead of its call, forwards, and once more ahead of its backward pass, which
computes the block again from its input: so a block's activations live only while its weights are there. Two buffers and a CUDA
stream of their own let the copies run beside the computation.

**Trained blocks** (:meth:`LowMemory.fuse`): each parameter is updated as soon as its gradient is complete, and the gradient is
freed; a changed block goes back to main memory. No more than one block's gradients exist at any time. The norm of the whole
gradient is known only at the end, when all is applied: it is measured, and nothing is clipped by it.

**Frozen modulations.** A third of the released weights computes one row per sample and block from its sigma. Sigmas of training
are drawn anew for every sample, so a table over a grid of sigmas would be another model; here the weights pass through the card
once in each forward pass, ahead of their blocks, and the backward pass has no use for them: it keeps the rows. The results are
those of weights that stay, to the bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from glyphflow.core.errors import ConfigError
from glyphflow.generate.placement import spread
from glyphflow.generate.streaming import Buffers, Stream, Weights
from glyphflow.models import MMDiT
from glyphflow.models.attention import Layout
from glyphflow.models.block import Block
from glyphflow.models.lora import Branches
from glyphflow.train.lean import LeanOptimizer
from glyphflow.train.lora import inject_lora
from glyphflow.train.recipe import RunConfig

Place = Literal["card", "host"]
Rows = tuple[Tensor, Tensor]


class LowMemory:
    """Lays ``model``, whose weights are in main memory, out for training on ``device``; undone by :meth:`close`.

    ``offload`` of the blocks stay in main memory, evenly spread between those that move to the device; ``modulation`` says
    where frozen weights that only compute modulations live. Of the blocks on the device each ``every``-th is computed again in
    the backward pass (0: none, 1: all); those off it always are. Adapters (:func:`glyphflow.train.lora.inject_lora`, called
    before this) are on the device whatever happens to the weights they change.

    The layers around the blocks, 0.2 % of the weights, are kept in float32 whatever the blocks are: the timestep is rounded as
    they are, and in bfloat16 that alone moves gradients by 8 %, where blocks of bfloat16 move them by 1.5 % (a test).

    On the CPU the same is done with real copies, so that it can be watched and counted where there is no card.
    """

    def __init__(
        self, model: MMDiT, device: torch.device, *, offload: int = 0, modulation: Place = "card", every: int = 1
    ) -> None:
        blocks = [cast(Block, block) for block in model.transformer_blocks]
        if offload > len(blocks):
            raise ConfigError(f"train.offload is {offload} and the model has {len(blocks)} blocks; make it at most that.")
        self._blocks, self.device, self._optimizer = blocks, device, cast(LeanOptimizer | None, None)
        self.offloaded = tuple(sorted(spread(len(blocks))[len(blocks) - offload :]))
        rows = [part for block in blocks for part in (block.img_mod, block.txt_mod)]
        self._frozen_rows = not any(p.requires_grad for part in (model.time_text_embed, *rows) for p in part.parameters())
        if modulation == "host" and not self._frozen_rows:
            raise ConfigError(
                "train.modulation is host and the modulations are trained; leave it at card, or do not train them."
            )
        for name, part in model.named_children():
            if name != "transformer_blocks":
                part.float()
        passing = rows if modulation == "host" else []
        adapters = [part for part in model.modules() if isinstance(part, Branches)]
        away = [blocks[index] for index in self.offloaded]
        _move(Weights([model], apart=[*away, *passing]), device)
        _move(Weights(adapters), device)
        self._trained = any(p.requires_grad for w in (Weights([b], apart=adapters) for b in away) for _, _, p in w.slots)
        self._weights = [Weights([block], apart=[*passing, *adapters]) for block in away]
        if device.type == "cuda":
            for weights in self._weights:
                _pin(weights)
        self._stream = Stream(passing, device) if passing else None
        self._buffers: Buffers | None = None
        self._copied = 0
        self._squares = torch.zeros((), device=device)
        self._before: list[Any] = []
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._hooks.append(model.register_state_dict_pre_hook(lambda *_: self.settle()))  # type: ignore[no-untyped-call]
        for index, block in enumerate(blocks):
            number = self.offloaded.index(index) if index in self.offloaded else None
            again = every > 0 and index % every == every - 1
            self._before.append(block.__dict__.get("forward"))
            block.forward = _Pass(self, block, block.forward, number, again)  # type: ignore[method-assign]

    def fuse(self, optimizer: LeanOptimizer) -> None:
        """From now on the backward pass updates every parameter of ``optimizer`` itself and leaves no gradient."""
        self._optimizer = optimizer
        away = {id(p) for weights in self._weights for _, _, p in weights.slots}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in away:
                    self._hooks.append(parameter.register_post_accumulate_grad_hook(self._update))

    def norm(self) -> float:
        """Norm of all gradients that were applied since the last call; call it once a step, when all of them are."""
        self.settle()
        norm = float(self._squares.sqrt())
        self._squares.zero_()
        return norm

    @property
    def copied(self) -> int:
        """Bytes of weights that have been copied to the device and back so far."""
        return self._copied + (0 if self._stream is None else self._stream.copied)

    @property
    def frozen_rows(self) -> bool:
        """Whether modulations are not trained, so that a block may be given its rows."""
        return self._frozen_rows

    def settle(self) -> None:
        """Wait until weights on their way back have arrived in main memory."""
        if self._buffers is not None:
            self._buffers.settle()

    def close(self) -> None:
        """Let the model be as it was, but for what moved to the device."""
        for block, before in zip(self._blocks, self._before, strict=True):
            block.__dict__.pop("forward", None)
            if before is not None:
                block.forward = before  # type: ignore[method-assign]
        for hook in self._hooks:
            hook.remove()
        if self._stream is not None:
            self._stream.close()
        if self._buffers is not None:
            self._buffers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def lent(self, number: int, then: int) -> Iterator[list[Tensor]]:
        """The offloaded block ``number`` on the device, and the copy of ``then`` begun; trained ones come back changed."""
        with torch.no_grad():
            if self._buffers is None:
                self._buffers = Buffers(self._weights, self.device)
            self._copied += self._buffers.fetch(number)
            copies = self._buffers.attach(number)
            for copy, (_, _, own) in zip(copies, self._weights[number].slots, strict=True):
                copy.requires_grad_(own.requires_grad)
            if 0 <= then < len(self._weights):
                self._copied += self._buffers.fetch(then)
        try:
            yield copies
        finally:
            self._buffers.detach(number)

    def apply(self, number: int, copies: list[Tensor]) -> None:
        """Update the block ``number`` by the gradients of its ``copies``, and send it home."""
        if not self._trained:
            return
        if self._optimizer is None:
            raise ConfigError("Blocks off the card are trained, which needs adamw8bit or adafactor and weights of bfloat16.")
        for (_, _, own), copy in zip(self._weights[number].slots, copies, strict=True):
            if copy.grad is not None:
                self._update(copy, own)
        with torch.no_grad():
            assert self._buffers is not None
            self._copied += self._buffers.return_changed(number)

    @torch.no_grad()
    def _update(self, weight: Tensor, own: Tensor | None = None) -> None:
        """Apply and free the gradient of ``weight``, a copy of ``own`` or itself the parameter."""
        assert self._optimizer is not None and weight.grad is not None
        self._squares += weight.grad.float().square().sum()
        self._optimizer.update(weight if own is None else own, weight, weight.grad)
        weight.grad = None


class _Pass:
    """What a block does when it is called in training on a small card."""

    def __init__(
        self, low: LowMemory, block: Block, forward: Callable[..., tuple[Tensor, Tensor]], number: int | None, again: bool
    ) -> None:
        self.low, self.block, self.forward, self.number, self.again = low, block, forward, number, again
        # Something that asks for a gradient, since the first block's inputs do not when nothing before it is trained.
        self.asks = torch.zeros((), requires_grad=True)
        self.dtype = block.attn.norm_q.weight.dtype

    def __call__(
        self,
        image: Tensor,
        text: Tensor,
        time: Tensor | None,
        layout: Layout,
        segments: tuple[int, ...],
        rows: Rows | None = None,
        target: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        with self.precision():
            if rows is None and self.low.frozen_rows:
                with torch.no_grad():
                    rows, time = self.block.modulation_rows(cast(Tensor, time).to(self.dtype)), None
            static = (layout, segments, target)
            inputs = [None if t is None else t.to(self.dtype) for t in (image, text, time, *(rows or (None, None)))]
            out: tuple[Tensor, Tensor]
            if self.number is not None:
                out = _Lent.apply(self, static, self.asks, *inputs)  # type: ignore[no-untyped-call]
            elif self.again and torch.is_grad_enabled():
                out = checkpoint(self.run, static, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                out = self.run(static, *inputs)
        return out

    def precision(self) -> contextlib.AbstractContextManager[object]:
        """Weights in half precision compute in it, as released models are run: autocast would keep norms in float32.

        Around float32 weights autocast stays as it is, but for its memory of what it cast: weights in buffers change.
        """
        kind = self.low.device.type
        if kind == "meta":
            return contextlib.nullcontext()
        enabled = torch.is_autocast_enabled(kind) and self.dtype == torch.float32
        return torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), enabled=enabled, cache_enabled=False)

    def run(
        self,
        static: tuple[Any, ...],
        image: Tensor | None,
        text: Tensor | None,
        time: Tensor | None,
        image_rows: Tensor | None,
        text_rows: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The block itself."""
        layout, segments, target = static
        rows = None if image_rows is None or text_rows is None else (image_rows, text_rows)
        return self.forward(image, text, time, layout, segments, rows, target)


class _Lent(torch.autograd.Function):
    """A block whose weights are there only while it computes, in both directions."""

    @staticmethod
    def forward(ctx: Any, at: _Pass, static: tuple[Any, ...], asks: Tensor, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        ctx.at, ctx.static = at, static
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        ctx.precision = at.precision()
        assert at.number is not None
        with at.low.lent(at.number, at.number + 1), torch.no_grad():
            return at.run(static, *inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        at: _Pass = ctx.at
        assert at.number is not None
        inputs = [
            None if t is None else t.detach().requires_grad_(needed)
            for t, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[3:], strict=True)
        ]
        with at.low.lent(at.number, at.number - 1) as copies:
            with torch.enable_grad(), ctx.precision:
                outs = at.run(ctx.static, *inputs)
            pairs = [(o, g) for o, g in zip(outs, grads, strict=True) if g is not None and o.requires_grad]
            torch.autograd.backward([o for o, _ in pairs], [g for _, g in pairs])
            at.low.apply(at.number, copies)
        return None, None, None, *(None if t is None else t.grad for t in inputs)


@torch.no_grad()
def _move(weights: Weights, device: torch.device) -> None:
    """Bring the weights themselves to ``device``; parameters stay the objects that they are."""
    for table, name, tensor in weights.slots:
        if isinstance(tensor, nn.Parameter):
            tensor.data = tensor.data.to(device)
        else:
            table[name] = tensor.to(device)


def _pin(weights: Weights) -> None:
    """Move the weights into one piece of page-locked memory; parameters stay the objects that they are."""
    copies = weights.copy_to(torch.empty(weights.nbytes, dtype=torch.uint8, pin_memory=True))
    for (_, _, tensor), copy in zip(weights.slots, copies, strict=True):
        tensor.data = copy.data


class Opened(NamedTuple):
    """A model laid out on a small card: what is called, the module whose parameters are trained, and the layout."""

    model: MMDiT
    trained: nn.Module
    low: LowMemory


def needs_low_memory(settings: RunConfig) -> bool:
    """Whether ``settings`` ask for anything of this module."""
    low = settings.base is not None or settings.offload > 0 or settings.modulation == "host"
    return low or settings.weights == "bfloat16"


def open_low_memory(transformer: Path, device: torch.device, settings: RunConfig, seed: int) -> Opened:
    """Read the released directory ``transformer`` and lay it out as ``settings`` say, for one process.

    With ``settings.lora`` everything else is frozen, and the adapter's start comes from ``seed``; without, all weights are
    trained, as bfloat16, and the caller gives their optimizer to :meth:`LowMemory.fuse`. Raises ConfigError for settings
    that contradict each other.
    """
    _check(settings)
    dtype = settings.computed_in(device)
    model = MMDiT.from_pretrained(transformer, dtype, quantize=settings.base)
    trained = inject_lora(model, settings.lora, seed) if settings.lora else model.requires_grad_(True)
    words: dict[str | int, int] = {"none": 0, "full": 1}
    every = words.get(settings.parallel.checkpointing, settings.parallel.checkpointing)
    low = LowMemory(model, device, offload=settings.offload, modulation=settings.modulation, every=int(every))
    return Opened(model, trained, low)


def _check(settings: RunConfig) -> None:
    if settings.lora:
        if settings.weights == "bfloat16":
            raise ConfigError("train.weights is bfloat16 and an adapter is trained, which stays float32; leave weights out.")
        return
    if settings.base is not None:
        raise ConfigError(
            f"train.base is {settings.base} and all weights are trained, which integers cannot be; add lora, or drop base."
        )
    if settings.weights != "bfloat16" or settings.compute_dtype == "float32" or settings.optimizer == "adamw":
        raise ConfigError(
            "Training all weights on a card that does not hold them needs train.weights and train.compute_dtype bfloat16 and "
            "the optimizer adamw8bit or adafactor, and they are "
            f"{settings.weights}, {settings.compute_dtype or 'left open'} and {settings.optimizer}."
        )
    if settings.accumulate > 1 or settings.micro_batch or settings.micro_tokens:
        raise ConfigError(
            "Gradients that are applied in the backward pass cannot add up over several; leave train.accumulate, micro_batch "
            "and micro_tokens out, and make the feed's batches smaller."
        )
