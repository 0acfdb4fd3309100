"""Home directories and environment variables in paths of recipes and options."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from glyphflow.cli.main import app
from glyphflow.core.config import Config, load_config
from glyphflow.core.errors import ConfigError, InputError, MissingError
from glyphflow.core.files import expanded
from glyphflow.generate.directory import locate


class Places(Config):
    one: Path
    several: tuple[Path, ...] = ()
    maybe: Path | None = None


def test_home_and_variables_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", "/data")
    assert expanded("~/x") == tmp_path / "x" and expanded("~") == tmp_path
    assert expanded("$DATA/x") == expanded("${DATA}/x") == Path("/data/x")
    assert expanded("plain/a~b") == Path("plain/a~b") and expanded("price5$") == Path("price5$")
    for wrong in ("$NOT_SET_HERE/x", "${NOT_SET_HERE}/x", "~nobody-of-this-name/x"):
        with pytest.raises(InputError, match="write the whole path"):
            expanded(wrong)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "$literal").mkdir()
    assert expanded("$literal") == Path("$literal")


def test_every_path_of_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    read = load_config(Places, {"one": "~/a", "several": ["~/b", "c"]}, ["maybe=~/d"])
    assert read == Places(one=tmp_path / "a", several=(tmp_path / "b", Path("c")), maybe=tmp_path / "d")
    with pytest.raises(ConfigError, match=r"one = .*NOT_SET_HERE.* is refused.*not set"):
        load_config(Places, {"one": "$NOT_SET_HERE/a"})
    with pytest.raises(MissingError, match="no directory 'transformer'"):
        locate("~/")


def test_options_that_no_shell_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in (["~/run", str(tmp_path / "out")], [str(tmp_path / "run"), "~/out"]):
        result = CliRunner().invoke(app, ["export", *given])
        assert str(tmp_path / "run") in str(result.exception) and "~" not in str(result.exception)
