"""Files of weights before any weight is read: which files a directory means, what their headers say, and what is no weights.

A download that was cut off, a page that a server sent instead of a file, a pointer of git-lfs and a pickle all arrive under the
right name. Each is refused here, once for all networks and adapters, with what it is and what to do.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from glyphflow.core.errors import InputError, MissingError
from glyphflow.core.files import read_json_object

BITS = {
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}
"""Bits of a value by the name of its type in a safetensors header."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_OTHERS = (*PICKLES, ".gguf", ".onnx", ".msgpack", ".h5")
_PICKLE = "a pickle, which can run code when it is opened"
_CONVERT = "take the .safetensors file of the same weights, or convert it with safetensors.torch.save_file"
_AGAIN = "copy or download it again"
_LONGEST_HEADER = 100_000_000  # bytes; safetensors' own limit


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file and the byte where its data begins; raises InputError unless the file is whole."""
    try:
        found = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(64)
            _refuse_foreign(path, start, found)
            length = int.from_bytes(start[:8], "little")
            if length > _LONGEST_HEADER:
                raise ValueError(f"a header of {length} bytes is too long to be one")
            if 8 + length > found:
                raise InputError(f"{path} is {found} bytes, less than its header of {8 + length}; {_AGAIN}.")
            file.seek(8)
            header: dict[str, Any] = json.loads(file.read(length))
    except FileNotFoundError as error:
        raise MissingError(f"There is no file {path}; check the path.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as safetensors ({error}); {_AGAIN}.") from error
    expected = 8 + length + _check_entries(path, header)
    if found != expected:
        raise InputError(f"{path} is {found} bytes, but its header describes {expected}; {_AGAIN}.")
    return header, 8 + length


def weight_files(directory: Path, basename: str) -> tuple[list[Path], dict[str, str]]:
    """The files of the weights in ``directory``, ``basename``.safetensors or the shards of an index; and that index.

    The index, tensor name -> file name, is empty for a single file. Raises InputError when files are missing or of another
    form, MissingError when there is no such directory.
    """
    if not directory.is_dir():
        raise MissingError(f"There is no directory {directory}; give one of the released layout.")
    index, single = directory / f"{basename}.safetensors.index.json", directory / f"{basename}.safetensors"
    if not index.exists():
        if not single.exists():
            raise InputError(f"{directory} holds neither {index.name} nor {single.name}; {_instead(directory)}.")
        return [single], {}
    shards = _read_index(index)
    files = sorted({directory / name for name in shards.values()})
    absent = [path for path in files if not path.exists()]
    if absent:
        total = _total(index)
        here = sum(path.stat().st_size for path in files if path.exists())
        sizes = "" if total is None else f": {total} bytes are expected in all and {here} are here"
        raise InputError(
            f"{absent[0].name} of {directory} is missing ({len(absent)} of {len(files)} shards){sizes}; copy or download it "
            "again."
        )
    return files, shards


def refuse_ending(path: Path, what: str) -> None:
    """Raise InputError unless ``path`` is called like a safetensors file; ``what`` begins the sentence."""
    if path.suffix.lower() == ".safetensors":
        return
    if path.suffix.lower() in PICKLES:
        raise InputError(f"{what} but {_PICKLE}; other formats are not read: {_CONVERT}.")
    raise InputError(f"{what}; other formats are not read.")


def _refuse_foreign(path: Path, start: bytes, size: int) -> None:
    """Raise InputError for a file that begins like one of another kind, which has its name by mistake."""
    text = start.lstrip().lower()
    kind = None
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _LONGEST_HEADER:
        return
    if not size:
        kind = f"is empty (0 bytes); {_AGAIN}"
    elif start.startswith(b"version "):
        kind = f"is a git-lfs pointer of {size} bytes and no weights; run: git lfs pull"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        kind = f"is a web page of {size} bytes and no weights; download the file itself (a login may be needed)"
    elif start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        kind = f"is {_PICKLE} and is not read, whatever its name says; {_CONVERT}"
    elif start.startswith(b"GGUF"):
        kind = "is a GGUF file, which is not read; take weights in bf16 or fp8 safetensors"
    elif text.startswith((b'{"', b"[", b"{\n", b"{ ")) or (size < 8 and text.isascii()):
        kind = f"is text of {size} bytes and no weights; {_AGAIN}"
    if kind is not None:
        raise InputError(f"{path} {kind}.")


def _check_entries(path: Path, header: Any) -> int:
    """Bytes of data that ``header`` describes; raises InputError where an entry makes no sense."""
    ends = [0]
    try:
        for key, entry in header.items():
            if key == "__metadata__":
                if not isinstance(entry, dict):
                    raise ValueError("__metadata__ is no mapping")
                continue
            begin, end = entry["data_offsets"]
            if any(not isinstance(n, int) or n < 0 for n in (begin, end, *entry["shape"])):
                raise ValueError(f"{key} has impossible sizes")
            if entry["dtype"] not in BITS:
                raise InputError(f"{key} in {path} is of the type {entry['dtype']}, which is not known; use bf16 weights.")
            if (end - begin) * 8 != math.prod(entry["shape"]) * BITS[entry["dtype"]]:
                raise ValueError(f"{key} of shape {entry['shape']} takes {end - begin} bytes")
            ends.append(end)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"The header of {path} is damaged ({error}); {_AGAIN}.") from error
    return max(ends)


def _read_index(path: Path) -> dict[str, str]:
    shards = read_json_object(path).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise InputError(f"{path} has no weight_map, which says what is in which file; {_AGAIN}, with its shards.")
    for name, file in shards.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise InputError(f"{path} says that {name} is in {file!r}, which is no file beside it; {_AGAIN}.")
        if not file.endswith(".safetensors"):
            refuse_ending(Path(file), f"{path} says that {name} is in {file}, which is no .safetensors file")
    return shards


def _total(index: Path) -> int | None:
    metadata = read_json_object(index).get("metadata")
    return metadata.get("total_size") if isinstance(metadata, dict) else None


def _instead(directory: Path) -> str:
    """What ``directory`` has in place of weights, and what to do."""
    names = sorted(path.name for path in directory.iterdir())
    weights = [name for name in names if name.endswith(".safetensors")]
    others = [name for name in names if Path(name).suffix.lower() in _OTHERS]
    if len(weights) == 1:
        return f"it holds {weights[0]}: give that file itself, or rename it if it belongs there"
    if weights:
        return f"it holds {', '.join(weights[:3])}; give a directory of released layout"
    if others and Path(others[0]).suffix.lower() in PICKLES:
        return f"it holds {others[0]}, {_PICKLE} and is not read; {_CONVERT}"
    if others:
        return f"it holds {others[0]}, a format that is not read; give a directory of released layout"
    return "give a directory of released layout"
