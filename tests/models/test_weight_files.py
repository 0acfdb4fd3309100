"""Files that have the name of weights and are something else, or a part of it: one sentence each, for whoever reads them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from glyphflow.core.errors import InputError, MissingError
from glyphflow.models.header import read_header, weight_files
from glyphflow.models.lora_file import read_lora
from glyphflow.models.stored import open_checkpoint

NAME = "diffusion_pytorch_model"


def framed(header: object, data: bytes = b"") -> bytes:
    content = json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + data


FOREIGN = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "three bytes": (b"abc", "is text of 3 bytes"),
    "web page": (b"<!DOCTYPE html>\n<html><body>Access denied</body></html>", "is a web page of 55 bytes.*a login"),
    "web page behind white space": (b"\n\n  <html><head></head></html>", "is a web page"),
    "error in JSON": (b'{"error": "Repository not found or you need to log in"}', "is text of 55 bytes"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer of 56 bytes"),
    "zip pickle": (b"PK\x03\x04" + bytes(60), "is a pickle, which can run code"),
    "old pickle": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + bytes(60), "is a pickle"),
    "gguf": (b"GGUF" + bytes(60), "is a GGUF file"),
    "zeros": (bytes(64), "cannot be read as safetensors"),
    "noise": (bytes(range(200, 255)) * 3, "cannot be read as safetensors .*too long"),
    "a list": (framed([1, 2]), r"header of .* is damaged"),
    "an entry without a type": (framed({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)), "damaged .*dtype"),
    "an entry that is a number": (framed({"a": 1}), "damaged"),
    "negative sizes": (framed({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)), "a has impossible"),
    "sizes that disagree": (
        framed({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
        r"a of shape \[2\] takes 4 bytes",
    ),
    "a type of tomorrow": (
        framed({"a": {"dtype": "F3", "shape": [1], "data_offsets": [0, 1]}}, bytes(1)),
        "a in .* is of the type F3",
    ),
    "cut data": (framed({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(5)), "describes 7[0-9]"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_safetensors_file_is_named(tmp_path: Path, kind: str) -> None:
    content, words = FOREIGN[kind]
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    for read in (read_header, open_checkpoint, lambda place: read_lora(place, {"a": (1, 1)})):
        with pytest.raises(InputError, match=words) as caught:
            read(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_header_whose_length_reads_as_text_is_no_text(tmp_path: Path) -> None:
    """8827 bytes of header begin with the bytes of an open brace and a quotation mark."""
    path = tmp_path / "weights.safetensors"
    entry = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    path.write_bytes(struct.pack("<Q", 8827) + entry.ljust(8827).encode() + bytes(4))
    assert path.read_bytes()[:2] == b'{"'
    assert read_header(path)[0]["a"]["shape"] == [1]


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({}, "has no weight_map"),
        ({"weight_map": {}}, "has no weight_map"),
        ({"weight_map": [1]}, "has no weight_map"),
        ([], "holds a list"),
        ({"weight_map": {"a": "../one.safetensors"}}, "no file beside it"),
        ({"weight_map": {"a": 3}}, "says that a is in 3"),
        ({"weight_map": {"a": "one.bin"}}, "one.bin.*a pickle"),
        ({"weight_map": {"a": "two.safetensors"}}, r"two.safetensors of .* is missing \(1 of 1 shards\)"),
        ({"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}, r"b is in one.safetensors, which does not hold it"),
        ({"weight_map": {"a": "two.safetensors"}, "metadata": 3}, "two.safetensors of"),
    ],
)
def test_an_index_that_says_nothing_or_too_much_is_named(tmp_path: Path, index: object, words: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "one.safetensors")
    (tmp_path / f"{NAME}.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=words):
        open_checkpoint(tmp_path)


def test_of_two_shards_with_one_tensor_the_index_decides(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "one.safetensors")
    save_file({"a": torch.zeros(2), "b": torch.zeros(1)}, tmp_path / "two.safetensors")
    content = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / f"{NAME}.safetensors.index.json").write_text(json.dumps(content))
    assert open_checkpoint(tmp_path).tensors["a"].shape == (1,)


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (f"{NAME}.bin", rf"holds {NAME}\.bin, a pickle, .* convert it"),
        ("qwen_image_fp8.safetensors", "it holds qwen_image_fp8.safetensors: give that file itself"),
        ("model.gguf", "model.gguf, a format that is not read"),
        ("readme.txt", "give a directory of released layout"),
    ],
)
def test_a_directory_of_another_form_says_what_it_holds(tmp_path: Path, there: str, words: str) -> None:
    (tmp_path / there).write_bytes(b"x")
    with pytest.raises(InputError, match=rf"holds neither .*{words}"):
        weight_files(tmp_path, NAME)
    with pytest.raises(MissingError, match="There is no directory"):
        weight_files(tmp_path / "none", NAME)


@pytest.mark.parametrize("ending", ["bin", "pt", "ckpt", "PTH"])
def test_pickles_are_refused_with_what_to_do(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"weights.{ending}"
    path.write_bytes(b"PK\x03\x04")
    for read in (open_checkpoint, lambda place: read_lora(place, {"a": (1, 1)})):
        with pytest.raises(InputError, match=r"can run code .* other formats are not read: take the \.safetensors"):
            read(path)


def test_factors_without_their_weight_and_strange_types_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a.scale_weight": torch.ones(()), "b.weight": torch.ones(2, 2)}, path)
    with pytest.raises(InputError, match=r"the factor a\.scale_weight and not the weight"):
        open_checkpoint(path)
    for dtype in (torch.int64, torch.bool, torch.uint8):
        save_file({"b.weight": torch.ones(2, 2).to(dtype)}, path)
        with pytest.raises(InputError, match=r"b\.weight in .* holds integers"):
            open_checkpoint(path)
    save_file({"b.weight": torch.ones(2, 2).to(torch.complex64)}, path)
    with pytest.raises(InputError, match="is of the type C64"):
        open_checkpoint(path)
