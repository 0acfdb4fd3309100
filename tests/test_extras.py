"""Each extra is enough for what it promises: everything that it does not install is made unimportable, and its verbs run.

The suite's own environment holds every package, so a verb that needs one too many would pass everywhere else. Here an import
hook, which child processes inherit, refuses the modules of every installed package outside of the extra's own requirements.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

pytestmark = pytest.mark.slow

HOOK = """
import json, os, sys, sysconfig
refused = frozenset(json.loads(os.environ["REFUSED_MODULES"]))
installed = sysconfig.get_path("purelib")
class Without:  # also importlib.util.find_spec finds nothing then, as on a machine without the package
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        spec = self.finder.find_spec(name, path, target)
        top = name.partition(".")[0]
        # Packages bring copies of others in folders of their own (ray does), which are theirs.
        if spec is None or top not in refused:
            return spec
        return spec if spec.origin and not spec.origin.startswith(os.path.join(installed, top)) else None
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""
VERBS = """
import importlib.util, json, os, sys
from glyphflow.cli.main import main
refused = set(json.loads(os.environ["REFUSED_MODULES"])) & {"pyarrow", "ray", "diffusers", "skimage"}
assert refused and not any(map(importlib.util.find_spec, refused)), "the hook lets through what it should refuse"
for verb in json.loads(sys.argv[1]):
    sys.argv = ["glyphflow", *verb]
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise
"""
TRAIN = """
kind: mmdit
out: train
feed: {sources: [{corpus: corpus, view: null, cache: cache}], area: 4096, batch_size: 2, heldout_share: 0.0}
train: {steps: 1, checkpoint_every: 1, preview_every: 100, heldout_every: 100}
"""
CORPUS = """
render:
  - {name: words, template: word, count: 4, params: {languages: [en], fonts: [space-mono-bold]}}
stages:
  - {name: F1, title: One rule, rules: [{filter: Broken Files, column: index.error, empty: true, reason: "{value}"}]}
"""
INGEST = ("corpus", "ingest", "corpus", "pictures", "--source", "mine")
RENDER = ("corpus", "render", "corpus", "--recipe", "corpus.yaml")
PROMISES: dict[str, list[Sequence[str]]] = {
    "": [
        ("generate", "a sign", "--size", "64x64", "--steps", "1", "-o", "sign.png"),
        ("edit", "make it red", "-i", "sign.png", "--steps", "1", "-o", "edited.png"),
        ("plan", "generate"),
        ("doctor",),
    ],
    "corpus": [
        INGEST,
        RENDER,
        ("corpus", "measure", "corpus", "--workers", "1"),
        ("corpus", "curate", "corpus", "--recipe", "corpus.yaml", "--view", "clean"),
        ("corpus", "annotate", "corpus", "--view", "clean", "--workers", "1"),
        ("corpus", "sql", "corpus", "select count(*) from index"),
        ("corpus", "report", "corpus", "-o", "corpus.html"),
    ],
    "train": [RENDER, ("encode", "train.yaml"), ("train", "train.yaml"), ("export", "train", "model")],
    "demo": [
        ("corpus", "collect", "photographs"),
        ("evaluate", "sample", "nano-demo", "--limit", "3", "--steps", "1", "--size", "64x64", "--out", "emoji"),
        ("evaluate", "score", "emoji"),
    ],
    "curate": [INGEST, ("corpus", "run", "corpus", "--recipe", "seven-stages-corpus", "--workers", "1")],
    "corpus,ray": [INGEST, ("corpus", "measure", "corpus", "--stages", "header", "--on", "ray")],
}


def requirements_of(distribution: str, extras: frozenset[str]) -> list[Requirement]:
    found = map(Requirement, importlib.metadata.requires(distribution) or ())
    return [one for one in found if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras | {""})]


def closure(extra: str) -> set[str]:
    """Canonical names of everything that installing ``glyphflow[extra]`` brings, transitively."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting: list[tuple[str, frozenset[str]]] = [("glyphflow", frozenset(extra.split(",")))]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        try:
            waiting += [(canonicalize_name(each.name), frozenset(each.extras)) for each in requirements_of(*one)]
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system
    return {name for name, _ in seen}


def refused(extra: str) -> list[str]:
    """Top-level modules that only packages outside of the extra bring."""
    inside = closure(extra) | {"pip", "setuptools"}
    # Fonts are data that requirements-no-deps.txt brings to the demo.
    return sorted(
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & inside
        and module not in sys.stdlib_module_names
        and not module.startswith("fontpkg")
    )


def test_the_hook_refuses_what_an_extra_does_not_bring() -> None:
    assert {"pyarrow", "skia", "ray", "diffusers"} <= set(refused(""))
    assert "torch" not in refused("") and "pyarrow" not in refused("corpus") and "ray" in refused("demo")
    assert "py3langid" not in refused("demo")


@pytest.mark.parametrize("extra", PROMISES, ids=lambda extra: extra or "base")
def test_an_extra_is_enough_for_its_verbs(extra: str, tmp_path: Path) -> None:
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    (tmp_path / "corpus.yaml").write_text(CORPUS, encoding="utf-8")
    (tmp_path / "train.yaml").write_text(TRAIN, encoding="utf-8")
    (tmp_path / "pictures").mkdir()
    for number in range(2):
        Image.effect_noise((320, 256), 40 + number).convert("RGB").save(tmp_path / "pictures" / f"{number}.jpg", quality=90)
        (tmp_path / "pictures" / f"{number}.txt").write_text("a grey noise", encoding="utf-8")
    paths = [str(tmp_path / "hook"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "REFUSED_MODULES": json.dumps(refused(extra))}
    verbs = json.dumps([list(verb) for verb in PROMISES[extra]])
    done = subprocess.run(
        [sys.executable, "-c", VERBS, verbs], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
