"""The progress line when Ctrl-C comes at a bad moment."""

import pytest

from glyphflow.core.progress import Progress


def test_ctrl_c_while_a_bar_is_made_leaves_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """tqdm's finalizer closes the half-made bar; what it raises there would be told as an unraisable exception."""

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    unraisable: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)
    monkeypatch.setattr("tqdm.std.tqdm._get_free_pos", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Progress("work", total=3)
    assert not unraisable
