"""Draw `docs/images/architecture.svg` from the imports that are really in the package.

    python docs/architecture.py

A row up means imports a row down; of the arrows only those are drawn that no longer way implies. Modules that share a
box are joined by `BOXES`; the numbers are lines of code.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from html import escape
from pathlib import Path

import grimp
import networkx

from vbmstat.image import storage
from vbmstat.tables.toml import read_toml

ROOT = Path(__file__).parents[1]
IMAGE = ROOT / "docs" / "images" / "architecture.svg"
PACKAGE = "vbmstat"
# Box -> its modules (prefixes); every other module and sub-package has a box of its own.
BOXES: dict[str, tuple[str, ...]] = {}
WORDS = {
    "cli": "the commands", "rerun": "same bytes?", "batch": "many scans", "report": "one HTML page",
    "compare": "two pipelines", "evaluate": "engines and truth", "training": "networks", "figures": "matplotlib",
    "metrics": "Dice, r, elasticity", "harmonize": "ComBat", "regions": "models of regions", "preproc": "T1w to maps",
    "glm": "maps to t", "roi": "maps to mL", "simulate": "known truth", "maps": "masked, packed",
    "tables": "cohorts, columns", "files": "names, BIDS", "assets": "templates, weights", "distributed": "dask, SLURM",
    "device": "CPU, CUDA", "progress": "how far", "image": "grids, files, nibabel", "errors": "one clear line",
}  # fmt: skip
# Width and height of a box, gaps between boxes and rows, margin, px.
WIDTH, HEIGHT, GAP, ROW_GAP, MARGIN = 150, 54, 22, 46, 20
SWEEPS = 12


def main() -> None:
    """Draw it."""
    storage.write_text(IMAGE, draw(box_imports(), lines_of_code()))


def box_imports() -> networkx.DiGraph:
    """Which box imports which, without those that a longer way implies; a box that would close a circle is opened.

    Imports that the contracts of pyproject.toml allow against the layers are left out.
    """
    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
    contracts = read_toml(ROOT / "pyproject.toml", "the project's file")["tool"]["importlinter"]["contracts"]
    for allowed in contracts[0].get("ignore_imports", []):
        graph.remove_import(**dict(zip(("importer", "imported"), allowed.split(" -> "), strict=True)))
    while True:
        boxes = networkx.DiGraph()
        for module in graph.modules - {PACKAGE}:
            boxes.add_node(box_of(module))
            imported = {box_of(other) for other in graph.find_modules_directly_imported_by(module) - {PACKAGE}}
            boxes.add_edges_from((box_of(module), other) for other in imported - {box_of(module)})
        if networkx.is_directed_acyclic_graph(boxes):
            return networkx.transitive_reduction(boxes)
        circle = networkx.find_cycle(boxes)
        if not BOXES.keys() & {box for box, _ in circle}:
            msg = f"rooms import one another in a circle: {circle}"
            raise SystemExit(msg)
        for box, _ in circle:
            BOXES.pop(box, None)


def box_of(module: str) -> str:
    """The box of a module, ``vbmstat.compare.files`` -> ``compare``."""
    name = module.split(".")[1]
    for box, prefixes in BOXES.items():
        if name == box or any(name == prefix or name.startswith(f"{prefix}_") for prefix in prefixes):
            return box
    return name


def lines_of_code() -> dict[str, int]:
    """Lines of each box."""
    lines: dict[str, int] = defaultdict(int)
    for path in (ROOT / PACKAGE).rglob("*.py"):
        name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        if name != f"{PACKAGE}.__init__":
            lines[box_of(name)] += len(path.read_text(encoding="utf-8").splitlines())
    return dict(lines)


def draw(boxes: networkx.DiGraph, lines: dict[str, int]) -> str:
    """The graph as SVG."""
    rows, ways = arrange(boxes)
    wide = max(sum(room(place) for place in row) for row in rows)
    width, height = 2 * MARGIN + wide, 2 * MARGIN + len(rows) * (HEIGHT + ROW_GAP) - ROW_GAP
    centre = {}
    for depth, row in enumerate(rows):
        x = (width - sum(room(place) for place in row)) / 2
        for place in row:
            centre[place] = x + room(place) / 2, MARGIN + depth * (HEIGHT + ROW_GAP) + HEIGHT / 2
            x += room(place)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        "<title>Modules of vbmstat and what they import</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#8a94a6"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        *(curve([centre[place] for place in way]) for way in ways),
    ]
    for box in sorted(boxes):
        x, y = centre[box]
        fill = "#e3f0ea" if (ROOT / PACKAGE / box).is_dir() else "#eef1f6"
        parts += [
            f'<rect x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" width="{WIDTH}" height="{HEIGHT}" rx="7" '
            f'fill="{fill}" stroke="#5b6575"/>',
            f'<text x="{x:g}" y="{y - 4:g}" text-anchor="middle" font-size="15" font-weight="600" fill="#1d2430">'
            f"{escape(box)}</text>",
            f'<text x="{x:g}" y="{y + 14:g}" text-anchor="middle" font-size="11.5" fill="#465061">'
            f"{escape(WORDS.get(box, ''))} · {lines.get(box, 0)}</text>",
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def arrange(boxes: networkx.DiGraph) -> tuple[list[list[str]], list[list[str]]]:
    """Places by row from the top, and the places that each arrow passes.

    A box's row is the longest way down from it. An arrow over several rows gets a narrow place in each of them, so that
    it passes beside boxes; places stand at the mean of their neighbours' (Sugiyama 1981).
    """
    depth: dict[str, int] = {}
    for box in reversed(list(networkx.lexicographical_topological_sort(boxes))):
        depth[box] = 1 + max((depth[lower] for lower in boxes.successors(box)), default=-1)
    top = max(depth.values())
    rows = [sorted(box for box in depth if top - depth[box] == level) for level in range(top + 1)]
    ways = []
    for upper, lower in sorted(boxes.edges):
        between = [f"{upper}>{lower}>{level}" for level in range(top - depth[upper] + 1, top - depth[lower])]
        for place, level in zip(between, range(top - depth[upper] + 1, top), strict=False):
            rows[level].append(place)
        ways.append([upper, *between, lower])
    neighbours = networkx.Graph([pair for way in ways for pair in itertools.pairwise(way)])
    for _ in range(SWEEPS):
        for level in (*range(1, top + 1), *range(top - 1, -1, -1)):
            beside = rows[level - 1] if level else rows[1]
            both = {*rows[level - 1], *rows[min(level + 1, top)]} if 0 < level < top else {*beside}
            at = {place: positions(row)[place] for row in rows for place in row if place in both}
            current = positions(rows[level])
            near = {place: [at[n] for n in neighbours[place] if n in at] or [current[place]] for place in rows[level]}
            mean = {place: sum(places) / len(places) for place, places in near.items()}
            rows[level].sort(key=mean.__getitem__)
    return rows, ways


def positions(row: list[str]) -> dict[str, float]:
    """Centre of each place of a row, the row's middle at 0."""
    left, found = -sum(room(place) for place in row) / 2, {}
    for place in row:
        found[place] = left + room(place) / 2
        left += room(place)
    return found


def room(place: str) -> int:
    """Width of a box or of an arrow that passes, with the gap."""
    return 16 if ">" in place else WIDTH + GAP


def curve(points: list[tuple[float, float]]) -> str:
    """An arrow from under the first box, straight down past others, to the last box's upper edge."""
    half = HEIGHT / 2
    (x, y), end = points[0], len(points) - 1
    path = f"M{x:g} {y + half:g}"
    for number, (to_x, to_y) in enumerate(points[1:], 1):
        bend = ROW_GAP * 0.6
        path += f"C{x:g} {y + half + bend:g} {to_x:g} {to_y - half - bend:g} {to_x:g} {to_y - half:g}"
        path += "" if number == end else f"V{to_y + half:g}"
        x, y = to_x, to_y
    return f'<path d="{path}" fill="none" stroke="#8a94a6" stroke-width="1.2" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    main()
