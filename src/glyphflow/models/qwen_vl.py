"""Qwen2.5-VL and its tokenizer from disk, with the checks that our own networks get.

transformers opens a file that was cut off with an error of its own, ignores tensors that it does not know (the factors of fp8
weights among them), and takes another model's configuration with a warning. What the files are is therefore looked at first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from glyphflow.core.errors import GlyphFlowError, InputError, MissingError
from glyphflow.core.files import read_json, read_json_object
from glyphflow.core.pretrained import loading
from glyphflow.models.stored import MODEL_BASENAME, Checkpoint, open_checkpoint, read_tensor
from glyphflow.models.weights import check_module, quantised_by

_TYPE = "qwen2_5_vl"


def open_qwen_vl(directory: Path, dtype: torch.dtype) -> tuple[Any, set[str]]:
    """The model in ``directory`` (transformers' layout, old or new parameter names) and the weights that it lacks, by name.

    Weights in fp8 or int8 are multiplied by their factors. Raises InputError for another model, files that are damaged or of
    another form, tensors that are no part of the model, and weights that are not finite.
    """
    config = read_json_object(directory / "config.json")
    kind = config.get("model_type", "model of no type")
    if kind != _TYPE:
        raise InputError(
            f"{directory / 'config.json'} describes a {kind}, and a {_TYPE} is needed; give the right text encoder."
        )
    if how := config.get("quantization_config"):
        raise InputError(f"{directory} holds weights {quantised_by(how)}, which are not read; use bf16 or fp8 weights.")
    checkpoint = open_checkpoint(directory, MODEL_BASENAME)
    try:
        model, report = _load(directory, checkpoint, dtype)
    except GlyphFlowError:
        raise
    except Exception as error:  # transformers and safetensors raise many kinds on damaged files
        raise InputError(f"{directory} cannot be read as Qwen2.5-VL: {' '.join(str(error).split())[:300]}") from error
    if strange := sorted(report["unexpected_keys"]):
        raise InputError(
            f"{directory} holds {len(strange)} tensors that are no part of Qwen2.5-VL as config.json describes it, such as "
            f"{strange[0]}; they are of a form that is not read, or belong to another model."
        )
    check_module(model, str(directory))
    return model, set(report["missing_keys"]) - {"lm_head.weight"}


def open_tokenizer(directory: Path) -> Any:
    """The tokenizer in ``directory``; MissingError where it is not there, InputError where it is damaged."""
    if not directory.is_dir():
        raise MissingError(f"There is no directory {directory}; give a model directory in the released layout.")
    needed = (("tokenizer.json",), ("vocab.json", "merges.txt"))
    if not any(all((directory / name).is_file() for name in names) for names in needed):
        raise MissingError(f"{directory} has neither tokenizer.json nor vocab.json and merges.txt; copy or download it again.")
    for path in (directory / "tokenizer.json", directory / "vocab.json", directory / "tokenizer_config.json"):
        if path.is_file():
            read_json(path)
    from transformers import AutoTokenizer  # here because it takes seconds

    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # tokenizers raises plain Exceptions
        raise InputError(f"The tokenizer in {directory} cannot be read: {' '.join(str(error).split())[:300]}") from error


def _load(directory: Path, checkpoint: Checkpoint, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoConfig  # here because they take seconds
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration as Model

    how: dict[str, Any] = {"dtype": dtype, "output_loading_info": True}
    plain = all(stored.dtype in ("F16", "BF16", "F32", "F64") for stored in checkpoint.tensors.values())
    with loading():
        if plain:
            model, report = Model.from_pretrained(directory, local_files_only=True, **how)
        else:
            config, state = AutoConfig.from_pretrained(directory, local_files_only=True), _read(checkpoint, dtype)
            model, report = Model.from_pretrained(None, config=config, state_dict=state, **how)
    return model, report


def _read(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, Tensor]:
    """All weights as ``dtype``, by the names of the file."""
    state = {}
    for path in sorted({stored.path for stored in checkpoint.tensors.values()}):
        with safe_open(path, framework="pt") as file:
            for name, stored in checkpoint.tensors.items():
                if stored.path == path:
                    state[name] = read_tensor(file, stored, dtype)
    return state
