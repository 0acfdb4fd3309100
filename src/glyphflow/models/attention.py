"""Joint attention of the text and image streams, with the RMS norm of queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glyphflow.models.msrope import rotate


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis; statistics in float32.

    In half precision the normalised value is rounded once before the weight multiplies it, as the released model does.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return normed.to(self.weight.dtype) * self.weight


class JointAttention(nn.Module):
    """Attention over the sequence [text, image]; each stream has its own projections.

    ``to_*`` and ``norm_q`` / ``norm_k`` belong to the image, ``add_*`` / ``to_add_out`` / ``norm_added_*`` to the text.
    """

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.norm_q, self.norm_k, self.norm_added_q, self.norm_added_k = (RMSNorm(head_dim) for _ in range(4))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.to_add_out = nn.Linear(dim, dim)

    def forward(
        self, image_BND: Tensor, text_BLD: Tensor, rotation_Sc: Tensor, key_mask_B11S: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Returns (image (B, N, D), attended text (B, L, D) before its output projection).

        The text projection is left to the caller because the last block has no use for it.
        """
        q = self._joint(self.norm_added_q, self.add_q_proj(text_BLD), self.norm_q, self.to_q(image_BND), rotation_Sc)
        k = self._joint(self.norm_added_k, self.add_k_proj(text_BLD), self.norm_k, self.to_k(image_BND), rotation_Sc)
        v = self._heads(torch.cat([self.add_v_proj(text_BLD), self.to_v(image_BND)], dim=1))
        out_BSD = attend(q, k, v, key_mask_B11S).flatten(2)
        length = text_BLD.shape[1]
        # A strided input would make the linear round its product before adding the bias.
        return self.to_out[0](out_BSD[:, length:].contiguous()), out_BSD[:, :length].contiguous()

    def _joint(self, text_norm: nn.Module, text: Tensor, image_norm: nn.Module, image: Tensor, rotation: Tensor) -> Tensor:
        x = torch.cat([text_norm(self._heads(text)), image_norm(self._heads(image))], dim=1)
        return rotate(x, rotation)

    def _heads(self, x_BSD: Tensor) -> Tensor:
        return x_BSD.reshape(*x_BSD.shape[:2], -1, self.head_dim)


def attend(q_BSHd: Tensor, k_BSHd: Tensor, v_BSHd: Tensor, key_mask_B11S: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v per head: (B, S, H, d); keys where the mask is false are not attended.

    Under autocast on the CPU the products stay in float32, in which queries and keys arrive from their norms: the bfloat16
    backward pass there takes twice as long.
    """
    q, k, v = (x.transpose(1, 2) for x in (q_BSHd, k_BSHd, v_BSHd))
    if q.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q, k, v.to(q.dtype), attn_mask=key_mask_B11S).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask_B11S).transpose(1, 2)


def joint_key_mask(text_mask: Tensor, image_tokens: int) -> Tensor:
    """Text mask (B, L) -> boolean key mask of the joint sequence (B, 1, 1, L + image_tokens)."""
    mask = F.pad(text_mask.to(torch.bool), (0, image_tokens), value=True)
    return mask[:, None, None]
