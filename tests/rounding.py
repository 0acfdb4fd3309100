"""What may be asked of two ways to compute the same in bfloat16 on this CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

from glyphflow.core.hardware import multiplies_bfloat16

EXACT = multiplies_bfloat16(torch.device("cpu"))
"""Whether sums are kept in float32 and rounded once, by the CPU's instructions.

Without them PyTorch's own loops round in an order that depends on the kernel: a convolution of pictures and the middle slice of
the same one of clips differ in the last bit here and there.
"""
LEEWAY = 1.25


def assert_same_bfloat16(
    found: torch.Tensor, expected: torch.Tensor, in_float32: Callable[[], torch.Tensor], atol: float = 0.0
) -> None:
    """Equal to the bit (within ``atol``) where the CPU multiplies bfloat16; elsewhere as near to the result of float32."""
    assert found.dtype == expected.dtype == torch.bfloat16 and found.shape == expected.shape
    if EXACT:
        torch.testing.assert_close(found, expected, atol=atol, rtol=0)
    else:
        truth = in_float32()
        assert (found.float() - truth).norm() <= LEEWAY * (expected.float() - truth).norm()
