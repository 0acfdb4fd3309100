"""Models that ship inside installed packages: found by path, named by hash, never downloaded."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.hardware import install_command, require
from glyphflow.core.hashing import sha256_file


def package_file(module: str, name: str, install: str = install_command("curate")) -> Path:
    """The file ``name`` (path inside the package) of the installed ``module``, which is not imported.

    Raises :class:`MissingError` with the command ``install`` when the package is not there or is a version without that file.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingError(f"the package {module} is needed for this and is not installed; run: {install}")
    path = Path(spec.submodule_search_locations[0]) / name
    if not path.is_file():
        raise MissingError(f"the installed package {module} does not carry {name}; run: {install}")
    return path


def named(path: Path, package: str) -> str:
    """``path`` of an installed ``package`` as part of an identity: version of the package and hash of the file."""
    return f"{package}-{metadata.version(package)}-{sha256_file(path)[:8]}"


def onnx_session(path: Path) -> Any:
    """An onnxruntime session on one thread: several pictures at once use the cores better than one picture on several.

    Its ``run`` may be called from several threads.
    """
    runtime = require("onnxruntime", "curate")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def check_picture(image: Any) -> None:
    """Refuse what is no (H, W, 3) uint8 array with at least one pixel."""
    shape, kind = getattr(image, "shape", None), getattr(image, "dtype", None)
    if shape is None or len(shape) != 3 or shape[2] != 3 or 0 in shape or str(kind) != "uint8":
        raise InputError(f"a picture here is an (H, W, 3) array of uint8, not {kind} of shape {shape}.")
