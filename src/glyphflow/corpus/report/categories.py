"""What the pictures are of, against the shares that were wanted; how the view splits them, and how often each is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from glyphflow.core.files import read_json
from glyphflow.corpus.operators.categories import load_taxonomy
from glyphflow.corpus.report.charts import histogram, part_bar
from glyphflow.corpus.report.rows import Passage, Rows, encode, sample
from glyphflow.corpus.report.shots import Shots
from glyphflow.corpus.report.text import counted, percent, plain, short
from glyphflow.corpus.report.values import pictures

if TYPE_CHECKING:
    from numpy.typing import NDArray

NODES = 300  # lines of the tree
BRANCH_PICTURES = 8  # of each branch


def tree(rows: Rows, kept: NDArray[np.bool_], weight: NDArray[np.float64], shots: Shots) -> str:
    """The taxonomy as bars: ``kept`` rows of every node, as they are, as ``weight`` has them drawn, and as they are wanted."""
    if not rows.has("categories.node"):
        return '<p class="none">Nothing has been classified yet: the stage categories has not run.</p>'
    names, codes = encode(rows.read("categories.node"))
    total = int(kept.sum())
    shares = _shares(rows)
    nodes = [(name, kept & (codes == number)) for number, name in enumerate(names) if name]
    paths = _paths([name for name, _ in nodes], shares)
    counts = dict.fromkeys(paths, 0)
    drawn = dict.fromkeys(paths, 0.0)
    for name, chosen in nodes:
        for path in _above(name):
            counts[path] += int(chosen.sum())
            drawn[path] += float(weight[chosen].sum())
    classified = sum(counts[path] for path in paths if "/" not in path)
    drawn_all = sum(drawn[path] for path in paths if "/" not in path)
    wanted = _wanted(shares)
    domains = [path for path in paths if "/" not in path]
    lines = "".join(
        _line(path, domains, counts[path], classified, drawn[path] / (drawn_all or 1), wanted.get(path))
        for path in paths[:NODES]
    )
    head = (
        '<tr><th>category</th><th class=wide></th><th class=n>rows</th><th class=n>share</th><th class="n drawn">as drawn</th>'
        "<th class=n>wanted</th></tr>"
    )
    lacking = f'<p class="none">{counted(total - classified, "row")} without a category.</p>' if total > classified else ""
    more = f'<p class="none">{len(paths) - NODES} further nodes are not shown.</p>' if len(paths) > NODES else ""
    return (
        f"{_domains(domains, counts, classified, drawn, drawn_all, wanted)}"
        f'<div class="scroll"><table class="numbers tree">{head}{lines}</table></div>{lacking}{more}'
        f"<details><summary>Pictures of every branch</summary>{_branches(paths, nodes, counts, rows, shots)}</details>"
    )


def _shares(rows: Rows) -> dict[str, float]:
    """Branch -> share, of the taxonomy that the rows were classified with."""
    told = read_json(rows.corpus.directory / "columns" / "categories.json")["operator"].get("shares", {})
    return {str(branch): float(share) for branch, share in told.items()}


def _above(path: str) -> list[str]:
    """The node and all above it, the domain first."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _wanted(shares: Mapping[str, float]) -> dict[str, float]:
    """Which part of all rows is wanted of every branch, and of every domain: what the packaged taxonomy states (the report's
    55, 27, 13, 5), of another one the sums of its branches."""
    total = sum(shares.values()) or 1
    found = {path: share / total for path, share in _sums(shares).items()}
    packaged = load_taxonomy()
    if packaged.shares == shares:
        stated = packaged.domain_shares
        found |= {domain: share / sum(stated.values()) for domain, share in stated.items()}
    return found


def _sums(shares: Mapping[str, float]) -> dict[str, float]:
    """The shares of branches, and of the domains as their sums."""
    found: dict[str, float] = {}
    for branch, share in shares.items():
        for path in _above(branch):
            found[path] = found.get(path, 0.0) + share
    return found


_DOMAINS = ("nature", "design", "people", "synthetic")


def _paths(names: Sequence[str], shares: Mapping[str, float]) -> list[str]:
    """All nodes in the order of a tree, the report's domains in its order."""
    every = {path for name in (*names, *shares) for path in _above(name)}
    place = {name: number for number, name in enumerate(_DOMAINS)}
    return sorted(every, key=lambda path: (place.get(path.split("/")[0], len(place)), path.split("/")))


def _domains(
    domains: Sequence[str],
    counts: Mapping[str, int],
    classified: int,
    drawn: Mapping[str, float],
    drawn_all: float,
    wanted: Mapping[str, float],
) -> str:
    """The domains as three bars: wanted, there, drawn."""
    rows = [("wanted", {path: wanted.get(path, 0.0) for path in domains})] if wanted else []
    rows.append(("kept", {path: counts[path] / (classified or 1) for path in domains}))
    rows.append(("drawn, with weights", {path: drawn[path] / (drawn_all or 1) for path in domains}))
    lines = ""
    for name, shares in rows:
        bar = part_bar([(f"domain-{n % 6}", shares[path], path) for n, path in enumerate(domains)], 1.0, name)
        told = ", ".join(f"{plain(path)} {percent(shares[path], 1)}" for path in domains)
        lines += f"<tr><th>{name}</th><td class=wide>{bar}</td><td class=soft>{told}</td></tr>"
    keys = "".join(f'<span><i class="domain-{n % 6}"></i>{plain(path)}</span>' for n, path in enumerate(domains))
    return f'<p class="legend">{keys}</p><table class="numbers domains">{lines}</table>'


def _line(path: str, domains: Sequence[str], count: int, classified: int, drawn: float, wanted: float | None) -> str:
    depth = path.count("/")
    share = count / classified if classified else 0.0
    scale = 0.65  # the share at the right end of the bars: the largest domain has 55 %
    mark = f'<em style="left:{min(100.0, 100 * wanted / scale):.2f}%"></em>' if wanted is not None else ""
    kind = f"domain-{domains.index(path.split('/')[0]) % 6}"
    filled = f'<b class="{kind}" style="width:{min(100.0, 100 * share / scale):.2f}%"></b>' if count else ""
    bar = f'<span class="bar marked">{filled}{mark}</span>'
    goal = f"{100 * wanted:.1f} %" if wanted is not None else ""
    numbers = f"<td class=n>{count:,}</td><td class=n>{percent(count, classified)}</td>"
    numbers += f'<td class="n soft drawn">{percent(drawn, 1)}</td>'
    name = f'<td class="depth-{min(depth, 3)}">{plain(path.rpartition("/")[2], 60)}</td>'
    return f'<tr class="level-{min(depth, 3)}">{name}<td>{bar}</td>{numbers}<td class="n soft">{goal}</td></tr>'


def _branches(
    paths: Sequence[str],
    nodes: Sequence[tuple[str, NDArray[np.bool_]]],
    counts: Mapping[str, int],
    rows: Rows,
    shots: Shots,
) -> str:
    parts = ""
    for path in [path for path in paths if path.count("/") == 1 and counts[path]][:40]:
        own = np.any([chosen for name, chosen in nodes if path in _above(name)], axis=0) & rows.showable
        shown = sample(np.flatnonzero(own), BRANCH_PICTURES, path)
        figures = "".join(shots.figure(row, f"<i>{plain(rows.key(row), 60)}</i>") for row in shown)
        parts += f'<h4>{plain(path)} <small>{counted(counts[path], "row")}</small></h4><div class="shots">{figures}</div>'
    return parts


# -- splits and weights ---------------------------------------------------------------------------------------------------


def splits(rows: Rows, passed: Sequence[Passage]) -> str:
    """The kept rows of every view by split."""
    lines = ""
    for passage in passed:
        decided = passage.view
        if not decided.splits:
            continue
        total = int(decided.kept.sum())
        for number, name in enumerate(decided.splits):
            chosen = decided.kept & (decided.split == number)
            photos, count = int((chosen & rows.photo).sum()), int(chosen.sum())
            bar = part_bar([("photo", photos, "pictures"), ("render", count - photos, "renders")], total or 1, name)
            first = plain(decided.name) if number == 0 else ""
            lines += (
                f"<tr><td>{first}</td><td>{plain(name)}</td><td class=wide>{bar}</td><td class=n>{count:,}</td>"
                f"<td class='n soft'>{percent(count, total)}</td></tr>"
            )
    if not lines:
        return '<p class="none">No view has splits.</p>'
    return f'<div class="scroll"><table class="numbers">{lines}</table></div>'


def weights(rows: Rows, last: Passage, shots: Shots) -> str:
    """How often the kept rows are drawn beside one of weight 1."""
    weight = np.where(last.view.kept, last.view.weight, np.nan)
    known = weight[last.view.kept]
    if not len(known) or known.min() == known.max():
        return '<p class="none">All kept rows have the same weight.</p>'
    kinds = {"photo": weight[last.view.kept & rows.photo], "render": weight[last.view.kept & ~rows.photo]}
    spread = histogram({kind: group for kind, group in kinds.items() if len(group)}, [], "weights")
    tiles = "".join(shots.figure(row, said) for row, said in pictures(rows, "weight", weight))
    effective = float(known.sum() ** 2 / (known**2).sum())
    facts = (
        f"least {short(float(known.min()))}, median {short(float(np.median(known)))}, most {short(float(known.max()))}; worth "
        f"{effective:,.0f} rows drawn alike"
    )
    return (
        f'<article class="value"><h4>weight <small>in {plain(last.view.name)}</small></h4><p class="facts">{facts}</p>'
        f'{spread}<div class="strip">{tiles}</div></article>'
    )
