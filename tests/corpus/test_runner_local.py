from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from corpus_pictures import encoded, photo

from glyphflow.core.errors import ConfigError, InputError, InUseError, StorageError
from glyphflow.core.files import exclusive
from glyphflow.core.pictures import PictureError
from glyphflow.corpus import Corpus, operators
from glyphflow.corpus.decide.curate import curate
from glyphflow.corpus.forget import forget
from glyphflow.corpus.ingest.pictures import ingest_folder
from glyphflow.corpus.ingest.sources import cut
from glyphflow.corpus.operator import Operator, Row, Shard
from glyphflow.corpus.recipe import Rule, Stage
from glyphflow.corpus.runner.claims import claimed
from glyphflow.corpus.runner.pools import Processes, Threads
from glyphflow.corpus.runner.stage import in_turn, run
from warm import command
from warm import run as run_command

Folder = Callable[..., Path]
Install = Callable[[Operator], None]


def columns(corpus: Corpus) -> dict[str, bytes]:
    """Every file that measuring and deciding write, by its path."""
    found = {}
    for folder in ("columns", "views"):
        for path in sorted((corpus.directory / folder).rglob("*")):
            if path.is_file() and path.name != ".lock":
                found[str(path.relative_to(corpus.directory))] = path.read_bytes()
    return found


@pytest.fixture
def corpus(folder: Folder, tmp_path: Path) -> Corpus:
    """Ten pictures, of which one is cut, in four shards."""
    place = folder(10)
    (place / "picture-004.jpg").write_bytes(cut(encoded(photo(4)), 0.5))
    made = Corpus.create(tmp_path / "corpus")
    ingest_folder(made, place, "mine", "x", per_shard=3)
    return made


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make an operator known under the name of its stage."""

    def known(operator: Operator) -> None:
        before = operators.make_operator
        monkeypatch.setattr(
            operators, "make_operator", lambda name, **given: operator if name == operator.stage else before(name, **given)
        )

    return known


def bright(corpus: Corpus, least: float, view: str) -> None:
    """A view of the rows whose mean brightness is at least this."""
    rule = Rule(filter="dark", column="pixels.luma", min=least, reason="dark")
    whole = Rule(filter="broken", column="pixels.error", empty=True, reason="broken")
    curate(corpus, [Stage(name="S", title="s", rules=(whole, rule))], view)


def lumas(corpus: Corpus) -> list[float]:
    found = [corpus.columns("pixels", shard, ("luma",)) or {} for shard in corpus.shards()]
    return sorted(value for each in found for value in each["luma"] if value is not None)


def test_batches_are_of_one_shard_in_order_and_a_damaged_picture_costs_its_row(corpus: Corpus, install: Install) -> None:
    seen: list[list[str]] = []

    def compute(rows: Sequence[Row]) -> list[dict[str, Any]]:
        seen.append([row["key"] for row in rows])
        return [{"height": row.image.shape[0], "caption": json.loads(row["captions"])["en"]} for row in rows]

    install(Operator("shape", {"version": 1}, {"height": "int32", "caption": "string", "never": "float"}, compute, batch=2))
    assert run(corpus, "shape", workers=1) == 10
    whole = [names for names in seen if len(names) == 2]
    assert whole[:2] == [["picture-000.jpg", "picture-001.jpg"], ["picture-003.jpg", "picture-004.jpg"]]
    assert ["picture-002.jpg"] in seen and ["picture-009.jpg"] in seen
    found = [corpus.columns("shape", shard) or {} for shard in corpus.shards()]
    rows = [dict(zip(each, values, strict=True)) for each in found for values in zip(*each.values(), strict=True)]
    assert [row["id"] for row in rows] == [each for shard in corpus.shards() for each in corpus.index(shard)["id"]]
    assert [row["height"] for row in rows] == [160 if number != 4 else None for number in range(10)]
    assert all(row["measured"] and row["never"] is None for row in rows)
    assert [number for number, row in enumerate(rows) if row["error"]] == [4] and "damaged JPEG" in rows[4]["error"]
    assert rows[3]["caption"] == "picture number 3"
    assert run(corpus, "shape") == 0


def test_what_prepare_refuses_does_not_reach_compute(corpus: Corpus, install: Install) -> None:
    together = threading.Semaphore(1)

    def compute(rows: Sequence[Row]) -> list[dict[str, Any]]:
        assert together.acquire(blocking=False), "two calls at once"
        time.sleep(0.005)
        together.release()
        return [{"sum": row.prepared} for row in rows]

    def prepare(row: Row) -> int:
        if row["key"] == "picture-007.jpg":
            raise PictureError("not this one")
        return int(row.scaled(64).sum())

    install(Operator("sum", {}, {"sum": "int64"}, compute, batch=4, prepare=prepare, parallel="one"))
    run(corpus, "sum", workers=4)
    found = [corpus.columns("sum", shard) or {} for shard in corpus.shards()]
    errors = [error for each in found for error in each["error"]]
    assert [number for number, error in enumerate(errors) if error] == [4, 7] and errors[7] == "not this one"
    assert sum(value is not None for each in found for value in each["sum"]) == 8


def test_only_survivors_are_measured_and_later_views_add_theirs(corpus: Corpus, install: Install) -> None:
    seen: list[str] = []

    def compute(rows: Sequence[Row]) -> list[dict[str, Any]]:
        seen.extend(row["id"] for row in rows)
        return [{"twice": 2 * row["pixels.luma"]} for row in rows]

    install(Operator("twice", {}, {"twice": "float"}, compute, inputs=("pixels",)))
    with pytest.raises(ConfigError, match="reads the columns of 'pixels', which nothing has measured"):
        run(corpus, "twice")
    run(corpus, "pixels")
    values = lumas(corpus)
    bright(corpus, values[6], "bright")
    bright(corpus, values[3], "most")
    assert run(corpus, "twice", view="bright") == 3 and len(seen) == 3
    assert run(corpus, "twice", view="bright") == 0
    tables = [corpus.columns("twice", shard) or {} for shard in corpus.shards()]
    assert sum(sum(each["measured"]) for each in tables) == 3
    assert all(
        (value is None) != known for each in tables for value, known in zip(each["twice"], each["measured"], strict=True)
    )
    assert run(corpus, "twice", view="most") == 3 and len(set(seen)) == len(seen) == 6
    assert run(corpus, "twice", view="bright") == 0
    with pytest.raises(InputError, match="has no view 'brigt'"):
        run(corpus, "twice", view="brigt")
    stepwise = columns(corpus)
    mark = corpus.stage_fingerprint("twice") or ""
    for shard in corpus.shards():
        corpus.column_path("twice", mark, shard).unlink()
    assert run(corpus, "twice", view="most") == 6
    assert columns(corpus) == stepwise


def test_inputs_are_part_of_the_fingerprint(corpus: Corpus, install: Install) -> None:
    install(
        Operator("copy", {}, {"luma": "float"}, lambda rows: [{"luma": row["pixels.luma"]} for row in rows], inputs=("pixels",))
    )
    run(corpus, "pixels")
    run(corpus, "copy")
    first = corpus.stage_fingerprint("copy")
    corpus.begin_stage("pixels", {"stage": "pixels", "version": "another"})
    with pytest.raises(InputError, match=r"pixels.luma is not measured for the shard mine-00000"):
        run(corpus, "copy")
    assert corpus.stage_fingerprint("copy") != first


def test_a_mistake_in_an_operator_is_no_rows_error(corpus: Corpus, install: Install) -> None:
    install(Operator("short", {}, {"value": "float"}, lambda rows: [{}], batch=2))
    with pytest.raises(ValueError, match="gave 1 results for 2 rows"):
        run(corpus, "short")
    assert not list(corpus.directory.rglob("*.claim")) and not list(corpus.directory.rglob("*.tmp"))


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("prepared", [False, True])
def test_a_picture_at_which_an_operator_fails_costs_its_row(
    corpus: Corpus, install: Install, batch: int, prepared: bool
) -> None:
    def fragile(row: Row) -> Any:
        if row["key"] in ("picture-001.jpg", "picture-006.jpg"):
            raise ValueError("a matrix is\nsingular")

    def compute(rows: Sequence[Row]) -> list[dict[str, Any]]:
        return [{"value": 1.0} for row in rows if prepared or fragile(row) is None]

    install(Operator("fragile", {}, {"value": "float"}, compute, batch=batch, prepare=fragile if prepared else None))
    assert run(corpus, "fragile") == 10
    found = [corpus.columns("fragile", shard) or {} for shard in corpus.shards()]
    errors = [error for each in found for error in each["error"]]
    told = "fragile cannot measure it: ValueError: a matrix is singular"
    assert [number for number, error in enumerate(errors) if error] == [1, 6] and {errors[1], errors[6]} == {told}
    assert [value for each in found for value in each["value"]].count(1.0) == 8


def test_an_operator_that_always_fails_or_lacks_something_ends_the_run(
    corpus: Corpus, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(error: Exception) -> Callable[[Sequence[Row]], list[dict[str, Any]]]:
        def compute(rows: Sequence[Row]) -> list[dict[str, Any]]:
            raise error

        return compute

    monkeypatch.setattr("glyphflow.corpus.runner.pools.FAILED", 2)
    for number, error in enumerate((InputError("no model"), OSError("no disk"), MemoryError(), ValueError("a mistake"))):
        install(Operator(f"never{number}", {}, {"value": "float"}, fails(error), batch=2))
        with pytest.raises(type(error)):
            run(corpus, f"never{number}")


def test_a_claim_holds_while_its_process_lives(tmp_path: Path) -> None:
    target = tmp_path / "stage@1" / "shard.parquet"
    with claimed(target) as ours, claimed(target) as again:
        assert ours and not again
    claim = target.with_name(".shard.claim")
    assert not claim.exists()
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    import socket

    for holder, taken in (
        (f"{socket.gethostname()} {finished.pid}", True),  # died
        (f"{socket.gethostname()} {os.getpid()}", True),  # had our number before us
        (f"{socket.gethostname()} {os.getppid()}", False),  # lives
        ("another-machine 1", False),
        ("", False),  # is just being written
    ):
        claim.write_text(holder)
        with claimed(target) as ours:
            assert ours is taken, holder
    long_ago = time.time() - 1000
    claim.write_text("another-machine 1")
    os.utime(claim, (long_ago, long_ago))
    with claimed(target) as ours:
        assert ours
    assert list(target.parent.iterdir()) == []


def test_a_shard_that_another_process_is_at_is_waited_for(corpus: Corpus) -> None:
    mark = Corpus(corpus.directory).begin_stage("pixels", {"stage": "pixels", "version": 2, "short_side": 256})
    done: list[int] = []
    with claimed(corpus.column_path("pixels", mark, "mine-00001")) as ours:
        assert ours
        assert run(corpus, "pixels", part=(0, 1), wait=False) == 7
        assert corpus.missing("pixels", mark) == ["mine-00001"]
        waiting = threading.Thread(target=lambda: done.append(run(corpus, "pixels")))
        waiting.start()
        waiting.join(0.7)
        assert waiting.is_alive() and not done
    waiting.join(20)
    assert done == [3] and not corpus.missing("pixels", mark)


def test_parts_come_first_and_the_rest_is_helped_with() -> None:
    shards = [f"s-{number}" for number in range(7)]
    assert in_turn(shards, shards, None) == shards
    parts = [in_turn(shards, shards, (number, 3)) for number in range(3)]
    assert parts[1][:2] == ["s-1", "s-4"] and parts[0][:3] == ["s-0", "s-3", "s-6"]
    assert all(sorted(part) == shards for part in parts)
    assert in_turn(["s-3", "s-4"], shards, (1, 3)) == ["s-4", "s-3"]


def test_who_measures_keeps_out_who_changes_rows_and_no_other(corpus: Corpus, folder: Folder) -> None:
    with corpus.measuring(), Corpus(corpus.directory).measuring():
        with pytest.raises(InUseError, match=f"process {os.getpid()} is already at work there"):
            ingest_folder(corpus, folder(2, "more"), "more", "x")
        with pytest.raises(StorageError):
            forget(corpus, corpus.index("mine-00000")["id"][:1])
        assert run(corpus, "pixels") == 10
        bright(corpus, 0.0, "all")
    with corpus.writing("a test"), pytest.raises(InUseError, match="Cannot start measuring"):
        run(corpus, "header")


def test_one_process_at_a_time_decides_and_the_others_wait(corpus: Corpus) -> None:
    run(corpus, "pixels")
    ended = threading.Event()
    with exclusive(corpus.directory / "views", "a test"):
        deciding = threading.Thread(target=lambda: (run(corpus, "duplicates"), ended.set()))
        deciding.start()
        assert not ended.wait(0.5)
    assert ended.wait(20)
    deciding.join()


def test_a_forgotten_row_is_not_measured_again(corpus: Corpus) -> None:
    run(corpus, "header")
    run(corpus, "pixels")
    forget(corpus, corpus.index("mine-00001")["id"][:1])
    assert run(corpus, "pixels") == 0
    found = corpus.columns("pixels", "mine-00001") or {}
    assert found["measured"][0] and found["error"][0] == "forgotten" and found["phash"][0] is None


def test_threads_processes_and_parts_write_the_same_bytes(corpus: Corpus, tmp_path: Path) -> None:
    """Processes are asked for by the operator; here, of the packaged ones, by name in a module that the processes import."""
    results = []
    for workers, part in ((1, None), (3, None), (2, (1, 2))):
        for path in list(columns(corpus)):
            (corpus.directory / path).unlink()
        run(corpus, "header", workers=workers, part=part)
        run(corpus, "pixels", workers=workers, part=part)
        run(corpus, "duplicates")
        bright(corpus, 0.4, "bright")
        results.append(columns(corpus))
    assert results[0] == results[1] == results[2] and len(results[0]) == 2 * 3 + 4 * 4 - 2


def test_processes_give_what_threads_give_also_when_one_is_killed(corpus: Corpus) -> None:
    import psutil

    operator = operators.make_operator("pixels")
    slices = {shard: [[number] for number in range(len(corpus.index(shard)["id"]))] for shard in corpus.shards()}
    threads = Threads(2, operator)
    processes = Processes(2, (str(corpus.directory), "pixels", {}))
    try:
        for number, shard in enumerate(corpus.shards()):
            with Shard(corpus, shard) as opened:
                found = []
                for piece, values in processes.map(opened, slices[shard]):
                    if number == 1 and piece == [0]:
                        psutil.Process().children()[-1].kill()
                    found.append((piece, values))
                assert found == list(threads.map(opened, slices[shard])) and len(found) == len(slices[shard])
    finally:
        threads.close()
        processes.close()


def test_a_slice_that_kills_every_process_is_a_sentence(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = Processes(1, (str(corpus.directory), "pixels", {}))
    monkeypatch.setattr("glyphflow.corpus.runner.pools._in_process", _dies)
    try:
        with Shard(corpus, "mine-00000") as opened, pytest.raises(InputError, match="died 3 times at rows 0 and following"):
            list(processes.map(opened, [[0], [1]]))
    finally:
        processes.close()


def _dies(shard: str, numbers: Sequence[int]) -> list[dict[str, Any]]:
    os._exit(9)


def test_few_pictures_are_in_memory_at_once(corpus: Corpus, install: Install) -> None:
    alive: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
    most = 0

    def compute(rows: Sequence[Row]) -> list[dict[str, Any]]:
        nonlocal most
        for row in rows:
            alive[row.number] = row.image
        most = max(most, len(alive))
        return [{} for _ in rows]

    install(Operator("look", {}, {}, compute))
    run(corpus, "look", workers=2)
    assert 1 <= most <= 2


def claims(corpus: Corpus) -> set[tuple[str, int]]:
    """The claims that there are, and when they were made."""
    found = set()
    for path in corpus.directory.rglob("*.claim"):
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_mtime_ns))
    return found


@pytest.mark.slow
def test_several_commands_killed_at_random_end_with_the_same_files(folder: Folder, tmp_path: Path) -> None:
    pictures = folder(60)
    (pictures / "cut.jpg").write_bytes(encoded(photo(60))[:2000])
    calm, killed = (Corpus.create(tmp_path / name) for name in ("calm", "killed"))
    for corpus in (calm, killed):
        ingest_folder(corpus, pictures, "mine", "x", per_shard=3)
        rng = random.Random(4)
    started = time.monotonic()
    for stage in ("header", "pixels", "duplicates"):
        run(calm, stage)
    whole = time.monotonic() - started
    kills = 0
    for _ in range(6):
        before = claims(killed)
        team = [command("corpus", "measure", killed.directory, "--workers", 1) for _ in range(2)]
        while claims(killed) <= before and any(process.poll() is None for process in team):
            time.sleep(0.005)  # until one is at work
        time.sleep(whole * rng.uniform(0, 0.2))
        for process in team:
            with process:
                process.send_signal(signal.SIGKILL)
                kills += process.wait().returncode == -signal.SIGKILL
    done = run_command("corpus", "measure", killed.directory)
    assert done.returncode == 0 and kills >= 2, done.output
    bright(calm, 0.3, "bright")
    bright(killed, 0.3, "bright")
    with killed.writing("sweeping"):
        pass
    assert columns(killed) == columns(calm)


def test_a_full_disk_is_a_sentence_and_the_same_command_goes_on(corpus: Corpus) -> None:
    run(corpus, "header")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        with pytest.raises(StorageError, match="finished work is kept"):
            run(corpus, "pixels")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not list(corpus.directory.rglob("*.tmp")) and not list(corpus.directory.rglob("*.claim"))
    assert run(corpus, "pixels") == 10
