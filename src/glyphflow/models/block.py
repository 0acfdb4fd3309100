"""A block of the MMDiT and the small layers around the blocks: text and image as two streams that meet in attention.

Shapes in names: B batch, N image tokens, L text tokens, D width, R modulation rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glyphflow.models.attention import JointAttention, Layout
from glyphflow.models.kernels import EAGER, Kernels, cpu_autocast


class Block(nn.Module):
    """Two streams side by side: modulated joint attention, then a modulated MLP each, both as gated residuals.

    The last block returns only what is read: the image tokens that are wanted; nothing reads its text.
    """

    def __init__(self, width: int, head_dim: int, last: bool) -> None:
        super().__init__()
        self.last = last
        self.kernels: Kernels = EAGER
        self.img_mod = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.txt_mod = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.attn = JointAttention(width, head_dim)
        self.img_mlp = MLP(width)
        self.txt_mlp = MLP(width)

    def modulation_rows(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """time (B, R, D) -> image rows (B, R, 6D) and text rows (B, 1, 6D); text never sees the row of the references."""
        weight = getattr(self.img_mod[1], "weight", None)  # packed ones have none
        whole = weight is not None and weight.dtype == torch.float32
        if whole and cpu_autocast(time):
            # A few rows against a third of all parameters: to round these would cost more than to multiply with them.
            with torch.autocast("cpu", enabled=False):
                time = time.float()
                return self.img_mod(time), self.txt_mod(time[:, :1])
        return self.img_mod(time), self.txt_mod(time[:, :1])

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        time: Tensor | None,
        layout: Layout,
        segments: tuple[int, ...],
        rows: tuple[Tensor, Tensor] | None = None,
        target: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """image (B, N, D), text (B, L, D) -> the same; of the last block's image only the first ``target`` tokens.

        ``segments``: how many image tokens take each modulation row. ``rows`` replaces :meth:`modulation_rows` of ``time``.
        """
        image_rows, text_rows = rows if rows is not None else self.modulation_rows(time)  # type: ignore[arg-type]
        ishift1, iscale1, igate1, ishift2, iscale2, igate2 = image_rows.chunk(6, dim=-1)
        tshift1, tscale1, tgate1, tshift2, tscale2, tgate2 = text_rows.chunk(6, dim=-1)
        whole = (text.shape[1],)

        image_in = self._modulate(image, ishift1, iscale1, segments)
        text_in = self._modulate(text, tshift1, tscale1, whole)
        if self.last:
            target = image.shape[1] if target is None else target
            segments = _cut(segments, target)
            image = self._add(image[:, :target], igate1, self.attn.image_only(image_in, text_in, layout, target), segments)
        else:
            attended_image, attended_text = self.attn(image_in, text_in, layout)
            image = self._add(image, igate1, attended_image, segments)
            text = self._add(text, tgate1, attended_text, whole)
            text = self._add(text, tgate2, self.txt_mlp(self._modulate(text, tshift2, tscale2, whole)), whole)
        image = self._add(image, igate2, self.img_mlp(self._modulate(image, ishift2, iscale2, segments)), segments)
        return clip_half(image), clip_half(text)

    def _modulate(self, x: Tensor, shift: Tensor, scale: Tensor, segments: tuple[int, ...]) -> Tensor:
        parts = torch.split(x, list(segments), dim=1) if len(segments) > 1 else [x]
        done = [self.kernels.modulate(part, shift[:, i : i + 1], scale[:, i : i + 1]) for i, part in enumerate(parts)]
        return done[0] if len(done) == 1 else torch.cat(done, dim=1)

    def _add(self, x: Tensor, gate: Tensor, update: Tensor, segments: tuple[int, ...]) -> Tensor:
        if len(segments) == 1:
            return self.kernels.add_gated(x, gate[:, :1], update)
        parts = zip(torch.split(x, list(segments), dim=1), torch.split(update, list(segments), dim=1), strict=True)
        return torch.cat([self.kernels.add_gated(p, gate[:, i : i + 1], u) for i, (p, u) in enumerate(parts)], dim=1)


class MLP(nn.Module):
    """Linear to 4 D, GELU (tanh form), linear back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([GELULinear(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net[2](self.net[0](x))
        return out


class GELULinear(nn.Module):
    """A linear followed by the tanh form of GELU (the sigmoid form of some ports differs by up to 0.02).

    Training under autocast on the CPU takes the erf form: at most 5e-4 away, a sixteenth of a bfloat16 step at 1, and three
    times as fast there, forwards and backwards.
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width_in, width_out)

    def forward(self, x: Tensor) -> Tensor:
        h = self.proj(x)
        # Whether in training, not whether a gradient is asked for: recomputed passes must be what the first one was.
        stand_in = self.training and cpu_autocast(h)
        return F.gelu(h, approximate="none" if stand_in else "tanh")


class TimeEmbedding(nn.Module):
    """sigma -> D features: a sinusoid of 1000 sigma, then a two-layer MLP; layered models add one of two learned vectors."""

    def __init__(self, width: int, additional: bool = False) -> None:
        super().__init__()
        self.timestep_embedder = nn.ModuleDict({"linear_1": nn.Linear(256, width), "linear_2": nn.Linear(width, width)})
        if additional:
            self.addition_t_embedding = nn.Embedding(2, width)

    def forward(self, timestep_BR: Tensor, additional_t_cond: Tensor | None = None) -> Tensor:
        embedder = self.timestep_embedder
        wave = sinusoid(timestep_BR).to(timestep_BR.dtype)
        time: Tensor = embedder["linear_2"](F.silu(embedder["linear_1"](wave)))
        return time if additional_t_cond is None else time + self.addition_t_embedding(additional_t_cond)[:, None]


def sinusoid(timestep: Tensor, features: int = 256) -> Tensor:
    """[cos, sin] of 1000 * timestep at 128 geometric frequencies: float32 (..., 256).

    Only ``timestep`` itself carries rounding: in bfloat16 an error of up to 4 of 1000, which the released weights know.
    """
    half = features // 2
    exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=timestep.device) / half
    angle = 1000 * (timestep[..., None].float() * torch.exp(exponent))
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class FinalNorm(nn.Module):
    """LayerNorm modulated by (scale, shift): the order is the reverse of the blocks'."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def rows(self, time: Tensor) -> Tensor:
        """time (B, R, D) -> (B, 1, 2D), from the first row."""
        rows: Tensor = self.linear(F.silu(time[:, :1]))
        return rows

    def forward(self, image: Tensor, time: Tensor | None, rows: Tensor | None) -> Tensor:
        scale, shift = (rows if rows is not None else self.rows(time)).chunk(2, dim=-1)  # type: ignore[arg-type]
        return EAGER.modulate(image, shift, scale)


def _cut(segments: tuple[int, ...], tokens: int) -> tuple[int, ...]:
    """The first ``tokens`` of ``segments``."""
    return (tokens,) if tokens <= segments[0] else (segments[0], tokens - segments[0])


def clip_half(x: Tensor) -> Tensor:
    """float16 overflows in the residual streams of the released weights; the reference clips it there and so do we."""
    return x.clip(-65504, 65504) if x.dtype == torch.float16 else x
