"""The runner as a Slurm array: a batch script whose jobs all do the same command over what is missing."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from glyphflow.core.files import write_text
from glyphflow.corpus.store import Corpus

JOBS = 64  # of an array, when nobody says how many


def write_script(corpus: Corpus, name: str, verb: Sequence[str], shards: int, jobs: int | None = None) -> tuple[Path, str]:
    """Write ``<corpus>/slurm/<name>.sbatch``, an array of jobs that run ``glyphflow corpus`` with ``verb``; path and text.

    ``shards`` are missing now; there are never more ``jobs`` than these. A job begins with its own part of the shards and helps
    the others, so a job that is preempted or never starts costs time and no work, and the same script goes on.
    """
    count = max(1, min(jobs or JOBS, shards))
    folder = corpus.directory.resolve() / "slurm"
    command = shlex.join([sys.executable, "-m", "glyphflow", "corpus", *verb])
    text = f"""#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{count - 1}
#SBATCH --cpus-per-task={os.cpu_count() or 1}
#SBATCH --requeue
#SBATCH --output={folder}/%A-%a.log

# {shards} shards lack columns now. What is finished is not done again: to go on after a failure, submit this again.
set -euo pipefail
exec {command} --part "$SLURM_ARRAY_TASK_ID/{count}" --workers "$SLURM_CPUS_PER_TASK"
"""
    path = folder / f"{name}.sbatch"
    write_text(path, text)
    return path, text
