"""What the machine is found to have, against what its system says."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from glyphflow.core.hardware import default_dtype, multiplies_bfloat16


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the flags are those of x86")
@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="the system lists no flags of the processor")
def test_bfloat16_on_a_cpu_is_a_matter_of_its_instructions() -> None:
    flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    assert multiplies_bfloat16(torch.device("cpu")) == bool(flags & {"avx512_bf16", "amx_bf16"})


def test_weights_are_float32_on_every_cpu() -> None:
    assert default_dtype(torch.device("cpu")) == torch.float32


def test_bfloat16_needs_a_pytorch_that_uses_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")  # as under ATEN_CPU_CAPABILITY=avx2
    assert not multiplies_bfloat16(torch.device("cpu"))
