"""What an extra of this package promises to install, and whether it works: installed, of a fitting version, importable."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping

from packaging.requirements import Requirement

PACKAGE = "glyphflow"
_SECONDS = 300  # for importing everything of all extras on a slow, cold disk

_PROBE = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    print(json.dumps([name, "started"]), flush=True)
    try:
        importlib.import_module(name)
        problem = ""
    except BaseException as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    print(json.dumps([name, problem]), flush=True)
"""


def requirements(extra: str) -> list[Requirement]:
    """The packages of ``extra`` and of the extras that it includes, on this system; each once, in their order."""
    found: dict[str, Requirement] = {}
    for line in importlib.metadata.requires(PACKAGE) or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            continue  # a part of the base install, or of no use on this system
        if not requirement.marker.evaluate({"extra": extra}):
            continue
        inside = [one for name in requirement.extras for one in requirements(name)] if requirement.name == PACKAGE else []
        for one in inside or [requirement]:
            found.setdefault(one.name, one)
    return list(found.values())


def problems(wanted: Iterable[Requirement]) -> dict[str, str]:
    """What is wrong with each of the packages ``wanted``, by name; those that work are not in it.

    Everything is imported in another process: a library that crashes there costs a line here, and nothing stays loaded.
    """
    found: dict[str, str] = {}
    modules: dict[str, list[str]] = {}
    names = _modules()
    for requirement in wanted:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found[requirement.name] = "not installed"
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            found[requirement.name] = f"version {version} is installed, {requirement.specifier} is needed"
        else:
            every = names.get(_canonical(requirement.name), [])
            # A package may bring optional modules beside its own, which need what it does not install (duckdb does).
            own = [module for module in every if _canonical(module) == _canonical(requirement.name)]
            modules[requirement.name] = own or every
    broken = _imports([module for each in modules.values() for module in each])
    for name, each in modules.items():
        reasons = [broken[module] for module in each if broken.get(module)]
        if reasons:
            found[name] = f"installed and broken ({reasons[0]})"
    return found


def _modules() -> Mapping[str, list[str]]:
    """The public top-level modules of every installed package, by its canonical name."""
    found: dict[str, list[str]] = {}
    for module, packages in importlib.metadata.packages_distributions().items():
        if module.isidentifier() and not module.startswith("_"):
            for package in set(packages):
                found.setdefault(_canonical(package), []).append(module)
    return found


def _canonical(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _imports(modules: list[str]) -> dict[str, str]:
    """What went wrong with importing each of ``modules``: nothing, an error, or the end of the process."""
    found: dict[str, str] = {}
    waiting = modules
    while waiting:
        answers = list(_probe(waiting))
        found.update(answers)
        finished = sum(1 for _, problem in answers if problem != "started")
        if finished >= len(waiting):
            break
        found[waiting[finished]] = "importing it ends the process"
        waiting = waiting[finished + 1 :]
    return found


def _probe(modules: list[str]) -> Iterator[tuple[str, str]]:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, json.dumps(modules)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
        output = done.stdout
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode("utf-8", "replace") if isinstance(error.stdout, bytes) else error.stdout or ""
    for line in output.splitlines():
        try:
            name, problem = json.loads(line)
        except (ValueError, TypeError):
            continue  # what a library prints while it is imported
        if name in modules:
            yield name, problem
