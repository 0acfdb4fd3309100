"""The same columns from Ray actors and from the jobs of a Slurm array."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from corpus_pictures import encoded, photo
from typer.testing import CliRunner

from glyphflow.cli.main import app
from glyphflow.corpus import Corpus, add_specs
from glyphflow.corpus.ingest.pictures import ingest_folder
from glyphflow.corpus.ingest.sources import cut
from glyphflow.corpus.runner.stage import run

Folder = Callable[..., Path]


def columns(corpus: Corpus) -> dict[str, bytes]:
    """Every file that measuring writes, by its path."""
    place = corpus.directory / "columns"
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


@pytest.fixture
def two(folder: Folder, tmp_path: Path) -> tuple[Corpus, Corpus]:
    """A corpus of 20 pictures in seven shards, twice; the first is measured."""
    place = folder(20)
    (place / "picture-004.jpg").write_bytes(cut(encoded(photo(4)), 0.5))
    made = tuple(Corpus.create(tmp_path / name) for name in ("here", "there"))
    for corpus in made:
        ingest_folder(corpus, place, "mine", "x", per_shard=3)
    for stage in ("header", "pixels", "duplicates"):
        run(made[0], stage)
    return made[0], made[1]


def test_the_jobs_of_an_array_do_the_work_of_one_command(two: tuple[Corpus, Corpus]) -> None:
    here, there = two
    cli = CliRunner()
    asked = ["corpus", "measure", str(there.directory), "--on", "slurm", "--workers", "3"]
    said = cli.invoke(app, asked)
    assert said.exit_code == 0, said.output
    script = there.directory / "slurm" / "header-pixels.sbatch"
    assert script.read_text() in said.output and f"sbatch {script}" in said.output
    assert f"glyphflow corpus measure {there.directory} --stages duplicates" in said.output
    assert re.search(r"#SBATCH --array=0-2$", script.read_text(), re.MULTILINE)
    for job in (2, 0, 1):  # in whatever order they start
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(job), "SLURM_CPUS_PER_TASK": "1"}
        done = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if job == 2:  # the first job of the array does everything when no other one comes
            assert "pixels: 20 rows measured by this job." in done.stdout
            last = there.column_path("pixels", there.stage_fingerprint("pixels") or "", "mine-00000")
            last.unlink()
    run(there, "duplicates")
    assert columns(there) == columns(here)
    assert "Nothing is missing." in cli.invoke(app, asked).output


_RECIPE = """
stages:
  - name: F1
    title: first
    view: f1-initial
    measure: [header, pixels, duplicates, {operator: mosaic, kept: true}]
    rules:
      - {filter: Broken, column: pixels.error, empty: true, reason: "{value}"}
      - {filter: Dark, column: pixels.luma, min: 0.5, reason: "dark {value}"}
      - {filter: Mosaic, column: mosaic.share, max: 1.0, reason: "mosaic {value}"}
  - name: F2
    title: second
    view: f2-quality
    measure: [{operator: detail, options: {}}]
    rules:
      - {filter: Soft, column: detail.sharpness, min: 0.0, reason: "soft {value}"}
"""


def test_a_recipe_is_run_stage_by_stage_on_what_is_left(two: tuple[Corpus, Corpus], tmp_path: Path) -> None:
    here, there = two
    recipe = tmp_path / "two-stages.yaml"
    recipe.write_text(_RECIPE)
    cli = CliRunner()
    said = cli.invoke(app, ["corpus", "run", str(here.directory), "--recipe", str(recipe)])
    assert said.exit_code == 0, said.output
    kept = here.records("f1-initial").ids
    assert 0 < len(kept) < 19 and f"f1-initial: {len(kept)} of 20 rows kept." in said.output
    for stage in ("mosaic", "detail"):  # of the first stage, but for what its cheap rules keep; and of the second
        measured: dict[str, bool] = {}
        for shard in here.shards():
            found = here.columns(stage, shard, ("id", "measured")) or {}
            measured.update(zip(found["id"], found["measured"], strict=True))
        assert sorted(row for row, known in measured.items() if known) == sorted(kept)
    again = cli.invoke(app, ["corpus", "run", str(here.directory), "--recipe", str(recipe)])
    assert again.exit_code == 0 and "f2-quality" in again.output
    array = cli.invoke(app, ["corpus", "run", str(there.directory), "--recipe", str(recipe), "--on", "slurm", "--workers", "2"])
    script = there.directory / "slurm" / "run.sbatch"
    assert array.exit_code == 0 and f"sbatch {script}" in array.output
    environment = {**os.environ, "SLURM_CPUS_PER_TASK": "1"}
    jobs = [
        subprocess.Popen(["bash", str(script)], env={**environment, "SLURM_ARRAY_TASK_ID": str(job)}, stderr=subprocess.DEVNULL)
        for job in range(2)
    ]
    assert [job.wait() for job in jobs] == [0, 0]
    assert columns(there) == columns(here)
    for view in ("f1-initial", "f2-quality"):
        for path in sorted((here.directory / "views" / view).iterdir()):
            assert path.read_bytes() == (there.directory / "views" / view / path.name).read_bytes(), path


def test_a_part_is_written_as_a_fraction(two: tuple[Corpus, Corpus]) -> None:
    cli = CliRunner()
    for part in ("3", "3/3", "x/2"):
        done = cli.invoke(app, ["corpus", "work", str(two[1].directory), "--stages", "pixels", "--part", part])
        assert done.exit_code and "write I/N" in str(done.exception)
    done = cli.invoke(app, ["corpus", "measure", str(two[1].directory), "texts.batch=4"])
    assert "The option 'texts' is of no stage that runs" in str(done.exception)
    done = cli.invoke(app, ["corpus", "measure", str(two[1].directory), "--stages", "pixel"])
    assert "There is no operator 'pixel'" in str(done.exception)
    done = cli.invoke(app, ["corpus", "measure", str(two[1].directory), "--on", "mars"])
    assert "--on mars is not known" in str(done.exception)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine, started once for all that are asked of it here."""
    ray = pytest.importorskip("ray")
    ray.init(include_dashboard=False, num_cpus=2, object_store_memory=80 << 20, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_ray_writes_the_same_columns_also_when_actors_are_killed(two: tuple[Corpus, Corpus], cluster: None) -> None:
    here, there = two
    killed: list[int] = []
    ended = threading.Event()

    def kill_two() -> None:
        while not ended.wait(0.001) and len(killed) < 2:
            for claim in there.directory.rglob(".*.claim"):
                with contextlib.suppress(OSError, ValueError, IndexError):
                    process = int(claim.read_text().split()[1])
                    if process not in killed:
                        os.kill(process, signal.SIGKILL)
                        killed.append(process)

    killer = threading.Thread(target=kill_two)
    try:
        assert run(there, "header", on="ray", workers=2) == 20
        killer.start()
        run(there, "pixels", on="ray", workers=2)
        ended.set()
        killer.join()
        assert len(killed) == 2 and os.getpid() not in killed
        assert run(there, "pixels", on="ray") == 0
    finally:
        ended.set()
    run(there, "duplicates")
    assert columns(there) == columns(here)


@pytest.mark.slow
def test_ray_data_reads_a_selection_by_itself(two: tuple[Corpus, Corpus], cluster: None) -> None:
    pytest.importorskip("pandas")  # which Ray's part for data needs
    from glyphflow.corpus.export import to_ray
    from glyphflow.render import RenderSpec

    here, _ = two
    add_specs(here, "lines", [RenderSpec("word", seed, 64, 64) for seed in range(3)])
    rows = to_ray(here.records(), 5).take_all()
    assert sorted(row["id"] for row in rows) == sorted(here.records().ids)
    photos = [row for row in rows if row["source"] == "mine"]
    assert all(row["image"]["bytes"][:2] == b"\xff\xd8" and row["caption_en"].startswith("picture number") for row in photos)
    renders = [row for row in rows if row["source"] == "lines"]
    assert all(row["image"]["bytes"][1:4] == b"PNG" and row["caption_en"] for row in renders) and len(renders) == 3
