"""What the machine is found to have, against what its system says."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest
import torch

import glyphflow
from glyphflow.core.errors import MissingError
from glyphflow.core.hardware import default_dtype, multiplies_bfloat16, require


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


def test_what_is_missing_is_installed_as_the_readme_says() -> None:
    with pytest.raises(MissingError) as error:
        require("no_such_module", "curate")
    command = 'pip install -c constraints.txt ".[curate]"'
    assert str(error.value) == f"no_such_module is needed for this and is not installed; run: {command}"
    assert command in (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_no_sentence_installs_the_package_by_a_name() -> None:
    """The package is installed from its repository; an index holds none, or another's, under its name."""
    root = Path(glyphflow.__file__).parent
    texts = {path.name: path.read_text(encoding="utf-8") for path in root.rglob("*.py")}
    assert not [name for name, text in texts.items() if re.search(r"pip install [^\n]*glyphflow", text)]


def test_a_package_that_is_there_and_broken_is_not_called_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_one.py").write_text("raise ImportError('libGL.so.1: no such file')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingError, match=r"cannot be imported \(libGL.so.1: no such file\); run: pip install"):
        require("broken_one", "corpus")
