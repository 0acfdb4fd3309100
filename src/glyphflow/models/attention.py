"""Joint attention of the text and image streams, with the RMS norm of queries and keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glyphflow.models.kernels import EAGER, Kernels, cpu_autocast, rms_norm
from glyphflow.models.msrope import ImageShape, rotation_table

SHORT = 640
"""Up to so many tokens a sequence is short: beyond, the weights that :class:`ShortAttention` keeps outgrow its inputs."""


class RMSNorm(nn.Module):
    """:func:`glyphflow.models.kernels.rms_norm` with its weight."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


@dataclass(frozen=True)
class Layout:
    """How the text and image tokens of a batch meet in attention: [text, image] of each sample, and nothing of another's.

    ``lengths`` is None for text (B, L, D); else the texts of the B samples, of these lengths, stand one behind the other in
    one row (1, L_0 + L_1 + ..., D), which needs neither padding nor a mask. ``text_rotation`` and ``image_rotation`` turn the
    tokens as they stand; ``key_mask`` (B, 1, 1, L + N) is false for keys that nothing may attend to, None when there are none.
    """

    text_rotation: Tensor
    image_rotation: Tensor
    key_mask: Tensor | None
    lengths: tuple[int, ...] | None

    @classmethod
    def of(
        cls,
        shapes: tuple[ImageShape, ...],
        text: int | tuple[int, ...],
        axes_dims: tuple[int, ...],
        device: torch.device,
        text_mask: Tensor | None = None,
        layered: bool = False,
    ) -> Layout:
        """The layout of images of ``shapes`` beside ``text``: the L of a (B, L, D) tensor, or the lengths of ragged texts."""
        longest = text if isinstance(text, int) else max(text)
        table = rotation_table(shapes, longest, axes_dims, device, layered)
        turns, image = table[:longest], table[longest:]
        key_mask = None if text_mask is None else joint_key_mask(text_mask, len(image))
        if isinstance(text, int):
            return cls(turns, image, key_mask, None)
        return cls(torch.cat([turns[:length] for length in text]), image, key_mask, text)

    def join(self, text: Tensor, image: Tensor) -> list[Tensor]:
        """The joint sequences (B, L + N, ...), or one (1, L_i + N, ...) for each sample."""
        if self.lengths is None:
            return [torch.cat([text, image], dim=1)]
        texts = torch.split(text, list(self.lengths), dim=1)
        return [torch.cat([one, image[i : i + 1]], dim=1) for i, one in enumerate(texts)]

    def part(self, joint: list[Tensor], text_length: int) -> tuple[Tensor, Tensor]:
        """Inverse of :meth:`join`; both contiguous, since a strided input makes a linear round its product before the bias."""
        if self.lengths is None:
            (whole,) = joint
            return whole[:, :text_length].contiguous(), whole[:, text_length:].contiguous()
        texts = [one[:, :length] for one, length in zip(joint, self.lengths, strict=True)]
        images = [one[:, length:] for one, length in zip(joint, self.lengths, strict=True)]
        return torch.cat(texts, dim=1), torch.cat(images)


class JointAttention(nn.Module):
    """Attention over the sequence [text, image]; each stream has its own projections.

    ``to_*`` and ``norm_q`` / ``norm_k`` belong to the image, ``add_*`` / ``to_add_out`` / ``norm_added_*`` to the text.
    """

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.kernels: Kernels = EAGER
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.norm_q, self.norm_k, self.norm_added_q, self.norm_added_k = (RMSNorm(head_dim) for _ in range(4))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.to_add_out = nn.Linear(dim, dim)

    def forward(self, image_BND: Tensor, text_BLD: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Image (B, N, D) and text (B, L, D) -> the same, attended."""
        q = layout.join(
            self._turned(self.add_q_proj(text_BLD), self.norm_added_q, layout.text_rotation),
            self._turned(self.to_q(image_BND), self.norm_q, layout.image_rotation),
        )
        text, image = layout.part(self._attend(q, image_BND, text_BLD, layout), text_BLD.shape[1])
        return self.to_out[0](image), self.to_add_out(text)

    def image_only(self, image_BND: Tensor, text_BLD: Tensor, layout: Layout, target: int) -> Tensor:
        """What :meth:`forward` gives the first ``target`` image tokens: (B, target, D), the only ones that ask."""
        asking_BND = image_BND[:, :target].contiguous()
        q_BNHd = self._turned(self.to_q(asking_BND), self.norm_q, layout.image_rotation[:target])
        q = [q_BNHd] if layout.lengths is None else list(torch.split(q_BNHd, 1))
        out: Tensor = self.to_out[0](torch.cat(self._attend(q, image_BND, text_BLD, layout)))
        return out

    def _attend(self, q: list[Tensor], image: Tensor, text: Tensor, layout: Layout) -> list[Tensor]:
        k = layout.join(
            self._turned(self.add_k_proj(text), self.norm_added_k, layout.text_rotation),
            self._turned(self.to_k(image), self.norm_k, layout.image_rotation),
        )
        v = layout.join(self._heads(self.add_v_proj(text)), self._heads(self.to_v(image)))
        return self._meet(q, k, v, layout)

    def _meet(self, q: list[Tensor], k: list[Tensor], v: list[Tensor], layout: Layout) -> list[Tensor]:
        """Each joint sequence's (B, S, H, d) -> (B, queries, H * d); the only place where tokens see each other."""
        return [attend(*qkv, layout.key_mask).flatten(2) for qkv in zip(q, k, v, strict=True)]

    def _turned(self, x_BSD: Tensor, norm: RMSNorm, rotation: Tensor) -> Tensor:
        return self.kernels.norm_rotate(self._heads(x_BSD), norm.weight, norm.eps, rotation)

    def _heads(self, x_BSD: Tensor) -> Tensor:
        return x_BSD.reshape(*x_BSD.shape[:2], x_BSD.shape[2] // self.head_dim, self.head_dim)


def attend(q_BSHd: Tensor, k_BSHd: Tensor, v_BSHd: Tensor, key_mask_B11S: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v per head: (B, S, H, d); keys where the mask is false are not attended.

    Under autocast on the CPU short sequences go through :class:`ShortAttention`; the products of long ones stay in float32, in
    which queries and keys arrive from their norms, because the bfloat16 backward pass there takes twice as long.
    """
    if cpu_autocast(q_BSHd):
        if key_mask_B11S is None and q_BSHd.shape[1] * k_BSHd.shape[1] <= SHORT**2:
            out: Tensor = ShortAttention.apply(q_BSHd, k_BSHd, v_BSHd)  # type: ignore[no-untyped-call]
            return out
        with torch.autocast("cpu", enabled=False):
            return _attend(q_BSHd, k_BSHd, v_BSHd.to(q_BSHd.dtype), key_mask_B11S)
    return _attend(q_BSHd, k_BSHd, v_BSHd, key_mask_B11S)


def _attend(q_BSHd: Tensor, k_BSHd: Tensor, v_BSHd: Tensor, key_mask_B11S: Tensor | None) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q_BSHd, k_BSHd, v_BSHd))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask_B11S).transpose(1, 2)


class ShortAttention(torch.autograd.Function):
    """Attention of short sequences as six matrix products, for training under autocast on the CPU.

    Twice as fast there as the fused kernel, which recomputes the weights for every gradient. Scores and softmax are float32,
    the other products bfloat16: output and gradients are nearer to exact arithmetic than those of the fused bfloat16 kernel.
    Keeps the attention weights, in bfloat16: 2 S^2 bytes a head.
    """

    @staticmethod
    def forward(ctx: Any, q_BSHd: Tensor, k_BSHd: Tensor, v_BSHd: Tensor) -> Tensor:
        ctx.dtypes = (q_BSHd.dtype, k_BSHd.dtype, v_BSHd.dtype)
        with torch.autocast("cpu", enabled=False):
            q, k = _per_head(q_BSHd.float() * q_BSHd.shape[-1] ** -0.5), _per_head(k_BSHd.float())
            weights = torch.softmax(torch.bmm(q, k.transpose(1, 2)), dim=-1).to(torch.bfloat16)
            q, k, v = q.to(torch.bfloat16), k.to(torch.bfloat16), _per_head(v_BSHd.to(torch.bfloat16))
            ctx.save_for_backward(q, k, v, weights)
            return _per_token(torch.bmm(weights, v), q_BSHd.shape[0])

    @staticmethod
    def backward(ctx: Any, grad_BSHd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, weights = ctx.saved_tensors
        grad = _per_head(grad_BSHd.to(torch.bfloat16))
        grad_v = torch.bmm(weights.transpose(1, 2), grad)
        scores = torch._softmax_backward_data(torch.bmm(grad, v.transpose(1, 2)), weights, -1, torch.bfloat16)
        grad_q = torch.bmm(scores, k).mul_(q.shape[-1] ** -0.5)
        grad_k = torch.bmm(scores.transpose(1, 2), q)  # these queries are scaled already
        found = (_per_token(grad, grad_BSHd.shape[0]) for grad in (grad_q, grad_k, grad_v))
        return tuple(grad.to(dtype) for grad, dtype in zip(found, ctx.dtypes, strict=True))  # type: ignore[return-value]


def _per_head(x_BSHd: Tensor) -> Tensor:
    """(B, S, H, d) -> (B * H, S, d), contiguous."""
    return x_BSHd.transpose(1, 2).reshape(-1, x_BSHd.shape[1], x_BSHd.shape[3])


def _per_token(x: Tensor, batch: int) -> Tensor:
    """Inverse of :func:`_per_head`, as a view."""
    return x.view(batch, -1, *x.shape[1:]).transpose(1, 2)


def joint_key_mask(text_mask: Tensor, image_tokens: int) -> Tensor:
    """Text mask (B, L) -> boolean key mask of the joint sequence (B, 1, 1, L + image_tokens)."""
    mask = F.pad(text_mask.to(torch.bool), (0, image_tokens), value=True)
    return mask[:, None, None]
