"""One recipe, every way to run it, and kills: `python -m benchmarks.corpus.engine FOLDER [--photos DIR] [--kills 20]`.

The 400 pictures (benchmarks/corpus/pictures.py) in 40 shards, once for each way: measured (header, pixels, duplicates, detail)
and decided in two stages. Every file of columns and views is compared with what one thread wrote.

* threads, processes that start at different parts of the shards, a Slurm array's script run as two jobs at once
* an embedded Ray with two actors
* two commands at once, both killed (SIGKILL) at random times until ``--kills`` have died, then one that is left alone

Then the memory that one command needs for a shard of 4,000 pictures, beside one of 400.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import machine, table
from benchmarks.corpus.pictures import arguments, load
from benchmarks.corpus.storage import corpus_of
from glyphflow.core.hashing import sha256_file
from glyphflow.corpus import Corpus

RECIPE = """
stages:
  - name: F1
    title: first
    view: f1-initial
    measure: [header, pixels, duplicates]
    rules:
      - {filter: Broken, column: pixels.error, empty: true, reason: "{value}"}
      - {filter: Dark, column: pixels.luma, min: 0.3, reason: "dark: {value}"}
  - name: F2
    title: second
    view: f2-quality
    measure: [detail]
    rules:
      - {filter: Soft, column: detail.sharpness, min: 15, reason: "soft: {value}"}
"""

MEMORY = """
import json, sys
from glyphflow.core.hardware import peak_memory_bytes
from glyphflow.corpus import Corpus
from glyphflow.corpus.runner.stage import run
run(Corpus.open(sys.argv[1]), "pixels", workers=2)
print(json.dumps(peak_memory_bytes()))
"""


def files(corpus: Corpus) -> dict[str, str]:
    """Every file that measuring and deciding wrote, with its hash."""
    return {
        str(path.relative_to(corpus.directory)): sha256_file(path)
        for folder in ("columns", "views")
        for path in sorted((corpus.directory / folder).rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def glyphflow(*words: object) -> subprocess.Popen[bytes]:
    """A ``glyphflow corpus`` command."""
    command = [sys.executable, "-m", "glyphflow", "corpus", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def finish(*processes: subprocess.Popen[bytes]) -> None:
    codes = [process.wait() for process in processes]
    assert not any(codes), f"a command failed: {codes}"


def killed(corpus: Corpus, recipe: Path, kills: int) -> str:
    """Two commands at once, killed at random; gives how many died and how often the work was over before a kill."""
    rng, died, over = random.Random(7), 0, 0
    while died < kills:
        team = [glyphflow("run", corpus.directory, "--recipe", recipe, "--workers", 1) for _ in range(2)]
        time.sleep(rng.uniform(1.5, 6.0))  # the first seconds are imports
        for process in team:
            if process.poll() is None:
                process.kill()
                died += 1
            process.wait()
        if (corpus.directory / "views" / "f2-quality" / "view.json").exists():  # all done: take a part of it away again
            over += 1
            for path in rng.sample(sorted(corpus.directory.glob("columns/*@*/*.parquet")), 30):
                path.unlink()
    finish(glyphflow("run", corpus.directory, "--recipe", recipe))
    with corpus.writing("sweeping up"):
        pass
    return f"{died} killed; {over} times everything was done, and 30 files were removed"


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--kills", type=int, default=20)
    given = parser.parse_args()
    pictures = load(given.folder, given.photos)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        recipe = place / "recipe.yaml"
        recipe.write_text(RECIPE)
        made = corpus_of(place, pictures, len(pictures), 10)

        def slurm(corpus: Corpus) -> None:
            finish(glyphflow("run", corpus.directory, "--recipe", recipe, "--on", "slurm", "--workers", 2))
            script = corpus.directory / "slurm" / "run.sbatch"
            jobs = [
                subprocess.Popen(
                    ["bash", str(script)],
                    env={**os.environ, "SLURM_ARRAY_TASK_ID": str(job), "SLURM_CPUS_PER_TASK": "1"},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                for job in range(2)
            ]
            finish(*jobs)

        def command(*options: object) -> Callable[[Corpus], None]:
            return lambda corpus: finish(glyphflow("run", corpus.directory, "--recipe", recipe, *options))

        def parts(corpus: Corpus) -> None:
            words = ("run", corpus.directory, "--recipe", recipe, "--workers", 1)
            finish(*(glyphflow(*words, "--part", f"{part}/2") for part in range(2)))

        ways: dict[str, Callable[[Corpus], object]] = {
            "one thread": command("--workers", 1),
            "two threads": command("--workers", 2),
            "two commands at once": parts,
            "a Slurm script, two jobs at once": slurm,
            f"{given.kills} random kills": lambda corpus: killed(corpus, recipe, given.kills),
        }
        if importlib.util.find_spec("ray"):
            ways["Ray, two actors"] = command("--workers", 2, "--on", "ray")
        expected: dict[str, str] = {}
        rows: list[tuple[object, ...]] = []
        for way, work in ways.items():
            corpus = Corpus.open(shutil.copytree(made.directory, place / "copy"))
            start = time.perf_counter()
            note = work(corpus)
            seconds = time.perf_counter() - start
            found = files(corpus)
            expected = expected or found
            equal = sum(expected.get(path) == digest for path, digest in found.items())
            assert equal == len(found) == len(expected), f"{way}: {len(found)} files, {equal} of {len(expected)} equal"
            rows.append((way, f"{equal} of {len(expected)}", f"{seconds:.0f}", note or ""))
            shutil.rmtree(place / "copy")
            print(*rows[-1], sep=" | ", flush=True)
        print(machine("pyarrow", "numba"))
        print()
        print(table(("way", "files equal to those of one thread", "s of wall time", ""), rows))
        memory = []
        for count in (400, 4000):
            corpus = corpus_of(place / str(count), pictures, count, count)
            said = subprocess.run(
                [sys.executable, "-c", MEMORY, str(corpus.directory)], capture_output=True, text=True, check=True
            )
            size = corpus.pixels_path(corpus.shards()[0]).stat().st_size
            memory.append(
                (f"{count} pictures, {size / 1e6:.0f} MB", f"{json.loads(said.stdout.splitlines()[-1]) / 1e6:.0f} MB")
            )
            shutil.rmtree(place / str(count))
        print()
        print(table(("one shard, two threads", "memory at its peak"), list(memory)))


if __name__ == "__main__":
    main()
