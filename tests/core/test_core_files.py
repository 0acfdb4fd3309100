"""Files appear whole or not at all; refusals of the disk are sentences; one process at a time."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from glyphflow.core.errors import InputError, StorageError
from glyphflow.core.files import (
    atomic_path,
    exclusive,
    read_json,
    read_json_object,
    require_writable,
    write_bytes,
    write_json,
)


def test_a_failed_write_leaves_the_old_content_and_no_remains(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    with pytest.raises(ValueError, match="stop"), atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise ValueError("stop")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_directory_can_be_built_and_replaced(tmp_path: Path) -> None:
    for content in ("1", "2"):
        with atomic_path(tmp_path / "d") as temporary:
            temporary.mkdir()
            (temporary / "x").write_text(content)
    assert (tmp_path / "d" / "x").read_text() == "2"
    assert len(list(tmp_path.iterdir())) == 1


def test_files_get_the_mode_that_the_umask_says_whoever_wrote_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "one.safetensors") as temporary:
            save_file({"a": torch.zeros(1)}, temporary)  # makes files for their owner alone
        with atomic_path(tmp_path / "many") as temporary:
            (temporary / "below").mkdir(parents=True)
            save_file({"a": torch.zeros(1)}, temporary / "below" / "a.safetensors")
        write_bytes(tmp_path / "plain", b"")
    finally:
        os.umask(before)
    for file in (tmp_path / "one.safetensors", tmp_path / "many" / "below" / "a.safetensors", tmp_path / "plain"):
        assert file.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["many", "one.safetensors", "plain"]


def test_json_with_a_bom_is_read_and_what_is_no_mapping_is_named(tmp_path: Path) -> None:
    (tmp_path / "v.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json_object(tmp_path / "v.json") == {"a": 1}
    (tmp_path / "v.json").write_text("[1]")
    with pytest.raises(InputError, match=r"v\.json holds a list"):
        read_json_object(tmp_path / "v.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path)


def test_json_round_trip_and_damage(tmp_path: Path) -> None:
    write_json(tmp_path / "v.json", {"字": [1, 2.5, None]})
    assert read_json(tmp_path / "v.json") == {"字": [1, 2.5, None]}
    (tmp_path / "v.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        read_json(tmp_path / "v.json")
    with pytest.raises(InputError, match="does not exist"):
        read_json(tmp_path / "none.json")


_LIMITED = """
import resource, sys
from pathlib import Path
from glyphflow.core.errors import StorageError
from glyphflow.core.files import write_bytes
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_bytes(Path(sys.argv[1]), b"x" * 5000)
except StorageError as error:
    print(error)
"""


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)
    out = subprocess.run([sys.executable, "-c", _LIMITED, str(tmp_path / "big")], capture_output=True, text=True, check=True)
    assert "would be larger than this process may write" in out.stdout
    assert list(tmp_path.iterdir()) == []


_HOLDER = """
import sys, time
from pathlib import Path
from glyphflow.core.files import exclusive
with exclusive(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_exclude_each_other_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StorageError, match=f"process {holder.pid} is already at work"), exclusive(tmp_path, "training"):
            pass
    finally:
        holder.kill()
        holder.wait()
    with exclusive(tmp_path, "training"):
        pass


def test_json_is_readable_by_people(tmp_path: Path) -> None:
    write_json(tmp_path / "v.json", {"b": "图", "a": 1})
    text = (tmp_path / "v.json").read_text(encoding="utf-8")
    assert text == json.dumps({"b": "图", "a": 1}, ensure_ascii=False, indent=2) + "\n"


def test_names_that_the_file_system_takes_can_be_written(tmp_path: Path) -> None:
    for name in ("字" * 83, "a" * 255, "e\u0301" * 85, "😀" * 63):
        write_bytes(tmp_path / name, b"x")
        require_writable(tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 4


def test_places_are_tried_and_left_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "circle").symlink_to("circle")
    before = sorted(tmp_path.iterdir())
    require_writable(tmp_path / "new/deep/a.png")
    for path, why in (
        (tmp_path / ("a" * 256), "name is too long"),
        (tmp_path / ("a" * 300) / "x.png", "name is too long"),
        (tmp_path / "file/x/y.png", "file is a file and no directory"),
        (tmp_path / "circle/x.png", "circle"),
        (tmp_path / "nul\0.png", "null"),
    ):
        with pytest.raises(StorageError, match=why):
            require_writable(path)
    assert sorted(tmp_path.iterdir()) == before


def test_a_name_that_is_too_long_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="name is too long for the file system; choose a shorter name"):
        write_bytes(tmp_path / ("a" * 300), b"x")
    (tmp_path / "there").mkdir()
    with pytest.raises(StorageError, match="a directory is in its place"):
        write_bytes(tmp_path / "there", b"x")
